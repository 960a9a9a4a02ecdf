#!/usr/bin/env python3
"""The figures of examples/FIDELITY.md, as measured on the real model by examples/fidelity.sh, in the form that `think frontier --results` reads.

    examples/frontier.py >figures.json && think frontier --results figures.json --channels 64 --svg examples/frontier.svg

All stacks on prose, f16 cache, bytes of 1,536 tokens. The table has means over its segments; here every segment gets the mean. Standard library only.
"""
import json
import os
import re
import sys

METHODS = {"ThinK": "think", "ThinK's mask, regressed": "regressed", "regressed + adaptive": "adaptive"}


def rows_of(text, heading):
    """(cells of the table's head, cells of its rows) of the section that begins so, and the number of its segments."""
    section = text[text.index("## " + heading) :].split("\n## ")[0]
    segments = int(re.search(r"mean over (\d+) segments", section).group(1))
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.split("\n\n")[1].splitlines() if line.startswith("|")]
    return lines[0], lines[2:], segments


def side_of(title):
    """ThinK -> keys:think; values: regressed + adaptive -> values:adaptive."""
    side, _, method = title.rpartition(": ")
    return f"{side or 'keys'}:{METHODS[method]}"


def stack_of(title):
    """SnapKV 50%, ThinK: keys 32, 16 bits; values 64, int4 -> evict:snapkv:50%+keys:think:32+values:think:64:int4. See fidelity.py."""
    parts = []
    evicted = re.match(r"SnapKV (\d+%)(, )?", title)
    if evicted:
        parts.append("evict:snapkv:" + evicted.group(1))
        title = title[evicted.end() :]
    method = "adaptive"
    for name in sorted(METHODS, key=len, reverse=True):
        if title.startswith(name + ": "):
            method, title = METHODS[name], title[len(name) + 2 :]
            break
    for part in title.split("; ") if title else []:
        side, kept, form = re.fullmatch(r"(keys|values) (\d+), (16 bits|\w+)", part).groups()
        parts.append(f"{side}:{method}:{kept}" + ("" if form == "16 bits" else ":" + form))
    return "+".join(parts)


def figures(kl, delta_nll, top1, share):
    return {"kl": float(kl), "delta_nll": float(delta_nll), "top1": float(top1), "usage": {"kv_bytes_held": round(1e6 * share), "kv_bytes_dense": 1000000}}


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "FIDELITY.md")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    stacks = {}
    head, rows, segments = rows_of(text, "Prose")
    for cells in rows:
        row = dict(zip(head, cells))
        name = f"{side_of(row['keys or values'])}:{row['kept of 64'].split()[0]}"
        stacks[name] = figures(row["KL, f16 cache"], row["dNLL"], row["top-1"], float(row["cache held / dense, f16"]))
    head, rows, more = rows_of(text, "Stacks on prose")
    if segments != more:
        sys.exit("the tables of " + path + " are means over different segments")
    for cells in rows:
        row = dict(zip(head, cells))
        times = float(row["smaller than dense, 1,536 tokens"].rstrip("x"))
        stacks[stack_of(row["stack"])] = figures(row["KL"], row["dNLL"], row["top-1"], 1 / times)
    json.dump({"prefill": 1536, "segments": [{"rows": stacks}] * segments}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
