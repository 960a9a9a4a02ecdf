"""examples/memory in small: the saving that it measures by allocation is the one that the formats' layouts give (think/segment.h), computed here anew."""

import os
import re
import subprocess
import unittest

PROGRAM = os.environ["THINK_MEMORY"]
HEADS, CHANNELS = 3, 64  # KV heads and channels of SmolLM2-135M


def run(*arguments):
    return subprocess.run([PROGRAM] + [str(a) for a in arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=600)


def padded(size, unit):
    return -(-size // unit) * unit


def page(kept, bits):
    """Bytes of a page of 32 tokens: keys in tiles with a scale and a zero per channel, values with a scale and a zero per token and 32 channels."""
    if bits == 16:
        return padded(HEADS * 32 * kept * 2, 64) + padded(HEADS * 32 * CHANNELS * 2, 64)
    key = padded(kept * 32 * bits // 8, 16) + 4 * kept
    value = 32 * CHANNELS * bits // 8 + 4 * 32 * (CHANNELS // 32)
    return padded(HEADS * padded(key, 16), 64) + padded(HEADS * padded(value, 16), 64)


def basis():
    """Of the paper's mode: where weights would be, indices, widths; and where a head begins in a page."""
    return padded(HEADS * (8 + 4 * CHANNELS + 4), 64) + 8 * HEADS


class Memory(unittest.TestCase):
    def table(self, tokens, bits):
        done = run("--model", "SmolLM2-135M", "--bits", bits, "--tokens", tokens, "--layers", 1, "--sequences", 2, "--generated", 70)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        rows = {}
        for line in done.stdout.decode().splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if line.startswith("| ") and len(cells) == 6:
                rows[cells[0]] = cells[2:]
        return rows

    def test_savings_are_those_of_the_layouts(self):
        tiles = 32
        for bits in (8, 4):
            rows = self.table(32 * tiles, bits)
            for column, kept in ((0, 39), (1, 32)):
                with self.subTest(bits=bits, kept=kept):
                    expected = 100 * (1 - (tiles * page(kept, bits) + basis()) / (tiles * page(CHANNELS, bits)))
                    self.assertEqual(rows["less KV on top of int%d of 1024 tokens" % bits][column], "%.1f %%" % expected)
                    # After eviction to half of the tokens the last 32 stay dense.
                    held = (tiles // 2 - 1) * page(kept, 16) + page(CHANNELS, 16) + basis()
                    expected = 100 * (1 - held / (tiles // 2 * page(CHANNELS, 16)))
                    self.assertEqual(rows["less KV on top of SnapKV, 512 of 1024 tokens"][column], "%.1f %%" % expected)
        ratios = [float(cell.split("x")[0]) for name, cells in rows.items() if name.startswith(("peak memory", "batch")) for cell in cells]
        self.assertEqual(len(ratios), 8)
        self.assertTrue(all(1 < ratio < 16 for ratio in ratios), ratios)

    def test_wrong_arguments(self):
        for arguments in (("--bits", 3), ("--bits", "x"), ("--model", "none"), ("--tokens",), ("--nonsense", 1), ("--batch", 0)):
            with self.subTest(arguments):
                done = run(*arguments)
                self.assertEqual(done.returncode, 1)
                self.assertTrue(re.match(rb"memory: .+\n$", done.stderr), done.stderr)


if __name__ == "__main__":
    unittest.main()
