"""Memory that the library fills: arrays with a shape, which numpy, torch and jax share without a copy, and tensors of rows."""

import math
from typing import Any

from . import structs
from ._dlpack import INT32, INT64, UINT8, Imported, as_numpy, code_and_bits, element_bytes, export
from ._native import call, ffi, function
from ._struct import Addressed
from .constants import DEVICE_CPU, F16, F32


class Array(Addressed):
    """Zeroed memory with a shape, aligned to 64 bytes. array.numpy(), torch.from_dlpack(array) and array.view() share it."""

    __slots__ = ("shape", "dtype", "_memory", "address", "__weakref__")

    def __init__(self, shape: "tuple[int, ...]", dtype: int = F32, alignment: int = 64) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        if min(self.shape, default=0) < 0:
            raise ValueError(f"a negative extent: {self.shape}")
        self._memory = ffi.new("char[]", self.bytes + alignment)
        at = int(ffi.cast("intptr_t", self._memory))
        self.address = at + -at % alignment

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * element_bytes(self.dtype)

    def view(self) -> memoryview:
        """The bytes."""
        return memoryview(ffi.buffer(ffi.cast("char *", self.address), self.bytes))

    def tolist(self) -> Any:
        """Nested lists of numbers; not for f16 and bf16."""
        code: Any = {F32: "f", INT32: "i", INT64: "q", UINT8: "B"}[self.dtype]
        return self.view().cast(code, self.shape).tolist() if self.bytes else []

    def numpy(self) -> Any:
        """A numpy array of this memory."""
        steps = tuple(math.prod(self.shape[axis + 1:]) for axis in range(len(self.shape)))
        return as_numpy(self, self.address, self.dtype, self.shape, steps)

    def __dlpack__(self, **options: Any) -> Any:
        return export(self.numpy(), self.dtype, **options)

    def __dlpack_device__(self) -> "tuple[int, int]":
        return DEVICE_CPU, 0

    def __repr__(self) -> str:
        return f"Array(shape={self.shape}, dtype={dtype_name(self.dtype)})"


class Memory(Array):
    """Zeroed bytes, aligned: workspaces, states, bases, pages."""

    __slots__ = ()

    def __init__(self, size: int, alignment: int = 64) -> None:
        super().__init__((size,), UINT8, max(alignment, 1))


class Tensor(structs.Tensor):
    """Rows in the order (batch, head, token, channel): think_tensor.

    Tensor.view(x) describes what has __dlpack__ (numpy, torch, jax; three or four dimensions) or is a Tensor already, without a copy. Tensor.empty() makes
    one with zeroed memory of its own. tensor.numpy() and torch.from_dlpack(tensor) share its memory.
    """

    __slots__ = ()

    @classmethod
    def view(cls, source: Any, dtype: "int | None" = None, writable: bool = False, stream: Any = None) -> "Tensor":
        """`dtype` reinterprets elements of the same size (uint16 as BF16, which numpy lacks); `stream` is handed to __dlpack__."""
        if isinstance(source, Tensor):
            return source
        if not hasattr(source, "__dlpack__"):
            raise TypeError(f"{type(source).__name__} has no __dlpack__: hand over numpy, torch or jax arrays, or make a Tensor")
        imported = Imported(source, stream)
        if writable and imported.read_only:
            raise ValueError("the tensor is read-only, the library writes here")
        described = ffi.new("DLTensor *", imported.tensor)
        if dtype is not None:
            if (imported.tensor.dtype.bits + 7) // 8 != element_bytes(dtype):
                raise ValueError(f"elements of {imported.tensor.dtype.bits} bits are no {dtype_name(dtype)}")
            described.dtype.code, described.dtype.bits, described.dtype.lanes = *code_and_bits(dtype), dtype >> 16
        made, device = cls(), ffi.new("think_device *")
        call("think_tensor_from_dlpack", described, device, made._c)
        made._kept["data"] = imported
        made._kept["device"] = (int(device[0]), int(imported.tensor.device.device_id))
        return made

    @classmethod
    def empty(cls, batch: int, heads: int, tokens: int, channels: int, dtype: int = F16) -> "Tensor":
        memory = Array((batch, heads, tokens, channels), dtype)
        return cls(data=memory, dtype=dtype, extent=memory.shape, stride=(heads * tokens * channels, tokens * channels, channels, 1))

    @property
    def shape(self) -> "tuple[int, ...]":
        return self.extent

    @property
    def device(self) -> "tuple[int, int]":
        """(device kind, device number) that the memory was said to be on."""
        kind, number = self._kept.get("device", (DEVICE_CPU, 0))
        return kind, number

    def numpy(self) -> Any:
        """A numpy array of these rows, which numpy lacks a type for if they are bf16: their bits, as uint16."""
        if self.device[0] != DEVICE_CPU:
            raise BufferError("the rows are not in host memory")
        return as_numpy(self, self.data, self.dtype, self.extent, self.stride)

    def __dlpack__(self, **options: Any) -> Any:
        source = self._kept.get("data")
        if self.device[0] != DEVICE_CPU and isinstance(source, Imported):
            return source.source.__dlpack__(**options)
        return export(self.numpy(), self.dtype, **options)

    def __dlpack_device__(self) -> "tuple[int, int]":
        return self.device

    def __repr__(self) -> str:
        return f"Tensor(shape={self.extent}, stride={self.stride}, dtype={dtype_name(self.dtype)})"


def dtype_bytes(dtype: int) -> int:
    """Bytes of one element; 0 for what tensors cannot hold."""
    return int(function("think_dtype_bytes")(dtype))


def dtype_name(dtype: int) -> str:
    names = {INT32: "i32", INT64: "i64"}
    return names.get(dtype) or ffi.string(function("think_dtype_name")(dtype)).decode()
