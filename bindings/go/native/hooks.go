package native

/*
#include "hooks.h"
*/
import "C"

import (
	"io"
	"runtime/cgo"
	"unsafe"
)

// Hooks are what a context calls, from the goroutine that called the library. Those that are nil are left to the library. A panic ends the program, but in
// Log, where it is dropped: it cannot pass through C.
type Hooks struct {
	// ParallelFor calls task(0) .. task(count-1), from any goroutines in any order, and returns when all have returned.
	ParallelFor func(count int64, task func(index int64))
	// Allocate gives memory that is not Go's at a multiple of alignment, or nil; Deallocate takes it back. Both or none.
	Allocate   func(bytes, alignment uintptr) unsafe.Pointer
	Deallocate func(memory unsafe.Pointer, bytes, alignment uintptr)
	// Log takes a line for the host's log.
	Log func(level int32, message string)
}

// SetHooks makes a context with these options call hooks. The handle is deleted when the last plan and cache of the context is gone.
func (o *ContextOptions) SetHooks(hooks *Hooks) cgo.Handle {
	if hooks.ParallelFor != nil {
		o.ParallelFor = uintptr(C.think_go_parallel_for)
	}
	if hooks.Allocate != nil {
		o.Allocate = uintptr(C.think_go_allocate_hook)
	}
	if hooks.Deallocate != nil {
		o.Deallocate = uintptr(C.think_go_deallocate_hook)
	}
	if hooks.Log != nil {
		o.Log = uintptr(C.think_go_log)
	}
	handle := cgo.NewHandle(hooks)
	o.User = uintptr(handle)
	return handle
}

// Stream is a file during a call, and why it failed: neither errors nor panics can pass through C.
type Stream struct {
	writer io.Writer
	reader io.Reader
	// Err is what the file said.
	Err error
	// Panic is what the file panicked with.
	Panic any
}

// Write has call hand its bytes to a writer.
func Write(to io.Writer, call func(write, user uintptr) error) (*Stream, error) {
	stream := &Stream{writer: to}
	handle := cgo.NewHandle(stream)
	defer handle.Delete()
	return stream, call(uintptr(C.think_go_write), uintptr(handle))
}

// Read has call take its bytes from a reader.
func Read(from io.Reader, call func(read, user uintptr) error) (*Stream, error) {
	stream := &Stream{reader: from}
	handle := cgo.NewHandle(stream)
	defer handle.Delete()
	return stream, call(uintptr(C.think_go_read), uintptr(handle))
}

func hooksOf(user C.uintptr_t) *Hooks { return cgo.Handle(user).Value().(*Hooks) }

// What cannot go on ends the program, with the panic's own message.
func fatal() {
	if problem := recover(); problem != nil {
		go panic(problem)
		select {}
	}
}

//export thinkGoWrite
func thinkGoWrite(user C.uintptr_t, data unsafe.Pointer, bytes C.int64_t) (status C.int32_t) {
	stream := cgo.Handle(user).Value().(*Stream)
	status = -1
	defer func() { stream.Panic = recover() }()
	var written int
	written, stream.Err = stream.writer.Write(unsafe.Slice((*byte)(data), int(bytes)))
	if stream.Err == nil && written != int(bytes) {
		stream.Err = io.ErrShortWrite
	}
	if stream.Err == nil {
		status = 0
	}
	return
}

//export thinkGoRead
func thinkGoRead(user C.uintptr_t, data unsafe.Pointer, bytes C.int64_t) (filled C.int64_t) {
	stream := cgo.Handle(user).Value().(*Stream)
	filled = -1
	defer func() { stream.Panic = recover() }()
	count, problem := io.ReadFull(stream.reader, unsafe.Slice((*byte)(data), int(bytes)))
	if problem != nil && problem != io.EOF && problem != io.ErrUnexpectedEOF {
		stream.Err = problem
		return
	}
	return C.int64_t(count)
}

//export thinkGoLog
func thinkGoLog(user C.uintptr_t, level C.int32_t, message *C.char) {
	defer func() { _ = recover() }()
	hooksOf(user).Log(int32(level), C.GoString(message))
}

//export thinkGoAllocate
func thinkGoAllocate(user C.uintptr_t, bytes, alignment C.size_t) unsafe.Pointer {
	defer fatal()
	return hooksOf(user).Allocate(uintptr(bytes), uintptr(alignment))
}

//export thinkGoDeallocate
func thinkGoDeallocate(user C.uintptr_t, memory unsafe.Pointer, bytes, alignment C.size_t) {
	defer fatal()
	hooksOf(user).Deallocate(memory, uintptr(bytes), uintptr(alignment))
}

//export thinkGoParallelFor
func thinkGoParallelFor(user C.uintptr_t, count C.int64_t, task C.think_task, arg unsafe.Pointer) {
	defer fatal()
	hooksOf(user).ParallelFor(int64(count), func(index int64) { C.think_go_task(task, arg, C.int64_t(index)) })
}
