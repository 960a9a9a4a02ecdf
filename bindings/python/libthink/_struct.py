"""What all struct classes share, and how Python's data become pointers."""

import functools
from typing import Any, Union

from ._declarations import FIELDS, POINTERS
from ._dlpack import INT32, INT64, UINT8, Imported
from ._native import ffi, function
from .constants import F32

Data = Union[int, "Addressed", Any]
"""What stands for memory: an address, an Array or Memory of this package, anything with the buffer protocol or __dlpack__ (numpy, torch, jax), or, where
the library only reads numbers, a list of them."""


class Addressed:
    """Memory of this package: it has an address, and lives as long as the object."""

    __slots__ = ()
    address: int

    def __init__(self) -> None:
        raise TypeError("not to be made by itself")


_FORMATS = {"int32_t": ("i", "l"), "int64_t": ("q", "l"), "float": ("f",), "uint8_t": ("B", "?", "b", "c"), "void": ()}
_DLPACK_TYPES = {"int32_t": INT32, "int64_t": INT64, "float": F32, "uint8_t": UINT8}


class Pointer:
    """A pointer type. cffi forgets const, which says whether the library writes."""

    __slots__ = ("c", "item", "constant")

    def __init__(self, text: str) -> None:
        self.c = ffi.typeof(text)
        self.item: str = self.c.item.cname
        self.constant = text.startswith("const ")


def pointer(value: Data, kind: Pointer) -> "tuple[Any, Any]":
    """(pointer of that type, what must be kept alive as long as the pointer is used)"""
    if value is None:
        return ffi.cast(kind.c, 0), None
    if isinstance(value, int):
        return ffi.cast(kind.c, value), None
    if isinstance(value, Addressed):
        return ffi.cast(kind.c, value.address), value
    name, constant = kind.item, kind.constant
    if isinstance(value, (list, tuple)) and name != "void":
        if not constant:
            raise TypeError("the library writes here: a list cannot receive it")
        copy = ffi.new(f"{name}[]", value)
        return ffi.cast(kind.c, copy), copy
    try:
        view = memoryview(value)
    except TypeError:
        if not hasattr(value, "__dlpack__"):
            raise TypeError(f"no memory: {type(value).__name__} has neither the buffer protocol nor __dlpack__") from None
        imported = Imported(value)
        imported.require(_DLPACK_TYPES.get(name), writable=not constant)
        return ffi.cast(kind.c, imported.address), imported
    if not view.c_contiguous:
        raise ValueError("the array is not contiguous")
    if view.readonly and not constant:
        raise ValueError("the array is read-only, the library writes here")
    if name != "void" and (view.itemsize != ffi.sizeof(name) or view.format.lstrip("@=<") not in _FORMATS[name]):
        raise TypeError(f"an array of {name} is needed, not of format {view.format!r} with {view.itemsize} bytes")
    held = ffi.from_buffer(view)
    return ffi.cast(kind.c, held), (held, value)


@functools.cache
def _types(struct: str) -> "dict[str, Any]":
    """{field: its C type}, those left out that have no meaning yet."""
    types = dict(ffi.typeof(struct).fields)
    return {name: types[name].type for name in FIELDS[struct]}


@functools.cache
def _field_pointer(struct: str, field: str) -> Pointer:
    return Pointer(POINTERS[struct, field])


class Struct:
    """A struct of the C interface. Fields are given by name when it is made, the rest is what the library's init function says; they can be read and
    assigned. Pointers read as addresses, and what was assigned to them stays alive with the struct."""

    _name = ""
    __slots__ = ("_c", "_kept", "__weakref__")

    def __init__(self, **fields: Any) -> None:
        c = ffi.new(self._name + " *")
        function(self._name + "_init")(c, ffi.sizeof(self._name))
        self._adopt(c)
        for name, value in fields.items():
            setattr(self, name, value)

    def _adopt(self, c: Any) -> None:
        object.__setattr__(self, "_c", c)
        object.__setattr__(self, "_kept", {})

    @classmethod
    def fields(cls) -> "tuple[str, ...]":
        """Names of the fields, those left out that have no meaning yet."""
        return tuple(_types(cls._name))

    @classmethod
    def _type_of(cls, name: str) -> Any:
        try:
            return _types(cls._name)[name]
        except KeyError:
            raise AttributeError(f"{cls.__name__} has no field {name!r}") from None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        kind = self._type_of(name)
        value = getattr(self._c, name)
        if kind.kind == "array":
            return ffi.string(value).decode("utf-8", "replace") if kind.item.cname == "char" else tuple(value)
        if kind.kind == "pointer" and kind.item.kind == "struct":
            return self._kept.get(name)
        if kind.kind in ("pointer", "function"):
            return int(ffi.cast("intptr_t", value))
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        kind = self._type_of(name)
        if kind.kind == "array" and kind.item.cname == "char":
            value = value.encode()
        if kind.kind == "pointer" and kind.item.kind == "struct":
            if value is not None and (not isinstance(value, Struct) or value._name != kind.item.cname.replace("const ", "")):
                raise TypeError(f"{name} takes a {kind.item.cname}, not {type(value).__name__}")
            setattr(self._c, name, ffi.NULL if value is None else value._c)
            self._kept[name] = value
        elif kind.kind == "function":
            setattr(self._c, name, ffi.cast(kind, 0) if value is None else value)
            self._kept[name] = value
        elif kind.kind == "pointer":
            address, kept = pointer(value, _field_pointer(self._name, name))
            setattr(self._c, name, address)
            self._kept[name] = kept
        else:
            setattr(self._c, name, tuple(value) if kind.kind == "array" and not isinstance(value, bytes) else value)

    def __copy__(self) -> Any:
        return type(self)._of(self._c[0], self._kept)

    @classmethod
    def _of(cls, value: Any, kept: "dict[str, Any] | None" = None) -> Any:
        """A struct of this class that holds a copy of a C struct."""
        made = cls.__new__(cls)
        c = ffi.new(cls._name + " *")
        c[0] = value
        made._adopt(c)
        made._kept.update(kept or {})
        return made

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.fields())})"


def at(struct: "Struct | None") -> Any:
    """The pointer to a struct, NULL for None."""
    return ffi.NULL if struct is None else struct._c
