#!/usr/bin/env python3
"""Writes quantized_attention.txt: attention over quantized keys and values, from the definitions of the forms (include/think/segment.h) and nothing else.

Run it here: ./quantized_attention.py > quantized_attention.txt (needs numpy). A line: form of keys and of values, tokens, key channels, value channels,
queries; for each query the LSE and the output. The numbers that go in are made by numbers(); tests/flow/quantized_test.cpp makes the same.
"""
import numpy as np


def numbers(count, seed):
    """Multiples of 1/512 between -2 and 2, which f16 holds."""
    i = np.arange(count, dtype=np.uint64)
    mixed = (i * 2654435761 + seed * 40503) % 2**32
    mixed = (mixed ^ (mixed >> np.uint64(15))) * 2246822519 % 2**32
    return ((mixed >> np.uint64(21)).astype(np.int64) - 1024) / 512


def f16_below(x):
    """The largest f16 that is not above x."""
    half = x.astype(np.float16)
    return np.where(half.astype(np.float64) > x, np.nextafter(half, np.float16(-np.inf)), half).astype(np.float64)


def asymmetric(x, bits):
    """What rows of groups are stored as: zero + scale * code, zero and scale in f16."""
    most = 2**bits - 1
    zero = f16_below(x.min(axis=1, keepdims=True))
    span = (x.max(axis=1, keepdims=True) - zero).astype(np.float32)
    scale = (span / np.float32(most)).astype(np.float16).astype(np.float32)
    inverse = np.where(scale > 0, np.float32(1) / np.where(scale > 0, scale, 1), np.float32(0)).astype(np.float32)
    code = np.rint(np.clip((x - zero).astype(np.float32) * inverse, 0, most))
    return zero + scale.astype(np.float64) * code


def e4m3(x):
    """The nearest of all numbers of the form, of two the one with the even code, times the least power of two by which the largest is at most 224."""
    scale = 2.0 ** np.ceil(np.log2(np.abs(x).max() / 224))
    code = np.arange(127)
    table = np.where(code >> 3, (8 + (code & 7)) * 2.0 ** ((code >> 3) - 10.0), (code & 7) * 2.0**-9)
    distance = np.abs(np.abs(x)[..., None] / scale - table) + (code & 1) * 1e-12  # far less than any distance that is not equal
    return np.sign(x) * table[distance.argmin(axis=-1)] * scale


def stored(x, form, keys):
    """[token][channel] -> what the stored form stands for."""
    if form == "f16":
        return x.astype(np.float16).astype(np.float64)
    if form == "f8_e4m3":
        return e4m3(x)
    bits, out = int(form[1:]), np.empty_like(x)
    tokens, channels = x.shape
    if keys:  # a channel of 32 tokens
        for first in range(0, tokens, 32):
            out[first : first + 32] = asymmetric(x[first : first + 32].T, bits).T
    else:  # 32 channels of a token, what is left joins the last group
        groups = max(1, channels // 32)
        for g in range(groups):
            part = slice(32 * g, channels if g == groups - 1 else 32 * g + 32)
            out[:, part] = asymmetric(x[:, part], bits)
    return out


def line(key_form, value_form, tokens, key_channels, value_channels, queries):
    q = numbers(queries * key_channels, 1).reshape(queries, key_channels)
    k = numbers(tokens * key_channels, 2) * np.where(np.arange(tokens * key_channels) % 5 == 0, 4.0, 1.0)
    v = numbers(tokens * value_channels, 3).reshape(tokens, value_channels)
    logits = q @ stored(k.reshape(tokens, key_channels), key_form, True).T * np.float64(np.float32(1 / np.sqrt(key_channels)))
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    lse = logits.max(axis=1) + np.log(weights.sum(axis=1))
    out = weights / weights.sum(axis=1, keepdims=True) @ stored(v, value_form, False)
    rows = " ".join(" ".join(f"{x:.9g}" for x in (lse[i], *out[i])) for i in range(queries))
    print(key_form, value_form, tokens, key_channels, value_channels, queries, rows)


for form in ("u8", "u4", "u2", "f8_e4m3"):
    line(form, form, 77, 24, 72, 2)
    line(form, "f16" if form != "u2" else "f8_e4m3", 32, 40, 40, 1)
line("f16", "u2", 45, 16, 8, 1)
