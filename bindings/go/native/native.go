// Package native is the C interface of libthink, function by function: what package think is made of, and everything that it does not wrap.
//
// Addresses are uintptr, of C memory or of Go memory that a Pinner holds during the call. Structs are those of C; their Stamp method sets the size that the
// library asks for, New... functions give the library's defaults. A call that fails returns an *Error.
//
// The library is opened at the first call: what the environment variable THINK_LIBRARY names, or libthink.so.1. With the build tag think_link the program is
// linked with it instead, which pkg-config has to know.
package native

/*
#cgo CFLAGS: -I${SRCDIR}/include -fno-strict-aliasing
#cgo LDFLAGS: -ldl -lpthread
#include <stdlib.h>
#include "glue.h"

static think_error *record_at(int64_t address) { return (think_error *)(intptr_t)address; }
static const char *text_at(uintptr_t address) { return (const char *)address; }
*/
import "C"

import (
	"errors"
	"unsafe"

	_ "libthink/think/native/include/think" // the headers, which are vendored with it
)

// Error is a failed call. The message is the library's own, the same in every language.
type Error struct {
	Code       int32 // status code; 0 when the call failed in Go, before it reached the library
	Argument   int32 // position of the offending argument of the C function, counted from 1; 0 = none in particular
	NativeCode int32 // error of the device's own interface or of a stream; 0 = none
	Message    string
}

func (e *Error) Error() string {
	if e.Message == "" {
		return e.Name()
	}
	return e.Message
}

// Name of the status in C: "THINK_E_ARGUMENT".
func (e *Error) Name() string { return Think_status_name(e.Code) }

// Is tells whether target is an *Error with this code and nothing else, as the Err... values of package think are.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && *other == Error{Code: e.Code}
}

// Load opens the library, which every call does by itself, and says why that fails.
func Load() error {
	if C.think_go_ready() != 0 {
		return nil
	}
	return failure(int64(C.think_go_absent()))
}

func failure(address int64) error {
	if address == 0 {
		return nil
	}
	record := C.record_at(C.int64_t(address))
	defer C.think_go_release(record)
	return &Error{int32(record.code), int32(record.argument), int32(record.native_code), C.GoString(&record.message[0])}
}

func staticText(address uintptr) string { return C.GoString(C.text_at(C.uintptr_t(address))) }

// Allocate gives zeroed C memory at a multiple of 64 bytes, which Free takes back.
func Allocate(bytes int64) (unsafe.Pointer, error) {
	if bytes < 0 {
		return nil, errors.New("a negative number of bytes")
	}
	memory := C.think_go_allocate(C.size_t(bytes))
	if memory == nil {
		return nil, &Error{Code: 4, Message: "out of memory"}
	}
	return memory, nil
}

// Free gives memory of Allocate back; nil is ignored.
func Free(memory unsafe.Pointer) { C.free(memory) }
