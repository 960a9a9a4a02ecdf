"""Every call of the C library is noted, so that test_reach.py can ask whether the tests of this folder reach all of it through the package's own classes."""

import json
import os
import pathlib
from typing import Any

import libthink
import pytest

ROOT = pathlib.Path(os.environ.get("THINK_ROOT", pathlib.Path(__file__).resolve().parents[3]))
THINK = json.loads((ROOT / "bindings/think.json").read_text(encoding="utf-8"))
VECTORS = json.loads((ROOT / "tests/vectors/bindings.json").read_text(encoding="utf-8"))


class Recorder:
    """Stands for the library: notes which functions are called."""

    def __init__(self, lib: Any) -> None:
        self.lib, self.called = lib, set()

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.lib, name)

        def call(*arguments: Any) -> Any:
            self.called.add(name)
            return function(*arguments)

        return call


RECORDER = Recorder(libthink.native.lib)
libthink.native.lib = RECORDER


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: "test_reach" in item.nodeid)  # stable: it asks what the others did


@pytest.fixture
def plan():
    return libthink.Plan(query_heads=4, kv_heads=2, key_channels=16, window=8, max_tokens=512, max_queries=512, max_batch=4, cache_dtype=libthink.F32)
