#!/usr/bin/env python3
"""Compares the figures of `generate --evaluate --json` with the oracle's and with what is required; writes the table. Used by fidelity.sh.

Exit status 1 when a required figure is missed. Only the standard library is needed.
"""
import argparse
import json
import os
import sys

PROSE, PROGRAM = ("moby", "speech1862", "speech1961"), ("program",)
# What the library stores for a row: value widths without regression are rounded up to a multiple of 8, so its 44 is compared with the oracle's 48.
ORACLE_NAME = {"values:think:44": "values:think:48"}
# (what, row, relative to row or None, lowest, highest): mean KL over the segments of prose, f32 cache.
REQUIRED = (
    ("ThinK, half of the key channels", "keys:think:32", None, 0.018, 0.028),
    ("ThinK's mask regressed, against ThinK at 32", "keys:regressed:32", "keys:think:32", 0, 0.40),
    ("regressed + adaptive, against ThinK at 32", "keys:adaptive:32", "keys:think:32", 0, 0.25),
    ("regressed + adaptive at 16, against ThinK at 32", "keys:adaptive:16", "keys:think:32", 0, 1.05),
    ("values regressed + adaptive, against the paper's values at 44", "values:adaptive:44", "values:think:44", 0, 0.30),
)
INT4 = "keys:adaptive:64:int4+values:adaptive:64:int4"
SIX = "keys:adaptive:24:int4+values:adaptive:44:int4"
NAMES = {"moby": "Moby Dick", "speech1862": "a speech of 1862", "speech1961": "a speech of 1961"}
TITLES = {"think": "ThinK", "regressed": "ThinK's mask, regressed", "adaptive": "regressed + adaptive"}


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def stack_title(stack):
    """In words: a stack is parts joined by +, see examples/generate/stack.h."""
    rows, channels, method = [], [], ""
    for side, *fields in (part.split(":") for part in stack.split("+")):
        if side == "evict":
            rows.append(f"{'SnapKV' if fields[0] == 'snapkv' else fields[0]} {fields[1]}")
            continue
        if fields[1] != "64":
            method = TITLES[fields[0]] + ": "
        channels.append(f"{side} {fields[1]}, {fields[2] if len(fields) > 2 else '16 bits'}")
    return ", ".join(rows + ([method + "; ".join(channels)] if channels else []))


def stack_table(folder, long_folder, problems):
    """Figures of stacks, which the oracle does not have, and what is required of two of them."""
    def load(folder):
        names = sorted(name for name in os.listdir(folder) if name.endswith(".json"))
        return [s["rows"] for name in names for s in json.load(open(os.path.join(folder, name)))["segments"]]

    segments, longer = load(folder), load(long_folder)
    held = lambda rows, stack: mean(row[stack]["usage"]["kv_bytes_dense"] / row[stack]["usage"]["kv_bytes_held"] for row in rows)
    value = lambda stack, key: mean(row[stack][key] for row in segments)
    lines = ["| stack | KL | dNLL | top-1 | smaller than dense, 1,536 tokens | 4,096 tokens |", "|---|---|---|---|---|---|"]
    for stack in sorted(segments[0], key=lambda stack: held(longer, stack)):
        lines.append(f"| {stack_title(stack)} | {value(stack, 'kl'):.4f} | {value(stack, 'delta_nll'):+.4f} | {value(stack, 'top1'):.3f} | {held(segments, stack):.2f}x | {held(longer, stack):.2f}x |")
    lines += ["", "| required of stacks | found | required | met |", "|---|---|---|---|"]
    for what, found, lowest, highest in (
        ("int4 keys and values, KL", value(INT4, "kl"), 0, 0.004),
        ("24 int4 keys, 44 int4 values, KL", value(SIX, "kl"), 0, 0.022),
        ("the same, times smaller than dense at 4,096 tokens", held(longer, SIX), 5.2, 16),
    ):
        good = lowest <= found <= highest
        if not good:
            problems.append(f"{what}: {found:.4f}, required {lowest} .. {highest}")
        limit = f"at least {lowest}" if lowest > 0 else f"at most {highest}"
        lines.append(f"| {what} | {found:.4f} | {limit} | {'yes' if good else '**no**'} |")
    return [f"## Stacks on prose: mean over {len(segments)} segments, f16 cache", "", *lines]


class Figures:
    """Segments of both programs, checked to be the same tokens."""

    def __init__(self, folder, oracle):
        self.segments, self.oracle, self.problems = {}, {}, []
        for name in sorted(name for name in os.listdir(folder) if name.endswith(".json")):
            cache, text = name[: -len(".json")].split("-", 1)
            with open(os.path.join(folder, name)) as file:
                found = json.load(file)["segments"]
            expected = oracle["texts"][text]["segments"]
            if [s["digest"] for s in found] != [s["digest"] for s in expected]:
                self.problems.append(f"{text}: the segments are not those of the oracle")
                continue
            self.segments[cache, text], self.oracle[text] = found, expected

    def texts(self, cache, group):
        return [text for text in group if (cache, text) in self.segments]

    def count(self, cache, group):
        return sum(len(self.segments[cache, text]) for text in self.texts(cache, group))

    def value(self, cache, group, row, key):
        return mean(s["rows"][row][key] for text in self.texts(cache, group) for s in self.segments[cache, text])

    def expected(self, group, row, key):
        return mean(s["rows"][ORACLE_NAME.get(row, row)][key] for text in self.texts("f32", group) for s in self.oracle[text])

    def held(self, cache, group, row):
        usage = [s["rows"][row]["usage"] for text in self.texts(cache, group) for s in self.segments[cache, text]]
        return mean(u["kv_bytes_held"] / u["kv_bytes_dense"] for u in usage)

    def rows(self, cache, group):
        """In the order of the oracle's table."""
        text = self.texts(cache, group)[0]
        order = list(self.oracle[text][0]["rows"])
        return sorted(self.segments[cache, text][0]["rows"], key=lambda row: order.index(row))


def title(row):
    side, method, kept = row.split(":")
    return f"{'values: ' if side == 'values' else ''}{TITLES[method]} | {kept}{' (48)' if row in ORACLE_NAME else ''}"


def compare_with_oracle(figures, problems):
    for group in (PROSE, PROGRAM):
        if not figures.texts("f32", group):
            continue
        for row in figures.rows("f32", group):
            where = f"{row} on {group[0] if len(group) == 1 else 'prose'}"
            kl, expected = (f(*a) for f, a in ((figures.value, ("f32", group, row, "kl")), (figures.expected, (group, row, "kl"))))
            if not abs(kl - expected) <= 0.1 * expected:
                problems.append(f"{where}: KL {kl:.4f}, the oracle has {expected:.4f}")
            # These two are differences of large numbers: their noise is absolute.
            for key, slack in (("delta_nll", 0.003), ("top1", 0.01)):
                found, expected = figures.value("f32", group, row, key), figures.expected(group, row, key)
                if not abs(found - expected) <= max(slack, 0.1 * abs(expected) if key == "delta_nll" else 0):
                    problems.append(f"{where}: {key} {found:.4f}, the oracle has {expected:.4f}")
            if figures.texts("f16", group):
                half = figures.value("f16", group, row, "kl")
                if not abs(half - kl) <= 0.05 * kl:
                    problems.append(f"{where}: KL {half:.4f} with an f16 cache, {kl:.4f} with f32")


def requirements(figures, problems):
    lines = []
    for what, row, base, lowest, highest in REQUIRED:
        rows = figures.rows("f32", PROSE)
        if row not in rows or (base and base not in rows):
            continue
        value = figures.value("f32", PROSE, row, "kl") / (figures.value("f32", PROSE, base, "kl") if base else 1)
        # One absolute figure depends on the choice of segments; it is required of the full set only.
        if base is None and figures.count("f32", PROSE) < 6:
            continue
        good = lowest <= value <= highest
        if not good:
            problems.append(f"{what}: {value:.4f}, required {lowest} .. {highest}")
        limit = f"{lowest} to {highest}" if base is None else f"at most {highest:.2f}"
        lines.append(f"| {what} | {value:.4f} | {limit} | {'yes' if good else '**no**'} |")
    return lines


def table(figures, group):
    half = bool(figures.texts("f16", group))
    columns = ["keys or values", "kept of 64", "KL", "oracle", "dNLL", "top-1"] + (["KL, f16 cache", "cache held / dense, f16"] if half else [])
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in figures.rows("f32", group):
        value = lambda key: figures.value("f32", group, row, key)
        cells = [title(row), f"{value('kl'):.4f}", f"{figures.expected(group, row, 'kl'):.4f}", f"{value('delta_nll'):+.4f}", f"{value('top1'):.3f}"]
        if half:
            cells += [f"{figures.value('f16', group, row, 'kl'):.4f}", f"{figures.held('f16', group, row):.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracle", required=True)
    parser.add_argument("--results", required=True, help="folder of CACHE-TEXT.json")
    parser.add_argument("--stacks", help="the same for stacks, f16 only")
    parser.add_argument("--long", help="the same at a longer prompt, for their bytes")
    parser.add_argument("--table", help="write this file")
    options = parser.parse_args()
    with open(options.oracle) as file:
        figures = Figures(options.results, json.load(file))
    problems = list(figures.problems)
    if not problems:
        compare_with_oracle(figures, problems)
        required = requirements(figures, problems)
        text = [
            "# What pruning costs on a real model",
            "",
            "Written by `examples/fidelity.sh`. Model: SmolLM2-135M-Instruct (30 layers, 9 query and 3 KV heads, 64 channels), weights from the Q4_1 file, in f32.",
            "Prefill of 1,536 tokens through the library's attention, prune, then the next 512 tokens in one pass over the pruned cache. KL = mean",
            "KL(dense \\|\\| pruned) per token in nats; dNLL = mean change of the next token's negative log-likelihood; top-1 = same most likely token.",
            "f32 cache where nothing else is said. *Oracle*: the same on the same tokens in plain torch without libthink (`tests/engine/oracle.py`).",
            "",
            "ThinK: dropped channels count as zero, rows 0 to 1503 are moved (the paper keeps no sinks). Regressed: 4 sinks stay dense, rows 4 to 1475 are moved.",
            "Both programs move the same rows. Value widths are multiples of 8: ThinK's 44 is stored, and compared, as 48; adaptive 44 shares 128 of 132.",
            "Bytes are as held by the managed cache: whole pages of compact and of dense rows, and bases. At 1,536 tokens the bases weigh more than later.",
            "",
            f"## Prose: mean over {figures.count('f32', PROSE)} segments ({', '.join(NAMES[text] for text in figures.texts('f32', PROSE))})",
            "",
            *table(figures, PROSE),
            "",
            "| required of the mean KL on prose | found | required | met |",
            "|---|---|---|---|",
            *required,
        ]
        if figures.texts("f32", PROGRAM):
            text += ["", f"## Program text: mean over {figures.count('f32', PROGRAM)} segments (a JavaScript library)", "", *table(figures, PROGRAM)]
        if options.stacks:
            text += [
                "",
                *stack_table(options.stacks, options.long, problems),
                "",
                "Same prose, same protocol. int8 and int4 are asymmetric: keys per channel and 32 tokens, values per token and 32 channels, with f16 scales and zeros.",
                "Sinks, window and everything later stay in 16 bits. Bytes are as held by the managed cache: whole pages, bases, scales, sinks and window. The oracle has",
                "no such rows: these are the library's figures alone. SnapKV: half of the prompt's tokens for each KV head; the dense cache it is compared with has all.",
            ]
        print("\n".join(text[text.index("", 12) + 1 :]))
        if options.table:
            with open(options.table, "w") as out:
                out.write("\n".join(text) + "\n")
    for problem in problems:
        print("MISSED: " + problem, file=sys.stderr)
    print(f"{len(problems)} figures missed", file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
