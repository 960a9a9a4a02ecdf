"""npy and safetensors files, and attention, in plain Python (standard library only): what the tests of the program compare with."""

import json
import math
import random
import struct

CODES = {"<f4": "f", "<f2": "e", "<u2": "H", "<f8": "d", "<i4": "i", "|u1": "B"}
TENSOR_CODES = {"F32": "f", "F16": "e", "I32": "i", "I64": "q", "U8": "B", "BF16": "H"}


def npy_bytes(shape, numbers, descr="<f4", version=(1, 0), header=None, order="False"):
    """A .npy file. `header` replaces the dictionary."""
    if header is None:
        header = "{'descr': '%s', 'fortran_order': %s, 'shape': (%s), }" % (descr, order, "".join("%d, " % extent for extent in shape))
    text = header.encode("latin-1")
    fixed = 10 if version[0] == 1 else 12
    text += b" " * (-(fixed + len(text) + 1) % 64) + b"\n"
    length = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + struct.pack("<%d%s" % (len(numbers), CODES[descr]), *numbers)


def read_npy(path):
    """(shape, numbers) of an f32 file that the program wrote."""
    with open(path, "rb") as file:
        data = file.read()
    assert data[:8] == b"\x93NUMPY\x01\x00", data[:8]
    length = struct.unpack("<H", data[8:10])[0]
    header = eval(data[10 : 10 + length].decode())  # written by the program under test
    assert header["descr"] == "<f4" and header["fortran_order"] is False and (10 + length) % 64 == 0
    count = math.prod(header["shape"])
    assert len(data) == 10 + length + 4 * count
    return list(header["shape"]), list(struct.unpack("<%df" % count, data[10 + length :]))


class Tensors:
    """A safetensors file that can be taken apart, damaged and written again."""

    def __init__(self, path):
        with open(path, "rb") as file:
            data = file.read()
        length = struct.unpack("<Q", data[:8])[0]
        self.header = json.loads(data[8 : 8 + length])
        self.data = bytearray(data[8 + length :])
        self.metadata = self.header.get("__metadata__", {})

    def raw(self, name):
        begin, end = self.header[name]["data_offsets"]
        return bytes(self.data[begin:end])

    def numbers(self, name):
        entry = self.header[name]
        return list(struct.unpack("<%d%s" % (math.prod(entry["shape"]), TENSOR_CODES[entry["dtype"]]), self.raw(name)))

    def put(self, name, index, number):
        """Replace one number of a tensor."""
        entry = self.header[name]
        code = TENSOR_CODES[entry["dtype"]]
        struct.pack_into("<" + code, self.data, entry["data_offsets"][0] + index * struct.calcsize(code), number)

    def bytes(self, header_text=None):
        text = (json.dumps(self.header) if header_text is None else header_text).encode()
        return struct.pack("<Q", len(text)) + text + bytes(self.data)


def correlated_rows(generator, heads, tokens, channels, size=1.0):
    """Numbers [head][token][channel] whose channels depend on each other, as those of real keys do."""
    rows = []
    for _ in range(heads):
        mixing = [[generator.gauss(0, 1) for _ in range(channels)] for _ in range(max(2, channels // 4))]
        scale = [size * math.exp(0.6 * generator.gauss(0, 1)) for _ in range(channels)]
        for _ in range(tokens):
            factors = [generator.gauss(0, 1) for _ in mixing]
            rows += [
                scale[c] * (0.3 * generator.gauss(0, 1) + sum(f * m[c] for f, m in zip(factors, mixing)) / len(mixing))
                for c in range(channels)
            ]
    return rows


def attention(query, key, value, query_heads, kv_heads, queries, channels, value_channels, causal=False):
    """Softmax attention in double precision; returns flat output and LSE.

    query is flat [query_heads][queries][channels]; key and value are lists of rows per KV head.
    """
    output, lse = [], []
    group, scale = query_heads // kv_heads, 1 / math.sqrt(channels)
    for head in range(query_heads):
        keys, values = key[head // group], value[head // group]
        for i in range(queries):
            seen = len(keys) - queries + i + 1 if causal else len(keys)
            begin = (head * queries + i) * channels
            row = query[begin : begin + channels]
            logits = [scale * sum(a * b for a, b in zip(row, k)) for k in keys[:seen]]
            top = max(logits)
            weights = [math.exp(z - top) for z in logits]
            total = sum(weights)
            output += [sum(w * v[c] for w, v in zip(weights, values)) / total for c in range(value_channels)]
            lse.append(top + math.log(total))
    return output, lse


def split_rows(numbers, heads, tokens, channels):
    """Flat [head][token][channel] to lists of rows per head."""
    return [[numbers[(h * tokens + t) * channels : (h * tokens + t + 1) * channels] for t in range(tokens)] for h in range(heads)]


def stored_rows(layer, side):
    """The rows of a layer file in the order of the tokens, dropped channels rebuilt as the basis says (zero without a prediction)."""
    meta = layer.metadata
    heads, tokens, rows, first = (int(meta[name]) for name in ("kv_heads", "tokens", "rows", "first"))
    channels = int(meta[side + "_channels"])
    kept, index = layer.numbers(side + ".kept"), layer.numbers(side + ".index")
    weight, weight_offset, offset = layer.numbers(side + ".weight"), layer.numbers(side + ".weight_offset"), layer.numbers(side + ".offset")
    dense = split_rows(layer.numbers(side + ".dense"), heads, tokens - rows, channels)
    result = []
    for head in range(heads):
        width, order = kept[head], index[head * channels : (head + 1) * channels]
        compact = []
        stored = layer.numbers("%s.%s.%d" % (side, "tiles" if side == "key" else "rows", head)) if rows else []
        for row in range(rows):
            if side == "key":
                known = [stored[(row // 32 * width + i) * 32 + row % 32] for i in range(width)]
            else:
                known = stored[row * width : (row + 1) * width]
            full = [0.0] * channels
            for i in range(width):
                full[order[i]] = known[i]
            if weight_offset[head] >= 0:
                padded = (width + 7) // 8 * 8
                for p in range(channels - width):
                    begin = weight_offset[head] // 2 + p * padded
                    full[order[width + p]] = offset[head * channels + width + p] + sum(
                        w * x for w, x in zip(weight[begin : begin + width], known)
                    )
            compact.append(full)
        result.append(dense[head][:first] + compact + dense[head][first:])
    return result


def generator(seed=1):
    return random.Random(seed)
