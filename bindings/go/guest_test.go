package think_test

import (
	"errors"
	"fmt"
	"io"
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
	"libthink/think/native"
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

// What a test does in a process of its own is said in this variable.
const alone = "THINK_TEST_ALONE"

func inProcess(what string) (string, error) {
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), alone+"="+what)
	output, err := command.CombinedOutput()
	return string(output), err
}

// Nothing else makes threads there.
func TestGuest(t *testing.T) {
	output, err := inProcess("guest")
	expect(t, err == nil && strings.HasSuffix(output, "a good guest\n") && strings.Count(output, "\n") == 2, err, output)
	t.Log(output)
}

// A panic that cannot pass through C ends the process, and is printed.
func TestPanicInHook(t *testing.T) {
	output, err := inProcess("panic")
	var ended *exec.ExitError
	expect(t, errors.As(err, &ended) && ended.ExitCode() == 2 && strings.Contains(output, "panic: no threads today"), err, output)
}

func panicInHook() int {
	defer func() { _ = recover() }()
	context, err := think.NewContext(&think.ContextOptions{Threads: 4, Hooks: think.Hooks{ParallelFor: func(int64, func(int64)) { panic("no threads today") }}})
	if err != nil {
		return 1
	}
	plan, err := think.NewPlan(context, guestProblem)
	if err != nil {
		return 1
	}
	_, _ = tryGuestWork(plan)
	return 0
}

// state of the process that the library must leave alone: what C sees, signals as the kernel has them, and what Go has of it.
type state struct {
	c       manners.State
	signals string
	folder  string
	files   int
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
	return state{manners.Look(), strings.Join(signals, "\n"), folder, entries("/proc/self/fd")}
}

func entries(folder string) int {
	found, err := os.ReadDir(folder)
	if err != nil {
		panic(err)
	}
	return len(found)
}

func threads() int { return entries("/proc/self/task") }

func beGuest() int {
	runtime.LockOSThread()
	manners.Warm() // Go's own threads, as many as it may want later
	before, beforeThreads := look(), threads()
	var context, three *think.Context
	var plan, own *think.Plan
	var expected []uint32
	for _, step := range []struct {
		when    string
		threads int // of the library
		do      func() error
	}{
		{"at the beginning", 0, func() error {
			if !before.c.Subnormals {
				return errors.New("subnormal numbers do not work here")
			}
			return nil
		}},
		{"with a context", 0, func() (err error) { context, err = think.NewContext(nil); return }},
		{"with a plan", 0, func() (err error) { plan, err = think.NewPlan(context, guestProblem); return }},
		{"after work", 0, func() (err error) { expected, err = tryGuestWork(plan); return }},
		{"after an error", 0, func() error {
			if _, err := think.Query(12345); !errors.Is(err, think.ErrUnsupported) {
				return fmt.Errorf("an unknown key was answered: %v", err)
			}
			return nil
		}},
		{"before a plan with threads", 0, func() (err error) { three, err = think.NewContext(&think.ContextOptions{Threads: 3}); return }},
		{"with threads", 2, func() (err error) { own, err = think.NewPlan(three, guestProblem); return }},
		{"after work of threads", 2, func() error {
			found, err := tryGuestWork(own)
			if err == nil && !reflect.DeepEqual(found, expected) {
				return errors.New("three threads compute something else")
			}
			return err
		}},
		{"when all is closed", 0, func() error {
			for _, what := range []io.Closer{own, three, plan, context} {
				what.Close()
			}
			return nil
		}},
	} {
		err := step.do()
		if now := look(); err == nil && !reflect.DeepEqual(before, now) {
			err = fmt.Errorf("%+v became %+v", before, now)
		}
		if now := threads(); err == nil && now != beforeThreads+step.threads {
			err = fmt.Errorf("%d threads became %d", beforeThreads, now)
		}
		if err != nil {
			fmt.Printf("%s: %v\n", step.when, err)
			return 1
		}
	}
	said, err := onADevice()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(said)
	fmt.Println("a good guest")
	return 0
}

// onADevice looks at what the thread has current of a device, where there is one: says so, or why this was left out. The driver has threads and files of its
// own, so this comes last.
func onADevice() (said string, err error) {
	leftOut := func(reason any) string { return fmt.Sprint("left out: the current context of a device: ", reason) }
	path := os.Getenv("THINK_DEVICE_HOST")
	if path == "" {
		return leftOut("THINK_DEVICE_HOST names no host that uses one"), nil
	}
	if err := manners.OpenHost(path); err != nil {
		return leftOut(err), nil
	}
	defer manners.CloseHost()
	var context *think.Context
	var there, own *think.Plan
	attend := func(workspace *think.Workspace) error {
		rows, lengths := manners.HostMemory(1<<16), manners.HostMemory(64)
		segment := think.RawSegment(native.Segment{KeyDtype: think.F16, ValueDtype: think.F16, Key: rows, Value: rows, KeyStride: [3]int64{0, 1 << 13},
			ValueStride: [3]int64{0, 1 << 13}, Lengths: lengths}, 1)
		query, output := think.DeviceTensor(rows, think.F32, 1, 4, 1, 64), think.DeviceTensor(manners.HostMemory(4*4*64), think.F32, 1, 4, 1, 64)
		return there.Attend(query, []think.Segment{segment}, nil, output, nil, workspace)
	}
	for _, step := range []struct {
		when string
		do   func() error
	}{
		{"a context", func() (err error) {
			context, err = think.NewContext(&think.ContextOptions{Device: think.DeviceCUDA})
			return
		}},
		{"a plan", func() (err error) {
			there, err = think.NewPlan(context, think.Problem{QueryHeads: 4, KVHeads: 2, KeyChannels: 64, MaxTokens: 64})
			return
		}},
		{"work on the device", func() error {
			bytes, _, err := there.WorkspaceSize(think.StageAttend, nil)
			if err != nil {
				return err
			}
			return attend(think.DeviceWorkspace(manners.HostMemory(bytes+1), bytes, 0))
		}},
		{"an error on the device", func() error {
			if err := attend(think.DeviceWorkspace(0, 0, 0)); err == nil {
				return errors.New("attention without a workspace")
			}
			return nil
		}},
		{"work beside the device", func() (err error) {
			host, err := think.NewContext(nil)
			if err != nil {
				return err
			}
			defer host.Close()
			if own, err = think.NewPlan(host, guestProblem); err != nil {
				return err
			}
			_, err = tryGuestWork(own)
			return
		}},
		{"everything on the device", func() error {
			for _, what := range []io.Closer{own, there, context} {
				what.Close()
			}
			return nil
		}},
	} {
		err := step.do()
		if !manners.HostUnchanged() {
			return "", fmt.Errorf("%s changed the current context of the device", step.when)
		}
		if context == nil && errors.Is(err, think.ErrUnsupported) {
			return leftOut(err), nil
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", step.when, err)
		}
	}
	return "the current context of the device is as it was", nil
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
