// Package think is libthink for Go: managed key-value caches that store fewer channels, and attention on them.
//
// Rows are slices with a shape (Tensor); a Plan may be used by any number of goroutines, a Cache or a Workspace by one at a time. What holds C memory has a
// Close, which is also called when the garbage collector finds it unused. A failed call returns an *Error with the library's own text.
//
// Building needs no libthink: it is opened at run time, as package native says, which is the C interface itself.
package think

import "libthink/think/native"

// Error is a failed call: its code, the position of the offending argument, the device's own code and the library's text. See errors.As.
type Error = native.Error

// The kinds of errors, for errors.Is. A call that Go refuses before it reaches the library has the same kinds, and names no
// argument.
var (
	ErrArgument    error = &Error{Code: CodeArgument}
	ErrUnsupported error = &Error{Code: CodeUnsupported}
	ErrWorkspace   error = &Error{Code: CodeWorkspace}
	ErrMemory      error = &Error{Code: CodeMemory}
	ErrDevice      error = &Error{Code: CodeDevice}
	ErrState       error = &Error{Code: CodeState}
	ErrFormat      error = &Error{Code: CodeFormat}
	ErrIO          error = &Error{Code: CodeIO}
	ErrInternal    error = &Error{Code: CodeInternal}
)

// The plain structs of the C interface. Their zero values are the library's defaults, but for Format.
type (
	Problem        = native.Problem
	Extent         = native.Extent
	Format         = native.Format
	LayoutInfo     = native.LayoutInfo
	ScoreOptions   = native.ScoreOptions
	MomentsOptions = native.MomentsOptions
	BudgetOptions  = native.BudgetOptions
	SelectOptions  = native.SelectOptions
	FitOptions     = native.FitOptions
	EvictOptions   = native.EvictOptions
	PruneOptions   = native.PruneOptions
	PruneResult    = native.PruneResult
	CacheInfo      = native.CacheInfo
)

// DefaultFormat is how compact rows are stored unless said otherwise: keys in tiles, numbers as in the cache.
func DefaultFormat() Format { return *native.NewFormat() }

// Version of the library that runs: major * 10000 + minor * 100 + patch. 0 where there is none.
func Version() int { return int(native.Think_version()) }

// VersionString is the same as text.
func VersionString() string { return native.Think_version_string() }

// ABIVersion of the library that runs.
func ABIVersion() int { return int(native.Think_abi_version()) }

// StatusName names a code of an error: "THINK_E_ARGUMENT".
func StatusName(code int32) string { return native.Think_status_name(code) }

// DtypeBytes is the size of one element; 0 for what tensors cannot hold.
func DtypeBytes(dtype int32) int { return int(native.Think_dtype_bytes(dtype)) }

// DtypeName names a type: "f32", "bf16", "u4".
func DtypeName(dtype int32) string { return native.Think_dtype_name(dtype) }

// KeptChannels of so many at a pruning ratio, as the paper's code rounds; -1 unless the ratio is in [0, 1).
func KeptChannels(channels int, ratio float64) int {
	return int(native.Think_kept_channels(int32(channels), ratio))
}

// Query asks for one fact about the library: Query...
func Query(key int32) (int64, error) { return query(new(frame), 0, key) }

// BackendReason says why a backend can or cannot be used here; it begins with "available" if it can.
func BackendReason(device int32) (string, error) {
	return longText(new(frame), func(text, capacity, needed uintptr) error {
		return native.Think_backend_reason(device, text, capacity, needed)
	})
}

func query(f *frame, context uintptr, key int32) (int64, error) {
	defer f.close()
	value := new(int64)
	at := address(f, value)
	if f.err != nil {
		return 0, f.err
	}
	err := native.Think_query(context, key, at)
	return *value, err
}

// longText calls what fills a text of a length that it tells first.
func longText(f *frame, fill func(text, capacity, needed uintptr) error) (string, error) {
	defer f.close()
	needed := new(uintptr)
	at := address(f, needed)
	if f.err != nil {
		return "", f.err
	}
	if err := fill(0, 0, at); err != nil {
		return "", err
	}
	text := make([]byte, *needed)
	if err := fill(list(f, text), *needed, 0); err != nil {
		return "", err
	}
	return string(text[:len(text)-1]), nil
}
