"""Python callables as callbacks of the library. What they raise comes out of the call of the library that they were called in."""

from typing import Any, BinaryIO, Callable

from ._native import ffi


class Stream:
    """A binary file as think_writer and think_reader. An exception of the file ends the call; `raised` holds it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.raised: "BaseException | None" = None
        self.writer = ffi.callback("think_writer", self._write, error=-1, onerror=self._failed)
        self.reader = ffi.callback("think_reader", self._read, error=-1, onerror=self._failed)

    def _failed(self, kind: Any, exception: BaseException, trace: Any) -> None:
        self.raised = exception

    def _write(self, user: Any, data: Any, size: int) -> int:
        left = memoryview(ffi.buffer(data, size))
        while left:
            written = self.file.write(left)
            left = left[len(left) if written is None else written:]
        return 0

    def _read(self, user: Any, data: Any, size: int) -> int:
        filled = 0
        while filled < size:
            block = self.file.read(size - filled)
            if not block:
                break
            ffi.memmove(data + filled, block, len(block))
            filled += len(block)
        return filled


def log(write: "Callable[[int, str], object]") -> Any:
    return ffi.callback("think_log", lambda user, level, message: _ignore(write(level, ffi.string(message).decode("utf-8", "replace"))))


def parallel_for(run: "Callable[[int, Callable[[int], None]], object]") -> Any:
    """run(count, task) calls task(0) .. task(count - 1) on any threads and returns when all are done. Each task runs without the GIL."""

    def loop(user: Any, count: int, task: Any, argument: Any) -> None:
        run(count, lambda index: task(argument, index))

    return ffi.callback("think_parallel_for", loop)


def allocate(get: "Callable[[int, int], int]") -> Any:
    """get(bytes, alignment) returns an address, 0 if there is no memory."""
    return ffi.callback("think_allocate", lambda user, size, alignment: ffi.cast("void *", get(size, alignment) or 0), error=ffi.NULL)


def deallocate(give_back: "Callable[[int, int, int], object]") -> Any:
    """give_back(address, bytes, alignment)"""
    return ffi.callback("think_deallocate", lambda user, memory, size, alignment: _ignore(give_back(int(ffi.cast("intptr_t", memory)), size, alignment)))


def _ignore(_: object) -> None:
    """What a callback without a result must return: None."""
