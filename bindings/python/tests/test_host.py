"""The library as a guest in a Python process: what it leaves alone, threads, hooks, and the garbage collector."""

import gc
import os
import pickle
import platform
import subprocess
import sys
import threading
import time

import calls
import libthink
import numpy
import pytest
from conftest import ROOT
from libthink import constants as c


def test_facts():
    assert libthink.version() == c.VERSION_MAJOR * 10000 + c.VERSION_MINOR * 100 + c.VERSION_PATCH
    assert libthink.version_string() == f"{c.VERSION_MAJOR}.{c.VERSION_MINOR}.{c.VERSION_PATCH}" and libthink.abi_version() == c.ABI_MAJOR
    assert libthink.query(c.QUERY_MAX_CHANNELS) == 256 and libthink.Context(threads=3).query(c.QUERY_THREADS) == 3
    assert libthink.backend_reason().startswith("available")
    assert not libthink.backend_reason(libthink.DEVICE_CUDA).startswith("available") or libthink.query(c.QUERY_BACKENDS) & 1 << libthink.DEVICE_CUDA


def test_guest_leaves_the_process_alone():
    """In a process of its own: nothing else makes threads there."""
    done = subprocess.run([sys.executable, str(ROOT / "bindings/python/tests/guest.py")], capture_output=True, text=True,
                          env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, check=False)
    assert done.stdout.splitlines()[-1:] == ["unchanged"], done.stderr  # behind what was left out


def test_64_threads_on_one_plan(plan):
    """The same bits in every thread, each with its own workspace, also while the collector runs; and the GIL is free meanwhile."""
    query, key, value = calls.layer_rows(plan, 1, 200)
    segment = libthink.Segment(key_layout=c.ROWS, value_layout=c.ROWS, key_dtype=libthink.F32, value_dtype=libthink.F32, key=key, value=value,
                               key_stride=(0, key.strides[1], key.strides[2]), value_stride=(0, value.strides[1], value.strides[2]), lengths=[200])
    expected = numpy.from_dlpack(plan.attend(query[:, :, :4], [segment])).tobytes()
    barrier, results = threading.Barrier(64), []

    def run():
        barrier.wait()
        for _ in range(20):
            results.append(numpy.from_dlpack(plan.attend(query[:, :, :4], [segment])).tobytes() == expected)

    threads = [threading.Thread(target=run) for _ in range(64)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        gc.collect()
    for thread in threads:
        thread.join()
    assert len(results) == 64 * 20 and all(results)


def test_calls_give_up_the_gil():
    """While one call sleeps in the host's loop, which holds no lock of Python's, another thread goes on."""
    seen = []
    entered = threading.Event()

    def loop(count, task):
        entered.set()
        time.sleep(0.05)
        seen.append("loop")
        for index in range(count):
            task(index)

    context = libthink.Context(parallel_for=loop, threads=2)
    plan = libthink.Plan(context, query_heads=4, kv_heads=2, key_channels=16, max_tokens=8192, cache_dtype=libthink.F32)
    query, key, value = calls.layer_rows(plan, 1, 8000)
    segment = libthink.Segment(key_layout=c.ROWS, value_layout=c.ROWS, key_dtype=libthink.F32, value_dtype=libthink.F32, key=key, value=value,
                               key_stride=(0, key.strides[1], key.strides[2]), value_stride=(0, value.strides[1], value.strides[2]), lengths=[8000])
    thread = threading.Thread(target=lambda: plan.attend(query[:, :, :1], [segment]))
    thread.start()
    assert entered.wait(10)
    seen.append("main")
    thread.join()
    assert seen[0] == "main" and "loop" in seen


def test_hooks():
    held, lines = {}, []

    def allocate(size, alignment):
        memory = libthink.Memory(size, alignment)
        held[memory.address] = memory
        return memory.address

    context = libthink.Context(log=lambda level, message: lines.append((level, message)), allocate=allocate,
                               deallocate=lambda address, size, alignment: held.pop(address))
    plan = libthink.Plan(context, query_heads=4, kv_heads=2, key_channels=16)
    context.close()
    cache = libthink.Cache(plan, layers=1)
    cache.step([0], [10])
    assert held and not context._owned
    del plan
    cache.close()
    del cache, context
    gc.collect()
    assert not held


def test_out_of_memory_is_an_exception():
    with pytest.raises(MemoryError):
        libthink.Plan(libthink.Context(allocate=lambda size, alignment: 0, deallocate=print), query_heads=4, kv_heads=2, key_channels=16)


def test_handles_under_the_collector():
    """Cycles, any order of going, and a stress of the collector in the middle of calls."""
    gc.set_threshold(1)
    try:
        for _ in range(30):
            plan = libthink.Plan(libthink.Context(), query_heads=2, kv_heads=1, key_channels=8, max_tokens=64, max_queries=64, cache_dtype=libthink.F32)
            cache = libthink.Cache(plan)
            plan.cycle = cache
            cache.step([0], [40])
            data = calls.layer_rows(plan, 1, 40)
            cache.append(0, *data)
            assert numpy.from_dlpack(cache.attend(0, data[0])).shape == (1, 2, 40, 8)
    finally:
        gc.set_threshold(700, 10, 10)
    gc.collect()


def test_errors_travel():
    with pytest.raises(libthink.ArgumentError) as raised:
        libthink.Plan(query_heads=1)
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (type(copy), copy.code, copy.argument, str(copy)) == (libthink.ArgumentError, 1, raised.value.argument, str(raised.value))
    assert isinstance(raised.value, ValueError)
    assert isinstance(libthink.errors.BY_CODE[4]("x"), MemoryError)


def test_readme_example_runs():
    import re
    text = (ROOT / "bindings/python/README.md").read_text(encoding="utf-8")
    example = re.search(r"^```python\n(.*?)^```", text, re.S | re.M)[1]
    assert len([line for line in example.splitlines() if line.strip()]) <= 25
    done = subprocess.run([sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "MB of dense keys and values take" in done.stdout, done.stderr


def test_what_is_wrong_with_a_library_is_said(tmp_path):
    def load(path):
        return subprocess.run([sys.executable, "-c", "import libthink"], capture_output=True, text=True, env={**os.environ, "THINK_LIBRARY": str(path)},
                              check=False).stderr

    assert "THINK_LIBRARY names it" in load(tmp_path / "nothing.so")
    wrong = tmp_path / "wrong.so"
    wrong.write_bytes(b"no library")
    assert "ImportError: libthink cannot load" in load(wrong)
    if platform.machine() in ("x86_64", "aarch64"):
        source = tmp_path / "old.c"
        source.write_text("int think_abi_version(void) { return 7; }")
        if subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", tmp_path / "old.so", source], check=False).returncode == 0:
            assert "needs ABI 1" in load(tmp_path / "old.so")
