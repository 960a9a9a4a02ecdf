"""think inspect on files of think_cache_save(): every form that a cache stores, and files that are damaged or made to do harm."""

import json
import os
import re
import struct
import subprocess
import unittest
import xml.etree.ElementTree

import arrays
from program_case import ProgramCase

WRITER = os.environ["THINK_SAVE_SEQUENCE"]
REGRESSED, CHANNELS, ADAPTIVE, UNIFORM = 0, 1, 0, 1
NO_SCORES, KEEP_SCORES = 1, 2
MASK = 2**64 - 1


def digest(data):
    """Of everything in a file before it: see libthink/store/stream.h."""
    state = 0x5468696E4B763031
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data) + 1, 8)]
    for word in words + [len(data)]:
        state = (state ^ word) * 0x9E3779B97F4A7C15 & MASK
        state ^= state >> 32
    return state.to_bytes(8, "little")


class SequenceCase(ProgramCase):
    layers, query_heads, kv_heads, channels, value_channels, tokens = 3, 4, 2, 32, 24, 200

    def save(self, mode=REGRESSED, budget=ADAPTIVE, key_kept=16, value_kept=0, key_format=16, value_format=16, later=70, flags=KEEP_SCORES, kept_layers=0, out="s.safetensors"):
        numbers = (self.layers, self.query_heads, self.kv_heads, self.channels, self.value_channels, self.tokens)
        numbers += (mode, budget, key_kept, value_kept, key_format, value_format, later, flags, kept_layers)
        return json.loads(subprocess.run([WRITER, self.path(out)] + [str(n) for n in numbers], check=True, stdout=subprocess.PIPE).stdout)

    def inspect(self, *more, code=0, name="s.safetensors"):
        return self.run_json("inspect", self.path(name), *more, code=code)


class Sequences(SequenceCase):
    def check(self, held, key_kept, value_kept, key_format, value_format):
        report, file = self.inspect(), arrays.Tensors(self.path("s.safetensors"))
        self.assertEqual(report["kind"], "sequence")
        self.assertEqual((report["layers"], report["kv_heads"], report["tokens"]), (self.layers, self.kv_heads, held["tokens"]))
        self.assertEqual((report["key_format"], report["value_format"]), (key_format, value_format))
        self.assertEqual(report["tokens_compact"], held["compact"])
        self.assertEqual(report["sinks"] + report["recent"] + report["tokens_compact"], report["tokens"])
        # In memory: what the cache said that wrote the file.
        self.assertEqual(report["bytes_in_memory"], {name: held[name] for name in ("pages", "basis", "scores")})
        self.assertEqual(report["bytes_held"], held["pages"] + held["basis"])
        self.assertEqual(report["bytes_dense"], held["dense_bytes"])
        self.assertEqual(report["bytes_saved"], report["bytes_dense"] - report["bytes_held"])
        # In the file: every byte once, by the names of the tensors.
        by_kind = dict.fromkeys(("key_rows", "value_rows", "basis", "dense_rows", "scores"), 0)
        for name, entry in file.header.items():
            parts = name.split(".")
            if len(parts) < 4:
                continue
            begin, end = entry["data_offsets"]
            runs = {"key": "key_rows", "value": "value_rows"}.get(parts[-1], "basis")
            by_kind[{"dense": "dense_rows", "scores": "scores", "runs": runs}[parts[2]]] += end - begin
        in_file = dict(report["bytes_in_file"])
        size = os.path.getsize(self.path("s.safetensors"))
        self.assertEqual((in_file.pop("all"), in_file.pop("header")), (size, size - sum(by_kind.values())))
        self.assertEqual(in_file, by_kind)
        # Widths per head, of every layer.
        self.assertEqual(len(report["runs"]), held["runs"])
        for side, channels, kept in (("key", self.channels, key_kept), ("value", self.value_channels, value_kept)):
            for run in report["runs"]:
                self.assertEqual(run[side]["basis"], kept < channels)
                self.assertEqual(len(run[side]["kept"]), self.layers)
                for layer, widths in enumerate(run[side]["kept"]):
                    self.assertEqual(sum(widths), kept * self.kv_heads)
                    if kept < channels:
                        self.assertEqual(widths, file.numbers("layers.%d.runs.0.%s.kept" % (layer, side)))
        return report

    def test_keys_regressed_and_folded(self):
        report = self.check(self.save(), 16, self.value_channels, "f16", "f16")
        self.assertEqual((report["mode"], report["budget"], report["sinks"]), ("regressed", "adaptive", 4))
        self.assertTrue(report["runs"][0]["key"]["predicted"])
        self.assertEqual(report["runs"][0]["tokens_folded"], 64)
        self.assertGreater(report["bytes_in_file"]["scores"], 0)
        text, _ = self.run_program("inspect", self.path("s.safetensors"))
        for part in ("saved by think_cache_save()", "are predicted", "keys f16, values f16", "all 24 channels", "layer   keys kept per head", "times smaller"):
            self.assertIn(part, text)

    def test_both_sides_quantized(self):
        report = self.check(self.save(key_kept=16, value_kept=16, key_format=4, value_format=8), 16, 16, "u4", "u8")
        self.assertLess(report["bytes_held"], 0.55 * report["bytes_dense"])

    def test_quantized_without_a_basis(self):
        report = self.check(self.save(key_kept=-1, key_format=8, value_format=4), 32, 24, "u8", "u4")
        self.assertEqual((report["bytes_in_memory"]["basis"], report["runs"][0]["key"]["predicted"]), (0, False))

    def test_two_bits_and_fp8(self):
        for key, value, names in ((2, 2, ("u2", "u2")), ("f8", "f8", ("f8_e4m3", "f8_e4m3"))):
            with self.subTest(format=names):
                self.check(self.save(value_kept=16, key_format=key, value_format=value), 16, 16, *names)

    def test_layers_of_other_formats(self):
        report = self.check(self.save(key_format=4, value_format=4, kept_layers=1), 16, 24, "f16", "f16")
        self.assertEqual(report["formats"], [{"key": "f16", "value": "f16"}] + 2 * [{"key": "u4", "value": "u4"}])
        self.assertIn("(2 layers have others)", self.run_program("inspect", self.path("s.safetensors"))[0])

    def test_the_papers_mode(self):
        report = self.check(self.save(mode=CHANNELS, budget=UNIFORM, key_kept=13), 13, 24, "f16", "f16")
        self.assertFalse(report["runs"][0]["key"]["predicted"])
        self.assertIn("count as zero", self.run_program("inspect", self.path("s.safetensors"))[0])

    def test_nothing_pruned_and_no_scores(self):
        report = self.check(self.save(flags=NO_SCORES), 32, 24, "f16", "f16")
        self.assertEqual((report["runs"], report["scores"], report["tokens_compact"]), ([], False, 0))

    def test_picture(self):
        self.save(value_kept=16)
        report = self.inspect("--svg", self.path("s.svg"))
        root = xml.etree.ElementTree.parse(self.path("s.svg")).getroot()
        titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
        for side in ("key", "value"):
            channels = self.channels if side == "key" else self.value_channels
            expected = [
                "layer %d, head %d: %d of %d %s channels kept" % (layer, head, width, channels, side)
                for layer, widths in enumerate(report["runs"][0][side]["kept"])
                for head, width in enumerate(widths)
            ]
            self.assertEqual([title.split(", the others")[0] for title in titles if " %s channels" % side in title], expected)
        # One strip per head, drawn where channels are kept: six points for each.
        strips = [element.get("d") for element in root.iter("{http://www.w3.org/2000/svg}path") if element.get("stroke-width")]
        widths = [width for side in ("key", "value") for layer in report["runs"][0][side]["kept"] for width in layer]
        self.assertEqual([sum(float(part) for part in re.findall(r"h([\d.]+)", strip)) for strip in strips], [6 * width for width in widths])

    def test_picture_without_runs_and_of_many_heads(self):
        self.save(flags=NO_SCORES)
        self.inspect("--svg", self.path("s.svg"))
        self.assertIn("nothing has been pruned", self.read("s.svg").decode())
        self.layers, self.query_heads, self.kv_heads, self.tokens, self.channels, self.value_channels = 33, 128, 128, 4, 8, 8
        self.save(key_kept=-1, flags=NO_SCORES, later=0)
        self.inspect("--svg", self.path("s.svg"))
        self.assertIn("the first 32 of 33 layers", self.read("s.svg").decode())


class Hostile(SequenceCase):
    def setUp(self):
        super().setUp()
        self.save(value_kept=16)
        self.file = self.read("s.safetensors")

    def refused(self, data, *words):
        self.write("bad.safetensors", data)
        message = self.inspect("--svg", self.path("bad.svg"), code=2, name="bad.safetensors")["error"]["message"]
        for word in ("bad.safetensors",) + words:
            self.assertIn(word, message)
        self.assertFalse(os.path.exists(self.path("bad.svg")))
        return message

    def described(self, name, text):
        """Another value in the metadata, with the digest that belongs to the file then."""
        length = struct.unpack("<Q", self.file[:8])[0]
        header, data = self.file[8 : 8 + length], self.file[8 + length :]
        begin = header.index(b'"%s":"' % name.encode()) + len(name) + 4
        header = (header[:begin] + text.encode() + header[header.index(b'"', begin) :]).rstrip(b" ")
        header += b" " * (-(8 + len(header)) % 64)
        whole = struct.pack("<Q", len(header)) + header + data[:-8]
        return whole + digest(whole)

    def changed(self, name, index, number):
        tensors = arrays.Tensors(self.path("s.safetensors"))
        tensors.put(name, index, number)
        whole = self.file[: -len(tensors.data)] + bytes(tensors.data[:-8])
        return whole + digest(whole)

    def test_the_digest_here_is_the_librarys(self):
        self.assertEqual(digest(self.file[:-8]), self.file[-8:])
        self.refused(self.file[:-1] + bytes([self.file[-1] ^ 1]), "digest")

    def test_metadata(self):
        for name, text in (
            ("version", "2"),
            ("layers", "0"),
            ("layers", "2"),
            ("layers", "4"),
            ("layers", "2000000000"),
            ("layers", "99999999999999999999"),
            ("query_heads", "3"),
            ("kv_heads", "0"),
            ("kv_heads", "4"),
            ("kv_heads", "65537"),
            ("key_channels", "12"),
            ("key_channels", "512"),
            ("value_channels", "32"),
            ("window", "0"),
            ("window", "65536"),
            ("query_dtype", "f64"),
            ("cache_dtype", "u4"),
            ("key_dtype", "unknown"),
            ("key_dtype", "u4"),
            ("value_layout", "piles"),
            ("mode", "magic"),
            ("mode", "\\u001b[2J"),
            ("budget", "none"),
            ("key_kept", "33"),
            ("key_kept", "8"),
            ("value_kept", "-1"),
            ("sinks", "2147483648"),
            ("sinks", "200"),
            ("dense_rows", "1"),
            ("dense_rows", "2147483647"),
            ("scores", "2"),
            ("scores", "0"),
            ("runs", "4"),
            ("runs", "0"),
            ("runs.0.kind", "1"),
            ("runs.0.rows", "31"),
            ("runs.0.rows", "2147483616"),
            ("runs.0.folds", "1000"),
            ("layers", "3 "),
            ("layers", ""),
        ):
            with self.subTest(name, text=text):
                self.assertNotIn("\x1b", self.refused(self.described(name, text)))

    def test_numbers_that_become_addresses(self):
        for name, index, number in (
            ("layers.1.runs.0.key.kept", 0, 0),
            ("layers.1.runs.0.key.kept", 0, 33),
            ("layers.1.runs.0.key.kept", 0, -(2**31)),
            ("layers.0.runs.0.value.kept", 1, 12),
            ("layers.2.runs.0.key.index", 3, 32),
            ("layers.2.runs.0.key.index", 3, -1),
            ("layers.2.runs.0.value.index", 1, 0),
            ("layers.0.runs.0.key.fitted", 0, 2),
            ("layers.0.scores.tokens", 0, -1),
        ):
            with self.subTest(name, number=number):
                self.refused(self.changed(name, index, number))

    def test_cut_and_longer(self):
        for size in list(range(0, len(self.file), 2999)) + [len(self.file) - 1]:
            self.refused(self.file[:size])
        self.refused(self.file + bytes(8))
        self.refused(self.file + self.file)

    def test_written_again_by_another_program(self):
        """Valid safetensors with the same tensors, but not byte for byte what the library writes: it would not load that either."""
        self.refused(arrays.Tensors(self.path("s.safetensors")).bytes())

    def test_neither_layer_nor_sequence(self):
        text = json.dumps({"__metadata__": {"format": "libthink sequence"}})
        self.refused(struct.pack("<Q", len(text)) + text.encode(), "version")
        self.run_json("attend", "--layer", self.path("s.safetensors"), "--query", self.path("s.safetensors"), "--out", self.path("o.npy"), code=2)


if __name__ == "__main__":
    unittest.main()
