//go:build think_calls

package native

/*
#cgo CFLAGS: -DTHINK_GO_CALLS
#include "glue.h"
*/
import "C"

// Calls names every C function that was called so far: for the test that none is left out.
func Calls() map[string]bool {
	made := map[string]bool{}
	for at := C.int(0); ; at++ {
		name := C.think_go_called(at)
		if name == nil {
			return made
		}
		made[C.GoString(name)] = true
	}
}
