"""Memory goes in and out without copies, and only where it may."""

import array
import gc
import sys

import libthink
import numpy
import pytest
from libthink._struct import Pointer, pointer

ffi = libthink.native.ffi


def test_view_of_numpy():
    x = numpy.zeros((2, 3, 4, 8), numpy.float16)
    t = libthink.Tensor.view(x)
    assert (t.data, t.dtype, t.extent, t.stride, t.device) == (x.ctypes.data, libthink.F16, (2, 3, 4, 8), (96, 32, 8, 1), (1, 0))
    assert libthink.Tensor.view(t) is t
    t = libthink.Tensor.view(x.transpose(0, 2, 1, 3)[:, 1:])  # strides and offsets are the tensor's own
    assert (t.data, t.extent, t.stride) == (x.ctypes.data + 16, (2, 3, 3, 8), (96, 8, 32, 1))
    t = libthink.Tensor.view(x[0])
    assert (t.extent, t.stride[1:]) == ((1, 3, 4, 8), (32, 8, 1))
    t = libthink.Tensor.view(numpy.zeros((1, 1, 2, 8), numpy.uint16), dtype=libthink.BF16)
    assert t.dtype == libthink.BF16 and "bf16" in repr(t)


def test_view_keeps_its_source_alive():
    x = numpy.zeros((1, 1, 2, 8), numpy.float32)
    before = sys.getrefcount(x)
    t = libthink.Tensor.view(x)
    assert sys.getrefcount(x) > before
    del t
    gc.collect()
    assert sys.getrefcount(x) == before


@pytest.mark.parametrize("wrong, kind", [
    (numpy.zeros((2, 8), numpy.float32), libthink.UnsupportedError), (numpy.zeros((1, 1, 2, 8), numpy.float64), libthink.UnsupportedError),
    (numpy.zeros((1, 1, 2, 8), numpy.float32)[..., ::2], libthink.UnsupportedError), ([1.0], TypeError), (None, TypeError)])
def test_view_refuses(wrong, kind):
    with pytest.raises(kind):
        libthink.Tensor.view(wrong)


def test_view_refuses_to_write_to_what_is_read_only():
    x = numpy.zeros((1, 1, 2, 8), numpy.float32)
    x.flags.writeable = False
    assert libthink.Tensor.view(x).data == x.ctypes.data
    with pytest.raises(ValueError, match="read-only"):
        libthink.Tensor.view(x, writable=True)
    with pytest.raises(ValueError, match="bits"):
        libthink.Tensor.view(x, dtype=libthink.F16)


def test_tensors_go_out_without_a_copy():
    t = libthink.Tensor.empty(1, 2, 3, 8, libthink.F32)
    x = numpy.from_dlpack(t)
    assert x.shape == (1, 2, 3, 8) and x.ctypes.data == t.data and t.data % 64 == 0 and not x.any()
    y = numpy.from_dlpack(t)
    x[0, 1, 2, 3] = 5
    del t
    gc.collect()
    assert y[0, 1, 2, 3] == 5  # the memory lives as long as one array of it


def test_what_goes_out_is_given_back():
    a = libthink.Array((3,))
    before = sys.getrefcount(a)
    capsule = a.__dlpack__()
    assert sys.getrefcount(a) > before
    del capsule
    assert sys.getrefcount(a) == before
    with pytest.raises(ValueError, match="broadcast"):  # while an exception is on its way
        numpy.from_dlpack(a)[...] = [1, 2]
    gc.collect()
    assert sys.getrefcount(a) == before


def test_arrays():
    a = libthink.Array((2, 3), libthink.INT32)
    numpy.from_dlpack(a)[...] = [[1, 2, 3], [4, 5, 6]]
    assert a.tolist() == [[1, 2, 3], [4, 5, 6]] and a.bytes == 24 and len(a.view()) == 24
    assert libthink.Array((0, 4)).tolist() == []
    assert libthink.Memory(100, 256).address % 256 == 0
    assert libthink.dtype_bytes(libthink.BF16) == 2 and libthink.dtype_bytes(libthink.U4) == 0 and libthink.dtype_name(libthink.U4) == "u4"
    with pytest.raises(ValueError):
        libthink.Array((-1,))
    t = libthink.Tensor.empty(1, 1, 2, 8, libthink.BF16)
    assert t.numpy().dtype == numpy.uint16 and t.numpy().ctypes.data == t.data
    assert libthink.Tensor.view(t.numpy(), dtype=libthink.BF16).data == t.data
    with pytest.raises(BufferError):
        on_device = libthink.Tensor(data=4096, dtype=libthink.F16, extent=(1, 1, 2, 8), stride=(16, 16, 8, 1))
        on_device._kept["device"] = (libthink.DEVICE_CUDA, 0)
        on_device.numpy()


def address(value, kind):
    return int(ffi.cast("intptr_t", pointer(value, Pointer(kind))[0]))


def test_what_may_be_a_pointer():
    x = numpy.arange(4, dtype=numpy.int32)
    assert address(x, "const int32_t *") == address(x, "int32_t *") == address(memoryview(x), "void *") == x.ctypes.data
    assert address(None, "int32_t *") == 0 and address(4096, "void *") == 4096
    held = pointer([1, 2, 3], Pointer("const int32_t *"))
    assert [held[0][i] for i in range(3)] == [1, 2, 3]
    numbers = array.array("f", [1, 2])
    assert address(numbers, "float *") == numbers.buffer_info()[0]
    for wrong, kind, error in ((x, "float *", TypeError), (x[::2], "int32_t *", ValueError), (b"abc", "uint8_t *", ValueError), ([1], "int32_t *", TypeError),
                               (object(), "void *", TypeError), (x.astype(numpy.int64), "int32_t *", TypeError)):
        with pytest.raises(error):
            pointer(wrong, Pointer(kind))


def test_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed: its tensors are tried where it is")
    x = torch.zeros((1, 2, 3, 8), dtype=torch.bfloat16)
    t = libthink.Tensor.view(x)
    assert (t.data, t.dtype, t.extent) == (x.data_ptr(), libthink.BF16, (1, 2, 3, 8))
    y = torch.from_dlpack(t)
    assert y.data_ptr() == x.data_ptr() and y.dtype == torch.bfloat16
    lengths = torch.tensor([1, 2], dtype=torch.int32)
    assert address(lengths, "const int32_t *") == lengths.data_ptr()
    with pytest.raises(TypeError):
        pointer(lengths.long(), Pointer("const int32_t *"))


def test_jax():
    jax = pytest.importorskip("jax", reason="jax is not installed: its arrays are tried where it is")
    x = jax.numpy.ones((1, 2, 3, 8), jax.numpy.float32)
    assert libthink.Tensor.view(x).extent == (1, 2, 3, 8)
    assert float(jax.numpy.from_dlpack(libthink.Tensor.empty(1, 2, 3, 8, libthink.F32)).sum()) == 0
