#!/usr/bin/env python3
"""What ptxas says about every kernel.

    kernel_report.py compile FOLDER NVCC ARGUMENT ...   runs nvcc, keeps the lines of ptxas in FOLDER, fails when a kernel spills or needs a stack
    kernel_report.py table FOLDER FILE                  prints all of FOLDER whose source still exists as one table, and writes it to FILE
"""
import json
import os
import re
import subprocess
import sys

ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")
NOISE = re.compile(r"^ptxas info|^\s+\d+ bytes stack frame|^$")


def parse(text):
    """The kernels of one compilation; every entry of ptxas is three lines, of which the first names it."""
    kernels = []
    for line in text.splitlines():
        if match := ENTRY.search(line):
            kernels.append({"name": match[1], "architecture": match[2], "registers": 0, "shared": 0, "stack": 0, "spills": 0})
        elif kernels and (match := STACK.search(line)):
            kernels[-1]["stack"] = max(kernels[-1]["stack"], int(match[1]))
            kernels[-1]["spills"] += int(match[2]) + int(match[3])
        elif kernels and (match := USED.search(line)):
            kernels[-1]["registers"] = int(match[1])
            kernels[-1]["shared"] = int(shared[1]) if (shared := SHARED.search(line)) else 0
    return kernels


def readable(names):
    """name -> score_slab<F16>: without namespaces and arguments."""
    try:
        output = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        output = names
    plain = {}
    for name, text in zip(names, output):
        text = re.sub(r"^void ", "", text).replace("(anonymous namespace)::", "")
        text = text[:text.index("(")] if "(" in text else text
        plain[name] = re.sub(r"\w+::", "", text)
    return plain


def compile_and_keep(folder, command):
    named = "-c" in command and "-o" in command
    report = os.path.join(folder, re.sub(r"\W", "_", command[command.index("-o") + 1]) + ".json") if named else None
    if report and os.path.exists(report):
        os.remove(report)  # what it says may be gone from the source
    run = subprocess.run(command, capture_output=True, text=True)
    sys.stdout.write(run.stdout)
    sys.stderr.write("".join(line + "\n" for line in run.stderr.splitlines() if not NOISE.search(line)))
    if run.returncode != 0 or not named:
        return run.returncode
    kernels = parse(run.stderr)
    target = command[command.index("-o") + 1]
    source = command[command.index("-c") + 1]
    os.makedirs(folder, exist_ok=True)
    with open(report, "w") as out:
        json.dump({"source": "/".join(source.split("/")[-3:]), "path": os.path.abspath(source), "kernels": kernels}, out)
    bad = [kernel for kernel in kernels if kernel["spills"] or kernel["stack"]]
    names = readable([kernel["name"] for kernel in bad])
    for kernel in bad:
        where = f"{names[kernel['name']]} for sm_{kernel['architecture']}"
        sys.stderr.write(f"error: {where}: {kernel['spills']} bytes of spills, {kernel['stack']} bytes of stack\n")
    if bad:
        os.path.exists(target) and os.remove(target)
        return 1
    return 0


def table(folder, path):
    kernels = []
    for name in sorted(os.listdir(folder)):
        path_of_report = os.path.join(folder, name)
        with open(path_of_report) as file:
            report = json.load(file)
        if not os.path.exists(report.get("path", "")):
            os.remove(path_of_report)  # of a source that was removed or renamed: nobody compiles it again
            continue
        kernels += [dict(kernel, source=report["source"]) for kernel in report["kernels"]]
    if not kernels:
        sys.stderr.write("error: ptxas said nothing about any kernel\n")
        return 1
    names = readable([kernel["name"] for kernel in kernels])
    for kernel in kernels:
        kernel["name"] = names[kernel["name"]]
    architectures = sorted({kernel["architecture"] for kernel in kernels}, key=lambda text: int(re.sub(r"\D", "", text)))
    # Dynamic shared memory is the launch's business; ptxas knows the static part.
    lines = ["registers (static shared memory in bytes, where any) of each kernel; no spills, no stack"]
    lines.append(f"{'kernel':<44}" + "".join(f"{'sm_' + name:>12}" for name in architectures))
    rows = {}
    for kernel in kernels:
        text = str(kernel["registers"]) + (f" ({kernel['shared']})" if kernel["shared"] else "")
        rows.setdefault((kernel["source"], kernel["name"]), {})[kernel["architecture"]] = text
    source = None
    for (where, name), columns in sorted(rows.items()):
        if where != source:
            lines.append(where)
            source = where
        lines.append(f"  {name:<42}" + "".join(f"{columns.get(architecture, '-'):>12}" for architecture in architectures))
    text = "\n".join(lines) + "\n"
    with open(path, "w") as out:
        out.write(text)
    print(text, end="")
    return 0


def main(arguments):
    if len(arguments) > 2 and arguments[0] == "compile":
        return compile_and_keep(arguments[1], arguments[2:])
    if len(arguments) == 3 and arguments[0] == "table":
        return table(arguments[1], arguments[2])
    sys.stderr.write(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
