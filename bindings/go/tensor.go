package think

import (
	"math/bits"
	"unsafe"

	"libthink/think/native"
)

// Float16 holds the bits of an f16.
type Float16 uint16

// BFloat16 holds the bits of a bf16.
type BFloat16 uint16

// Element is what rows are made of.
type Element interface{ float32 | Float16 | BFloat16 }

func dtypeOf[T Element]() int32 {
	switch any(*new(T)).(type) {
	case Float16:
		return F16
	case BFloat16:
		return BF16
	}
	return F32
}

// Tensor is a view of rows in the order (batch, head, token, channel). The zero Tensor stands for none.
type Tensor struct {
	data    unsafe.Pointer // of Go memory, or of a score state
	address uintptr        // of other memory
	length  int            // elements, of Go memory
	dtype   int32
	extent  [4]int
	stride  [4]int
	owner   *memory
}

// NewTensor describes contiguous rows in a slice, which the library reads or writes during calls. That the slice is long enough is checked by them.
func NewTensor[T Element](data []T, batch, heads, tokens, channels int) Tensor {
	t := DeviceTensor(0, dtypeOf[T](), batch, heads, tokens, channels)
	t.length = len(data)
	if len(data) > 0 {
		t.data = unsafe.Pointer(&data[0])
	}
	return t
}

// DeviceTensor describes contiguous rows at an address: of a device, or of C memory. They must outlive the calls, and are as large as the caller says.
func DeviceTensor(address uintptr, dtype int32, batch, heads, tokens, channels int) Tensor {
	return Tensor{address: address, length: -1, dtype: dtype, extent: [4]int{batch, heads, tokens, channels},
		stride: [4]int{heads * tokens * channels, tokens * channels, channels, 1}}
}

// TensorFromDLPack describes a DLTensor, without a copy: the view is valid as long as its rows are. Also says which device they are on.
func TensorFromDLPack(tensor unsafe.Pointer) (Tensor, int32, error) {
	var f frame
	defer f.close()
	raw, device := native.NewTensor(), new(int32)
	if tensor != nil {
		f.pins.Pin(tensor)
	}
	if err := native.Think_tensor_from_dlpack(uintptr(tensor), address(&f, device), address(&f, raw)); err != nil {
		return Tensor{}, 0, err
	}
	return viewOf(raw), *device, nil
}

func viewOf(raw *native.Tensor) Tensor {
	t := Tensor{address: raw.Data, length: -1, dtype: raw.Dtype}
	for axis := range t.extent {
		t.extent[axis], t.stride[axis] = int(raw.Extent[axis]), int(raw.Stride[axis])
	}
	return t
}

// WithStride is the same rows with other steps, in elements.
func (t Tensor) WithStride(batch, head, token int) Tensor {
	t.stride = [4]int{batch, head, token, 1}
	return t
}

// Extent is (batch, heads, tokens, channels).
func (t Tensor) Extent() [4]int { return t.extent }

// check that rows of a slice lie inside of it.
func (t Tensor) check() error {
	if t.length < 0 {
		return nil
	}
	var last uint64
	for axis, size := range t.extent {
		high, steps := bits.Mul64(uint64(size-1), uint64(t.stride[axis]))
		if size < 1 || t.stride[axis] < 0 || high != 0 || steps > 1<<62 || last+steps > 1<<62 {
			return refused("extent %v with stride %v is empty or too large", t.extent, t.stride)
		}
		last += steps
	}
	if last >= uint64(t.length) {
		return refused("extent %v with stride %v needs %d elements, the slice has %d", t.extent, t.stride, last+1, t.length)
	}
	return nil
}
