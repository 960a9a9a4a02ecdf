package think_test

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"libthink/think"
	"libthink/think/internal/manners"
)

func filepathReal(path string) (string, error) { return filepath.EvalSymlinks(path) }

var guestProblem = think.Problem{QueryHeads: 4, KVHeads: 2, KeyChannels: 16, MaxTokens: 512, MaxQueries: 256, CacheDtype: think.F32}

func newGuestPlan(t testing.TB, options *think.ContextOptions) *think.Plan {
	t.Helper()
	context, err := think.NewContext(options)
	must(t, err)
	defer context.Close()
	plan, err := think.NewPlan(context, guestProblem)
	must(t, err)
	return plan
}

// guestWork gives the bits of an attention, after which the cache is pruned.
func guestWork(t testing.TB, plan *think.Plan) []uint32 {
	t.Helper()
	made, err := tryGuestWork(plan)
	must(t, err)
	return made
}

func tryGuestWork(plan *think.Plan) ([]uint32, error) {
	rows := noise(5, 4*256*16)
	cache, err := think.NewCache(plan, think.CacheOptions{})
	if err != nil {
		return nil, err
	}
	defer cache.Close()
	q, kv := think.NewTensor(rows, 1, 4, 256, 16), think.NewTensor(rows, 1, 2, 256, 16)
	output := make([]float32, 4*256*16)
	for _, call := range []func() error{
		func() error { return cache.Step([]int32{0}, []int32{256}) },
		func() error { return cache.Append(0, q, kv, kv) },
		func() error { return cache.Attend(0, q, nil, think.NewTensor(output, 1, 4, 256, 16), nil) },
		func() error { return cache.Prune([]int32{0}) },
	} {
		if err := call(); err != nil {
			return nil, err
		}
	}
	bits := make([]uint32, len(output))
	for i, x := range output {
		bits[i] = math.Float32bits(x)
	}
	return bits, nil
}

const certificate = "THINK_TEST_GUEST"

// In a process of its own, in which nothing else makes threads.
func TestGuest(t *testing.T) {
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), certificate+"=1")
	output, err := command.CombinedOutput()
	expect(t, err == nil && string(output) == "a good guest\n", err, string(output))
}

// state of the process that the library must leave alone: what C sees, signals as the kernel has them, and what Go has of it.
type state struct {
	c         manners.State
	signals   string
	folder    string
	variables []string
}

func look() state {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		panic(err)
	}
	var signals []string
	for _, line := range strings.Split(string(status), "\n") {
		if strings.HasPrefix(line, "SigBlk") || strings.HasPrefix(line, "SigIgn") || strings.HasPrefix(line, "SigCgt") {
			signals = append(signals, line)
		}
	}
	folder, _ := os.Getwd()
	return state{manners.Look(), strings.Join(signals, "\n"), folder, os.Environ()}
}

func threads() int {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		panic(err)
	}
	return len(entries)
}

func beGuest() int {
	problem := func() error {
		runtime.LockOSThread()
		manners.Warm() // Go's own threads, as many as it may want later
		before, beforeThreads := look(), threads()
		if !before.c.Subnormals {
			return fmt.Errorf("subnormal numbers do not work here")
		}
		same := func(when string, more int) error {
			if now := look(); !reflect.DeepEqual(before, now) {
				return fmt.Errorf("%s: %+v became %+v", when, before, now)
			}
			if now := threads(); now != beforeThreads+more {
				return fmt.Errorf("%s: %d threads became %d", when, beforeThreads, now)
			}
			return nil
		}
		context, err := think.NewContext(nil)
		if err != nil {
			return err
		}
		if err := same("with a context", 0); err != nil {
			return err
		}
		plan, err := think.NewPlan(context, guestProblem)
		if err != nil {
			return err
		}
		context.Close()
		expected, err := tryGuestWork(plan)
		if err != nil {
			return err
		}
		if err := same("after work", 0); err != nil {
			return err
		}
		if _, err := think.Query(12345); err == nil {
			return fmt.Errorf("an unknown key was answered")
		}
		if err := same("after an error", 0); err != nil {
			return err
		}
		three, err := think.NewContext(&think.ContextOptions{Threads: 3})
		if err != nil {
			return err
		}
		if err := same("before a plan with threads", 0); err != nil {
			return err
		}
		own, err := think.NewPlan(three, guestProblem)
		if err != nil {
			return err
		}
		found, err := tryGuestWork(own)
		if err != nil || !reflect.DeepEqual(found, expected) {
			return fmt.Errorf("three threads compute something else: %v", err)
		}
		if err := same("with three threads", 2); err != nil {
			return err
		}
		own.Close()
		three.Close()
		plan.Close()
		return same("at the end", 0)
	}()
	if problem != nil {
		fmt.Println(problem)
		return 1
	}
	fmt.Println("a good guest")
	return 0
}

// 64 goroutines on one plan at once, and some of them see it closed.
func TestManyGoroutines(t *testing.T) {
	plan := newGuestPlan(t, nil)
	expected := guestWork(t, plan)
	start, results := make(chan struct{}), make(chan error, 64)
	var ready sync.WaitGroup
	for i := 0; i < 64; i++ {
		ready.Add(1)
		go func() {
			ready.Done()
			<-start
			found, err := tryGuestWork(plan)
			if err == nil && !reflect.DeepEqual(found, expected) {
				err = fmt.Errorf("another result")
			}
			results <- err
		}()
	}
	ready.Wait()
	close(start)
	for i := 0; i < 64; i++ {
		must(t, <-results)
	}
}
