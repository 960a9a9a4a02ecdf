package think

import (
	"runtime"

	"libthink/think/native"
)

// Hooks are what a context calls of its host.
type Hooks = native.Hooks

// ContextOptions say how to make a Context: the CPU, and the calling thread only, unless said otherwise.
type ContextOptions struct {
	Device  int32 // Device...; 0 = DeviceCPU
	Index   int32 // of the device
	Threads int32 // of the library: 0 = the caller's own, -1 = one for every core
	Hooks   Hooks
}

// Context is the device, the threads and the host's hooks. Any number of goroutines may use it. Its plans go on working when it is closed.
type Context struct {
	handle
	device int32
}

// NewContext makes a context; nil = defaults.
func NewContext(options *ContextOptions) (*Context, error) {
	var f frame
	defer f.close()
	fields, forget := native.NewContextOptions(), func() {}
	c := &Context{device: DeviceCPU}
	if options != nil {
		fields.DeviceType, fields.DeviceIndex, fields.Threads = options.Device, options.Index, options.Threads
		if options.Device != 0 {
			c.device = options.Device
		}
		hooks := options.Hooks
		forget = fields.SetHooks(&hooks).Delete
	}
	raw := new(uintptr)
	if err := native.Think_context_create(address(&f, fields), address(&f, raw)); err != nil {
		forget()
		return nil, err
	}
	made := *raw
	c.handle = handle{name: "context", raw: made, users: 1, destroy: func() {
		native.Think_context_destroy(made)
		forget()
	}}
	runtime.SetFinalizer(c, func(c *Context) { _ = c.Close() })
	return c, nil
}

// Close gives the context up.
func (c *Context) Close() error { return c.close() }

// Query asks for one fact about this context: Query...
func (c *Context) Query(key int32) (int64, error) {
	f := new(frame)
	return query(f, f.hold(c, &c.handle), key)
}

// Supports tells whether this context can run this problem, or why not. Nothing is allocated.
func (c *Context) Supports(problem Problem) error {
	var f frame
	defer f.close()
	context, at := f.hold(c, &c.handle), address(&f, problem.Stamp())
	if f.err != nil {
		return f.err
	}
	return native.Think_supports(context, at)
}
