"""The library as a whole, and contexts: the device, the threads and the host's hooks."""

from typing import Any, Callable

from . import _hooks
from ._native import call, ffi, function, long_text, number, text
from ._struct import at
from .constants import DEVICE_CPU
from .errors import UnsupportedError
from .structs import ContextOptions, Problem


def version() -> int:
    """Version of the library that is loaded: major * 10000 + minor * 100 + patch."""
    return int(function("think_version")())


def version_string() -> str:
    return text(function("think_version_string")())


def abi_version() -> int:
    return int(function("think_abi_version")())


def status_name(status: int) -> str:
    return text(function("think_status_name")(status))


def kept_channels(channels: int, ratio: float) -> int:
    """Channels kept of `channels` at a pruning ratio, as the paper's code rounds: 77 of 128 at 0.4."""
    kept = int(function("think_kept_channels")(channels, ratio))
    if kept < 0:
        raise ValueError(f"channels at least 1 and a ratio in [0, 1) are needed, not {channels} and {ratio}")
    return kept


def query(key: int, context: "Context | None" = None) -> int:
    """One fact about the library or a context: constants.QUERY_..."""
    return number("think_query", ffi.NULL if context is None else context._handle, key)


def backend_reason(device: int = DEVICE_CPU) -> str:
    """Why a backend can or cannot be used here; begins with "available" if it can."""
    return long_text("think_backend_reason", device)


def supports(problem: Problem, context: "Context | None" = None) -> bool:
    """Can this context run this problem? A wrong problem raises ArgumentError."""
    try:
        call("think_supports", ffi.NULL if context is None else context._handle, at(problem))
    except UnsupportedError:
        return False
    return True


class Owner:
    """A handle of the library. close() gives it up at once, or when the last call that uses it returns; the garbage collector does it otherwise."""

    _owned: Any = None

    def _own(self, handle: Any, destroy: str, *kept: Any) -> None:
        # The destructor holds what the handle needs, so that it goes after it. The function is looked up now: modules may be gone when it runs.
        end = function(destroy)
        self._owned = ffi.gc(handle, lambda gone, kept=kept, end=end: end(gone))

    @property
    def _handle(self) -> Any:
        owned = self._owned
        if owned is None:
            raise ValueError(f"this {type(self).__name__} is closed")
        return owned

    @property
    def closed(self) -> bool:
        return self._owned is None

    def close(self) -> None:
        """Give the handle up; closing twice is allowed. A call that runs in another thread keeps it alive until it returns."""
        self._owned = None

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Context(Owner):
    """The device, the threads and the host's hooks. Immutable; any number of threads may use it. Plans keep what they need of it alive.

    threads: 0 = the caller's own, -1 = one for every core, n. log(level, message), parallel_for(count, task), and allocate(bytes, alignment) with
    deallocate(address, bytes, alignment) are called in the thread that called the library, the log also in the library's own. What a hook raises is printed,
    as from a thread.
    """

    def __init__(self, device: int = DEVICE_CPU, index: int = 0, threads: int = 0, log: "Callable[[int, str], object] | None" = None,
                 parallel_for: "Callable[[int, Callable[[int], None]], object] | None" = None, allocate: "Callable[[int, int], int] | None" = None,
                 deallocate: "Callable[[int, int, int], object] | None" = None) -> None:
        options = ContextOptions(device_type=device, device_index=index, threads=threads)
        options.log = _hooks.log(log) if log else None
        options.parallel_for = _hooks.parallel_for(parallel_for) if parallel_for else None
        options.allocate = _hooks.allocate(allocate) if allocate else None
        options.deallocate = _hooks.deallocate(deallocate) if deallocate else None
        handle = ffi.new("think_context **")
        call("think_context_create", options._c, handle)
        self._hooks = options
        self.device = device
        self._own(handle[0], "think_context_destroy", options)

    def query(self, key: int) -> int:
        return query(key, self)


