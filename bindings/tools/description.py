"""think.json for the scripts of this folder, and the two things that all of them do with what they make of it: write it, or say that it is out of date."""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
MADE_BY = "Written by bindings/tools/regenerate.sh from think.json: do not edit."


def load():
    return json.loads((ROOT / "bindings/think.json").read_text(encoding="utf-8"))


def write(outputs, check):
    """Write {path below bindings/: text}; with `check` only compare. Returns the exit status."""
    stale = 0
    for name, text in outputs.items():
        path = ROOT / "bindings" / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if check:
            print(f"bindings/{name} is out of date; run bindings/tools/regenerate.sh", file=sys.stderr)
            stale = 1
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote bindings/{name}")
    return stale


def class_name(struct):
    """PruneOptions of think_prune_options."""
    return "".join(part.capitalize() for part in struct.removeprefix("think_").split("_"))


def record_name(struct):
    """class_name(), where Error is the language's own."""
    return "ErrorRecord" if struct == "think_error" else class_name(struct)


def pointed(kind):
    return kind.replace("const ", "").replace("*", "").strip()
