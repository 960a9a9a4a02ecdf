package think_test

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"sync"
	"testing"

	"libthink/think"
)

var errGone = errors.New("the peer is gone")

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errGone }
func (broken) Read([]byte) (int, error)  { panic("in the middle of a call") }

// Every call of a cache.
func TestCache(t *testing.T) {
	plan := newPlan(t)
	query, key, value := noise(1, HQ*T*D), noise(2, HKV*T*D), noise(3, HKV*T*D)
	formats := []think.Format{think.DefaultFormat()}
	cache, err := think.NewCache(plan, think.CacheOptions{Sequences: 3, Prune: &think.PruneOptions{KeyKept: 8}, Format: &formats[0], LayerFormats: formats})
	must(t, err)
	defer cache.Close()
	expect(t, cache.Plan() == plan)
	q, k, v := think.NewTensor(query, 1, HQ, T, D), think.NewTensor(key, 1, HKV, T, D), think.NewTensor(value, 1, HKV, T, D)
	must(t, cache.Step([]int32{0}, []int32{T}))
	must(t, cache.Append(0, q, k, v))
	output, lse := make([]float32, HQ*T*D), make([]float32, HQ*T)
	must(t, cache.Attend(0, q, nil, think.NewTensor(output, 1, HQ, T, D), lse))
	expected, lses := attention(last(query), key, value, T)
	near(t, last(output), expected, 1e-5)
	near(t, []float32{lse[T-1], lse[2*T-1], lse[3*T-1], lse[4*T-1]}, lses, 1e-5)
	segments, err := cache.Segments(0)
	must(t, err)
	again := make([]float32, HQ*T*D)
	workspace, err := plan.Workspace([]int32{think.StageAttend}, nil)
	must(t, err)
	must(t, plan.Attend(q, segments, nil, think.NewTensor(again, 1, HQ, T, D), nil, workspace))
	expect(t, reflect.DeepEqual(again, output))
	expect(t, errors.Is(cache.Attend(0, q, nil, think.NewTensor(again, 1, HQ, T, D), lse[:3]), think.ErrArgument))

	must(t, cache.Prune([]int32{0}))
	err = plan.Attend(q, segments, nil, think.NewTensor(again, 1, HQ, T, D), nil, workspace)
	expect(t, errors.Is(err, think.ErrState) && err.Error() == "the cache has changed since Segments", err)
	fresh, err := cache.SequenceSegments(0, 0)
	must(t, err)
	expect(t, len(fresh) == 2)
	err = plan.Attend(q, append(fresh[1:], segments...), nil, think.NewTensor(again, 1, HQ, T, D), nil, workspace)
	expect(t, errors.Is(err, think.ErrState), err)
	_, err = think.CacheSlabSize(plan, think.CacheOptions{}, 64, 64)
	expect(t, errors.Is(err, think.ErrUnsupported), err) // a plan of the CPU
	_, err = cache.GraphID()
	expect(t, errors.Is(err, think.ErrUnsupported), err)
	expect(t, errors.Is(cache.Replayed(1), think.ErrUnsupported))
	must(t, cache.Fork(0, 1))
	must(t, cache.Trim(1, T-8))
	one, err := cache.Usage(1)
	must(t, err)
	whole, err := cache.Usage(-1)
	must(t, err)
	expect(t, one.Tokens == T-8 && whole.Sequences == 2, one, whole)
	rows := make([]float32, HKV*20*D)
	must(t, cache.ExportDense(0, 0, T-20, 20, think.NewTensor(rows, 1, HKV, 20, D), think.Tensor{}))
	expect(t, reflect.DeepEqual(rows[:20*D], key[(T-20)*D:T*D]))

	var file bytes.Buffer
	must(t, cache.Save(0, &file))
	size, err := cache.SaveSize(0)
	must(t, err)
	expect(t, int64(file.Len()) == size, file.Len(), size)
	saved := append([]byte(nil), file.Bytes()...)
	must(t, cache.Load(2, &file))
	two, err := cache.Usage(2)
	must(t, err)
	expect(t, two.Tokens == T)
	must(t, cache.Drop(2))
	expect(t, errors.Is(cache.Load(2, bytes.NewReader(saved[:100])), think.ErrFormat))
	err = cache.Save(0, broken{})
	var failed *think.Error
	expect(t, errors.Is(err, errGone) && errors.Is(err, think.ErrIO) && errors.As(err, &failed) && failed.Code == think.CodeIO && failed.NativeCode == -1, err)
	func() {
		defer func() { expect(t, recover() == "in the middle of a call") }()
		_ = cache.Load(2, broken{})
	}()
	must(t, cache.Load(2, io.MultiReader(bytes.NewReader(saved[:50]), bytes.NewReader(saved[50:])))) // it was not left in a call
	must(t, cache.Drop(2))

	must(t, cache.Step([]int32{2}, []int32{T}))
	must(t, cache.Append(0, q, k, v))
	must(t, cache.Evict([]int32{2}, think.EvictOptions{Method: think.EvictRecent, Sinks: 4, Budget: 24}, think.Tensor{}, nil))
	var kept []int32
	for head := 0; head < HKV; head++ {
		for row := int32(0); row < 24; row += 2 {
			kept = append(kept, row)
		}
	}
	must(t, cache.Keep(2, kept, 12))
	two, err = cache.Usage(2)
	must(t, err)
	expect(t, two.Tokens == 12 && two.EvictedTokens == T-12, two)
	left := make([]float32, HKV*12*D)
	must(t, cache.ExportDense(2, 0, 0, 12, think.NewTensor(left, 1, HKV, 12, D), think.Tensor{}))
	expect(t, reflect.DeepEqual(left[2*D:3*D], key[(T-20)*D:(T-19)*D]))
	segments, err = cache.SequenceSegments(2, 0)
	must(t, err)
	expect(t, len(segments) == 1)
	expect(t, errors.Is(cache.Keep(2, []int32{0}, 1), think.ErrArgument))
	must(t, cache.Reset())
	whole, err = cache.Usage(-1)
	must(t, err)
	expect(t, whole.Tokens == 0)

	plan.Close() // the cache holds it
	_, err = cache.Usage(-1)
	must(t, err)
	cache.Close()
	_, err = cache.Usage(-1)
	expect(t, errors.Is(err, think.ErrState) && err.Error() == "the cache is closed", err)
}

// waits in the first of its calls until another one has been refused.
type waits struct {
	first         sync.Once
	inside, tried chan struct{}
}

func (w *waits) Write(data []byte) (int, error) {
	w.first.Do(func() {
		close(w.inside)
		<-w.tried
	})
	return len(data), nil
}

func TestOneCallAtATime(t *testing.T) {
	var h host
	plan := newGuestPlan(t, &think.ContextOptions{Hooks: h.hooks()})
	cache, err := think.NewCache(plan, think.CacheOptions{})
	must(t, err)
	rows, kv := think.NewTensor(noise(1, 4*16), 1, 4, 1, 16), think.NewTensor(noise(1, 2*16), 1, 2, 1, 16)
	must(t, cache.Step([]int32{0}, []int32{1}))
	must(t, cache.Append(0, rows, kv, kv))
	w := &waits{inside: make(chan struct{}), tried: make(chan struct{})}
	saved := make(chan error)
	go func() { saved <- cache.Save(0, w) }()
	<-w.inside
	_, err = cache.Usage(0)
	expect(t, errors.Is(err, think.ErrState) && err.Error() == "the cache is in use by another call", err)
	before := h.held()
	cache.Close() // waits for nothing: the call under way goes on, with all that it needs
	plan.Close()
	expect(t, before > 0 && h.held() == before, before, h.held())
	close(w.tried)
	must(t, <-saved)
	expect(t, h.held() == 0, h.held())
}
