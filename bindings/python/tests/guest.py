"""A program: the library as a guest in a Python process. What it leaves alone, 64 threads on one plan, the collector under stress. Prints `unchanged`."""

import ctypes
import gc
import os
import platform
import signal
import sys
import threading
import time

import calls
import libthink
import numpy

C = ctypes.CDLL(None)
MATH = ctypes.CDLL("libm.so.6")
C.setlocale.restype = ctypes.c_char_p
C.dlopen.restype = ctypes.c_void_p
OF_LIBC = (32, 33)  # set when the first thread is made


def control_words():
    """Of the floating-point unit, without the sticky flags beside them: every addition may set those."""
    state = (ctypes.c_ubyte * 64)()  # larger than any fenv_t
    MATH.fegetenv(state)
    return [state[0], state[1], state[28] & 0xC0, state[29]] if platform.machine() == "x86_64" else list(state[:4])


def subnormals():
    tiny = numpy.float32(1.1754944e-38)
    return bool(tiny / numpy.float32(2) > 0) and float.fromhex("0x1p-1022") / 4 > 0


def handlers():
    """As the C library has them, not as Python remembers them."""
    action, made = (ctypes.c_void_p * 32)(), []  # larger than struct sigaction, which begins with the handler
    for number in range(1, 65):
        if number not in OF_LIBC:
            C.sigaction(number, None, action)
            made.append(action[0])
    return made


def masks():
    with open("/proc/thread-self/status", encoding="ascii") as file:
        status = dict(line.split(":", 1) for line in file)
    return [int(status[name], 16) & ~(3 << 31) for name in ("SigBlk", "SigIgn", "SigCgt")]


def variables():
    """The environment of C: Python's is a copy."""
    with_value, place = [], ctypes.POINTER(ctypes.c_char_p).in_dll(C, "environ")
    while place[len(with_value)]:
        with_value.append(place[len(with_value)])
    return with_value


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def look():
    return {"control": control_words(), "rounding": MATH.fegetround(), "subnormals": subnormals(), "handlers": handlers(), "masks": masks(),
            "python's handlers": [signal.getsignal(number) for number in sorted(signal.valid_signals())], "locale": C.setlocale(6, None),
            "threads": len(os.listdir("/proc/self/task")), "files": len(os.listdir("/proc/self/fd")), "folder": os.getcwd(),
            "umask": umask(), "variables": variables()}


BEFORE = look()


def unchanged(when):
    now = look()
    changed = [name for name in BEFORE if BEFORE[name] != now[name]]
    if changed:
        sys.exit(f"{when} changed {', '.join(changed)}")


def new_plan(threads=0):
    return libthink.Plan(libthink.Context(threads=threads), query_heads=4, kv_heads=2, key_channels=16, max_tokens=512, max_queries=256,
                         cache_dtype=libthink.F32)


def work(plan, data):
    """The bits of an attention, after which the cache is pruned."""
    cache = libthink.Cache(plan)
    cache.step([0], [256])
    cache.append(0, *data)
    made = cache.attend(0, data[0]).numpy().tobytes()
    cache.prune([0])
    return made


def resident():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def many_threads(plan, data, expected):
    barrier, right = threading.Barrier(64), []

    def run():
        barrier.wait()
        right.append(work(plan, data) == expected)

    running = [threading.Thread(target=run) for _ in range(64)]
    for thread in running:
        thread.start()
    for _ in range(5):
        gc.collect()
    for thread in running:
        thread.join()
    # Of the interpreter; the system's thread ends a little later.
    patience = time.monotonic() + 10
    while len(os.listdir("/proc/self/task")) > BEFORE["threads"] and time.monotonic() < patience:
        time.sleep(0.001)
    if right.count(True) != 64:
        sys.exit(f"{right.count(True)} of 64 threads have the right result")


def collected(data, expected):
    """Handles in cycles, which only the collector frees, in an order of its own and in the middle of calls."""
    usual, at_first = gc.get_threshold(), 0
    gc.set_threshold(1)
    for turn in range(120):
        if turn == 20:
            at_first = resident()  # what allocators keep has been reached
        plan = new_plan(threads=2 if turn % 10 == 0 else 0)
        plan.cycle = (plan, libthink.Cache(plan))
        if work(plan, data) != expected:
            sys.exit("the collector changes results")
    del plan
    gc.set_threshold(*usual)
    gc.collect()
    if resident() - at_first >= 32:
        sys.exit(f"{resident() - at_first} MiB are left behind")


def on_a_device(plan, data):
    """What the thread has current of a device, where there is one: says so, or why this was left out."""
    path = os.environ.get("THINK_DEVICE_HOST")
    if not path:
        return "left out: the current context of a device: THINK_DEVICE_HOST names no host that uses one"
    host = ctypes.CDLL(path)
    host.device_host_open.restype, host.device_host_memory.restype, host.device_host_memory.argtypes = ctypes.c_char_p, ctypes.c_void_p, [ctypes.c_longlong]
    missing = host.device_host_open()
    if missing:
        return f"left out: the current context of a device: {missing.decode()}"

    def unchanged(when):
        if not host.device_host_unchanged():
            sys.exit(f"{when} changed the current context of the device")

    try:
        context = libthink.Context(device=libthink.DEVICE_CUDA)
    except libthink.UnsupportedError as error:
        unchanged("a context that there is not")
        host.device_host_close()
        return f"left out: the current context of a device: {error}"
    unchanged("a context")
    there = libthink.Plan(context, query_heads=4, kv_heads=2, key_channels=16, max_tokens=512, max_queries=256)
    unchanged("a plan")
    size, _ = there.workspace_size(libthink.constants.STAGE_SCORE)
    launch = libthink.Launch(workspace=host.device_host_memory(size + 1), workspace_bytes=size)
    state = host.device_host_memory(there.score_state_size())
    there.score_reset(state, launch=launch)
    unchanged("work on the device")
    try:
        there.score_reset(0, launch=launch)
        sys.exit("work without memory was done")
    except libthink.ThinkError:
        unchanged("an error on the device")
    work(plan, data)
    unchanged("work beside the device")
    there.close()
    context.close()
    unchanged("everything on the device")
    host.device_host_close()
    return "the current context of the device is as it was"


def main():
    assert BEFORE["subnormals"] and libthink.version() > 0
    plan = new_plan()
    unchanged("a plan")
    data = calls.layer_rows(plan, 1, 256)
    expected = work(plan, data)
    unchanged("work")  # no thread unless asked for
    try:
        libthink.query(12345)
        sys.exit("an unknown key was answered")
    except libthink.ThinkError:
        unchanged("an error")
    many_threads(plan, data, expected)
    own = new_plan(threads=3)
    if work(own, data) != expected or len(os.listdir("/proc/self/task")) != BEFORE["threads"] + 2:
        sys.exit("three threads: another result, or another number of threads")
    collected(data, expected)
    own.close()
    gc.collect()
    unchanged("everything")
    print(on_a_device(plan, data), flush=True)  # whose driver has threads and files of its own

    # The library stays, though nobody holds it any more.
    path, only_if_there = libthink.native.library_path.encode(), 4
    libthink.native.ffi.dlclose(libthink.native.lib)
    if not C.dlopen(path, os.RTLD_NOW | only_if_there):
        os.write(2, b"the library can be unloaded under those who use it\n")
        os._exit(1)  # what is still alive would call what is gone
    libthink.native.lib = libthink.native.ffi.dlopen(path.decode())
    if work(plan, data) != expected:
        sys.exit("closed and opened again, the library computes something else")
    print("unchanged")


if __name__ == "__main__":
    main()
