"""What tests/vectors says, alike in every language."""

import json

import calls
import libthink
import numpy
import pytest
from conftest import ROOT, VECTORS


@pytest.mark.parametrize("case", VECTORS["errors"], ids=lambda case: case["call"])
def test_errors(case):
    expected = case["error"]
    with pytest.raises(libthink.ThinkError) as raised:
        calls.fail(case)
    error = raised.value
    assert (error.code, error.argument, error.native_code, error.message) == tuple(expected[key] for key in ("code", "argument", "native_code", "message"))
    assert str(error) == error.message and error.name == libthink.status_name(error.code) and error.function.startswith("think_")


@pytest.mark.parametrize("case", VECTORS["flows"], ids=lambda case: case["name"])
def test_flows(case):
    output, lse, usage = calls.flow(case)
    assert usage == case["usage"]
    assert numpy.abs(output - case["output"]).max() <= case["tolerance"]
    assert numpy.abs(lse - case["lse"]).max() <= case["tolerance"]


def test_names_and_numbers():
    for channels, ratio, kept in VECTORS["kept_channels"]:
        assert libthink.kept_channels(channels, ratio) == kept
    with pytest.raises(ValueError):
        libthink.kept_channels(8, 1.0)
    for code, name in VECTORS["names"]["status"].items():
        assert libthink.status_name(int(code)) == name
    for dtype, name in VECTORS["names"]["dtype"].items():
        assert libthink.dtype_name(int(dtype)) == name


def test_channels_that_kvpress_drops():
    """Score and select against recorded masks of somebody else's code (tests/vectors/kvpress_record.py)."""
    for case in json.loads((ROOT / "tests/vectors/kvpress.json").read_text(encoding="utf-8"))["cases"]:
        heads, kv_heads, tokens, channels = (case[name] for name in ("query_heads", "kv_heads", "tokens", "channels"))
        plan = libthink.Plan(query_heads=heads, kv_heads=kv_heads, key_channels=channels, window=case["window"], cache_dtype=libthink.F32, max_tokens=tokens)
        query = numpy.array(case["query"], numpy.float32).reshape(1, heads, tokens, channels)
        key = numpy.array(case["key"], numpy.float32).reshape(1, kv_heads, tokens, channels)
        state = plan.score_state()
        plan.score_reset(state)
        for first in range(0, tokens, 13):
            plan.score_update(query[:, :, first:first + 13], key[:, :, first:first + 13], state)
        score = plan.score_finish(state)
        for ratio, dropped in case["dropped"].items():
            options = libthink.SelectOptions(side=libthink.KEYS, kept=libthink.kept_channels(channels, float(ratio)))
            mask = numpy.from_dlpack(plan.select(score, options, plan.basis(libthink.KEYS)))
            assert [list(numpy.flatnonzero(row == 0)) for row in mask[0]] == dropped
