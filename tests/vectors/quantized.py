#!/usr/bin/env python3
"""Writes quantized.txt: small quantized tiles, byte by byte, from index tables alone (include/think/segment.h). Run it here: ./quantized.py > quantized.txt"""
import math
import struct

TOKENS = 32


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def half_bits(x):
    return struct.unpack("<H", struct.pack("<e", x))[0]


def half_value(bits):
    return struct.unpack("<e", struct.pack("<H", bits))[0]


def number(channel, token):
    """Numbers that f16 holds, with groups that are special."""
    if channel == 1:
        return 2.75  # constant
    if channel == 2:
        return f32(0.1)  # constant, not of f16
    if channel == 5 and token == 9:
        return math.inf
    if channel == 6 and token == 3:
        return 1e6  # beyond f16
    return ((channel * 37 + token * 11) % 64 - 20) / 8


def below(x):
    """Largest f16 that is not above x."""
    bits = half_bits(x)
    if half_value(bits) <= x:
        return bits
    return bits + 1 if bits & 0x8000 else bits - 1


def quantize(x, bits):
    """Scale and zero as bits of f16, and the codes of one group. Every operation is rounded to f32."""
    most = 2**bits - 1
    if not all(map(math.isfinite, x)):
        return 0, 0x7E00, [0] * len(x)
    low, high = (min(max(end(x), -65504.0), 65504.0) for end in (min, max))
    zero = below(low)
    span = f32(high - half_value(zero))
    scale = half_bits(f32(span / most))
    if scale == 0 and span > 0:
        scale = 1
    if half_value(zero) + half_value(scale) * most > 65504:
        scale -= 1
    inverse = f32(1 / half_value(scale)) if scale else 0.0
    codes = [f32(f32(v - half_value(zero)) * inverse) for v in x]
    return scale, zero, [round(min(max(c, 0), most)) for c in codes]


def halves(values):
    return struct.pack(f"<{len(values)}H", *values)


def pad(data):
    return data + bytes(-len(data) % 16)


def join(codes, bits):
    """Bytes of several codes each: code b of n in byte b, code b + n in the next higher bits of it, ..."""
    n = len(codes) * bits // 8
    return bytes(sum(code << i * bits for i, code in enumerate(codes[b::n])) for b in range(n))


def key_tile(channels, tokens, bits):
    rows, scales, zeros = b"", [], []
    for c in range(channels):
        scale, zero, codes = quantize([number(c, t) for t in range(tokens)], bits)
        codes += [0] * (TOKENS - tokens)
        scales.append(scale)
        zeros.append(zero)
        rows += join(codes, bits)
    if bits == 2:
        rows += bytes(len(rows) % 16)  # a channel of zeros behind an odd number
        rows = bytes(rows[p + c * 8 + b] for p in range(0, len(rows), 16) for b in range(8) for c in (0, 1))
    return pad(pad(rows) + halves(scales) + halves(zeros))


def value_tile(channels, tokens, bits):
    groups = max(1, channels // 32)
    code, scales, zeros = {}, [], []
    for g in range(groups):
        members = range(32 * g, channels if g == groups - 1 else 32 * g + 32)
        for t in range(TOKENS):
            scale, zero, codes = quantize([number(c, t) if t < tokens else 0.0 for c in members], bits)
            scales.append(scale)
            zeros.append(zero)
            code.update({(c, t): x for c, x in zip(members, codes)})
    blocks = b""
    for first in range(0, channels, 32):
        width = min(32, channels - first)
        for t in range(TOKENS):
            row = [code[first + j, t] for j in range(width)]
            blocks += join(row, bits)
    return blocks + halves(scales) + halves(zeros)


def f8_value(code):
    """e4m3, but for the sign and NaN."""
    exponent, fraction = code >> 3, code & 7
    return (8 + fraction) * 2.0 ** (exponent - 10) if exponent else fraction * 2.0**-9


def f8_code(x):
    """The nearest code; of two that are as near the even one; no more than 448."""
    sign = 128 if math.copysign(1, x) < 0 else 0
    if not math.isfinite(x):
        return sign | 127
    return sign | min(range(127), key=lambda code: (abs(f8_value(code) - abs(x)), code & 1))


F8_SCALE = 0.5


def f8_tile(side, channels, tokens):
    codes = [[f8_code(number(c, t) / F8_SCALE) if t < tokens else 0 for t in range(TOKENS)] for c in range(channels)]
    if side == "keys":
        return bytes(code for row in codes for code in row)
    return bytes(codes[c][t] for first in range(0, channels, 32) for t in range(TOKENS) for c in range(first, min(first + 32, channels)))


for side, tile, shapes in (("keys", key_tile, ((3, 32), (7, 21))), ("values", value_tile, ((8, 32), (40, 5), (72, 32)))):
    for channels, tokens in shapes:
        for bits in (8, 4, 2):
            print(side, f"u{bits}", channels, tokens, tile(channels, tokens, bits).hex())
        print(side, "f8", channels, tokens, f8_tile(side, channels, tokens).hex())
