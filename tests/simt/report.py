#!/usr/bin/env python3
"""What the emulator and the compiler say about every CUDA kernel, as one Markdown file.

    report.py [--release TREE] [--cuda TREE] [--output FILE]      (out/release, out/cuda, tests/simt/RESULTS.md)

Runs every program simt_<stage> of the release tree. A stage is in the report as soon as its test calls report_traffic() of stages/device.h.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

MODEL = re.compile(r"^(.+): read ([\d.]+) of the model, written ([\d.]+) \(in sectors of 32 bytes: ([\d.]+) and ([\d.]+)\), (\d+) bank conflicts "
                   r"in (\d+) wavefronts(?:; launches: (.+))?$")
LAUNCH = re.compile(r"^(\w[^:]*): grid (\d+) x (\d+) x (\d+), (\d+) threads, (\d+) bytes shared; .*, (\d+) bank conflicts$")
FAULT = re.compile(r"\b(out of bounds|misaligned|uninitialised|copy in flight|race|divergence): kernel ")
TESTS = re.compile(r"^\[==========\] (\d+) tests? from .* ran")
PASSED = re.compile(r"^\[  PASSED  \] (\d+) test")

# One multiprocessor of sm_90 (CUDA C++ Programming Guide, technical specifications): registers are given to warps in units of 256.
REGISTERS, WARPS, BLOCKS, SHARED, SHARED_OF_SYSTEM = 65536, 64, 32, 228 * 1024, 1024

HEADER = """# What the emulator says about the CUDA kernels

Written by `tests/simt/report.py`; nothing here was measured on a GPU.

- **Traffic**: bytes that a call reads and writes, as a part of what its model says it must at least move (1 = not a byte more); in sectors: the same in
  whole sectors of 32 bytes, as the memory of a device moves them. The models stand in the tests (`stages/<stage>_test.cpp`). Numbers that many
  lanes of a warp ask for together are counted once for attend, and for every lane elsewhere, as the models do. Sectors of attend depend on where the
  tests that ran before leave its rows: aligned to 16 bytes, half of the pieces of 512 bytes touch a sector more.
- **Conflicts**: wavefronts of shared memory beyond the least that an access takes, of all wavefronts.
- **Faults**: accesses out of bounds, misaligned or uninitialised, copies touched in flight, races, divergence: over all launches of all tests of a stage.
- **Blocks per multiprocessor**: arithmetic for sm_90, from registers, threads and shared memory (static and dynamic).

What it cannot say: time, bandwidth, what caches save or lose, the number of blocks that really run at once, and whether the order of memory
operations between blocks is strong enough on a device. See [README.md](README.md).
"""


def run(program):
    """One stage: its lines over a model, its launches by kernel, its tests and faults."""
    stage = {"models": [], "kernels": {}, "tests": 0, "passed": 0, "faults": 0}
    environment = dict(os.environ, THINK_TEST_REPORT="1", THINK_SIMT_REPORT="1")
    with subprocess.Popen([program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as process:
        for line in process.stdout:
            line = line.rstrip("\n")
            if match := LAUNCH.match(line):
                kernel = stage["kernels"].setdefault(match[1], {"launches": 0, "conflicts": 0, "shapes": set()})
                kernel["launches"] += 1
                kernel["conflicts"] += int(match[7])
                kernel["shapes"].add((int(match[5]), int(match[6])))
            elif match := MODEL.match(line):
                stage["models"].append(match.groups())
            elif match := TESTS.match(line):
                stage["tests"] = int(match[1])
            elif match := PASSED.match(line):
                stage["passed"] = int(match[1])
            elif FAULT.search(line):
                stage["faults"] += 1
    stage["status"] = process.returncode
    return stage


def compiled(path, architecture="sm_90"):
    """name without template arguments -> its variants (full name, registers, static shared memory), from the table of kernel_report.py."""
    kernels = {}
    if not path.exists():
        return kernels
    lines = path.read_text().splitlines()
    columns = lines[1].split()[1:]
    if architecture not in columns:
        return kernels
    for line in lines[2:]:
        if not (match := re.match(r"^  (\S.*?)\s+((?:(?:\d+|-)(?: \(\d+\))?\s*)+)$", line)):
            continue
        name, cells = match[1], re.findall(r"(\d+|-)(?: \((\d+)\))?", match[2])
        registers, shared = cells[columns.index(architecture)]
        if registers != "-":
            kernels.setdefault(name.split("<")[0], []).append((name, int(registers), int(shared or 0)))
    return kernels


def blocks(registers, threads, shared):
    """(blocks of one multiprocessor, what limits them)"""
    warps = (threads + 31) // 32
    of_warp = (registers * 32 + 255) // 256 * 256
    # The registers lie in four parts, one for each scheduler, and so do the warps.
    by = {"threads": WARPS // warps, "blocks": BLOCKS, "registers": REGISTERS // 4 // of_warp * 4 // warps if of_warp else BLOCKS,
          "shared memory": SHARED // ((shared + SHARED_OF_SYSTEM + 127) // 128 * 128)}
    limit = min(by, key=by.get)
    return by[limit], limit


def table(head, rows):
    return ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)] + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows] + [""]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=pathlib.Path, default=ROOT / "out/release")
    parser.add_argument("--cuda", type=pathlib.Path, default=ROOT / "out/cuda")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "tests/simt/RESULTS.md")
    arguments = parser.parse_args()
    folder = arguments.release / "tests/simt/stages"
    programs = sorted(path for path in folder.glob("simt_*") if path.is_file() and os.access(path, os.X_OK) and path.name != "simt_api")
    if not programs:
        sys.exit(f"report.py: no program simt_<stage> in {folder}: build first")
    stages = {program.name.removeprefix("simt_"): run(program) for program in programs}

    lines = [HEADER, "## Traffic over the byte model"]
    rows = []
    for stage, result in stages.items():
        for what, read, written, read_sectors, written_sectors, conflicts, wavefronts, launches in result["models"]:
            rows.append((what, launches or "", read, written, read_sectors, written_sectors, f"{conflicts} of {wavefronts}"))
    lines += table(("call", "launches", "read", "written", "read, in sectors", "written, in sectors", "conflicts"), rows)
    without = [stage for stage, result in stages.items() if not result["models"]]
    if without:
        lines.append("Without a byte model: " + ", ".join(without) + ".\n")

    lines.append("## Faults, over all tests")
    lines += table(("stage", "tests", "passed", "launches", "faults"),
                   [(stage, result["tests"], result["passed"], sum(kernel["launches"] for kernel in result["kernels"].values()), result["faults"])
                    for stage, result in stages.items()])
    lines.append("## Kernels, over all tests")
    lines += table(("kernel", "launches", "threads", "dynamic shared memory, at most", "bank conflicts"),
                   [(f"`{name}`", kernel["launches"], ", ".join(str(n) for n in sorted({shape[0] for shape in kernel["shapes"]})),
                     max(shape[1] for shape in kernel["shapes"]), kernel["conflicts"])
                    for result in stages.values() for name, kernel in sorted(result["kernels"].items())])

    lines.append("## Compiler, sm_90")
    known = compiled(arguments.cuda / "kernels.txt")
    rows = []
    for result in stages.values():
        for name, kernel in sorted(result["kernels"].items()):
            variants = known.get(name.split("<")[0], [])
            if not variants:
                continue
            registers, static = sorted({variant[1] for variant in variants}), max(variant[2] for variant in variants)
            # The variant with most registers, in the launch that leaves room for fewest blocks.
            count, limit, threads = min(blocks(registers[-1], threads, static + dynamic) + (threads,) for threads, dynamic in kernel["shapes"])
            rows.append((f"`{name}`", len(variants), " to ".join(str(n) for n in sorted({registers[0], registers[-1]})), static, count, limit,
                         f"{100 * count * ((threads + 31) // 32) // WARPS}%"))
    if rows:
        lines += table(("kernel", "variants", "registers", "static shared memory", "blocks per multiprocessor, at least", "limited by", "warps of 64"), rows)
        lines.append("A kernel that spills or needs a stack fails the build, so a kernel that is listed does neither. The least is that of the variant\n"
                     "with most registers in the launch of the tests that leaves room for fewest blocks.")
    else:
        lines.append("\nNo CUDA build was there: `cmake --preset cuda && ninja -C out/cuda think_cuda`.")
    arguments.output.write_text("\n".join(lines).replace("\n\n\n", "\n\n").rstrip("\n") + "\n")
    print(arguments.output)
    bad = [stage for stage, result in stages.items() if result["status"] != 0]
    if bad:
        sys.exit("report.py: tests failed: " + ", ".join(bad))


if __name__ == "__main__":
    main()
