"""think frontier: errors against attention in Python, bytes against the widths, the figures of an engine, and input that must be refused."""

import json
import math
import os
import subprocess
import sys
import unittest
import xml.etree.ElementTree

import arrays
from program_case import ProgramCase

SCORED, WINDOW = 8, 32


class Layers(ProgramCase):
    tokens = 200

    def setUp(self):
        super().setUp()
        self.make_inputs()

    def frontier(self, *more, code=0, names=("q", "k", "v"), scored=SCORED):
        options = []
        for option, name in zip(("--query", "--key", "--value"), names):
            options += [option] + [self.path(part + ".npy") for part in name.split()]
        return self.run_json("frontier", *options, "--scored", scored, *more, code=code)

    def points(self, *stacks, **more):
        report = self.frontier("--stacks", ",".join(stacks), **more)
        return {point["stack"]: point for point in report["points"]}

    def expected_error(self, change):
        """change(head, rows, side) gives the rows that a head attends to, before the scored ones."""
        prompt, group = self.tokens - SCORED, self.query_heads // self.kv_heads
        rows = {name: arrays.split_rows(self.numbers[name], self.kv_heads, self.tokens, self.channels if name == "k" else self.value_channels) for name in "kv"}
        queries = arrays.split_rows(self.numbers["q"], self.query_heads, self.tokens, self.channels)
        flat = [x for head in queries for row in head[-SCORED:] for x in row]
        results = []
        for changed in (False, True):
            sides = []
            for name in "kv":
                sides.append([(change(h, rows[name][h][:prompt], name) if changed else rows[name][h][:prompt]) + rows[name][h][prompt:] for h in range(self.kv_heads)])
            results.append(arrays.attention(flat, sides[0], sides[1], self.query_heads, self.kv_heads, SCORED, self.channels, self.value_channels, causal=True)[0])
        self.assertEqual(group * self.kv_heads, self.query_heads)
        dense, other = results
        return math.sqrt(sum((a - b) ** 2 for a, b in zip(dense, other)) / sum(a * a for a in dense))

    def papers_mask(self, head, kept):
        prompt, group = self.tokens - SCORED, self.query_heads // self.kv_heads
        queries = arrays.split_rows(self.numbers["q"], self.query_heads, self.tokens, self.channels)
        keys = arrays.split_rows(self.numbers["k"], self.kv_heads, self.tokens, self.channels)[head][:prompt]
        score = []
        for c in range(self.channels):
            look = sum(row[c] ** 2 for q in range(head * group, (head + 1) * group) for row in queries[q][prompt - WINDOW : prompt])
            score.append(look * sum(row[c] ** 2 for row in keys))
        return set(sorted(range(self.channels), key=lambda c: -score[c])[:kept])

    def test_the_paper(self):
        moved = (self.tokens - SCORED - 32) // 32 * 32

        def drop(head, rows, side):
            if side == "v":
                return rows
            mask = self.papers_mask(head, 12)
            return [[x if c in mask else 0.0 for c, x in enumerate(row)] if t < moved else row for t, row in enumerate(rows)]

        point = self.points("keys:think:12")["keys:think:12"]
        self.assertAlmostEqual(point["error"] / self.expected_error(drop), 1, delta=0.02)
        self.assertEqual(point["family"], "ThinK")
        compact, dense = moved * (12 + self.value_channels) * 2, 32 * (self.channels + self.value_channels) * 2
        self.assertGreater(point["bytes"], self.kv_heads * (compact + dense))

    def test_eviction(self):
        budget, sinks = 96, 4

        def evict(head, rows, side):
            return rows[:sinks] + rows[-(budget - sinks) :]

        points = self.points("evict:recent:50%", "evict:recent:96", "evict:snapkv:96+keys:adaptive:16:int4")
        for name in ("evict:recent:50%", "evict:recent:96"):
            self.assertAlmostEqual(points[name]["error"] / self.expected_error(evict), 1, delta=0.02)
            self.assertEqual((points[name]["family"], points[name]["times_smaller"]), ("evicted", 2))
        self.assertGreater(points["evict:snapkv:96+keys:adaptive:16:int4"]["times_smaller"], 2)

    def test_dense_and_quantized(self):
        int8 = "keys:adaptive:%d:int8+values:adaptive:%d:int8" % (self.channels, self.value_channels)
        points = self.points(int8, int8.replace("int8", "int4"))
        self.assertLess(points["dense"]["error"], 1e-3)
        self.assertEqual(points["dense"]["family"], "dense")
        self.assertLess(points[int8]["error"], points[int8.replace("int8", "int4")]["error"])
        self.assertGreater(points[int8.replace("int8", "int4")]["times_smaller"], points[int8]["times_smaller"])
        self.assertLess(points[int8]["error"], 0.02)

    def test_prediction_is_closer_than_zeros(self):
        points = self.points("keys:think:16", "keys:regressed:16", "keys:adaptive:16+values:adaptive:16")
        self.assertLess(points["keys:regressed:16"]["error"], points["keys:think:16"]["error"])
        self.assertEqual(points["keys:adaptive:16+values:adaptive:16"]["family"], "values too")

    def test_layers_are_put_together_and_last_queries_suffice(self):
        stack = "keys:think:12"
        first = self.points(stack)[stack]
        for name in "qkv":
            os.rename(self.path(name + ".npy"), self.path(name + "0.npy"))
        self.make_inputs(seed=7)
        second = self.points(stack)[stack]
        both = self.points(stack, names=("q0 q", "k0 k", "v0 v"))[stack]
        self.assertAlmostEqual(both["error"], (first["error"] + second["error"]) / 2, places=6)
        self.assertEqual(both["bytes"], first["bytes"] + second["bytes"])
        rows = arrays.split_rows(self.numbers["q"], self.query_heads, self.tokens, self.channels)
        last = [x for head in rows for row in head[-(SCORED + WINDOW) :] for x in row]
        self.write("few.npy", arrays.npy_bytes([self.query_heads, SCORED + WINDOW, self.channels], last))
        few = self.points(stack, "evict:snapkv:50%", names=("few", "k", "v"))
        self.assertAlmostEqual(few[stack]["error"], second["error"], places=6)
        self.assertEqual(few["evict:snapkv:50%"]["error"], self.points("evict:snapkv:50%")["evict:snapkv:50%"]["error"])

    def test_all_stacks_and_the_picture(self):
        report = self.frontier("--svg", self.path("f.svg"), "--title", "a<b")
        points = report["points"]
        self.assertEqual({point["family"] for point in points}, {"dense", "ThinK", "regressed", "regressed + adaptive", "values too", "quantized", "evicted"})
        self.assertEqual(sorted(points, key=lambda point: -point["times_smaller"]), points)
        for point in points:
            smaller = [other for other in points if other is not point and other["times_smaller"] >= point["times_smaller"]]
            if all(other["error"] > point["error"] for other in smaller):
                self.assertTrue(point["best"], point)
            if any(other["error"] < point["error"] for other in smaller):
                self.assertFalse(point["best"], point)
        root = xml.etree.ElementTree.parse(self.path("f.svg")).getroot()
        titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
        self.assertEqual(titles[0], "a<b")
        self.assertEqual(sorted(title.split(": ")[0] for title in titles[1:]), sorted(point["stack"] for point in points))
        self.assertNotIn("nan", self.read("f.svg").decode())
        text, _ = self.run_program("frontier", "--query", self.path("q.npy"), "--key", self.path("k.npy"), "--value", self.path("v.npy"), "--stacks", "keys:think:12")
        self.assertIn("no other stack is both smaller and closer", text)

    def test_wrong(self):
        for stack in ("keys:best:12", "keys:think", "keys:think:33", "keys:think:0", "values:think:12:int3", "keys:think:12+keys:think:8",
                      "keys:think:12+values:adaptive:8", "evict:snapkv", "evict:best:9", "evict:snapkv:0", "evict:snapkv:101%", "x" * 500):
            with self.subTest(stack):
                self.frontier("--stacks", stack, code=1)
        self.frontier(code=1, names=("q", "k k", "v"))
        self.run_json("frontier", code=1)
        self.run_json("frontier", "--query", self.path("q.npy"), "--results", self.path("q.npy"), code=1)
        self.frontier("--svg", self.path("k.npy"), code=1)
        self.frontier(code=2, scored=200)
        self.frontier(code=2, names=("k", "q", "v"))
        self.write("few.npy", arrays.npy_bytes([self.query_heads, 39, self.channels], [0.5] * (self.query_heads * 39 * self.channels)))
        self.frontier(code=2, names=("few", "k", "v"))
        big = list(self.numbers["k"])
        big[5] = 1e5
        self.write("big.npy", arrays.npy_bytes([self.kv_heads, self.tokens, self.channels], big))
        self.assertIn("f16", self.frontier(code=2, names=("q", "big", "v"))["error"]["message"])


def figures(kl, held, dense=1000):
    return {"kl": kl, "delta_nll": kl / 2, "top1": 0.9, "usage": {"kv_bytes_held": held, "kv_bytes_dense": dense}}


class Results(ProgramCase):
    ROWS = {"keys:think:32": (0.02, 750), "keys:adaptive:32": (0.004, 760), "keys:adaptive:64:int4+values:adaptive:64:int4": (0.001, 320), "evict:snapkv:50%": (0.05, 500)}

    def segment(self, factor=1.0, **more):
        return {"rows": {name: dict(figures(kl * factor, held), **more) for name, (kl, held) in self.ROWS.items()}}

    def put(self, name, value):
        return self.write(name, value if isinstance(value, bytes) else json.dumps(value).encode())

    def test_segments_and_files(self):
        self.put("a.json", {"prefill": 1536, "segments": [self.segment(1), self.segment(2)]})
        self.put("b.json", {"prefill": 1536, "segments": [self.segment(6)]})
        report = self.run_json("frontier", "--results", self.path("a.json"), self.path("b.json"), "--svg", self.path("f.svg"))
        points = {point["stack"]: point for point in report["points"]}
        self.assertEqual((report["segments"], report["tokens"], len(points)), (3, 1536, 4))
        for name, (kl, held) in self.ROWS.items():
            self.assertAlmostEqual(points[name]["error"], kl * 3)
            self.assertAlmostEqual(points[name]["times_smaller"], 1000 / held)
        self.assertEqual([point["stack"] for point in report["points"] if point["best"]], ["keys:adaptive:64:int4+values:adaptive:64:int4"])
        self.assertEqual({points[name]["family"] for name in points}, {"ThinK", "regressed + adaptive", "quantized", "evicted"})
        xml.etree.ElementTree.parse(self.path("f.svg"))
        report = self.run_json("frontier", "--results", self.path("a.json"), "--metric", "nll", "--stacks", "keys:think:32")
        self.assertAlmostEqual(report["points"][0]["error"], 0.02 * 1.5 / 2)

    def test_bytes_of_another_run(self):
        self.put("a.json", {"prefill": 1536, "segments": [self.segment()]})
        longer = self.segment()
        longer["rows"]["keys:think:32"]["usage"]["kv_bytes_held"] = 100
        self.put("long.json", {"prefill": 4096, "segments": [longer]})
        report = self.run_json("frontier", "--results", self.path("a.json"), "--usage", self.path("long.json"))
        self.assertEqual(report["tokens_of_bytes"], 4096)
        self.assertAlmostEqual([point for point in report["points"] if point["stack"] == "keys:think:32"][0]["times_smaller"], 10)
        del longer["rows"]["keys:think:32"]
        self.put("long.json", {"prefill": 4096, "segments": [longer]})
        self.run_json("frontier", "--results", self.path("a.json"), "--usage", self.path("long.json"), code=2)

    def test_a_conversation(self):
        rows = [dict(name=name, kl=kl, delta_nll=0, top1=1, kv_bytes_held=held, kv_bytes_dense=1000) for name, (kl, held) in self.ROWS.items()]
        rows.insert(0, dict(name="dense", kl=0, delta_nll=0, top1=1, kv_bytes_held=1010, kv_bytes_dense=1000))
        self.put("a.json", {"tokens_prefill": 700, "rows": rows})
        report = self.run_json("frontier", "--results", self.path("a.json"), "--svg", self.path("f.svg"))
        self.assertEqual([(point["stack"], point["best"]) for point in report["points"]][-1], ("dense", True))

    def test_the_committed_picture(self):
        """It is what the program draws of the committed figures."""
        examples = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "examples")
        done = subprocess.run([sys.executable, "-B", os.path.join(examples, "frontier.py")], check=True, stdout=subprocess.PIPE)
        self.write("figures.json", done.stdout)
        report = self.run_json("frontier", "--results", self.path("figures.json"), "--channels", 64, "--svg", self.path("f.svg"),
                               "--title", "SmolLM2-135M: what shrinking the cache costs")
        self.assertGreater(len(report["points"]), 30)
        self.assertEqual(len({point["family"] for point in report["points"]}), 6)
        with open(os.path.join(examples, "frontier.svg"), "rb") as file:
            self.assertEqual(file.read(), self.read("f.svg"), "examples/frontier.svg is to be drawn again: see README.md")

    def test_hostile(self):
        good = {"prefill": 1536, "segments": [self.segment()]}
        bad = {
            "empty": b"",
            "text": b"hello",
            "cut": json.dumps(good).encode()[:-20],
            "a list": [],
            "a number": b"1",
            "no rows": {"prefill": 1536, "segments": [{}]},
            "no segments": {"prefill": 1536, "segments": []},
            "segments are text": {"prefill": 1536, "segments": "x"},
            "no prefill": {"segments": good["segments"]},
            "prefill is text": {"prefill": "x", "segments": good["segments"]},
            "a row is a list": {"prefill": 1, "segments": [{"rows": {"keys:think:32": []}}]},
            "kl is text": {"prefill": 1, "segments": [self.segment(kl="0")]},
            "kl is null": {"prefill": 1, "segments": [self.segment(kl=None)]},
            "kl is huge": b'{"prefill": 1, "segments": [{"rows": {"keys:think:32": {"kl": 1e999, "delta_nll": 0, "top1": 0, "usage": {}}}}]}',
            "kl is negative": {"prefill": 1, "segments": [self.segment(kl=-1)]},
            "no bytes": {"prefill": 1, "segments": [self.segment(usage={"kv_bytes_held": 0, "kv_bytes_dense": 1})]},
            "other rows": {"prefill": 1, "segments": [self.segment(), {"rows": {"keys:think:32": figures(1, 1)}}]},
            "other names": {"prefill": 1, "segments": [{"rows": {"keys:think:32": figures(1, 1)}}, {"rows": {"keys:think:16": figures(1, 1)}}]},
            "an unknown row": {"prefill": 1, "segments": [{"rows": {"keys:think:\x1b[2J": figures(1, 1)}}]},
            "a long name": {"prefill": 1, "segments": [{"rows": {"k" * 10000: figures(1, 1)}}]},
            "deep lists": b"[" * 1000000,
            "deep objects": b'{"a":' * 200000,
            "brackets in text": json.dumps({"x": "[" * 100 + '\\"' + "[" * 100}).encode(),
            "not UTF-8": b'{"segments": "\xff"}',
            "rows of a conversation": {"tokens_prefill": 1, "rows": [1]},
            "a nameless row": {"tokens_prefill": 1, "rows": [figures(1, 1)]},
        }
        for title, value in bad.items():
            self.put("bad.json", value)
            with self.subTest(title):
                message = self.run_json("frontier", "--results", self.path("bad.json"), "--svg", self.path("x.svg"), code=2)["error"]["message"]
                self.assertIn("bad.json", message)
                self.assertNotIn("\x1b", message)
                self.assertFalse(os.path.exists(self.path("x.svg")))
        self.run_json("frontier", "--results", self.path("none.json"), code=4)
        self.put("a.json", good)
        self.put("b.json", {"prefill": 1, "segments": [{"rows": {"keys:think:32": figures(1, 1)}}]})
        self.run_json("frontier", "--results", self.path("a.json"), self.path("b.json"), code=2)
        self.run_json("frontier", "--results", self.path("a.json"), "--svg", self.path("a.json"), code=1)
        self.run_json("frontier", "--results", self.path("a.json"), "--stacks", "keys:think:31", code=1)


if __name__ == "__main__":
    unittest.main()
