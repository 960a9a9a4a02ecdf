"""What the test cases share: the program under test, a folder per test, and the promises that hold for every run."""

import json
import os
import subprocess
import tempfile
import unittest

import arrays

PROGRAM = os.environ["THINK_PROGRAM"]


class ProgramCase(unittest.TestCase):
    # The shape of the arrays that make_inputs() writes.
    query_heads, kv_heads, tokens, channels, value_channels = 4, 2, 200, 32, 24

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data)
        return self.path(name)

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def make_inputs(self, descr="<f4", batch=False, seed=1):
        """q.npy, k.npy, v.npy; the numbers are kept in self.query, self.key, self.value."""
        random = arrays.generator(seed)
        sizes = {"q": (self.query_heads, self.channels), "k": (self.kv_heads, self.channels), "v": (self.kv_heads, self.value_channels)}
        self.numbers = {}
        for name, (heads, channels) in sizes.items():
            numbers = arrays.correlated_rows(random, heads, self.tokens, channels)
            shape = ([1] if batch else []) + [heads, self.tokens, channels]
            self.numbers[name] = numbers
            self.write(name + ".npy", arrays.npy_bytes(shape, numbers, descr))

    def run_program(self, *arguments, code=0, environment=None):
        """Runs the program, checks the exit code and that nothing unfinished is left behind; returns (stdout, stderr)."""
        done = subprocess.run(
            [PROGRAM] + [str(a) for a in arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=300,
            env=dict(os.environ, **(environment or {})),
        )
        output, errors = done.stdout.decode(), done.stderr.decode()
        self.assertEqual(done.returncode, code, "%s\nstdout: %s\nstderr: %s" % (arguments, output, errors))
        if code != 0 and "--json" not in arguments:
            self.assertNotEqual(errors.strip(), "", "an error must say something: %s" % (arguments,))
            self.assertEqual(output, "", "errors belong to stderr")
        leftover = [name for name in os.listdir(self.folder) if name.startswith(".")]
        self.assertEqual(leftover, [], "temporary files left behind by %s" % (arguments,))
        return output, errors

    def run_json(self, *arguments, code=0):
        """The same with --json: standard output must be exactly one JSON object, also when the program fails."""
        output, errors = self.run_program(*arguments, "--json", code=code)
        self.assertEqual(errors, "")
        report = json.loads(output)
        self.assertIsInstance(report, dict)
        self.assertEqual("error" in report, code != 0)
        if code != 0:
            self.assertEqual(report["error"]["code"], code)
            self.assertNotEqual(report["error"]["message"], "")
        return report

    def prune(self, *more, code=0, out="layer.safetensors", key="k.npy", query="q.npy", value="v.npy"):
        return self.run_json(
            "prune",
            "--query",
            self.path(query),
            "--key",
            self.path(key),
            "--value",
            self.path(value),
            "--out",
            self.path(out),
            *more,
            code=code
        )

    def assert_close(self, a, b, tolerance):
        self.assertEqual(len(a), len(b))
        size = max(abs(x) for x in b)
        worst = max(abs(x - y) for x, y in zip(a, b))
        self.assertLessEqual(worst, tolerance * size)
