package think_test

import (
	"errors"
	"math"
	"os"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"libthink/think"
	"libthink/think/native"
)

func floatsAt(at unsafe.Pointer, count int) []float32 { return unsafe.Slice((*float32)(at), count) }

func TestFacts(t *testing.T) {
	plan := newPlan(t)
	expect(t, think.Version() == think.VersionMajor*10000+think.VersionMinor*100+think.VersionPatch && think.ABIVersion() == think.ABIMajor)
	expect(t, strings.Count(think.VersionString(), ".") == 2, think.VersionString())
	channels, err := think.Query(think.QueryMaxChannels)
	must(t, err)
	expect(t, channels == 256)
	context, err := think.NewContext(&think.ContextOptions{Threads: 3})
	must(t, err)
	threads, err := context.Query(think.QueryThreads)
	must(t, err)
	expect(t, threads == 3)
	context.Close()
	_, err = context.Query(think.QueryThreads)
	expect(t, errors.Is(err, think.ErrState) && err.Error() == "the context is closed", err)
	reason, err := think.BackendReason(think.DeviceCPU)
	must(t, err)
	expect(t, strings.HasPrefix(reason, "available"), reason)
	about, err := plan.Describe()
	must(t, err)
	expect(t, strings.Contains(about, `"query_heads"`), about)
	expect(t, think.DtypeBytes(think.BF16) == 2 && think.DtypeBytes(think.U4) == 0 && think.DtypeName(think.U4) == "u4")
	expect(t, think.KeptChannels(128, 0.4) == 77 && think.StatusName(1) == "THINK_E_ARGUMENT")
	expect(t, think.ErrState.Error() == "THINK_E_STATE")
}

// Every struct is there and begins as the library says.
func TestStructs(t *testing.T) {
	var about struct {
		Structs []struct {
			Name string
			Size uintptr
		}
	}
	from(t, "bindings/think.json", &about)
	made := map[string]any{"error": native.NewErrorRecord(), "tensor": native.NewTensor(), "batch": native.NewBatch(),
		"context_options": native.NewContextOptions(),
		"problem":         native.NewProblem(), "launch": native.NewLaunch(), "extent": native.NewExtent(), "basis": native.NewBasis(), "segment": native.NewSegment(),
		"format": native.NewFormat(), "layout_info": native.NewLayoutInfo(), "evict_options": native.NewEvictOptions(),
		"score_options": native.NewScoreOptions(), "moments_options": native.NewMomentsOptions(), "budget_options": native.NewBudgetOptions(),
		"select_options": native.NewSelectOptions(), "fit_options": native.NewFitOptions(), "prune_options": native.NewPruneOptions(),
		"prune_result": native.NewPruneResult(), "cache_options": native.NewCacheOptions(), "cache_info": native.NewCacheInfo()}
	for _, one := range about.Structs {
		name := strings.TrimPrefix(one.Name, "think_")
		value := reflect.ValueOf(made[name])
		expect(t, value.IsValid() && value.Elem().Type().Size() == one.Size, "no struct", one.Name)
		zero := reflect.New(value.Elem().Type())
		zero.MethodByName("Stamp").Call(nil)
		expect(t, reflect.DeepEqual(zero.Elem().Interface(), value.Elem().Interface()) == (name != "format"), one.Name)
		delete(made, name)
	}
	expect(t, len(made) == 0, "unknown structs", made)
	expect(t, think.DefaultFormat().KeyLayout == think.Tiles)
}

type dlTensor struct {
	data    uintptr
	device  [2]int32
	ndim    int32
	dtype   uint32
	shape   uintptr
	strides uintptr
	offset  uint64
}

func TestDLPack(t *testing.T) {
	rows, shape := make([]float32, 48), []int64{2, 3, 8}
	var pins native.Pinner
	defer pins.Unpin()
	pins.Pin(&rows[0])
	pins.Pin(&shape[0])
	tensor := &dlTensor{data: uintptr(unsafe.Pointer(&rows[0])), device: [2]int32{1, 0}, ndim: 3, dtype: think.F32, shape: uintptr(unsafe.Pointer(&shape[0]))}
	view, device, err := think.TensorFromDLPack(unsafe.Pointer(tensor))
	must(t, err)
	expect(t, view.Extent() == [4]int{1, 2, 3, 8} && device == think.DeviceCPU)
	_, _, err = think.TensorFromDLPack(nil)
	expect(t, errors.Is(err, think.ErrArgument))
}

// A host with memory and threads of its own, which counts what it gives.
type host struct {
	lock                sync.Mutex
	sizes               map[unsafe.Pointer]uintptr
	loops, blocks, live int64
}

func (h *host) hooks() think.Hooks {
	h.sizes = map[unsafe.Pointer]uintptr{}
	return think.Hooks{
		ParallelFor: func(count int64, task func(int64)) {
			atomic.AddInt64(&h.loops, 1)
			var all sync.WaitGroup
			for index := int64(0); index < count; index++ {
				all.Add(1)
				go func(index int64) {
					defer all.Done()
					task(index)
				}(index)
			}
			all.Wait()
		},
		Allocate: func(bytes, alignment uintptr) unsafe.Pointer {
			at, err := native.Allocate(int64(bytes))
			if err != nil || alignment > 64 {
				return nil
			}
			h.lock.Lock()
			defer h.lock.Unlock()
			h.sizes[at] = bytes
			h.blocks, h.live = h.blocks+1, h.live+int64(bytes)
			return at
		},
		Deallocate: func(at unsafe.Pointer, bytes, alignment uintptr) {
			h.lock.Lock()
			defer h.lock.Unlock()
			if h.sizes[at] != bytes {
				panic("another size than that of the allocation")
			}
			delete(h.sizes, at)
			h.live -= int64(bytes)
			native.Free(at)
		},
		Log: func(int32, string) { panic("dropped") },
	}
}

func (h *host) held() int64 {
	h.lock.Lock()
	defer h.lock.Unlock()
	return h.live
}

func TestHooks(t *testing.T) {
	var h host
	plan := newGuestPlan(t, &think.ContextOptions{Threads: 4, Hooks: h.hooks()})
	expect(t, reflect.DeepEqual(guestWork(t, plan), guestWork(t, newGuestPlan(t, nil))))
	expect(t, h.held() > 0)
	plan.Close()
	expect(t, h.loops > 0 && h.blocks > 0 && h.held() == 0, h.loops, h.blocks, h.live)
}

// What nobody closes is given back when it is collected.
func TestCollected(t *testing.T) {
	var h host
	func() {
		plan := newGuestPlan(t, &think.ContextOptions{Hooks: h.hooks()})
		for round := 0; round < 3; round++ {
			_, err := think.NewCache(plan, think.CacheOptions{ReserveTokens: 64})
			must(t, err)
		}
	}()
	expect(t, h.blocks > 3 && h.held() > 0)
	for begin := time.Now(); h.held() > 0; {
		expect(t, time.Since(begin) < time.Minute, h.held(), "bytes are still held")
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
}

func TestNumbersStay(t *testing.T) {
	// what collections move or free while calls are under way would show in the numbers
	plan := newGuestPlan(t, nil)
	expected := guestWork(t, plan)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	}()
	for round := 0; round < 20; round++ {
		expect(t, reflect.DeepEqual(expected, guestWork(t, plan)))
	}
	close(stop)
	<-done
}

func grow(depth int) float64 {
	var frame [256]float64
	frame[depth%256] = float64(depth)
	if depth == 0 {
		return frame[0]
	}
	return grow(depth-1) + math.Sqrt(frame[depth%256])
}

var global [HKV * D]float32

// Slices of a goroutine's stack, which moves when it grows, and of the program's own data.
func TestStacks(t *testing.T) {
	plan := newPlan(t)
	workspace, err := plan.Workspace([]int32{think.StageAttend}, nil)
	must(t, err)
	for depth := 1; depth < 200; depth += 20 {
		done := make(chan error)
		go func(depth int) {
			var query, output [HQ * D]float32
			var rows [HKV * D]float32
			for i := range rows {
				rows[i] = 1
			}
			q, to := think.NewTensor(query[:], 1, HQ, 1, D), think.NewTensor(output[:], 1, HQ, 1, D)
			segment := think.DenseSegment(plan, global[:], rows[:], 1, []int32{1})
			grow(depth)
			err := plan.Attend(q, []think.Segment{segment}, nil, to, nil, workspace)
			if err == nil && output != ones() {
				err = errors.New("the output went elsewhere")
			}
			done <- err
		}(depth)
		must(t, <-done)
	}
}

func ones() (made [HQ * D]float32) {
	for i := range made {
		made[i] = 1
	}
	return
}

func TestLibraryIsFound(t *testing.T) {
	must(t, native.Load())
	if name := os.Getenv("THINK_LIBRARY"); name != "" {
		maps, err := os.ReadFile("/proc/self/maps")
		must(t, err)
		path, err := filepathReal(name)
		must(t, err)
		expect(t, strings.Contains(string(maps), path), name, "is not the library in use")
	}
}
