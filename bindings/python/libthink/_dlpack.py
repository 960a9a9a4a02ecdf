"""DLPack without copies and without a compiled extension: capsules in, capsules out."""

import ctypes
from typing import Any

from ._native import ffi
from .constants import BF16, F16, F32

INT32, INT64, UINT8 = 0x00012000, 0x00014000, 0x00010801
"""Types of arrays besides those of tensors, DLPack's numbers."""

_PLAIN, _VERSIONED = b"dltensor", b"dltensor_versioned"
_READ_ONLY = 1

_api = ctypes.pythonapi
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))


def code_and_bits(dtype: int) -> "tuple[int, int]":
    return dtype & 0xFF, dtype >> 8 & 0xFF


def element_bytes(dtype: int) -> int:
    return code_and_bits(dtype)[1] // 8


class Imported:
    """A tensor of another framework. It is not consumed: the capsule is held, and gives its tensor back when it goes."""

    __slots__ = ("source", "_capsule", "tensor", "read_only")

    def __init__(self, source: Any, stream: Any = None) -> None:
        self.source = source
        options = {} if stream is None else {"stream": stream}
        try:
            self._capsule = source.__dlpack__(max_version=(1, 0), **options)
        except TypeError:
            self._capsule = source.__dlpack__(**options)
        managed, self.read_only = _managed(self._capsule)
        self.tensor = managed.dl_tensor

    @property
    def address(self) -> int:
        return int(ffi.cast("intptr_t", self.tensor.data)) + int(self.tensor.byte_offset)

    def require(self, dtype: "int | None", writable: bool) -> None:
        """Raise unless the numbers lie one after the other, have this type (UINT8: any of 8 bits) and may be written if asked for."""
        tensor, expected = self.tensor, 1
        if dtype is not None:
            kind, found = code_and_bits(dtype), (tensor.dtype.code, tensor.dtype.bits)
            if (*found, tensor.dtype.lanes) != (*kind, 1) and not (dtype == UINT8 and found[1] == 8):
                raise TypeError(f"DLPack type {kind} is needed, not {found}")
        if tensor.strides:
            for axis in reversed(range(tensor.ndim)):
                if tensor.shape[axis] != 1 and tensor.strides[axis] != expected:
                    raise ValueError("the array is not contiguous")
                expected *= tensor.shape[axis]
        if writable and self.read_only:
            raise ValueError("the array is read-only, the library writes here")


def _managed(capsule: Any) -> "tuple[Any, bool]":
    """(what the capsule holds, whether it is read-only)"""
    if _is_valid(capsule, _VERSIONED):
        managed = ffi.cast("DLManagedTensorVersioned *", _get_pointer(capsule, _VERSIONED))
        return managed, bool(managed.flags & _READ_ONLY)
    if _is_valid(capsule, _PLAIN):
        return ffi.cast("DLManagedTensor *", _get_pointer(capsule, _PLAIN)), False
    raise TypeError("not a DLPack capsule, or one that was used before")


_NUMPY = {F32: "<f4", F16: "<f2", BF16: "<u2", INT32: "<i4", INT64: "<i8", UINT8: "|u1"}


class _Held:
    """What numpy asks for the memory of an object, which it then keeps alive."""

    def __init__(self, owner: Any, address: int, dtype: int, shape: "tuple[int, ...]", strides: "tuple[int, ...]") -> None:
        size = element_bytes(dtype)
        self.owner = owner
        self.__array_interface__ = {"version": 3, "data": (address, False), "typestr": _NUMPY[dtype], "shape": shape,
                                    "strides": tuple(step * size for step in strides)}


def as_numpy(owner: Any, address: int, dtype: int, shape: "tuple[int, ...]", strides: "tuple[int, ...]") -> Any:
    """A numpy array of memory that `owner` keeps alive; strides in elements. numpy has no bf16: its bits, as uint16."""
    import numpy
    return numpy.asarray(_Held(owner, address, dtype, shape, strides))


def export(array: Any, dtype: int, **options: Any) -> Any:
    """A capsule of an array of as_numpy(). numpy makes it, as giving it back must work in any thread and while exceptions are on their way."""
    capsule = array.__dlpack__(**{name: value for name, value in options.items() if value is not None})
    if dtype == BF16:
        _managed(capsule)[0].dl_tensor.dtype.code = code_and_bits(BF16)[0]
    return capsule
