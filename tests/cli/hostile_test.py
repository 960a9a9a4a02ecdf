"""Files that are damaged or made to do harm: a clear error with the right exit code, never a crash, never a partial output."""

import json
import math
import os
import struct
import unittest

import arrays
from program_case import ProgramCase


def npy(header=None, payload=b"", version=(1, 0), length=None):
    """An npy file from raw parts."""
    text = (header or "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 200, 32), }").encode("latin-1") + b"\n"
    size = len(text) if length is None else length
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version[0] == 1 else "<I", size) + text + payload


def shaped(shape, payload=b"", descr="<f4"):
    return npy("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }" % (descr, shape), payload)


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


GOOD_BYTES = 2 * 200 * 32 * 4

HOSTILE_NPY = {
    "empty": b"",
    "one byte": b"\x93",
    "wrong magic": b"NUMPY\x93" + bytes(200),
    "text": b"hello, this is not an array at all\n" * 10,
    "magic only": b"\x93NUMPY",
    "no header": b"\x93NUMPY\x01\x00\x40\x00",
    "version 9": npy(version=(9, 0), payload=bytes(GOOD_BYTES)),
    "version 0": npy(version=(0, 0), payload=bytes(GOOD_BYTES)),
    "header longer than the file": npy(length=60000),
    "header of 4 GiB": npy(version=(2, 0), length=0xFFFFFFFF),
    "header is not a dictionary": npy("[1, 2, 3]"),
    "header does not end": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 200, 32)"),
    "string does not end": npy("{'descr': '<f4"),
    "missing shape": npy("{'descr': '<f4', 'fortran_order': False}"),
    "two shapes": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'shape': (2,)}"),
    "unknown entry": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'code': 'rm'}"),
    "code in the header": npy("{'descr': '<f4', 'fortran_order': __import__('os').system('true'), 'shape': (1,)}"),
    "text behind the dictionary": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x", bytes(4)),
    "nested parentheses": npy("{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 5000),
    "zeros for a header": b"\x93NUMPY\x01\x00\xf6\x00" + bytes(1000),
    "negative extent": shaped("2, -200, 32", bytes(GOOD_BYTES)),
    "zero tokens": shaped("2, 0, 32"),
    "zero channels": shaped("2, 200, 0"),
    "extent of 2^64": shaped("2, 18446744073709551616, 32"),
    "extent of 30 digits": shaped("1" * 30 + ", 2, 3"),
    "product of 2^64": shaped("4294967296, 4294967296, 32"),
    "product of 2^62 items": shaped("2147483648, 2147483648, 1"),
    "overflow hidden by a zero": shaped("4611686018427387904, 4611686018427387904, 0"),
    "more dimensions than numpy has": shaped("1, " * 40, bytes(4)),
    "two dimensions": shaped("200, 32", bytes(200 * 32 * 4)),
    "five dimensions": shaped("1, 1, 2, 200, 32", bytes(GOOD_BYTES)),
    "no dimension": shaped("", bytes(4)),
    "batch of two": shaped("2, 2, 100, 32", bytes(GOOD_BYTES)),
    "no data": shaped("2, 200, 32"),
    "one byte short": shaped("2, 200, 32", bytes(GOOD_BYTES - 1)),
    "one byte more": shaped("2, 200, 32", bytes(GOOD_BYTES + 1)),
    "Fortran order": npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 200, 32), }", bytes(GOOD_BYTES)),
    "f64": shaped("2, 200, 32", bytes(2 * GOOD_BYTES), "<f8"),
    "big endian": shaped("2, 200, 32", bytes(GOOD_BYTES), ">f4"),
    "integers": shaped("2, 200, 32", bytes(GOOD_BYTES), "<i4"),
    "complex": shaped("2, 200, 32", bytes(2 * GOOD_BYTES), "<c8"),
    "objects": shaped("2, 200, 32", bytes(2 * GOOD_BYTES), "|O8"),
    "structured": npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 200, 32), }", bytes(GOOD_BYTES)),
    "dtype of nothing": shaped("2, 200, 32", bytes(GOOD_BYTES), ""),
    "dtype with a huge item": shaped("2, 200, 32", bytes(GOOD_BYTES), "|V9999999999"),
    "dtype with control characters": shaped("2, 200, 32", bytes(GOOD_BYTES), "\x1b[2J\x07"),
    "number of three bytes": shaped("2, 200, 32", bytes(3 * GOOD_BYTES // 4), "<f3"),
    "number without bytes": shaped("2, 200, 32", b"", "<f0"),
    "number without byte order": shaped("2, 200, 32", bytes(GOOD_BYTES), "|f4"),
    "native byte order": shaped("2, 200, 32", bytes(GOOD_BYTES), "=f4"),
    "leading zero": shaped("2, 200, 32", bytes(GOOD_BYTES), "<f04"),
    "dates": shaped("2, 200, 32", bytes(2 * GOOD_BYTES), "<M8[ns]"),
    "unknown kind": shaped("2, 200, 32", bytes(GOOD_BYTES), "<q4"),
    "too many channels": shaped("2, 4, 100000", bytes(2 * 4 * 100000 * 4)),
}

HOSTILE_SAFETENSORS = {
    "empty": b"",
    "seven bytes": b"\x01\x00\x00\x00\x00\x00\x00",
    "zeros": bytes(1000),
    "text": b"hello, this is not a layer at all\n" * 10,
    "header longer than the file": safetensors({}, length=5000),
    "header of 2^64": safetensors({}, length=2**64 - 1),
    "header of 2^63": safetensors({}, length=2**63),
    "header above the limit": safetensors({}, length=100_000_001),
    "header is a list": safetensors(b"[1, 2]"),
    "header is not JSON": safetensors(b"{nonsense}"),
    "header is cut": safetensors(b'{"a": {"dtype": "F32"'),
    "two headers": safetensors(b"{}{}"),
    "not UTF-8": safetensors(b'{"\xff\xfe": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'),
    "deep lists": safetensors(b'{"a":' + b"[" * 200000),
    "deep objects": safetensors(b'{"a":' * 100000 + b"1" + b"}" * 100000),
    "a million numbers": safetensors(b'{"a": {"dtype": "F32", "shape": [' + b"1," * 1000000 + b'1], "data_offsets": [0, 4]}}', bytes(4)),
    "a number for a tensor": safetensors({"a": 1}),
    "null": safetensors({"a": None}),
    "no dtype": safetensors({"a": {"shape": [0], "data_offsets": [0, 0]}}),
    "no offsets": safetensors({"a": {"dtype": "F32", "shape": [0]}}),
    "unknown entry": safetensors({"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0], "x": []}}),
    "unknown dtype": safetensors({"a": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "negative extent": safetensors({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
    "fraction": safetensors({"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}}, bytes(4)),
    "shape of 2^64": safetensors({"a": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]}}),
    "extent above 2^64": safetensors(b'{"a": {"dtype": "F32", "shape": [99999999999999999999999], "data_offsets": [0, 0]}}'),
    "overflow hidden by a zero": safetensors({"a": {"dtype": "F32", "shape": [2**62, 2**62, 0], "data_offsets": [0, 0]}}),
    "offsets out of the file": safetensors({"a": {"dtype": "F32", "shape": [100], "data_offsets": [0, 400]}}, bytes(4)),
    "offsets backwards": safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)),
    "offsets of 2^64": safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [2**64 - 4, 2**64 - 1]}}, bytes(4)),
    "three offsets": safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}, bytes(4)),
    "offsets do not fit the shape": safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
    "overlap": safetensors(
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},
        bytes(12),
    ),
    "same place": safetensors(
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "hole": safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
    "data behind the end": safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(8)),
    "data without tensors": safetensors({}, bytes(8)),
    "duplicate names": safetensors(
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        bytes(8),
    ),
    "duplicate metadata": safetensors(b'{"__metadata__": {"a": "b"}, "__metadata__": {"a": "c"}}'),
    "metadata is not text": safetensors({"__metadata__": {"a": 1}}),
    "deep metadata": safetensors({"__metadata__": {"a": {"b": "c"}}}),
}


class HostileArrays(ProgramCase):
    def test_npy(self):
        self.make_inputs()
        for title, data in HOSTILE_NPY.items():
            self.write("bad.npy", data)
            for role in ("query", "key", "value"):
                with self.subTest(title, role=role):
                    report = self.prune(code=2, **{role: "bad.npy"})
                    self.assertIn("bad.npy", report["error"]["message"])
                    self.assertNotIn("\x1b", report["error"]["message"])
                    self.assertFalse(os.path.exists(self.path("layer.safetensors")))
            with self.subTest(title, command="inspect"):
                # Some of these are good arrays that only prune cannot use.
                good = title in (
                    "zero tokens",
                    "zero channels",
                    "two dimensions",
                    "five dimensions",
                    "no dimension",
                    "batch of two",
                    "Fortran order",
                    "f64",
                    "big endian",
                    "integers",
                    "complex",
                    "too many channels",
                )
                self.run_json("inspect", self.path("bad.npy"), code=0 if good else 2)

    def test_refused_dtypes_are_named(self):
        self.make_inputs()
        for descr in ("<f3", "<f0", "|f4", "=f4", "<f04", "<q4", "<c4", "<i16", "<b2", "|O8", "<M8[ns]", "<m8", "f4", "<f", "float32"):
            self.write("bad.npy", npy("{'descr': '%s', 'fortran_order': False, 'shape': (0,), }" % descr))
            with self.subTest(descr):
                message = self.run_json("inspect", self.path("bad.npy"), code=2)["error"]["message"]
                self.assertIn("npy dtype '%s' is not supported" % descr, message)
                self.assertIn("bad.npy", message)
        for descr in ("[('a', '<f4')]", "[('a', '<f4'), ('b', '<i2', (3,))]"):
            self.write("bad.npy", npy("{'descr': %s, 'fortran_order': False, 'shape': (0,), }" % descr))
            with self.subTest(descr):
                message = self.run_json("inspect", self.path("bad.npy"), code=2)["error"]["message"]
                self.assertIn("structured npy dtype %s is not supported" % descr, message)
                self.assertNotIn("damaged", message)
        # What NumPy writes is listed, also where prune has no use for it.
        sizes = (("|b1", 1), ("|i1", 1), ("<u2", 2), (">i8", 8), ("<f2", 2),
                 ("<f8", 8), ("<f16", 16), ("<c32", 32), ("|V2", 2), ("<V2", 2), ("|S5", 5), ("<U3", 12))
        for descr, size in sizes:
            self.write("good.npy", npy("{'descr': '%s', 'fortran_order': False, 'shape': (2,), }" % descr, bytes(2 * size)))
            with self.subTest(descr):
                report = self.run_json("inspect", self.path("good.npy"))
                self.assertEqual((report["dtype"], report["bytes"]), (descr, 2 * size))

    def test_every_truncation_of_a_header(self):
        whole = arrays.npy_bytes([2, 200, 32], [0.5] * (2 * 200 * 32))
        for size in list(range(0, 130)) + [len(whole) - 1]:
            self.write("bad.npy", whole[:size])
            self.run_json("inspect", self.path("bad.npy"), code=2)

    def test_not_finite(self):
        self.make_inputs()
        for bad in (math.nan, math.inf, -math.inf):
            numbers = list(self.numbers["k"])
            numbers[self.channels * self.tokens + 7 * self.channels + 3] = bad
            numbers[-1] = bad
            self.write("bad.npy", arrays.npy_bytes([self.kv_heads, self.tokens, self.channels], numbers))
            message = self.prune(code=2, key="bad.npy")["error"]["message"]
            self.assertIn("[1, 7, 3]", message)
            self.assertIn("NaN" if math.isnan(bad) else "infinity", message)
            self.assertFalse(os.path.exists(self.path("layer.safetensors")))
        halves = [0.5] * len(self.numbers["k"])
        halves[5] = math.nan
        self.write("bad.npy", arrays.npy_bytes([1, self.kv_heads, self.tokens, self.channels], halves, "<f2"))
        self.assertIn("[0, 0, 0, 5]", self.prune(code=2, key="bad.npy")["error"]["message"])
        bits = [0x3F80] * len(self.numbers["k"])
        bits[33] = 0x7FC0
        self.write("bad.npy", arrays.npy_bytes([self.kv_heads, self.tokens, self.channels], bits, "<u2"))
        self.assertIn("[0, 1, 1]", self.prune("--bf16", code=2, key="bad.npy")["error"]["message"])

    def test_too_large_for_f16(self):
        self.make_inputs()
        numbers = list(self.numbers["v"])
        numbers[9] = 70000.0
        self.write("big.npy", arrays.npy_bytes([self.kv_heads, self.tokens, self.value_channels], numbers))
        message = self.prune(code=2, value="big.npy")["error"]["message"]
        self.assertIn("[0, 0, 9]", message)
        self.assertIn("bf16", message)
        self.prune("--dtype", "f32", value="big.npy")

    def test_huge_numbers(self):
        """Finite, but squares and sums overflow f32: an error or a finite layer, never a file that cannot be read."""
        self.make_inputs()
        for size in (1e18, 1e30, 3e38):
            self.write(
                "big.npy",
                arrays.npy_bytes([self.kv_heads, self.tokens, self.channels], [size * math.copysign(1, x) for x in self.numbers["k"]]),
            )
            report = self.run_any(
                "prune",
                "--query",
                self.path("q.npy"),
                "--key",
                self.path("big.npy"),
                "--value",
                self.path("v.npy"),
                "--out",
                self.path("big.safetensors"),
                "--dtype",
                "f32",
                "--dense-limit",
                "-1",
            )
            if "error" in report:
                self.assertIn(report["error"]["code"], (2, 3))
                self.assertFalse(os.path.exists(self.path("big.safetensors")))
            else:
                self.run_json("inspect", self.path("big.safetensors"))

    def run_any(self, *arguments):
        import subprocess

        from program_case import PROGRAM

        done = subprocess.run([PROGRAM] + list(arguments) + ["--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
        self.assertIn(done.returncode, (0, 2, 3), done.stderr)
        return json.loads(done.stdout)

    def test_shapes_that_do_not_fit_each_other(self):
        self.make_inputs()
        wrong = {
            "query": {"heads": [5, 200, 32], "channels": [4, 200, 24], "tokens": [4, 201, 32], "few": [4, 31, 32]},
            "key": {"heads": [3, 200, 32], "tokens": [2, 199, 32], "channels": [2, 200, 40]},
            "value": {"heads": [1, 200, 24], "tokens": [2, 201, 24]},
        }
        for role, shapes in wrong.items():
            for what, shape in shapes.items():
                with self.subTest(role, what=what):
                    self.write("odd.npy", arrays.npy_bytes(shape, [0.25] * math.prod(shape)))
                    self.prune(code=2, **{role: "odd.npy"})
        # Well-formed, but the library does not do it: head sizes in steps of 8.
        for name, heads in (("q9", 4), ("k9", 2)):
            self.write(name + ".npy", arrays.npy_bytes([heads, 200, 9], [0.25] * (heads * 200 * 9)))
        self.prune(code=3, query="q9.npy", key="k9.npy")
        self.prune("--kept", "40", code=3)

    def test_not_files(self):
        self.make_inputs()
        os.mkdir(self.path("folder"))
        os.mkfifo(self.path("pipe"))
        for name in ("folder", "pipe"):
            self.prune(code=2, key=name)
            self.run_json("inspect", self.path(name), code=2)
        self.run_json("inspect", "/dev/null", code=2)
        self.run_json("inspect", "/dev/zero", code=2)
        self.run_json("inspect", "", code=4)

    def test_sparse_giant(self):
        """A file that claims more bytes than the machine has must not be loaded."""
        with open(self.path("giant.npy"), "wb") as file:
            file.write(shaped("2, 536870912, 1024")[:128])
            try:
                file.truncate(1 << 42)
            except OSError:
                self.skipTest("the file system has no sparse files of 4 TiB")
        self.run_json("inspect", self.path("giant.npy"), code=4)


class HostileLayers(ProgramCase):
    def setUp(self):
        super().setUp()
        self.make_inputs()
        self.prune("--dense-limit", "-1", "--value-ratio", "0.34")

    def refused(self, data, words=()):
        """Neither attend nor inspect accepts the file, and neither leaves output."""
        self.write("bad.safetensors", data)
        for arguments in (
            ["inspect", self.path("bad.safetensors"), "--svg", self.path("out.svg")],
            [
                "attend",
                "--layer",
                self.path("bad.safetensors"),
                "--query",
                self.path("q.npy"),
                "--out",
                self.path("out.npy"),
                "--lse",
                self.path("lse.npy"),
            ],
        ):
            message = self.run_json(*arguments, code=2)["error"]["message"]
            self.assertIn("bad.safetensors", message)
            for word in words:
                self.assertIn(word, message)
            for output in ("out.svg", "out.npy", "lse.npy"):
                self.assertFalse(os.path.exists(self.path(output)))

    def layer(self):
        return arrays.Tensors(self.path("layer.safetensors"))

    def test_safetensors(self):
        for title, data in HOSTILE_SAFETENSORS.items():
            with self.subTest(title):
                self.refused(data)

    def test_truncated(self):
        with open(self.path("layer.safetensors"), "rb") as file:
            whole = file.read()
        for size in (0, 4, 8, 9, 100, len(whole) // 2, len(whole) - 1):
            self.refused(whole[:size])
        self.refused(whole + b"\0")

    def test_metadata(self):
        for key, values in {
            "kv_heads": ["0", "-2", "3", "99999999999999999999", "2.0", "", " 2"],
            "query_heads": ["1", "3", "70000"],
            "key_channels": ["33", "512", "0"],
            "value_channels": ["16"],
            "tokens": ["0", "199", "-1", "4294967296"],
            "rows": ["31", "-32", "224", "192"],
            "first": ["-1", "100000"],
            "dtype": ["f64", "", "bf16"],
            "scale": ["nan", "inf", "x"],
            "softcap": ["-1", "nan"],
            "mode": ["other"],
            "budget": ["other"],
            "key_ratio": ["2"],
            "format_version": ["2", ""],
        }.items():
            for value in values:
                with self.subTest(key, value=value):
                    layer = self.layer()
                    layer.metadata[key] = value
                    self.refused(layer.bytes())
            layer = self.layer()
            del layer.metadata[key]
            self.refused(layer.bytes(), [key])

    def test_missing_and_reshaped_tensors(self):
        names = [name for name in self.layer().header if name != "__metadata__"]
        self.assertGreater(len(names), 15)
        for name in names:
            with self.subTest(name):
                layer = self.layer()
                layer.header["x" + name] = layer.header.pop(name)
                if name.endswith(".weight"):
                    continue  # absent means empty; the offsets that point into it are refused below
                self.refused(layer.bytes(), [name])
                layer = self.layer()
                layer.header[name]["shape"] = [1] + layer.header[name]["shape"]
                self.refused(layer.bytes(), [name])
                layer = self.layer()
                if layer.header[name]["dtype"] in ("F16", "I32", "F32"):
                    layer.header[name]["dtype"] = {"F16": "BF16", "I32": "F32", "F32": "I32"}[layer.header[name]["dtype"]]
                    self.refused(layer.bytes(), [name])

    def test_no_weights(self):
        layer = self.layer()
        begin, end = layer.header["key.weight"]["data_offsets"]
        layer.header["key.other"] = layer.header.pop("key.weight")
        self.refused(layer.bytes(), ["weight"])

    def test_contents(self):
        """Numbers that attention would use as they are."""
        kept = self.layer().numbers("key.kept")
        cases = {
            "key.kept": [(0, 0), (0, -1), (0, 33), (1, 2**31 - 1), (0, kept[0] + 1)],
            "value.kept": [(0, 4), (0, 0), (0, 32)],
            "key.index": [(0, -1), (0, 32), (5, 2**31 - 1), (1, self.layer().numbers("key.index")[0]), (32, 10**9)],
            "value.index": [(0, 24), (23, -5)],
            "key.weight_offset": [(0, 1), (0, 8), (0, -2), (0, -16), (1, 1 << 40), (1, 2**63 - 16), (0, 2**63 - 1)],
            "value.weight_offset": [(0, 1 << 20)],
            "key.offset": [(3, math.nan), (0, math.inf)],
            "key.weight": [(0, math.nan), (7, -math.inf)],
            "key.tiles.0": [(11, math.nan)],
            "value.rows.1": [(0, math.inf)],
            "key.dense": [(5, math.nan)],
            "value.dense": [(0, math.nan)],
            "key.energy": [(0, math.nan)],
            "score": [(0, math.nan)],
            "mask": [(0, 2), (self.layer().numbers("key.index")[0], 0)],
        }
        for name, changes in cases.items():
            for index, number in changes:
                with self.subTest(name, index=index, number=number):
                    layer = self.layer()
                    layer.put(name, index, number)
                    self.refused(layer.bytes(), [name.split(".")[0]])

    def test_indices_must_ascend(self):
        layer = self.layer()
        first, second = layer.numbers("key.index")[:2]
        layer.put("key.index", 0, second)
        layer.put("key.index", 1, first)
        self.refused(layer.bytes(), ["key.index", "ascend"])

    def test_query_that_does_not_fit(self):
        for shape in ([2, 5, 32], [4, 5, 24], [8, 5, 32]):
            self.write("odd.npy", arrays.npy_bytes(shape, [0.5] * math.prod(shape)))
            self.run_json(
                "attend", "--layer", self.path("layer.safetensors"), "--query", self.path("odd.npy"), "--out", self.path("out.npy"), code=2
            )
            self.assertFalse(os.path.exists(self.path("out.npy")))
        # Causal queries must belong to the rows that stayed dense; comparison needs the arrays that were pruned.
        self.run_json(
            "attend",
            "--layer",
            self.path("layer.safetensors"),
            "--query",
            self.path("q.npy"),
            "--out",
            self.path("out.npy"),
            "--causal",
            code=2,
        )
        self.run_json(
            "attend",
            "--layer",
            self.path("layer.safetensors"),
            "--query",
            self.path("q.npy"),
            "--out",
            self.path("out.npy"),
            "--compare",
            self.path("k.npy"),
            self.path("q.npy"),
            code=2,
        )
        self.assertFalse(os.path.exists(self.path("out.npy")))


if __name__ == "__main__":
    unittest.main()
