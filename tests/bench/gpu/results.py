#!/usr/bin/env python3
"""Writes tests/bench/RESULTS-gpu.md from what was measured, and from what the compiler says where nothing was.

    results.py --markdown FILE [--bench bench.json] [--peers peers.json] [--kernels kernels.txt]

bench.json is gpu_bench's output, peers.json that of peers.py, kernels.txt the table that libthink/cmake/kernel_report.py stores in a CUDA build tree.
"""
import argparse
import json
import re
import statistics

REGISTERS, GRANULE = 65536, 256  # of a multiprocessor; they are handed out to warps by so many
WARPS = {"86": 48, "89": 48, "120": 48}  # that a multiprocessor holds; 64 on the others
STAGES = ["score", "moments", "select", "fit", "compact", "prune"]


def warps_by_registers(registers, architecture):
    each = -(-registers * 32 // GRANULE) * GRANULE
    return min(WARPS.get(architecture, 64), REGISTERS // each)


def read_json(path):
    if not path:
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def compiler_table(path):
    """kernels.txt: a heading, a line of architectures, sources at the left edge and kernels below them, two blanks in."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    architectures = re.findall(r"sm_(\w+)", lines[1])
    rows, source = [], ""
    for line in lines[2:]:
        if not line.startswith("  "):
            source = line.strip()
            continue
        cells = re.findall(r"\s(\d+(?: \(\d+\))?|-)(?=\s|$)", line[44:])
        name = line[2:44].strip() if len(cells) == len(architectures) else None
        if name is None:  # a name longer than its column
            match = re.match(r"  (.*?)\s+((?:\d+(?: \(\d+\))?|-)(?:\s+(?:\d+(?: \(\d+\))?|-))*)$", line)
            name, cells = match[1], re.findall(r"\d+(?: \(\d+\))?|-", match[2])
        rows.append((source, name, cells))
    text = ["## What the compiler says", "",
            "Registers of a thread (static shared memory of a block in bytes, where any) / warps that a multiprocessor can hold by registers alone: by arithmetic,",
            "65,536 registers in portions of 256 per warp. Dynamic shared memory is a matter of the launch and not counted. No kernel spills or has a stack: that",
            "fails the build.", "", "| source | kernel | " + " | ".join("sm_" + a for a in architectures) + " |", "|---|---|" + "---|" * len(architectures)]
    for source, name, cells in rows:
        shown = []
        for cell, architecture in zip(cells, architectures):
            shown.append(cell if cell == "-" else f"{cell} / {warps_by_registers(int(cell.split()[0]), architecture)}")
        text.append(f"| `{source}` | `{name}` | " + " | ".join(shown) + " |")
    return text


def measured(row):
    return bool(row) and "seconds" in row


def load_of(row):
    return row["model"], row["batch"], row["tokens"]


def types_of(row):
    """Of keys and values; a file from before there were others does not name them."""
    return row.get("key_dtype", "bf16"), row.get("value_dtype", "bf16")


def rows_of_numbers(bench):
    return [row for row in bench["attend"] if types_of(row) == ("bf16", "bf16")]


def rows_of_codes(bench):
    return [row for row in bench["attend"] if types_of(row) != ("bf16", "bf16")]


def width_of(row):
    return load_of(row), row["key_kept"], row["value_kept"]


def by_width(rows):
    return {width_of(row): row for row in rows if measured(row)}


def rate_of(bench):
    return bench["probe"]["bytes"] / bench["probe"]["seconds"] if measured(bench["probe"]) else None


def rivals_of(peers):
    """{(model, batch, tokens): {peer: seconds}} of dense attention."""
    rivals = {}
    for row in (peers or {}).get("attend", []):
        if measured(row):
            rivals.setdefault(load_of(row), {})[row["peer"]] = row["seconds"]
    return rivals


def goal_lines(bench, peers):
    """What the project wants of decode attention, and in how many rows it is so."""
    probe, rivals, rows = rate_of(bench), rivals_of(peers), [row for row in rows_of_numbers(bench) if measured(row)]
    dense = {load_of(row): row["bytes"] for row in rows if row["key_kept"] == row["value_kept"] == row["channels"]}
    goals = []
    if probe:
        share = [(row["bytes"], row["bytes"] / row["seconds"] / probe) for row in rows]
        goals += [("0.85 of the probe's rate where 0.5 GB or more are read", 0.85, [rate for size, rate in share if size >= 0.5e9]),
                  ("0.65 of it where 100 to 150 MB are read", 0.65, [rate for size, rate in share if 100e6 <= size <= 150e6])]
    goals.append(("10 microseconds at most at batch 1 and 4,096 tokens (here: 10 / measured)", 1.0,
                  [10e-6 / row["seconds"] for row in rows if row["batch"] == 1 and row["tokens"] == 4096]))
    over = []
    for row in rows:
        load = load_of(row)
        if load in rivals and load in dense and row["bytes"] < dense[load]:
            over.append(min(rivals[load].values()) / row["seconds"] / (dense[load] / row["bytes"]))
    goals.append(("0.95 of the byte ratio over the best dense peer", 0.95, over))
    numbers = by_width(rows)
    pairs = [(numbers.get(width_of(row)), row) for row in rows_of_codes(bench) if measured(row)]
    goals.append(("codes never slower than 16 bits with the same channels (here: time of 16 bits / measured)", 1.0,
                  [number["seconds"] / row["seconds"] for number, row in pairs if number]))
    lines = []
    for text, limit, values in goals:
        found = (f"{sum(value >= limit for value in values)} of {len(values)} rows; least {min(values):.2f}, median {statistics.median(values):.2f}, "
                 f"most {max(values):.2f}" if values else "not yet measured")
        lines.append(f"- {text}: {found}")
    return ["## Goals", ""] + lines + [""]


def time_of(row, probe):
    share = f" ({row['bytes'] / row['seconds'] / probe:.2f})" if probe else ""
    return f"{row['seconds'] * 1e6:.1f}{share}"


def attend_tables(bench, peers):
    probe, rivals = rate_of(bench), rivals_of(peers)
    text = ["## Decode attention", "", "One step, bf16, microseconds; in brackets the share of the probe's rate on the bytes that must be read. Speed-up and efficiency",
            "(speed-up / byte ratio) are over our own dense cache. Peers read dense caches.", ""]
    groups = {}
    for row in rows_of_numbers(bench):
        groups.setdefault(row["model"], {}).setdefault((row["batch"], row["tokens"]), []).append(row)
    for model, loads in groups.items():
        widths = [(row["key_kept"], row["value_kept"]) for row in next(iter(loads.values()))]
        text += [f"### {model}", "", "| batch x tokens | " + " | ".join(f"{k}/{v}" for k, v in widths) + " | best speed-up | efficiency | best dense peer |",
                 "|---|" + "---|" * (len(widths) + 3)]
        for (batch, tokens), rows in loads.items():
            cells, best, efficiency = [], None, None
            dense = rows[0] if measured(rows[0]) else None
            for row in rows:
                if not measured(row):
                    cells.append("-")
                    continue
                cells.append(time_of(row, probe))
                if dense and row is not dense and (best is None or dense["seconds"] / row["seconds"] > best):
                    best = dense["seconds"] / row["seconds"]
                    efficiency = best / (dense["bytes"] / row["bytes"])
            rival = min(rivals.get((model, batch, tokens), {}).items(), key=lambda item: item[1], default=None)
            text.append(f"| {batch} x {tokens} | " + " | ".join(cells) + f" | {f'{best:.2f}' if best else '-'} | {f'{efficiency:.2f}' if efficiency else '-'} | "
                        + (f"{rival[0]} {rival[1] * 1e6:.1f}" if rival else "-") + " |")
        text.append("")
    return text


def codes_tables(bench):
    probe, numbers = rate_of(bench), by_width(rows_of_numbers(bench))
    text = ["## Decode attention on codes", ""]
    groups = {}
    for row in rows_of_codes(bench):
        groups.setdefault(row["model"], []).append(row)
    if not groups:
        return text + ["Not yet measured.", ""]
    text += ["One step, microseconds; in brackets the share of the probe's rate on the bytes that must be read, scales and zeros among them;",
             "then the speed-up over our own dense bf16 cache of the same shape. Columns: kept channels of keys/values.", ""]
    for model, rows in groups.items():
        channels = rows[0]["channels"]
        widths = list(dict.fromkeys(width_of(row)[1:] for row in rows))
        text += [f"### {model}", "", "| batch x tokens | keys/values | " + " | ".join(f"{k}/{v}" for k, v in widths) + " |", "|---|---|" + "---|" * len(widths)]
        for load in dict.fromkeys(map(load_of, rows)):
            dense, of_load = numbers.get((load, channels, channels)), [row for row in rows if load_of(row) == load]
            for types in [("bf16", "bf16")] + list(dict.fromkeys(map(types_of, of_load))):
                found = numbers if types == ("bf16", "bf16") else by_width(row for row in of_load if types_of(row) == types)
                cells = []
                for width in widths:
                    row = found.get((load, *width))
                    speed_up = f", {dense['seconds'] / row['seconds']:.2f}x" if row and dense and row is not dense else ""
                    cells.append(time_of(row, probe) + speed_up if row else "-")
                text.append(f"| {load[1]} x {load[2]} | {'/'.join(types)} | " + " | ".join(cells) + " |")
        text.append("")
    return text


def prune_table(bench):
    text = ["## Pruning a layer", "", "One sequence, half of the key channels, microseconds.", "", "| model | tokens | " + " | ".join(STAGES) + " |",
            "|---|---|" + "---|" * len(STAGES)]
    groups = {}
    for row in bench["prune"]:
        groups.setdefault((row["model"], row["tokens"]), {})[row["stage"]] = row
    for (model, tokens), stages in groups.items():
        cells = [f"{stages[name]['seconds'] * 1e6:.1f}" if measured(stages.get(name)) else "-" for name in STAGES]
        text.append(f"| {model} | {tokens} | " + " | ".join(cells) + " |")
    return text + [""]


def reasons(bench, peers):
    found = {}
    for row in bench["attend"] + bench["prune"]:
        if "skipped" in row:
            found.setdefault(row["skipped"], set()).add(row.get("stage", "attend"))
    lines = [f"- {', '.join(sorted(stages))}: {reason}" for reason, stages in found.items()]
    lines += [f"- left out, no time: {name}" for name in bench["left_out"]]
    for name, reason in (peers or {}).get("absent", {}).items():
        lines.append(f"- {name}: {reason}")
    for peer, reason in sorted({(row["peer"], row["skipped"]) for row in (peers or {}).get("attend", []) if "skipped" in row}):
        lines.append(f"- {peer}, some shapes: {reason}")
    return ["## What is missing above, and why", ""] + lines + [""] if lines else []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("markdown", "bench", "peers", "kernels"):
        parser.add_argument("--" + name, required=name == "markdown")
    options = parser.parse_args()
    bench, peers = read_json(options.bench), read_json(options.peers)
    text = ["# Results on a GPU", "", "Written by `tests/bench/gpu/results.py`; `tests/gpu.sh` measures and calls it.", ""]
    if not bench:
        text += ["**Not yet measured**: no GPU was at hand. What stands in: the kernels run in the emulator (`tests/simt`), where their traffic and bank conflicts are",
                 "tested, and the compiler's table.", ""]
    else:
        text += [f"{bench['device']}, sm_{bench['capability']}, {bench['multiprocessors']} multiprocessors, libthink {bench['version']}."]
        text += ([f"A plain read of memory: {bench['probe']['bytes'] / bench['probe']['seconds'] / 1e9:.0f} GB/s."] if measured(bench["probe"])
                 else [f"No read probe: {bench['probe']['skipped']}."])
        if peers and "torch" in peers:
            text.append(f"Peers: torch {peers['torch']} on {peers['device']}.")
        text += [""] + goal_lines(bench, peers) + attend_tables(bench, peers) + codes_tables(bench) + prune_table(bench) + reasons(bench, peers)
    if options.kernels:
        text += compiler_table(options.kernels) + [""]
    with open(options.markdown, "w", encoding="utf-8") as file:
        file.write("\n".join(text).rstrip() + "\n")


if __name__ == "__main__":
    main()
