package think

import (
	"io"
	"runtime"

	"libthink/think/native"
)

// Cache is the managed cache: all layers of many sequences, in pages that the library allocates and counts. One goroutine at a time: a second call at the
// same time is an error.
//
// For every engine step Step once, then for every layer Append and Attend; after the prefill Prune; at the end of a sequence Drop.
type Cache struct {
	handle
	plan      *Plan
	layers    int
	inStep    int
	workspace *Workspace
	busy      int32
	version   int // of what Segments lends
}

// CacheOptions are those of NewCache; 0 = the library's defaults.
type CacheOptions struct {
	Flags         uint32 // Cache...
	Layers        int
	Sequences     int
	Fold          int32 // Fold...
	Refit         int
	Rollback      int
	ReserveTokens int64
	LimitBytes    int64
	Prune         *PruneOptions
	Format        *Format
	LayerFormats  []Format // one for each layer, in place of Format
}

// layers is their number, 1 by default.
func (options CacheOptions) layers() int {
	if options.Layers < 1 {
		return 1
	}
	return options.Layers
}

// address is where the library reads them during a call.
func (options CacheOptions) address(f *frame) uintptr {
	if layers := options.layers(); options.LayerFormats != nil && len(options.LayerFormats) != layers {
		f.fail(refused("LayerFormats has %d elements, there are %d layers", len(options.LayerFormats), layers))
	}
	formats := append([]Format(nil), options.LayerFormats...)
	for at := range formats {
		formats[at].Stamp()
	}
	fields := native.NewCacheOptions()
	fields.Flags, fields.Layers, fields.Sequences, fields.Fold = options.Flags, int32(options.Layers), int32(options.Sequences), options.Fold
	fields.Refit, fields.Rollback = int32(options.Refit), int32(options.Rollback)
	fields.ReserveTokens, fields.LimitBytes = options.ReserveTokens, options.LimitBytes
	fields.Prune, fields.Format, fields.LayerFormats = stamped(f, options.Prune), stamped(f, options.Format), list(f, formats)
	return address(f, fields)
}

// CacheSlabSize is the bytes of the slab of a cache of a CUDA plan that has room for so many rows at the same time.
func CacheSlabSize(plan *Plan, options CacheOptions, denseTokens, compactTokens int64) (int64, error) {
	var f frame
	defer f.close()
	bytes := new(int64)
	of, with, to := f.hold(plan, &plan.handle), options.address(&f), address(&f, bytes)
	if f.err != nil {
		return 0, f.err
	}
	err := native.Think_cache_slab_size(of, with, denseTokens, compactTokens, to)
	return result(*bytes, err)
}

// NewCache makes an empty cache of a CPU plan, which may be closed before it. One of a CUDA plan needs device memory, a slab and a workspace, and is made with
// the functions of native.
func NewCache(plan *Plan, options CacheOptions) (*Cache, error) {
	var f frame
	defer f.close()
	c := &Cache{plan: plan, layers: options.layers()}
	raw, bytes := new(uintptr), new(int64)
	of, with := f.hold(plan, &plan.handle), options.address(&f)
	if f.err != nil {
		return nil, f.err
	}
	if err := native.Think_cache_create(of, with, address(&f, raw)); err != nil {
		return nil, err
	}
	made := *raw
	err := native.Think_cache_workspace_size(made, address(&f, bytes), 0)
	if err == nil {
		c.workspace, err = newWorkspace(*bytes)
	}
	if err != nil {
		native.Think_cache_destroy(made)
		return nil, err
	}
	_ = plan.hold() // until the cache is destroyed; the frame still has it, so that this cannot fail
	workspace := c.workspace
	c.handle = handle{name: "cache", raw: made, users: 1, destroy: func() {
		native.Think_cache_destroy(made)
		_ = workspace.Close()
		plan.release()
	}}
	runtime.SetFinalizer(c, func(c *Cache) { _ = c.Close() })
	return c, nil
}

// Close gives all memory back, after the call under way if there is one.
func (c *Cache) Close() error { return c.close() }

// Plan is what the cache was made with.
func (c *Cache) Plan() *Plan { return c.plan }

// run makes a call on the cache, like Plan.run.
func (c *Cache) run(prepare func(f *frame, cache, launch uintptr) func() error) error {
	var f frame
	defer f.close()
	f.take("cache", &c.busy)
	cache := f.hold(c, &c.handle)
	if f.err != nil {
		return f.err
	}
	call := prepare(&f, cache, f.workspace(c.workspace))
	if f.err != nil {
		return f.err
	}
	return call()
}

// change is a call after which borrowed segments are no longer valid, whatever became of it.
func (c *Cache) change(prepare func(f *frame, cache, launch uintptr) func() error) error {
	return c.run(func(f *frame, cache, launch uintptr) func() error {
		call := prepare(f, cache, launch)
		return func() error {
			c.version++
			return call()
		}
	})
}

// lend checks that a segment of this cache is still valid, and keeps it so during a call.
func (c *Cache) lend(f *frame, version int) {
	taken := false // by another segment of the same call
	for _, busy := range f.taken {
		taken = taken || busy == &c.busy
	}
	if !taken {
		f.take("cache", &c.busy)
		f.hold(c, &c.handle)
	}
	if f.err == nil && c.version != version {
		f.fail(&Error{Code: CodeState, Message: "the cache has changed since Segments"})
	}
}

// Step begins an engine step: which sequences get how many new tokens.
func (c *Cache) Step(sequences, newTokens []int32) error {
	return c.change(func(f *frame, cache, launch uintptr) func() error {
		count := len(sequences)
		if count != len(newTokens) {
			f.fail(refused("%d sequences, but %d numbers of new tokens", count, len(newTokens)))
		}
		which, tokens := list(f, sequences), list(f, newTokens)
		return func() error {
			err := native.Think_cache_step(cache, which, tokens, int32(count), launch)
			if err == nil {
				c.inStep = count
			}
			return err
		}
	})
}

// Append stores the new keys and values of one layer; the query may be left out where no sequence keeps scores.
func (c *Cache) Append(layer int, query, key, value Tensor) error {
	return c.change(func(f *frame, cache, launch uintptr) func() error {
		q, k, v := f.tensor(query), f.tensor(key), f.tensor(value)
		return func() error { return native.Think_cache_append(cache, int32(layer), q, k, v, launch) }
	})
}

// Attend computes attention of the step's new tokens over everything that their sequences hold. sinkLogit has one number for each query head, lse receives
// one for each head and token; both may be nil.
func (c *Cache) Attend(layer int, query Tensor, sinkLogit []float32, output Tensor, lse []float32) error {
	return c.run(func(f *frame, cache, launch uintptr) func() error {
		c.plan.logits(f, query, sinkLogit, lse)
		q, sink, to, sums := f.tensor(query), list(f, sinkLogit), f.tensor(output), list(f, lse)
		return func() error { return native.Think_cache_attend(cache, int32(layer), q, sink, to, sums, launch) }
	})
}

// Prune prunes all layers of some sequences.
func (c *Cache) Prune(sequences []int32) error {
	return c.change(func(f *frame, cache, launch uintptr) func() error {
		which := list(f, sequences)
		return func() error { return native.Think_cache_prune(cache, which, int32(len(sequences)), launch) }
	})
}

// Evict has every KV head keep options.Budget of its dense rows, in all layers, as Plan.Evict would choose them. Comes before Prune. window may be left out;
// score, if not nil, is [sequences][layers][KV heads][options.ScoreStride].
func (c *Cache) Evict(sequences []int32, options EvictOptions, window Tensor, score []float32) error {
	return c.change(func(f *frame, cache, launch uintptr) func() error {
		if needed := len(sequences) * c.layers; window != (Tensor{}) && window.extent[0] < needed {
			f.fail(refused("window has %d rows, %d are needed", window.extent[0], needed))
		}
		enough(f, "score", score, len(sequences)*c.lists()*max0(int(options.ScoreStride)))
		which, with, w, sums := list(f, sequences), stamped(f, &options), f.tensor(window), list(f, score)
		return func() error {
			return native.Think_cache_evict(cache, which, int32(len(sequences)), with, w, sums, launch)
		}
	})
}

// Keep evicts by lists of your own: kept is [layers][KV heads][rows], dense rows in ascending order.
func (c *Cache) Keep(sequence int, kept []int32, rows int) error {
	return c.change(func(f *frame, cache, launch uintptr) func() error {
		if lists := c.lists(); len(kept) != lists*rows {
			f.fail(refused("kept has %d rows, expected %d lists of %d", len(kept), lists, rows))
		}
		which := list(f, kept)
		return func() error { return native.Think_cache_keep(cache, int32(sequence), which, int32(rows)) }
	})
}

// Usage is what a sequence holds; -1 = the whole cache.
func (c *Cache) Usage(sequence int) (CacheInfo, error) {
	info := native.NewCacheInfo()
	err := c.run(func(f *frame, cache, launch uintptr) func() error {
		to := address(f, info)
		return func() error { return native.Think_cache_usage(cache, int32(sequence), to) }
	})
	return result(*info, err)
}

// Segments are what Attend works on, for Plan.Attend: valid until the cache changes, which calls with them notice.
func (c *Cache) Segments(layer int) ([]Segment, error) {
	return c.borrowed(func() int { return c.inStep }, func(cache, to, count uintptr) error {
		return native.Think_cache_segments(cache, int32(layer), to, MaxSegments, count)
	})
}

// SequenceSegments are the same of one sequence, of a step or not: a batch of one, compact runs from the oldest on, then dense rows.
func (c *Cache) SequenceSegments(sequence, layer int) ([]Segment, error) {
	return c.borrowed(func() int { return 1 }, func(cache, to, count uintptr) error {
		return native.Think_cache_sequence_segments(cache, int32(sequence), int32(layer), to, MaxSegments, count)
	})
}

func (c *Cache) borrowed(slots func() int, fill func(cache, to, count uintptr) error) ([]Segment, error) {
	var segments []Segment
	raw, count := make([]native.Segment, MaxSegments), new(int32)
	raw[0].Stamp()
	err := c.run(func(f *frame, cache, launch uintptr) func() error {
		to, many := list(f, raw), address(f, count)
		return func() error {
			if err := fill(cache, to, many); err != nil {
				return err
			}
			for _, one := range raw[:*count] {
				segments = append(segments, Segment{raw: one, slots: slots(), cache: c, version: c.version})
			}
			return nil
		}
	})
	return result(segments, err)
}

// ExportDense rebuilds rows of one sequence and layer at full width. Each side may be left out.
func (c *Cache) ExportDense(sequence, layer int, first, count int64, key, value Tensor) error {
	return c.run(func(f *frame, cache, launch uintptr) func() error {
		k, v := f.tensor(key), f.tensor(value)
		return func() error {
			return native.Think_cache_export_dense(cache, int32(sequence), int32(layer), first, count, k, v, launch)
		}
	})
}

// GraphID (CUDA) is what a graph that holds Append and Attend of every layer of this step depends on.
func (c *Cache) GraphID() (int64, error) {
	id := new(int64)
	err := c.run(func(f *frame, cache, launch uintptr) func() error {
		to := address(f, id)
		return func() error { return native.Think_cache_graph_id(cache, to) }
	})
	return result(*id, err)
}

// Replayed (CUDA) says that a graph of that number has been launched for this step.
func (c *Cache) Replayed(graphID int64) error {
	return c.simple(func(cache uintptr) error { return native.Think_cache_replayed(cache, graphID) })
}

// Trim forgets the last tokens of a sequence: so many are left.
func (c *Cache) Trim(sequence int, tokens int64) error {
	return c.simple(func(cache uintptr) error { return native.Think_cache_trim(cache, int32(sequence), tokens) })
}

// Fork makes destination a copy of source that shares its pages.
func (c *Cache) Fork(source, destination int) error {
	return c.simple(func(cache uintptr) error { return native.Think_cache_fork(cache, int32(source), int32(destination)) })
}

// Drop forgets a sequence.
func (c *Cache) Drop(sequence int) error {
	return c.simple(func(cache uintptr) error { return native.Think_cache_drop(cache, int32(sequence)) })
}

// Reset forgets all sequences.
func (c *Cache) Reset() error { return c.simple(native.Think_cache_reset) }

func (c *Cache) simple(call func(cache uintptr) error) error {
	return c.change(func(f *frame, cache, launch uintptr) func() error { return func() error { return call(cache) } })
}

// SaveSize is the bytes that Save writes.
func (c *Cache) SaveSize(sequence int) (int64, error) {
	bytes := new(int64)
	err := c.run(func(f *frame, cache, launch uintptr) func() error {
		to := address(f, bytes)
		return func() error { return native.Think_cache_save_size(cache, int32(sequence), to) }
	})
	return result(*bytes, err)
}

// Save writes a sequence. The writer must not use the cache; its error is wrapped.
func (c *Cache) Save(sequence int, to io.Writer) error {
	return c.run(func(f *frame, cache, launch uintptr) func() error {
		return func() error {
			return outcome(native.Write(to, func(write, user uintptr) error { return native.Think_cache_save(cache, int32(sequence), write, user) }))
		}
	})
}

// Load reads a sequence, from a reader that buffers. It must not use the cache; its error is wrapped.
func (c *Cache) Load(sequence int, from io.Reader) error {
	return c.change(func(f *frame, cache, launch uintptr) func() error {
		return func() error {
			return outcome(native.Read(from, func(read, user uintptr) error { return native.Think_cache_load(cache, int32(sequence), read, user) }))
		}
	})
}

// streamError is a failed call and why the stream failed it: errors.Is and errors.As find both.
type streamError struct {
	failed *Error
	stream error
}

func (e streamError) Error() string { return e.failed.Message + ": " + e.stream.Error() }

func (e streamError) Unwrap() error { return e.stream }

func (e streamError) Is(target error) bool { return e.failed.Is(target) }

func (e streamError) As(target any) bool {
	to, ok := target.(**Error)
	if ok {
		*to = e.failed
	}
	return ok
}

// outcome of a call with a stream: what the stream panicked with goes on here, since it cannot pass through C.
func outcome(stream *native.Stream, err error) error {
	if stream.Panic != nil {
		panic(stream.Panic)
	}
	if failed, ok := err.(*Error); ok && stream.Err != nil {
		return streamError{failed, stream.Err}
	}
	return err
}

// lists are the KV heads of all layers.
func (c *Cache) lists() int { return c.layers * c.plan.heads() }
