package think

import (
	"libthink/think/native"
)

// The stages on the caller's own rows: what a Cache does inside.

// ScoreState is what the score stage has seen of each slot.
type ScoreState struct {
	memory *memory
	slots  int
}

// Close frees the memory after the last call that uses it.
func (s *ScoreState) Close() error { return s.memory.close() }

// Moments are weighted means and covariances of each slot.
type Moments struct {
	memory *memory
	slots  int
}

// Close frees the memory after the last call that uses it.
func (m *Moments) Close() error { return m.memory.close() }

// Gains are what each further channel is worth, and which one it is: [slots][KV heads][channels].
type Gains struct {
	Gains []float32
	Order []int32
}

// Evicted are the rows that each head keeps: [slots][KV heads][Stride], and how many they are: [slots][KV heads].
type Evicted struct {
	Kept    []int32
	Stride  int
	Lengths []int32
}

// Part is attention over some of the rows, with its logarithms of sums.
type Part struct {
	Output Tensor
	LSE    []float32
}

// run makes a call on the plan with a workspace: prepare gives what it takes, as addresses that hold until it returns.
func (p *Plan) run(workspace *Workspace, prepare func(f *frame, plan, launch uintptr) func() error) error {
	var f frame
	defer f.close()
	call := prepare(&f, f.hold(p, &p.handle), f.workspace(workspace))
	if f.err != nil {
		return f.err
	}
	return call()
}

// result is nothing where a call failed.
func result[T any](made T, err error) (T, error) {
	if err != nil {
		return *new(T), err
	}
	return made, nil
}

// sized makes memory whose size the library tells.
func (p *Plan) sized(name string, slots int, size func(plan uintptr, slots int32, bytes uintptr) error) (*memory, error) {
	var f frame
	defer f.close()
	bytes := new(int64)
	plan := f.hold(p, &p.handle)
	if f.err != nil {
		return nil, f.err
	}
	if err := size(plan, int32(slots), address(&f, bytes)); err != nil {
		return nil, err
	}
	return newMemory(name, *bytes)
}

func rowsOf(f *frame, name string, rows Tensor, slots int) {
	if batch := rows.extent[0]; batch > slots {
		f.fail(refused("%s has %d sequences, there are %d slots", name, batch, slots))
	}
}

// ---- score ----

// NewScoreState makes an empty state of so many slots.
func (p *Plan) NewScoreState(slots int, workspace *Workspace) (*ScoreState, error) {
	m, err := p.sized("score state", slots, native.Think_score_state_size)
	if err != nil {
		return nil, err
	}
	state := &ScoreState{m, slots}
	return result(state, p.ScoreReset(state, workspace))
}

// ScoreReset empties a state.
func (p *Plan) ScoreReset(state *ScoreState, workspace *Workspace) error {
	return p.run(workspace, func(f *frame, plan, launch uintptr) func() error {
		at, batch := f.memory(state.memory), f.batch(state.slots)
		return func() error { return native.Think_score_reset(plan, at, batch, launch) }
	})
}

// ScoreUpdate adds a chunk of new tokens: batch row i belongs to slot i.
func (p *Plan) ScoreUpdate(query, key Tensor, state *ScoreState, workspace *Workspace) error {
	return p.run(workspace, func(f *frame, plan, launch uintptr) func() error {
		rowsOf(f, "query", query, state.slots)
		q, k, at := f.tensor(query), f.tensor(key), f.memory(state.memory)
		return func() error { return native.Think_score_update(plan, q, k, 0, at, launch) }
	})
}

// ScoreFinish gives the scores so far: [slots][KV heads][key channels], with ScoreQueryHeads [slots][query heads][key channels].
func (p *Plan) ScoreFinish(state *ScoreState, options ScoreOptions, workspace *Workspace) ([]float32, error) {
	heads := p.heads()
	if options.Flags&ScoreQueryHeads != 0 {
		heads = int(p.problem.QueryHeads)
	}
	score := make([]float32, state.slots*heads*p.channels(Keys))
	return result(score, p.run(workspace, func(f *frame, plan, launch uintptr) func() error {
		at, batch, with, to := f.memory(state.memory), f.batch(state.slots), stamped(f, &options), list(f, score)
		return func() error { return native.Think_score_finish(plan, at, batch, with, to, launch) }
	}))
}

// ScoreWindow is a view of the last queries inside the state.
func (p *Plan) ScoreWindow(state *ScoreState) (Tensor, error) {
	var f frame
	defer f.close()
	raw := native.NewTensor()
	plan, at, to := f.hold(p, &p.handle), f.memory(state.memory), address(&f, raw)
	if f.err != nil {
		return Tensor{}, f.err
	}
	if err := native.Think_score_window(plan, at, int32(state.slots), to); err != nil {
		return Tensor{}, err
	}
	view := viewOf(raw)
	view.owner = state.memory
	return view, nil
}

// ValueScore is the paper's score of value channels, from attention outputs of the window's queries: [batch][KV heads][value channels].
func (p *Plan) ValueScore(attention Tensor, workspace *Workspace) ([]float32, error) {
	score := make([]float32, max0(attention.extent[0])*p.heads()*p.channels(Values))
	return result(score, p.run(workspace, func(f *frame, plan, launch uintptr) func() error {
		from, to := f.tensor(attention), list(f, score)
		return func() error { return native.Think_value_score(plan, from, 0, to, launch) }
	}))
}

// ---- moments, budgets, select, fit ----

// Moments measures the rows that a prune would move.
func (p *Plan) Moments(window Tensor, source Segment, options MomentsOptions, workspace *Workspace) (*Moments, error) {
	m, err := p.sized("moments", source.slots, native.Think_moments_size)
	if err != nil {
		return nil, err
	}
	return result(&Moments{m, source.slots}, p.run(workspace, func(f *frame, plan, launch uintptr) func() error {
		if window.extent[0] != source.slots {
			f.fail(refused("window has %d sequences, there are %d slots", window.extent[0], source.slots))
		}
		raw := f.segment(source)
		w, from, batch, with, to := f.tensor(window), address(f, &raw), f.batch(source.slots), stamped(f, &options), f.memory(m)
		return func() error { return native.Think_moments(plan, w, from, batch, with, to, launch) }
	}))
}

// Gains tells what channels are worth. score is that of the keys; nil for values.
func (p *Plan) Gains(moments *Moments, side int32, score []float32, workspace *Workspace) (Gains, error) {
	count := moments.slots * p.heads() * p.channels(side)
	made := Gains{make([]float32, count), make([]int32, count)}
	return result(made, p.run(workspace, func(f *frame, plan, launch uintptr) func() error {
		enough(f, "score", score, count)
		at, batch, from, gains, order := f.memory(moments.memory), f.batch(moments.slots), list(f, score), list(f, made.Gains), list(f, made.Order)
		return func() error { return native.Think_gains(plan, at, batch, side, from, gains, order, launch) }
	}))
}

// Budgets shares a total of channels among the heads: [layers][slots][KV heads].
func (p *Plan) Budgets(gains []float32, slots int, side int32, options BudgetOptions, workspace *Workspace) ([]int32, error) {
	layers := int(options.Layers)
	if layers < 1 {
		layers = 1
	}
	kept := make([]int32, layers*max0(slots)*p.heads())
	return result(kept, p.run(workspace, func(f *frame, plan, launch uintptr) func() error {
		enough(f, "gains", gains, len(kept)*p.channels(side))
		from, batch, with, to := list(f, gains), f.batch(slots), stamped(f, &options), list(f, kept)
		return func() error { return native.Think_budgets(plan, from, batch, side, with, to, launch) }
	}))
}

// Select keeps the best channels of each head of a basis; kept, if not nil, says how many. Returns the mask: [slots][KV heads][channels].
func (p *Plan) Select(score []float32, options SelectOptions, kept []int32, basis *Basis, workspace *Workspace) ([]byte, error) {
	heads := basis.slots * p.heads()
	mask := make([]byte, heads*p.channels(basis.side))
	options.Side = basis.side
	return result(mask, p.run(workspace, func(f *frame, plan, launch uintptr) func() error {
		enough(f, "score", score, len(mask))
		enough(f, "kept", kept, heads)
		from, batch, with, widths, to, bits := list(f, score), f.batch(basis.slots), stamped(f, &options), list(f, kept), f.basis(basis), list(f, mask)
		return func() error { return native.Think_select(plan, from, batch, with, widths, to, bits, launch) }
	}))
}

// Fit predicts the dropped channels of a basis from the kept ones.
func (p *Plan) Fit(moments *Moments, options FitOptions, basis *Basis, workspace *Workspace) error {
	options.Side = basis.side
	return p.run(workspace, func(f *frame, plan, launch uintptr) func() error {
		if basis.slots > moments.slots {
			f.fail(refused("the basis has %d slots, the moments %d", basis.slots, moments.slots))
		}
		at, batch, with, to := f.memory(moments.memory), f.batch(basis.slots), stamped(f, &options), f.basis(basis)
		return func() error { return native.Think_fit(plan, at, batch, with, to, launch) }
	})
}

// ---- rows ----

// SegmentPlace puts the heads of a compact segment one behind the other, by the widths of its bases. Prune does it by itself.
func (p *Plan) SegmentPlace(destination *Compact, workspace *Workspace) error {
	return p.run(workspace, func(f *frame, plan, launch uintptr) func() error {
		raw := f.segment(destination.Segment())
		to, batch := address(f, &raw), f.batch(len(destination.lengths))
		return func() error { return native.Think_segment_place(plan, to, batch, launch) }
	})
}

// Compact moves count rows of a dense segment, from first on, to the beginning of a compact one whose heads are placed.
func (p *Plan) Compact(source Segment, first, count int, destination *Compact, workspace *Workspace) error {
	slots := len(destination.lengths)
	err := p.run(workspace, func(f *frame, plan, launch uintptr) func() error {
		if !source.mustBeDense(f) {
			return nil
		}
		if source.slots < slots || first < 0 || count < 0 || count > destination.capacity {
			f.fail(refused("rows %d .. %d of %d slots do not fit into %d rows of %d", first, first+count, source.slots, destination.capacity, slots))
			return nil
		}
		moved := source
		moved.first, moved.lengths = make([]int32, slots), filled(slots, int32(count))
		for slot := range moved.first {
			if int(source.lengths[slot])-count < first {
				f.fail(refused("rows %d .. %d of slot %d are not there", first, first+count, slot))
				return nil
			}
			moved.first[slot] = source.first[slot] + int32(first)
		}
		destination := destination.Segment()
		destination.lengths = moved.lengths
		from, to := f.segment(moved), f.segment(destination)
		at, into, batch := address(f, &from), address(f, &to), f.batch(slots)
		return func() error { return native.Think_compact(plan, at, into, batch, launch) }
	})
	if err == nil {
		copy(destination.lengths, filled(slots, int32(count)))
	}
	return err
}

// Prune takes a score state and dense rows and makes a compact segment and the mask of its key channels: moments, gains, budgets, select, fit and compact of
// one layer.
func (p *Plan) Prune(state *ScoreState, source Segment, destination *Compact, options PruneOptions, workspace *Workspace) ([]byte, error) {
	slots := len(destination.lengths)
	mask, moved := make([]byte, slots*p.heads()*p.channels(Keys)), make([]int32, slots)
	err := p.run(workspace, func(f *frame, plan, launch uintptr) func() error {
		if !source.mustBeDense(f) {
			return nil
		}
		if state.slots < slots || source.slots < slots {
			f.fail(refused("state and source need %d slots", slots))
			return nil
		}
		for slot := range moved {
			preview, err := p.PrunePreview(&destination.format, int64(source.lengths[slot]), options)
			if err == nil && preview.Rows > int64(destination.capacity) {
				err = refused("%d rows do not fit into %d", preview.Rows, destination.capacity)
			}
			f.fail(err)
			moved[slot] = int32(preview.Rows)
		}
		from, to := f.segment(source), f.segment(destination.Segment())
		at, rows, into := f.memory(state.memory), address(f, &from), address(f, &to)
		batch, with, bits := f.batch(slots), stamped(f, &options), list(f, mask)
		return func() error { return native.Think_prune(plan, at, rows, into, batch, with, bits, launch) }
	})
	if err == nil {
		copy(destination.lengths, moved)
	}
	return result(mask, err)
}

// Evict chooses the rows that each KV head keeps. window is as from ScoreWindow; none is needed with EvictRecent.
func (p *Plan) Evict(window Tensor, source Segment, options EvictOptions, workspace *Workspace) (Evicted, error) {
	heads, budget := source.slots*p.heads(), max0(int(options.Budget))
	options.KeptStride = int64(budget)
	made := Evicted{make([]int32, heads*budget), budget, make([]int32, heads)}
	return result(made, p.run(workspace, func(f *frame, plan, launch uintptr) func() error {
		if window != (Tensor{}) && window.extent[0] < source.slots {
			f.fail(refused("window has %d sequences, there are %d slots", window.extent[0], source.slots))
		}
		raw := f.segment(source)
		w, from, batch, with := f.tensor(window), address(f, &raw), f.batch(source.slots), stamped(f, &options)
		kept, lengths := list(f, made.Kept), list(f, made.Lengths)
		return func() error { return native.Think_evict(plan, w, from, batch, with, 0, 0, kept, lengths, launch) }
	}))
}

// EvictMove moves kept rows together into buffers of capacity rows: [slots][KV heads][capacity][channels].
func EvictMove[T Element](p *Plan, source Segment, rows Evicted, key, value []T, capacity int) error {
	heads := source.slots * p.heads()
	workspace, err := newWorkspace(0)
	if err != nil {
		return err
	}
	defer workspace.Close()
	return p.run(workspace, func(f *frame, plan, launch uintptr) func() error {
		if len(rows.Kept) < heads*rows.Stride || len(rows.Lengths) < heads {
			f.fail(refused("%d rows and %d lengths, %d lists of %d are needed", len(rows.Kept), len(rows.Lengths), heads, rows.Stride))
		}
		for _, length := range rows.Lengths {
			if length < 0 || int(length) > capacity || int(length) > rows.Stride {
				f.fail(refused("the lists do not fit into %d rows", capacity))
			}
		}
		target := DenseSegment(p, key, value, capacity, filled(source.slots, int32(capacity)))
		target.first, target.lengths = nil, rows.Lengths
		target.raw.LengthsStride = [2]int64{int64(p.heads()), 1}
		from, to := f.segment(source), f.segment(target)
		at, into, batch, kept := address(f, &from), address(f, &to), f.batch(source.slots), list(f, rows.Kept)
		return func() error {
			return native.Think_evict_move(plan, at, into, batch, kept, int64(rows.Stride), 0, 0, launch)
		}
	})
}

// ---- attention ----

func (p *Plan) logits(f *frame, query Tensor, sinkLogit, lse []float32) {
	enough(f, "sinkLogit", sinkLogit, int(p.problem.QueryHeads))
	enough(f, "lse", lse, query.extent[0]*int(p.problem.QueryHeads)*query.extent[2])
}

// Attend computes attention of new queries over the rows of all segments together; batch row i is slot i of each. sinkLogit has one number for each query
// head, lse receives one for each head and token; both may be nil.
func (p *Plan) Attend(query Tensor, segments []Segment, sinkLogit []float32, output Tensor, lse []float32, workspace *Workspace) error {
	return p.run(workspace, func(f *frame, plan, launch uintptr) func() error {
		p.logits(f, query, sinkLogit, lse)
		raw := make([]native.Segment, len(segments))
		for at, segment := range segments {
			rowsOf(f, "query", query, segment.slots)
			raw[at] = f.segment(segment)
		}
		q, rows, sink, to, sums := f.tensor(query), list(f, raw), list(f, sinkLogit), f.tensor(output), list(f, lse)
		return func() error {
			return native.Think_attend(plan, q, 0, rows, int32(len(raw)), sink, to, sums, launch)
		}
	})
}

// Merge puts attention over disjoint sets of rows together, each with its logarithms.
func (p *Plan) Merge(parts []Part, output Tensor, lse []float32, workspace *Workspace) error {
	return p.run(workspace, func(f *frame, plan, launch uintptr) func() error {
		p.logits(f, output, nil, lse)
		outputs, sums := make([]native.Tensor, len(parts)), make([]uintptr, len(parts))
		for at, part := range parts {
			p.logits(f, output, nil, append([]float32{}, part.LSE...))
			outputs[at], sums[at] = *f.describe(part.Output), list(f, part.LSE)
		}
		from, at, to, total := list(f, outputs), list(f, sums), f.tensor(output), list(f, lse)
		return func() error {
			return native.Think_merge(plan, from, at, int32(len(parts)), to, total, launch)
		}
	})
}
