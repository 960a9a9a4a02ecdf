"""The shared library: finding it, calling it, and turning its errors into exceptions. Calls through cffi give up the GIL."""

import os
from pathlib import Path
from typing import Any

import cffi  # type: ignore[import-untyped]

from ._declarations import DECLARATIONS, SINCE
from .constants import ABI_MAJOR, E_UNSUPPORTED
from .errors import BY_CODE, ThinkError, UnsupportedError

# DLPack's structs, for both generations of capsules.
_DLPACK = """
typedef struct { int32_t device_type; int32_t device_id; } DLDevice;
typedef struct { uint8_t code; uint8_t bits; uint16_t lanes; } DLDataType;
typedef struct DLTensor { void *data; DLDevice device; int32_t ndim; DLDataType dtype; int64_t *shape; int64_t *strides; uint64_t byte_offset; } DLTensor;
typedef struct DLManagedTensor { DLTensor dl_tensor; void *manager_ctx; void (*deleter)(struct DLManagedTensor *); } DLManagedTensor;
typedef struct { uint32_t major; uint32_t minor; } DLPackVersion;
typedef struct DLManagedTensorVersioned {
  DLPackVersion version; void *manager_ctx; void (*deleter)(struct DLManagedTensorVersioned *); uint64_t flags; DLTensor dl_tensor;
} DLManagedTensorVersioned;
"""

ffi = cffi.FFI()
ffi.cdef(_DLPACK)
ffi.cdef(DECLARATIONS)


def _open() -> "tuple[Any, str]":
    """THINK_LIBRARY, else the library inside this package, else the system's."""
    beside = Path(__file__).with_name("libthink.so.1")
    name = os.environ.get("THINK_LIBRARY") or (str(beside) if beside.exists() else "libthink.so.1")
    try:
        library = ffi.dlopen(name)
    except OSError as problem:
        where = "it is part of this package" if beside.exists() else f"there is none at {beside}"
        if os.environ.get("THINK_LIBRARY"):
            where = "THINK_LIBRARY names it"
        raise ImportError(f"libthink cannot load {name} ({where}): {problem}") from None
    found = library.think_abi_version()
    if found != ABI_MAJOR:
        raise ImportError(f"libthink needs ABI {ABI_MAJOR} of libthink.so, {name} has {found}")
    return library, name


lib, library_path = _open()


def function(name: str) -> Any:
    try:
        return getattr(lib, name)
    except AttributeError:
        raise UnsupportedError(f"{name} came with version {SINCE.get(name, '?')}, this library is {text(lib.think_version_string())}",
                               E_UNSUPPORTED, 0, 0, "THINK_E_UNSUPPORTED", name) from None


def text(pointer: Any) -> str:
    result: str = ffi.string(pointer).decode("utf-8", "replace")
    return result


def call(name: str, *arguments: Any) -> None:
    """Call a function that returns a status and takes an error record last; raise what it says."""
    record = ffi.new("think_error *")
    record.struct_size = ffi.sizeof("think_error")
    code = function(name)(*arguments, record)
    if code:
        raise error(code, record, name)


def error(code: int, record: Any, name: str) -> ThinkError:
    return BY_CODE.get(code, ThinkError)(text(record.message), code, record.argument, record.native_code, text(lib.think_status_name(code)), name)


def number(name: str, *arguments: Any) -> int:
    """Call a function whose only answer is a number, in front of the error record."""
    value = ffi.new("int64_t *")
    call(name, *arguments, value)
    return int(value[0])


def pair(name: str, *arguments: Any) -> "tuple[int, int]":
    """Call a function that answers bytes and alignment."""
    size, alignment = ffi.new("int64_t *"), ffi.new("int64_t *")
    call(name, *arguments, size, alignment)
    return int(size[0]), int(alignment[0])


def long_text(name: str, *arguments: Any) -> str:
    """Call a function that fills a text of a length that it tells first."""
    needed = ffi.new("size_t *")
    call(name, *arguments, ffi.NULL, 0, needed)
    buffer = ffi.new("char[]", needed[0])
    call(name, *arguments, buffer, needed[0], ffi.NULL)
    return text(buffer)
