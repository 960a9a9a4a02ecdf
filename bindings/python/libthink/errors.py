"""Exceptions: one class for each status code, all of them a ThinkError. The text is the library's own, the same in every language."""

from . import constants as c


class ThinkError(Exception):
    """A call of the library failed.

    code: the status, constants.E_...;  name: "THINK_E_ARGUMENT";  argument: position of the offending argument of the C function, counted from 1, 0 = none
    in particular;  native_code: error of the device's own interface or of a stream, 0 = none;  function: the C function
    """

    def __init__(self, message: str, code: int = 0, argument: int = 0, native_code: int = 0, name: str = "", function: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.argument = argument
        self.native_code = native_code
        self.name = name
        self.function = function

    def __reduce__(self) -> "tuple[object, ...]":
        return type(self), (self.message, self.code, self.argument, self.native_code, self.name, self.function)


class ArgumentError(ThinkError, ValueError):
    """A wrong argument."""


class UnsupportedError(ThinkError, NotImplementedError):
    """Well-formed, but not on this backend, device or build."""


class WorkspaceError(ThinkError):
    """Workspace missing, too small or misaligned."""


class OutOfMemoryError(ThinkError, MemoryError):
    """An allocation failed."""


class DeviceError(ThinkError):
    """The device reported an error."""


class StateError(ThinkError):
    """The call is right, its moment is not."""


class FormatError(ThinkError, ValueError):
    """Stored data are damaged or of another version."""


class StreamError(ThinkError, OSError):
    """A file could not be read or written."""


class InternalError(ThinkError):
    """A bug in the library."""


BY_CODE: "dict[int, type[ThinkError]]" = {
    c.E_ARGUMENT: ArgumentError, c.E_UNSUPPORTED: UnsupportedError, c.E_WORKSPACE: WorkspaceError, c.E_MEMORY: OutOfMemoryError,
    c.E_DEVICE: DeviceError, c.E_STATE: StateError, c.E_FORMAT: FormatError, c.E_IO: StreamError, c.E_INTERNAL: InternalError,
}
