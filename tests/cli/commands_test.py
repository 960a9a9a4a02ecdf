"""The subcommands of `think` on good input: results, reports, JSON, exit codes."""

import json
import math
import os
import shlex
import struct
import subprocess
import unittest
import xml.etree.ElementTree

import arrays
from program_case import PROGRAM, ProgramCase


class Info(ProgramCase):
    def test_text_and_json(self):
        text, _ = self.run_program("info")
        report = self.run_json("info")
        self.assertIn(report["version"], text)
        self.assertEqual(report["abi"], 1)
        self.assertIn(report["isa"], report["isa_available"])
        self.assertIn("portable", report["isa_available"])
        self.assertGreaterEqual(report["threads"], 1)
        devices = {backend["device"]: backend for backend in report["backends"]}
        self.assertTrue(devices["cpu"]["available"])
        # Absent backends must say why.
        self.assertTrue(devices["cuda"]["available"] or len(devices["cuda"]["reason"]) > 10)
        self.assertEqual(report["limits"]["channels"], 256)
        self.assertEqual(self.run_json("info", "--threads", "3")["threads"], 3)

    def test_forced_instruction_set(self):
        text, _ = self.run_program("info", environment={"THINK_CPU_ISA": "portable"})
        self.assertIn("portable in use", text)
        self.run_program("info", code=3, environment={"THINK_CPU_ISA": "no such thing"})

    def test_version_and_help(self):
        version, _ = self.run_program("--version")
        self.assertIn(self.run_json("info")["version"], version)
        text, _ = self.run_program("--help")
        for command in ("info", "prune", "attend", "inspect", "frontier", "selftest", "bench"):
            self.assertIn(command, text)
            help_text, _ = self.run_program(command, "--help")
            self.assertIn("Example", help_text)
            self.assertIn("think " + command, help_text)
        self.assertIn("Exit codes", text)


class Usage(ProgramCase):
    def test_wrong_usage_is_1(self):
        for arguments in (
            [],
            ["nonsense"],
            ["prune"],
            ["info", "--nonsense"],
            ["inspect"],
            ["info", "--threads", "0x"],
            ["info", "--threads", "-2"],
            ["prune", "--ratio", "1.5"],
            ["selftest", "--isa", "sse9"],
            ["selftest", "--device", "gpu"],
            ["info", "--device", "cuda:"],
            ["bench", "--device", "cuda:-1"],
            ["selftest", "--device", "cuda:0", "--isa", "portable"],
            ["info", "prune"],
        ):
            self.run_program(*arguments, code=1)
            self.run_json(*arguments, code=1)

    def test_options_of_prune(self):
        self.make_inputs()
        for wrong in (
            ["--ratio", "1"],
            ["--ratio", "-0.1"],
            ["--ratio", "nan"],
            ["--ratio", "0.4", "--kept", "8"],
            ["--kept", "0"],
            ["--mode", "magic"],
            ["--budget", "none"],
            ["--dtype", "f8"],
            ["--sinks", "-1"],
            ["--dense-limit", "0"],
            ["--dense-limit", "2"],
            ["--dense-limit", "nan"],
            ["--scale", "nan"],
            ["--softcap", "inf"],
        ):
            self.prune(*wrong, code=1)
            self.assertFalse(os.path.exists(self.path("layer.safetensors")), wrong)


class PruneAndAttend(ProgramCase):
    def read_layer(self):
        return arrays.Tensors(self.path("layer.safetensors"))

    def attend(self, *more, query="q.npy"):
        report = self.run_json(
            "attend",
            "--layer",
            self.path("layer.safetensors"),
            "--query",
            self.path(query),
            "--out",
            self.path("out.npy"),
            "--lse",
            self.path("lse.npy"),
            *more
        )
        return report, arrays.read_npy(self.path("out.npy")), arrays.read_npy(self.path("lse.npy"))

    def few_queries(self, count):
        """The last queries of q.npy in last.npy."""
        rows = arrays.split_rows(self.numbers["q"], self.query_heads, self.tokens, self.channels)
        flat = [x for head in rows for row in head[-count:] for x in row]
        self.write("last.npy", arrays.npy_bytes([self.query_heads, count, self.channels], flat))
        return list(struct.unpack("<%df" % len(flat), struct.pack("<%df" % len(flat), *flat)))

    def check_against_python(self, tolerance, causal=False, queries=3):
        """Attention of the program on the file == attention in Python on the rows that the file stands for."""
        layer, query = self.read_layer(), self.few_queries(queries)
        _, (shape, output), (lse_shape, lse) = self.attend(*(["--causal"] if causal else []), query="last.npy")
        self.assertEqual(shape, [self.query_heads, queries, self.value_channels])
        self.assertEqual(lse_shape, [self.query_heads, queries])
        expected, expected_lse = arrays.attention(
            query,
            arrays.stored_rows(layer, "key"),
            arrays.stored_rows(layer, "value"),
            self.query_heads,
            self.kv_heads,
            queries,
            self.channels,
            self.value_channels,
            causal,
        )
        self.assert_close(output, expected, tolerance)
        self.assert_close(lse, expected_lse, tolerance)
        return layer

    def test_paper_mode_equals_zeroed_channels(self):
        self.make_inputs()
        report = self.prune("--kept", "13", "--mode", "channels", "--dtype", "f32", "--dense-limit", "-1")
        self.assertEqual(report["key"]["kept"], [13] * self.kv_heads)
        layer = self.check_against_python(1e-5)
        self.assertEqual(set(layer.numbers("key.weight_offset")), {-1})
        self.assertEqual(layer.numbers("key.weight"), [])
        # What the file stands for is the input with the dropped channels at zero.
        dense = arrays.split_rows(self.numbers["k"], self.kv_heads, self.tokens, self.channels)
        mask = layer.numbers("mask")
        self.assertEqual(sum(mask), 13 * self.kv_heads)
        first, rows = int(layer.metadata["first"]), int(layer.metadata["rows"])
        for head, stored in enumerate(arrays.stored_rows(layer, "key")):
            for token in (0, first, first + rows - 1, first + rows, self.tokens - 1):
                keep = [1] * self.channels if not first <= token < first + rows else mask[head * self.channels : (head + 1) * self.channels]
                for x, y, m in zip(stored[token], dense[head][token], keep):
                    self.assertAlmostEqual(x, y * m, places=5)

    def test_paper_mask_is_that_of_the_paper(self):
        self.make_inputs()
        self.prune("--ratio", "0.4", "--mode", "channels", "--dense-limit", "-1")
        layer = self.read_layer()
        kept = self.channels - int(self.channels * 0.4)
        group = self.query_heads // self.kv_heads
        queries = arrays.split_rows(self.numbers["q"], self.query_heads, self.tokens, self.channels)
        keys = arrays.split_rows(self.numbers["k"], self.kv_heads, self.tokens, self.channels)
        for head in range(self.kv_heads):
            score = []
            for c in range(self.channels):
                query_sum = sum(row[c] ** 2 for q in range(head * group, (head + 1) * group) for row in queries[q][-32:])
                score.append(query_sum * sum(row[c] ** 2 for row in keys[head]))
            best = sorted(sorted(range(self.channels), key=lambda c: -score[c])[:kept])
            self.assertEqual(layer.numbers("key.index")[head * self.channels : head * self.channels + kept], best)
            stored = layer.numbers("score")[head * self.channels : (head + 1) * self.channels]
            for a, b in zip(stored, score):
                self.assertAlmostEqual(a / b, 1, places=4)
            energy = layer.numbers("key.energy")[head * self.channels : (head + 1) * self.channels]
            for c in range(self.channels):
                self.assertAlmostEqual(energy[c] / (sum(row[c] ** 2 for row in keys[head]) / self.tokens), 1, places=4)

    def test_regressed_keys_and_values(self):
        self.tokens = 700
        self.make_inputs()
        report = self.prune("--ratio", "0.5", "--value-ratio", "0.34", "--dtype", "f32", "--dense-limit", "-1")
        self.assertEqual(sum(report["key"]["kept"]), 16 * self.kv_heads)
        self.assertEqual(sum(report["value"]["kept"]), 16 * self.kv_heads)
        self.assertTrue(all(width % 8 == 0 for width in report["value"]["kept"]))
        layer = self.check_against_python(2e-4)
        self.assertIn(True, [offset >= 0 for offset in layer.numbers("key.weight_offset")])

    def test_causal(self):
        self.make_inputs()
        self.prune("--ratio", "0.5", "--dtype", "f32", "--dense-limit", "-1")
        self.check_against_python(2e-4, causal=True, queries=5)

    def test_nothing_dropped_equals_dense(self):
        self.make_inputs()
        report = self.prune("--ratio", "0", "--dtype", "f32")
        self.assertTrue(report["key"]["dense"])
        report, _, _ = self.attend("--compare", self.path("k.npy"), self.path("v.npy"))
        self.assertLess(report["compare"]["relative_error"], 1e-5)
        self.check_against_python(1e-5)

    def test_regression_is_closer_to_dense_than_dropping(self):
        self.tokens = 700
        self.make_inputs()
        errors = {}
        for mode in ("channels", "regressed"):
            self.prune("--ratio", "0.5", "--mode", mode, "--dense-limit", "-1", "--dtype", "f32")
            report, _, _ = self.attend("--compare", self.path("k.npy"), self.path("v.npy"))
            errors[mode] = report["compare"]["relative_error"]
            self.assertLessEqual(report["compare"]["min_cosine"], 1.000001)
        self.assertLess(errors["regressed"], errors["channels"])
        self.assertGreater(errors["regressed"], 0)

    def test_bytes_are_real(self):
        self.tokens = 1000
        self.make_inputs("<f2")
        report = self.prune("--ratio", "0.5", "--mode", "channels", "--budget", "uniform", "--dtype", "f16", "--dense-limit", "-1")
        layer = self.read_layer()
        rows = 32 * ((1000 - 4 - 32) // 32)
        self.assertEqual((report["rows_moved"], report["sinks"]), (rows, 4))
        self.assertEqual(report["bytes_before"], 1000 * self.kv_heads * (self.channels + self.value_channels) * 2)
        self.assertEqual(report["key"]["bytes_compact"], rows * 16 * self.kv_heads * 2)
        # What is reported as stored is what lies in the file, score, mask and energies (for people, not for attention) apart.
        tensors = {
            name: entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in layer.header.items() if name != "__metadata__"
        }
        ignored = {"score", "mask", "key.energy", "value.energy"} | {
            name for name in tensors if name.startswith("value.") and name not in ("value.dense",) and ".rows." not in name
        }
        self.assertEqual(report["bytes_after"], sum(size for name, size in tensors.items() if name not in ignored))
        self.assertEqual(report["bytes_saved"], report["bytes_before"] - report["bytes_after"])
        self.assertGreater(report["bytes_saved"], 0)
        inspected = self.run_json("inspect", self.path("layer.safetensors"))
        self.assertEqual(inspected["bytes_stored"], report["bytes_after"])
        self.assertEqual(inspected["bytes_dense"], report["bytes_before"])

    def test_file_is_plain_safetensors(self):
        self.make_inputs()
        self.prune("--dense-limit", "-1")
        layer = self.read_layer()
        end = 0
        for name, entry in sorted(
            (item for item in layer.header.items() if item[0] != "__metadata__"), key=lambda item: item[1]["data_offsets"]
        ):
            self.assertEqual(entry["data_offsets"][0], end, name)
            size = {"F16": 2, "BF16": 2, "F32": 4, "I32": 4, "I64": 8, "U8": 1}[entry["dtype"]]
            self.assertEqual(entry["data_offsets"][0] % size, 0)
            end = entry["data_offsets"][1]
            self.assertEqual(end - entry["data_offsets"][0], size * math.prod(entry["shape"]))
        self.assertEqual(end, len(layer.data))
        self.assertTrue(all(isinstance(value, str) for value in layer.metadata.values()))
        self.assertEqual((layer.metadata["format"], layer.metadata["format_version"]), ("libthink-layer", "1"))
        for key in (
            "tokens",
            "rows",
            "mode",
            "budget",
            "key_ratio",
            "value_ratio",
            "query_heads",
            "kv_heads",
            "key_channels",
            "value_channels",
        ):
            self.assertIn(key, layer.metadata)

    def test_dtypes_and_batch_axis(self):
        self.make_inputs("<f2", batch=True)
        report = self.prune("--dense-limit", "-1")
        self.assertEqual(report["dtype"], "f16")
        _, (shape, output), (lse_shape, _) = self.attend()
        self.assertEqual(shape, [1, self.query_heads, self.tokens, self.value_channels])
        self.assertEqual(lse_shape, [1, self.query_heads, self.tokens])
        self.assertTrue(all(math.isfinite(x) for x in output))
        # f32 bits cut to 16 are bf16.
        for name, heads, channels in (
            ("q", self.query_heads, self.channels),
            ("k", self.kv_heads, self.channels),
            ("v", self.kv_heads, self.value_channels),
        ):
            bits = [struct.unpack("<I", struct.pack("<f", x))[0] >> 16 for x in self.numbers[name]]
            self.write(name + "b.npy", arrays.npy_bytes([heads, self.tokens, channels], bits, "<u2"))
        files = dict(query="qb.npy", key="kb.npy", value="vb.npy")
        message = self.prune(code=2, **files)["error"]["message"]
        self.assertIn("--bf16", message)
        self.assertEqual(self.prune("--bf16", "--dense-limit", "-1", **files)["dtype"], "bf16")
        report, _, _ = self.attend("--bf16", "--compare", self.path("kb.npy"), self.path("vb.npy"), query="qb.npy")
        self.assertLess(report["compare"]["relative_error"], 1)

    def test_short_sequence_stays_dense(self):
        self.tokens = 40
        self.make_inputs()
        report = self.prune("--dtype", "f32")
        self.assertEqual((report["rows_moved"], report["rows_dense"]), (0, 40))
        self.check_against_python(1e-5)

    def test_dense_limit(self):
        self.make_inputs()
        limited = self.prune("--ratio", "0.1")
        self.assertTrue(limited["key"]["dense"], "a basis that costs more than it saves must not be used")
        self.assertFalse(self.prune("--ratio", "0.1", "--dense-limit", "-1")["key"]["dense"])

    def test_no_sinks_no_recent(self):
        self.make_inputs()
        report = self.prune("--sinks", "0", "--recent", "0", "--dense-limit", "-1", "--dtype", "f32")
        self.assertEqual((report["sinks"], report["rows_moved"]), (0, self.tokens // 32 * 32))
        self.check_against_python(2e-4)

    def test_last_queries_suffice(self):
        self.make_inputs()
        self.prune("--dense-limit", "-1", "--dtype", "f32")
        whole = self.read_layer()
        self.few_queries(32)
        self.prune("--dense-limit", "-1", "--dtype", "f32", query="last.npy")
        part = self.read_layer()
        self.assertEqual(whole.numbers("key.index"), part.numbers("key.index"))
        self.few_queries(31)
        self.assertIn("at least", self.prune(query="last.npy", code=2)["error"]["message"])

    def test_same_bytes_every_time(self):
        self.make_inputs()
        files = []
        for threads in ("1", "1", "3"):
            self.prune("--dense-limit", "-1", "--threads", threads)
            with open(self.path("layer.safetensors"), "rb") as file:
                files.append(file.read())
        self.assertEqual(files[0], files[1])
        self.assertEqual(files[0], files[2])

    def test_text_report(self):
        self.make_inputs()
        text, errors = self.run_program(
            "prune",
            "--query",
            self.path("q.npy"),
            "--key",
            self.path("k.npy"),
            "--value",
            self.path("v.npy"),
            "--out",
            self.path("layer.safetensors"),
            "--dense-limit",
            "-1",
        )
        self.assertIn("before", text)
        self.assertIn("saved", text)
        self.assertEqual(errors, "", "no progress bar when stderr is not a terminal")


class Inspect(ProgramCase):
    def test_layer_and_picture(self):
        self.tokens = 400
        self.make_inputs()
        pruned = self.prune("--value-ratio", "0.34", "--dense-limit", "-1")
        report = self.run_json("inspect", self.path("layer.safetensors"), "--svg", self.path("layer.svg"))
        self.assertEqual(report["kind"], "layer")
        self.assertEqual(report["key"]["kept"], pruned["key"]["kept"])
        text, _ = self.run_program("inspect", self.path("layer.safetensors"))
        self.assertIn("saved", text)
        root = xml.etree.ElementTree.parse(self.path("layer.svg")).getroot()
        titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
        cells = [title for title in titles if title.startswith("head ")]
        self.assertEqual(len(cells), self.kv_heads * (self.channels + self.value_channels))
        kept = sum(", kept" in cell for cell in cells)
        self.assertEqual(kept, sum(report["key"]["kept"]) + sum(report["value"]["kept"]))
        self.assertEqual(len(cells) - kept, sum(", dropped" in cell for cell in cells))

    def test_name_of_the_file_is_escaped(self):
        self.make_inputs()
        self.prune("--dense-limit", "-1", out='a<b>&"c.safetensors')
        self.run_json("inspect", self.path('a<b>&"c.safetensors'), "--svg", self.path("layer.svg"))
        xml.etree.ElementTree.parse(self.path("layer.svg"))

    def test_other_files(self):
        self.make_inputs("<f2")
        report = self.run_json("inspect", self.path("k.npy"))
        self.assertEqual((report["kind"], report["shape"]), ("npy", [self.kv_heads, self.tokens, self.channels]))
        self.assertIn("not a libthink layer", self.run_program("inspect", self.path("k.npy"))[0])
        header = b'{"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"x\\u001b[2J": "y"}}'
        self.write("other.safetensors", struct.pack("<Q", len(header)) + header + bytes(24))
        report = self.run_json("inspect", self.path("other.safetensors"))
        self.assertEqual((report["kind"], report["tensors"][0]["shape"]), ("safetensors", [2, 3]))
        text, _ = self.run_program("inspect", self.path("other.safetensors"))
        self.assertIn("not a libthink layer", text)
        self.assertNotIn("\x1b", text, "control characters of a file must not reach the terminal")
        for name in ("k.npy", "other.safetensors"):
            self.run_json("inspect", self.path(name), "--svg", self.path("x.svg"), code=2)
            self.assertFalse(os.path.exists(self.path("x.svg")))
        self.run_json(
            "attend", "--layer", self.path("other.safetensors"), "--query", self.path("q.npy"), "--out", self.path("out.npy"), code=2
        )


class Outputs(ProgramCase):
    def test_output_is_an_input(self):
        self.make_inputs()
        before = self.read("k.npy")
        self.prune(out="k.npy", code=1)
        os.symlink(self.path("k.npy"), self.path("link.npy"))
        self.prune(out="link.npy", code=1)
        self.assertEqual(self.read("k.npy"), before)
        self.prune("--dense-limit", "-1")
        attend = ["attend", "--layer", self.path("layer.safetensors"), "--query", self.path("q.npy")]
        self.run_json(*attend, "--out", self.path("q.npy"), code=1)
        self.run_json(*attend, "--out", self.path("x.npy"), "--lse", self.path("x.npy"), code=1)
        self.run_json(*attend, "--out", self.path("x.npy"), "--lse", self.path("./x.npy"), code=1)
        os.symlink("x.npy", self.path("dangling"))
        self.run_json(*attend, "--out", self.path("x.npy"), "--lse", self.path("dangling"), code=1)
        self.run_json("inspect", self.path("layer.safetensors"), "--svg", self.path("layer.safetensors"), code=1)

    def test_output_cannot_be_written(self):
        self.make_inputs()
        os.mkdir(self.path("folder"))
        for out in ("folder", "missing/layer.safetensors"):
            self.prune(out=out, code=4)
        self.run_json(
            "prune", "--query", self.path("q.npy"), "--key", self.path("k.npy"), "--value", self.path("v.npy"), "--out", "/dev/null", code=4
        )
        self.assertEqual(os.listdir(self.path("folder")), [])
        if os.geteuid() != 0:
            os.chmod(self.path("folder"), 0o500)
            self.prune(out="folder/layer.safetensors", code=4)

    def test_links_and_long_names(self):
        self.make_inputs()
        os.mkdir(self.path("folder"))
        os.symlink("folder/target", self.path("dangling"))
        os.symlink("dangling", self.path("link"))
        self.prune(out="link")
        self.assertTrue(os.path.islink(self.path("link")) and os.path.islink(self.path("dangling")))
        self.assertTrue(os.path.isfile(self.path("folder/target")))
        os.symlink("circle", self.path("circle"))
        self.prune(out="circle", code=4)
        self.prune(out="n" * 250)

    def test_limits_and_ignored_signals(self):
        self.make_inputs()
        arrays_of = ["--query", self.path("q.npy"), "--key", self.path("k.npy"), "--value", self.path("v.npy"), "--out", self.path("layer.safetensors")]
        command = " ".join(shlex.quote(word) for word in [PROGRAM, "prune"] + arrays_of)
        done = subprocess.run(["bash", "-c", "ulimit -f 1; exec " + command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
        self.assertEqual(done.returncode, 4, done.stderr)
        self.assertIn(b"too large", done.stderr)
        self.assertEqual([name for name in os.listdir(self.folder) if "think" in name or "layer" in name], [])
        # Ignored signals stay ignored: the writing of a run under nohup goes on.
        script = "trap '' HUP TERM; " + command + " & child=$!; for i in $(seq 200); do kill -HUP $child; kill -TERM $child; done 2>/dev/null; wait $child"
        done = subprocess.run(["bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(os.path.isfile(self.path("layer.safetensors")))

    def test_old_output_survives_an_error(self):
        self.make_inputs()
        self.write("layer.safetensors", b"precious")
        self.write("k.npy", b"damaged")
        self.prune(code=2)
        self.assertEqual(self.read("layer.safetensors"), b"precious")

    def test_missing_input_is_4(self):
        self.make_inputs()
        self.prune(key="none.npy", code=4)
        self.run_json("inspect", self.path("none.npy"), code=4)

    @unittest.skipUnless(os.path.exists("/dev/full"), "needs /dev/full")
    def test_full_standard_output(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([PROGRAM, "info"], stdout=full, stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, 4)
        self.assertIn(b"cannot write", done.stderr)


class Selftest(ProgramCase):
    def test_a_device_that_is_not_there(self):
        if self.has_backend():
            self.skipTest("it is there")
        for command in ("info", "selftest", "bench"):
            error = self.run_json(command, "--device", "cuda:0", code=3)["error"]
            self.assertEqual(error["kind"], "library")
            self.assertRegex(error["message"], "cuda|CUDA")
        self.assertEqual(self.run_json("info", "--device", "cpu")["version"], self.run_json("info")["version"])

    def has_backend(self):
        return any(backend["device"] == "cuda" and backend["available"] for backend in self.run_json("info")["backends"])

    def test_passes_on_every_instruction_set(self):
        report = self.run_json("selftest")
        self.assertTrue(report["passed"])
        self.assertEqual(report["failed"], 0)
        self.assertEqual({row["isa"] for row in report["results"]}, set(self.run_json("info")["isa_available"]))
        self.assertLessEqual(
            {"score", "gains", "budgets", "select", "fit", "prune", "compact", "attend", "merge"},
            {row["stage"] for row in report["results"]},
        )
        text, _ = self.run_program("selftest", "--isa", "portable")
        self.assertIn("passed", text)

    @unittest.skipUnless(os.environ.get("THINK_WRONG_LIBRARY"), "a sanitizer does not let libraries be preloaded")
    def test_a_wrong_result_is_found(self):
        report = self.run_wrong("--json")
        self.assertFalse(report["passed"])
        self.assertEqual({row["stage"] for row in report["results"] if row["failed"]}, {"merge"})

    def run_wrong(self, *arguments):
        """With a think_merge() whose last number is off by a thousandth."""
        output, _ = self.run_program(
            "selftest", "--isa", "portable", *arguments, code=5, environment={"LD_PRELOAD": os.environ["THINK_WRONG_LIBRARY"]}
        )
        return json.loads(output)


class Bench(ProgramCase):
    @unittest.skipIf(os.environ.get("THINK_SANITIZED") == "1", "times under a sanitizer mean nothing")
    def test_quick(self):
        report = self.run_json("bench", "--quick", "--tokens", "1024")
        self.assertEqual(len(report["attend"]), 2)
        for shape in report["attend"]:
            self.assertEqual(shape["rows"][0]["speedup_over_dense"], 1.0)
            self.assertGreater(shape["probe_gigabytes_per_second"], 0)
            for row in shape["rows"][1:]:
                self.assertGreater(row["byte_ratio"], 1.1)


if __name__ == "__main__":
    unittest.main()
