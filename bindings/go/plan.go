package think

import (
	"runtime"

	"libthink/think/native"
)

// Plan is one attention shape on one context. Any number of goroutines may call it at the same time, each with a Workspace.
type Plan struct {
	handle
	device  int32
	problem Problem
}

// Stages are all of them, for Plan.Workspace.
var Stages = []int32{StageScore, StageMoments, StageSelect, StageFit, StageCompact, StageAttend, StagePrune, StageEvict}

// NewPlan makes a plan on a context, which may be closed before it.
func NewPlan(context *Context, problem Problem) (*Plan, error) {
	var f frame
	defer f.close()
	raw, fields := new(uintptr), problem
	from, at := f.hold(context, &context.handle), address(&f, fields.Stamp())
	if f.err != nil {
		return nil, f.err
	}
	if err := native.Think_plan_create(from, at, address(&f, raw)); err != nil {
		return nil, err
	}
	_ = context.hold() // the hooks must outlive the plan; the frame still has it, so that this cannot fail
	made := *raw
	p := &Plan{device: context.device, problem: fields}
	p.handle = handle{name: "plan", raw: made, users: 1, destroy: func() {
		native.Think_plan_destroy(made)
		context.release()
	}}
	// the library's defaults, for the sizes that are checked here
	for field, usual := range map[*int32]int32{&p.problem.QueryDtype: F32, &p.problem.CacheDtype: F16, &p.problem.ValueChannels: problem.KeyChannels,
		&p.problem.Window: 32, &p.problem.MaxBatch: 1, &p.problem.MaxQueries: 1} {
		if *field == 0 {
			*field = usual
		}
	}
	if p.problem.OutputDtype == 0 {
		p.problem.OutputDtype = p.problem.QueryDtype
	}
	runtime.SetFinalizer(p, func(p *Plan) { _ = p.Close() })
	return p, nil
}

// Close gives the plan up. Calls under way and its caches go on working.
func (p *Plan) Close() error { return p.close() }

// Problem is that of the plan, with the library's defaults where they matter for the sizes of arrays.
func (p *Plan) Problem() Problem { return p.problem }

// Describe says what the plan is, as JSON: the kernel of every stage and why, workspaces, bytes moved.
func (p *Plan) Describe() (string, error) {
	f := new(frame)
	plan := f.hold(p, &p.handle)
	return longText(f, func(text, capacity, needed uintptr) error {
		return native.Think_plan_describe(plan, text, capacity, needed)
	})
}

// WorkspaceSize is (bytes, alignment) that one call of a stage needs; nil = the plan's maxima.
func (p *Plan) WorkspaceSize(stage int32, extent *Extent) (int64, int64, error) {
	var f frame
	defer f.close()
	answer := new([2]int64)
	plan, at := f.hold(p, &p.handle), stamped(&f, extent)
	if f.err != nil {
		return 0, 0, f.err
	}
	err := native.Think_workspace_size(plan, stage, at, address(&f, &answer[0]), address(&f, &answer[1]))
	return answer[0], answer[1], err
}

// Workspace serves calls of these stages (Stages for all of them) at this extent; nil = the plan's maxima.
func (p *Plan) Workspace(stages []int32, extent *Extent) (*Workspace, error) {
	if p.device != DeviceCPU {
		return nil, &Error{Code: CodeUnsupported, Message: "memory of a device is its host's: DeviceWorkspace"}
	}
	var most int64
	for _, stage := range stages {
		bytes, _, err := p.WorkspaceSize(stage, extent)
		if err != nil {
			return nil, err
		}
		if bytes > most {
			most = bytes
		}
	}
	return newWorkspace(most)
}

// Layout gives the bytes of pages whose heads keep so many channels together; nil = DefaultFormat.
func (p *Plan) Layout(format *Format, pageTokens int, totalKey, totalValue int64) (LayoutInfo, error) {
	var f frame
	defer f.close()
	info := native.NewLayoutInfo()
	plan, at, to := f.hold(p, &p.handle), stamped(&f, format), address(&f, info)
	if f.err != nil {
		return LayoutInfo{}, f.err
	}
	err := native.Think_layout(plan, at, int32(pageTokens), totalKey, totalValue, to)
	return result(*info, err)
}

// PrunePreview says what a prune will do with a sequence of so many tokens.
func (p *Plan) PrunePreview(format *Format, tokens int64, options PruneOptions) (PruneResult, error) {
	var f frame
	defer f.close()
	preview := native.NewPruneResult()
	plan, at, with, to := f.hold(p, &p.handle), stamped(&f, format), stamped(&f, &options), address(&f, preview)
	if f.err != nil {
		return PruneResult{}, f.err
	}
	err := native.Think_prune_preview(plan, at, tokens, with, to)
	return result(*preview, err)
}

func (p *Plan) heads() int { return int(p.problem.KVHeads) }

func (p *Plan) channels(side int32) int {
	if side == Values {
		return int(p.problem.ValueChannels)
	}
	return int(p.problem.KeyChannels)
}

// stamped is the address of a copy with the true size; of nil it is 0.
func stamped[T any, P interface {
	*T
	Stamp() *T
}](f *frame, what *T) uintptr {
	if what == nil {
		return 0
	}
	copied := *what
	return address(f, P(&copied).Stamp())
}

// Workspace is memory that calls work in, one call at a time.
type Workspace struct {
	memory *memory // nil: of a device
	launch *native.Launch
	busy   int32
}

func newWorkspace(bytes int64) (*Workspace, error) {
	m, err := newMemory("workspace", bytes)
	if err != nil {
		return nil, err
	}
	launch := native.NewLaunch()
	launch.Workspace, launch.WorkspaceBytes = uintptr(m.at), bytes
	// Arrays of lengths, slots and widths are looked at before they are used: what a caller can get wrong is an error, not a stray read.
	launch.Flags = LaunchCheck
	return &Workspace{memory: m, launch: launch}, nil
}

// DeviceWorkspace is zeroed memory of a device, which stays the caller's, and the stream that calls with it run on.
func DeviceWorkspace(address uintptr, bytes int64, stream uintptr) *Workspace {
	launch := native.NewLaunch()
	launch.Workspace, launch.WorkspaceBytes, launch.Stream = address, bytes, stream
	return &Workspace{launch: launch}
}

// Bytes of this workspace.
func (w *Workspace) Bytes() int64 { return w.launch.WorkspaceBytes }

// Close frees the memory after the last call that uses it.
func (w *Workspace) Close() error {
	if w.memory == nil {
		return nil
	}
	return w.memory.close()
}
