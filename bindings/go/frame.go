package think

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"libthink/think/native"
)

func refused(format string, values ...any) error {
	return &Error{Code: CodeArgument, Message: fmt.Sprintf(format, values...)}
}

// A handle is something of the library or of C memory that calls use: closing it waits for none of them, the last one destroys it.
type handle struct {
	name    string
	raw     uintptr
	destroy func()
	users   int64 // 1 until it is closed, calls under way, and what was made of it
	closed  int32
}

func (h *handle) hold() error {
	for atomic.LoadInt32(&h.closed) == 0 {
		users := atomic.LoadInt64(&h.users)
		if users == 0 {
			break
		}
		if atomic.CompareAndSwapInt64(&h.users, users, users+1) {
			return nil
		}
	}
	return &Error{Code: CodeState, Message: "the " + h.name + " is closed"}
}

func (h *handle) release() {
	if atomic.AddInt64(&h.users, -1) == 0 {
		h.destroy()
	}
}

func (h *handle) close() error {
	if atomic.CompareAndSwapInt32(&h.closed, 0, 1) {
		h.release()
	}
	return nil
}

// Zeroed C memory at a multiple of 64 bytes. The garbage collector does not know how large it is, so that its owners have a Close.
type memory struct {
	handle
	at    unsafe.Pointer
	bytes int64
}

func newMemory(name string, bytes int64) (*memory, error) {
	at, err := native.Allocate(bytes)
	if err != nil {
		return nil, err
	}
	m := &memory{at: at, bytes: bytes}
	m.handle = handle{name: name, raw: uintptr(at), destroy: func() { native.Free(at) }, users: 1}
	runtime.SetFinalizer(m, func(m *memory) { _ = m.close() })
	return m, nil
}

// A frame is one call: what it uses stays open, alive and in its place until the call is over.
type frame struct {
	pins  native.Pinner
	held  []*handle
	taken []*int32
	kept  []any
	err   error
}

func (f *frame) fail(err error) {
	if f.err == nil {
		f.err = err
	}
}

func (f *frame) close() {
	for _, busy := range f.taken {
		atomic.StoreInt32(busy, 0)
	}
	for _, h := range f.held {
		h.release()
	}
	f.pins.Unpin()
	runtime.KeepAlive(f.kept)
}

// hold uses a handle that is a part of owner, whose finalizer must not run meanwhile.
func (f *frame) hold(owner any, h *handle) uintptr {
	if err := h.hold(); err != nil {
		f.fail(err)
		return 0
	}
	f.held = append(f.held, h)
	f.kept = append(f.kept, owner)
	return h.raw
}

// take refuses a second call on what serves one at a time.
func (f *frame) take(name string, busy *int32) {
	if !atomic.CompareAndSwapInt32(busy, 0, 1) {
		f.fail(&Error{Code: CodeState, Message: "the " + name + " is in use by another call"})
		return
	}
	f.taken = append(f.taken, busy)
}

func (f *frame) memory(m *memory) uintptr { return f.hold(m, &m.handle) }

func (f *frame) workspace(w *Workspace) uintptr {
	f.take("workspace", &w.busy)
	if w.memory != nil {
		f.memory(w.memory)
	}
	return address(f, w.launch)
}

func (f *frame) tensor(t Tensor) uintptr {
	if t == (Tensor{}) {
		return 0
	}
	return address(f, f.describe(t))
}

func (f *frame) describe(t Tensor) *native.Tensor {
	f.fail(t.check())
	if t.owner != nil {
		f.memory(t.owner)
	}
	raw := (&native.Tensor{Data: t.address, Dtype: t.dtype}).Stamp()
	if t.data != nil {
		f.pins.Pin(t.data)
		raw.Data = uintptr(t.data)
	}
	for axis := range t.extent {
		raw.Extent[axis], raw.Stride[axis] = int64(t.extent[axis]), int64(t.stride[axis])
	}
	return raw
}

func (f *frame) batch(count int) uintptr {
	return address(f, (&native.Batch{Count: int32(count)}).Stamp())
}

func (f *frame) basis(b *Basis) uintptr {
	if b == nil {
		return 0
	}
	f.memory(b.memory)
	return address(f, b.raw)
}

func (f *frame) segment(s Segment) native.Segment {
	f.fail(s.err)
	raw := s.raw
	raw.Stamp()
	for side, at := range []*uintptr{&raw.Key, &raw.Value} {
		if s.rows[side] != nil {
			f.pins.Pin(s.rows[side])
			*at = uintptr(s.rows[side])
		}
	}
	if s.lengths != nil {
		raw.First, raw.Lengths = list(f, s.first), list(f, s.lengths)
	}
	if s.compact != nil {
		f.memory(s.compact.memory)
		raw.KeyBasis, raw.ValueBasis = f.basis(s.compact.basis[Keys]), f.basis(s.compact.basis[Values])
	}
	if s.cache != nil {
		s.cache.lend(f, s.version)
	}
	return raw
}

// address is that of what stays in its place until the end of the call; of nil it is 0.
func address[T any](f *frame, what *T) uintptr {
	if what == nil {
		return 0
	}
	f.pins.Pin(what)
	return uintptr(unsafe.Pointer(what))
}

// list is the address of a slice's first element; 0 if it has none.
func list[T any](f *frame, of []T) uintptr {
	if len(of) == 0 {
		return 0
	}
	return address(f, &of[0])
}

// enough checks the length of a slice that may be left out.
func enough[T any](f *frame, name string, of []T, needed int) {
	if of != nil && len(of) < needed {
		f.fail(refused("%s has %d elements, %d are needed", name, len(of), needed))
	}
}
