//go:build go1.21

package native

import "runtime"

// Pinner keeps Go memory where it is while C knows its address.
type Pinner = runtime.Pinner
