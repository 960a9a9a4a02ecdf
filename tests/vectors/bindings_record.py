#!/usr/bin/env python3
"""Writes bindings.json beside this file again: what every binding must do alike. Recorded from the library through the Python package, and run by C++ and by
all bindings, so a difference is one between languages. (That the numbers are right is asked elsewhere: tests/flow, tests/cache.)

    THINK_CPU_ISA=portable THINK_LIBRARY=out/release/libthink.so.1 PYTHONPATH=bindings/python:bindings/python/tests python3 tests/vectors/bindings_record.py
"""
import json
import os

import calls
import libthink

BASE = {"query_heads": 4, "kv_heads": 2, "key_channels": 16, "value_channels": 24, "window": 8, "max_batch": 2, "max_queries": 8, "max_tokens": 512,
        "query_dtype": libthink.F32, "cache_dtype": libthink.F32}
WHAT = """Version 1. Numbers of a seed: x = i * 2654435761 + seed * 40503 + 12345; x = (x ^ x >> 15) * 2246822519; x = (x ^ x >> 13) * 3266489917; x = x ^ x >> 16, all
modulo 2^32; number i is x / 2^31 - 1, as f32. errors: make a plan of `problem`, a cache of `cache` (structs by field, the rest as their init functions say),
begin the step if there are new_tokens, then the call; it fails with these four. append and attend take zeroed f32 tensors of the given extents, load reads
the bytes (hexadecimal). flows: one step of `prompt` tokens for sequence 0, append to each layer query (seed 10 * layer), key (that + 1, odd channels times 0.125)
and value (+ 2), prune; then for each token t = 1 .. tokens a step of one token and for each layer append (seeds 1000 * t + 10 * layer) and attend: output and lse,
both within the case's tolerance; at the end usage of the sequence, exact.""".replace("\n", " ")


def errors():
    def case(call, problem=None, **more):
        return {"call": call, "problem": {**BASE, **(problem or {})}, **more}

    cases = [
        case("plan", {"query_heads": 5}), case("plan", {"key_channels": 12}), case("plan", {"window": -1}), case("plan", {"cache_dtype": 7}),
        case("plan", {"flags": 4}), case("plan", {"max_tokens": -1}),
        case("preview", tokens=-1, options={}), case("preview", tokens=100, options={"key_kept": 17}), case("preview", tokens=100, options={"mode": 9}),
        case("layout", page_tokens=33, total_key=16, total_value=48), case("layout", page_tokens=32, total_key=33, total_value=48),
        case("workspace_size", stage=99),
        case("cache", cache={"layers": -1}), case("cache", cache={"prune": {"value_kept": 25}}), case("cache", cache={"format": {"key_layout": 5}}),
        case("step", sequences=[0, 0], new_tokens=[1, 1]), case("step", sequences=[0], new_tokens=[513]), case("step", sequences=[2], new_tokens=[1]),
        case("append", layer=0, query=[1, 4, 1, 16], key=[1, 2, 1, 16], value=[1, 2, 1, 24]),
        case("append", sequences=[0], new_tokens=[1], layer=0, query=[1, 4, 1, 16], key=[1, 2, 1, 8], value=[1, 2, 1, 24]),
        case("append", sequences=[0], new_tokens=[1], layer=1, query=[1, 4, 1, 16], key=[1, 2, 1, 16], value=[1, 2, 1, 24]),
        case("attend", sequences=[0], new_tokens=[1], layer=0, query=[1, 4, 1, 16]),
        case("prune", sequences=[0], new_tokens=[1]), case("trim", sequence=0, tokens=1),
        case("load", bytes=""), case("load", bytes="10000000000000007b7d20202020202020202020202020"),
        {"call": "query", "key": 99},
    ]
    for one in cases:
        try:
            calls.fail(one)
        except libthink.ThinkError as problem:
            one["error"] = {"code": problem.code, "argument": problem.argument, "native_code": problem.native_code, "message": problem.message}
        else:
            raise SystemExit(f"no error: {one}")
    return cases


def flows():
    f16, u8, u4, tiles = libthink.F16, libthink.U8, libthink.U4, libthink.TILES
    cases = [
        {"name": "regressed", "problem": BASE, "cache": {"layers": 2, "prune": {"key_kept": 8}}, "tolerance": 2e-4},
        {"name": "the paper, uniform", "problem": BASE, "cache": {"layers": 1, "prune": {"mode": 1, "budget": 1, "key_kept": 6}}, "tolerance": 2e-5},
        {"name": "keys and values, f16", "problem": {**BASE, "cache_dtype": f16}, "cache": {"layers": 1, "prune": {"key_kept": 8, "value_kept": 16}},
         "tolerance": 2e-3},
        {"name": "codes", "problem": BASE, "tolerance": 2e-2, "cache": {"layers": 1, "prune": {"key_kept": 8}, "format": {
            "key_layout": tiles, "value_layout": tiles, "key_dtype": u8, "value_dtype": u4}}},
    ]
    for case in cases:
        case.update({"prompt": 230, "tokens": 2})
        case["cache"]["prune"]["dense_limit"] = -1.0
        output, lse, usage = calls.flow(case)
        case.update({"output": [[round(float(x), 6) for x in row] for row in output], "lse": [[round(float(x), 6) for x in row] for row in lse], "usage": usage})
    return cases


def main():
    kept = [[channels, ratio, libthink.kept_channels(channels, ratio)] for channels, ratio in ((128, 0.4), (64, 0.5), (80, 0.3), (8, 0.0))]
    names = {"status": {code: libthink.status_name(code) for code in (0, 1, 7, 9, 1000)}, "dtype": {
        dtype: libthink.dtype_name(dtype) for dtype in (libthink.F32, libthink.F16, libthink.BF16, libthink.U8, libthink.U4, 1)}}
    parts = {"errors": errors(), "flows": flows()}
    lines = [f'{{"what": {json.dumps(WHAT)},', f'"kept_channels": {json.dumps(kept)},', f'"names": {json.dumps(names)},']
    for name, cases in parts.items():
        lines.append(f'"{name}": [')
        lines += [json.dumps(case) + ("," if case is not cases[-1] else "") for case in cases]
        lines.append("]" + ("," if name == "errors" else "}"))
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "bindings.json"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
