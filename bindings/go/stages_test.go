package think_test

import (
	"errors"
	"math"
	"reflect"
	"testing"

	"libthink/think"
	"libthink/think/native"
)

// Every stage against plain loops.
func TestStages(t *testing.T) {
	plan := newPlan(t)
	query, key, value := noise(1, HQ*T*D), noise(2, HKV*T*D), noise(3, HKV*T*D)
	for i := 1; i < len(key); i += 2 {
		key[i] *= 0.02 // every other channel is worth little
	}
	workspace, err := plan.Workspace(think.Stages, &think.Extent{Tokens: 512})
	must(t, err)
	defer workspace.Close()
	expect(t, workspace.Bytes() > 0)
	state, err := plan.NewScoreState(1, workspace)
	must(t, err)
	defer state.Close()
	must(t, plan.ScoreUpdate(think.NewTensor(query, 1, HQ, T, D), think.NewTensor(key, 1, HKV, T, D), state, workspace))
	score, err := plan.ScoreFinish(state, think.ScoreOptions{}, workspace)
	must(t, err)
	square := func(rows []float32, first, channel int) (sum float64) {
		for token := first; token < T; token++ {
			x := float64(rows[token*D+channel])
			sum += x * x
		}
		return
	}
	for head := 0; head < HKV; head++ {
		for j := 0; j < D; j++ {
			queries := square(query[head*2*T*D:], T-8, j) + square(query[(head*2+1)*T*D:], T-8, j)
			wanted := queries * square(key[head*T*D:], 0, j)
			expect(t, math.Abs(float64(score[head*D+j])-wanted) < 1e-4*wanted, "score", score[head*D+j], wanted)
		}
	}
	byHead, err := plan.ScoreFinish(state, think.ScoreOptions{Flags: think.ScoreQueryHeads}, workspace)
	must(t, err)
	expect(t, len(byHead) == HQ*D && math.Abs(float64(byHead[0]+byHead[D]-score[0])) < 1e-4*float64(score[0]))

	rows := think.DenseSegment(plan, key, value, T, []int32{T}).Causal()
	window, err := plan.ScoreWindow(state)
	must(t, err)
	expect(t, window.Extent() == [4]int{1, HQ, 8, D})
	moments, err := plan.Moments(window, rows, think.MomentsOptions{}, workspace)
	must(t, err)
	defer moments.Close()
	gains, err := plan.Gains(moments, think.Keys, score, workspace)
	must(t, err)
	expect(t, len(gains.Order) == HKV*D && gains.Gains[0] > 0)
	kept, err := plan.Budgets(gains.Gains, 1, think.Keys, think.BudgetOptions{Total: HKV * 8}, workspace)
	must(t, err)
	expect(t, kept[0]+kept[1] == HKV*8)

	// first by stages, then in one call: the same rows, so the same attention
	const first, count = 4, 160
	var outputs [][]float32
	one := last(query)
	for _, whole := range []bool{false, true} {
		compact, err := plan.NewCompact(nil, 1, count, true, false)
		must(t, err)
		defer compact.Close()
		if whole {
			options := think.PruneOptions{KeyKept: 8, DenseLimit: -1}
			preview, err := plan.PrunePreview(nil, T, options)
			must(t, err)
			expect(t, preview.First == first && preview.Rows == count, preview)
			mask, err := plan.Prune(state, rows, compact, options, workspace)
			must(t, err)
			sum := 0
			for _, bit := range mask {
				sum += int(bit)
			}
			expect(t, sum == HKV*8)
		} else {
			basis := compact.Basis(think.Keys)
			mask, err := plan.Select(score, think.SelectOptions{Kept: 8}, kept, basis, workspace)
			must(t, err)
			must(t, plan.Fit(moments, think.FitOptions{}, basis, workspace))
			width, channels, err := basis.Channels(0, 1)
			must(t, err)
			expect(t, width == int(kept[1]) && len(channels) == D)
			for _, channel := range channels[:width] {
				expect(t, mask[D+int(channel)] == 1)
			}
			must(t, plan.SegmentPlace(compact, workspace))
			must(t, plan.Compact(rows, first, count, compact, workspace))
		}
		output := make([]float32, HQ*D)
		sinks := think.DenseSegment(plan, key, value, T, []int32{first})
		recent := think.DenseSegment(plan, key, value, T, []int32{T}).Part(first+count, T-first-count).Causal()
		segments := []think.Segment{sinks, compact.Segment(), recent}
		must(t, plan.Attend(think.NewTensor(one, 1, HQ, 1, D), segments, nil, think.NewTensor(output, 1, HQ, 1, D), nil, workspace))
		outputs = append(outputs, output)
	}
	expect(t, reflect.DeepEqual(outputs[0], outputs[1]))
	dense, lses := attention(one, key, value, T)
	near(t, outputs[0], dense, 0.05)

	// two halves, merged
	var parts []think.Part
	for _, half := range [][2]int{{0, 90}, {90, T - 90}} {
		part := think.Part{Output: think.NewTensor(make([]float32, HQ*D), 1, HQ, 1, D), LSE: make([]float32, HQ)}
		source := []think.Segment{think.DenseSegment(plan, key, value, T, []int32{T}).Part(half[0], half[1])}
		must(t, plan.Attend(think.NewTensor(one, 1, HQ, 1, D), source, nil, part.Output, part.LSE, workspace))
		parts = append(parts, part)
	}
	output, lse := make([]float32, HQ*D), make([]float32, HQ)
	must(t, plan.Merge(parts, think.NewTensor(output, 1, HQ, 1, D), lse, workspace))
	near(t, output, dense, 1e-5)
	near(t, lse, lses, 1e-5)

	values, err := plan.ValueScore(think.NewTensor(noise(7, HQ*8*D), 1, HQ, 8, D), workspace)
	must(t, err)
	expect(t, len(values) == HKV*D && values[0] > 0)

	// rows out of the cache
	chosen, err := plan.Evict(window, rows, think.EvictOptions{Method: think.EvictSnapKV, Budget: 64}, workspace)
	must(t, err)
	expect(t, reflect.DeepEqual(chosen.Lengths, []int32{64, 64}))
	shortKey, shortValue := make([]float32, HKV*64*D), make([]float32, HKV*64*D)
	must(t, think.EvictMove(plan, rows, chosen, shortKey, shortValue, 64))
	for place, row := range chosen.Kept[64:] {
		expect(t, reflect.DeepEqual(shortKey[(64+place)*D:][:D], key[(T+int(row))*D:][:D]))
	}
	chosen.Kept[3] = 5000 // not there: an error, not a stray read
	expect(t, errors.Is(think.EvictMove(plan, rows, chosen, shortKey, shortValue, 64), think.ErrArgument))
}

// Two sequences of different length, in slots of their own: dense, compact, and evicted.
func TestSlots(t *testing.T) {
	plan := newPlan(t)
	lengths := []int32{T, 150}
	query, key, value := noise(1, 2*HQ*T*D), noise(2, 2*HKV*T*D), noise(3, 2*HKV*T*D)
	for i := 1; i < len(key); i += 2 {
		key[i] *= 0.02
	}
	workspace, err := plan.Workspace(think.Stages, nil)
	must(t, err)
	state, err := plan.NewScoreState(2, workspace)
	must(t, err)
	must(t, plan.ScoreUpdate(think.NewTensor(query, 2, HQ, T, D), think.NewTensor(key, 2, HKV, T, D), state, workspace))
	rows := think.DenseSegment(plan, key, value, T, lengths)
	compact, err := plan.NewCompact(nil, 2, 160, true, false)
	must(t, err)
	defer compact.Close()
	_, err = plan.Prune(state, rows, compact, think.PruneOptions{KeyKept: 8, DenseLimit: -1}, workspace)
	must(t, err)
	window, err := plan.ScoreWindow(state)
	must(t, err)
	few, err := plan.Evict(window, rows, think.EvictOptions{Method: think.EvictSnapKV, Budget: 149}, workspace)
	must(t, err)
	shortKey, shortValue := make([]float32, 2*HKV*149*D), make([]float32, 2*HKV*149*D)
	must(t, think.EvictMove(plan, rows, few, shortKey, shortValue, 149))
	short := think.DenseSegment(plan, shortKey, shortValue, 149, []int32{149, 149})

	one := append(last(query[:HQ*T*D]), last(query[HQ*T*D:])...)
	attend := func(segments ...think.Segment) []float32 {
		output := make([]float32, 2*HQ*D)
		must(t, plan.Attend(think.NewTensor(one, 2, HQ, 1, D), segments, nil, think.NewTensor(output, 2, HQ, 1, D), nil, workspace))
		return output
	}
	dense, left := attend(rows), attend(short)
	pruned := [2][]float32{}
	for slot, moved := range []int{160, 96} { // 4 sinks, then tiles of 32 rows, but for the last 32 at least
		sinks, recent := rows.Part(0, 4), rows.Part(4+moved, int(lengths[slot])-4-moved)
		pruned[slot] = attend(sinks, compact.Segment(), recent)[slot*HQ*D:][:HQ*D]
	}
	for slot, length := range lengths {
		take := func(from []float32, to int) (made []float32) {
			for head := 0; head < HKV; head++ {
				made = append(made, from[(slot*HKV+head)*T*D:][:to*D]...)
			}
			return
		}
		expected, _ := attention(one[slot*HQ*D:], take(key, int(length)), take(value, int(length)), int(length))
		near(t, dense[slot*HQ*D:][:HQ*D], expected, 1e-5)
		near(t, pruned[slot], expected, 0.05)
		chosen := func(from []float32) (made []float32) {
			for head := slot * HKV; head < (slot+1)*HKV; head++ {
				for _, row := range few.Kept[head*149:][:149] {
					made = append(made, from[(head*T+int(row))*D:][:D]...)
				}
			}
			return
		}
		expected, _ = attention(one[slot*HQ*D:], chosen(key), chosen(value), 149)
		near(t, left[slot*HQ*D:][:HQ*D], expected, 1e-5)
	}
	expect(t, reflect.DeepEqual(few.Lengths, []int32{149, 149, 149, 149}))
}

// Rows whose addresses are the caller's: what engines with memory of a device pass.
func TestAddresses(t *testing.T) {
	plan := newPlan(t)
	query, key, value := noise(1, HQ*D), noise(2, HKV*T*D), noise(3, HKV*T*D)
	var memory []uintptr
	for _, rows := range [][]float32{query, key, value, make([]float32, HQ*D)} {
		at, err := native.Allocate(int64(4 * len(rows)))
		must(t, err)
		defer native.Free(at)
		copy(floatsAt(at, len(rows)), rows)
		memory = append(memory, uintptr(at))
	}
	bytes, alignment, err := plan.WorkspaceSize(think.StageAttend, nil)
	must(t, err)
	expect(t, alignment <= 64)
	at, err := native.Allocate(bytes)
	must(t, err)
	defer native.Free(at)
	length, err := native.Allocate(4)
	must(t, err)
	defer native.Free(length)
	*(*int32)(length) = T
	segment := think.RawSegment(native.Segment{KeyDtype: think.F32, ValueDtype: think.F32, Key: memory[1], Value: memory[2], KeyStride: [3]int64{0, T * D * 4},
		ValueStride: [3]int64{0, T * D * 4}, Lengths: uintptr(length)}, 1)
	to, err := native.Allocate(4 * HQ * D)
	must(t, err)
	defer native.Free(to)
	must(t, plan.Attend(think.DeviceTensor(memory[0], think.F32, 1, HQ, 1, D), []think.Segment{segment}, nil,
		think.DeviceTensor(uintptr(to), think.F32, 1, HQ, 1, D), nil, think.DeviceWorkspace(uintptr(at), bytes, 0)))
	expected, _ := attention(query, key, value, T)
	near(t, floatsAt(to, HQ*D), expected, 1e-5)
	_, err = think.NewContext(&think.ContextOptions{Device: think.DeviceCUDA, Index: 1000})
	expect(t, errors.Is(err, think.ErrUnsupported) || errors.Is(err, think.ErrArgument) || errors.Is(err, think.ErrDevice), err)
}

func TestWrongShapes(t *testing.T) {
	plan := newPlan(t)
	workspace, err := plan.Workspace([]int32{think.StageAttend}, nil)
	must(t, err)
	rows := make([]float32, HKV*4*D)
	output := think.NewTensor(make([]float32, HQ*D), 1, HQ, 1, D)
	whole := think.DenseSegment(plan, rows, rows, 4, []int32{4})
	query := think.NewTensor(make([]float32, HQ*D), 1, HQ, 1, D)
	must(t, plan.Attend(query, []think.Segment{whole}, nil, output, nil, workspace))
	for name, call := range map[string]func() error{
		"a short slice": func() error {
			return plan.Attend(think.NewTensor(rows[:7], 1, HQ, 1, D), []think.Segment{whole}, nil, output, nil, workspace)
		},
		"a stride outside": func() error {
			return plan.Attend(query.WithStride(0, D+1, D), []think.Segment{whole}, nil, output, nil, workspace)
		},
		"no rows": func() error {
			return plan.Attend(think.NewTensor(rows, 1, HQ, 0, D), []think.Segment{whole}, nil, output, nil, workspace)
		},
		"too many rows": func() error {
			return plan.Attend(think.NewTensor(rows, math.MaxInt64, HQ, 3, D), []think.Segment{whole}, nil, output, nil, workspace)
		},
		"a stride below zero": func() error {
			return plan.Attend(query.WithStride(0, -1, D), []think.Segment{whole}, nil, output, nil, workspace)
		},
		"a long length": func() error {
			return plan.Attend(query, []think.Segment{think.DenseSegment(plan, rows, rows, 4, []int32{5})}, nil, output, nil, workspace)
		},
		"few values": func() error {
			return plan.Attend(query, []think.Segment{think.DenseSegment(plan, rows, rows[1:], 4, []int32{4})}, nil, output, nil, workspace)
		},
		"a part outside": func() error {
			return plan.Attend(query, []think.Segment{whole.Part(2, 3)}, nil, output, nil, workspace)
		},
		"few logarithms": func() error {
			return plan.Attend(query, []think.Segment{whole}, nil, output, make([]float32, HQ-1), workspace)
		},
		"few sink logits": func() error {
			return plan.Attend(query, []think.Segment{whole}, make([]float32, HQ-1), output, nil, workspace)
		},
		"no segment": func() error { return plan.Attend(query, nil, nil, output, nil, workspace) },
		"no output":  func() error { return plan.Attend(query, []think.Segment{whole}, nil, think.Tensor{}, nil, workspace) },
	} {
		var failed *think.Error
		if err := call(); !errors.As(err, &failed) || failed.Code != think.CodeArgument || !errors.Is(err, think.ErrArgument) || errors.Is(err, think.ErrState) {
			t.Errorf("%s: %v", name, err)
		}
	}
	expect(t, think.NewTensor([]think.Float16{0x3c00, 0, 0, 0, 0, 0, 0, 0}, 1, 1, 1, 8).Extent() == [4]int{1, 1, 1, 8})
	expect(t, think.NewTensor(make([]think.BFloat16, 8), 1, 1, 1, 8).Extent() == [4]int{1, 1, 1, 8})
	workspace.Close()
	err = plan.Attend(query, []think.Segment{whole}, nil, output, nil, workspace)
	expect(t, errors.Is(err, think.ErrState) && err.Error() == "the workspace is closed", err)
	plan.Close()
	plan.Close()
	_, err = plan.Describe()
	expect(t, errors.Is(err, think.ErrState) && err.Error() == "the plan is closed", err)
}
