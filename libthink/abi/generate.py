#!/usr/bin/env python3
"""Write everything that follows from the public headers and functions.def.

    generate.py            write the files that are out of date
    generate.py --check    write nothing; exit 1 if a file is out of date or the ABI was broken
    generate.py --break-abi  write although the new headers break what the lock froze (before 1.0 only)

Written: include/think/api.h (the table for users of dlopen), libthink/abi/think.map (exported symbols), libthink/abi/opaque.supp (handles
that the abidiff gate does not look into), tests/abi/lock.c (sizes, offsets, types, constants and prototypes as static assertions) and
bindings/think.json (all of it as data, from which bindings/tools/regenerate.sh makes the bindings).
The committed lock.c is also the memory of this script: what it holds may be added to, never changed.
"""

import argparse
import pathlib
import re
import sys

sys.dont_write_bytecode = True  # the source tree may not be ours to write to
import describe

SCALARS = {
    "char": 1, "int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4, "uint32_t": 4,
    "int64_t": 8, "uint64_t": 8, "size_t": 8, "float": 4, "double": 8,
}
GENERATED = "Written by libthink/abi/generate.py from the public headers and functions.def: do not edit."


class Broken(Exception):
    """The input cannot be read, or says two things that disagree."""


class Header:
    """One public header: what it declares, in its order."""

    def __init__(self, path):
        self.name = path.name
        self.text = text = path.read_text(encoding="utf-8")
        self.functions = self._functions(text)
        code = re.sub(r"/\*.*?\*/", " ", text, flags=re.S).replace("\\\n", " ")
        self.constants = [(name, value) for name, value in re.findall(r"^#define[ \t]+(THINK_\w+)[ \t]+(.+?)[ \t]*$", code, flags=re.M)
                          if not name.endswith("_INIT") and name != "THINK_API"]
        for name, value in self.constants:
            if not re.fullmatch(r"-?(0x[0-9a-fA-F]+|[0-9]+)u?", value):
                raise Broken(f"{path.name}: {name} is {value!r}, not a plain literal")
        code = re.sub(r"^#.*$", "", code, flags=re.M).replace('extern "C" {', "")
        self.structs = [(name, self._fields(name, body)) for body, name in
                        re.findall(r"typedef\s+struct\s+\w+\s*\{(.*?)\}\s*(\w+)\s*;", code, flags=re.S)]
        code = re.sub(r"\{[^{}]*\}", "{}", code)
        self.opaque = [name for tag, name in re.findall(r"typedef\s+struct\s+(\w+)\s+(\w+)\s*;", code) if tag == name]
        self.opaque += re.findall(r"^struct\s+(\w+)\s*;", code, flags=re.M)
        self.aliases = re.findall(r"typedef\s+(u?int\d+_t)\s+(\w+)\s*;", code)
        self.callbacks = [(squeeze(whole), name) for whole, name in
                          re.findall(r"(typedef\s+[\w\s*]+\(\*(\w+)\)\([^)]*\)\s*;)", code)]

    @staticmethod
    def _functions(text):
        """[(name, result, parameters, since, comment)]; `since` comes from the comment right before the declaration."""
        found = []
        for match in re.finditer(r"^THINK_API\s+(.+?)(\w+)\s*\(([^()]*)\)\s*;", text, flags=re.M | re.S):
            comment = describe.comment_before(text, match.start())
            since = re.search(r"@since ([0-9.]+)", comment)
            if not since:
                raise Broken(f"{match.group(2)} has no @since in the comment before it")
            parameters = [squeeze(item) for item in match.group(3).split(",")]
            found.append((match.group(2), squeeze(match.group(1)), parameters, since.group(1), comment))
        return found

    @staticmethod
    def _fields(struct, body):
        """[(type, name, array length or 0)]"""
        fields = []
        for statement in filter(None, (part.strip() for part in body.split(";"))):
            match = re.fullmatch(r"((?:const\s+)?\w+[\s*]+(?:const\s*)?\**)(\w+)(?:\[(\d+)\])?", statement)
            if not match:
                raise Broken(f"{struct}: cannot read the field {statement!r}")
            fields.append((squeeze(match.group(1)), match.group(2), int(match.group(3) or 0)))
        return fields


def squeeze(text):
    """One blank between words, none after a star: types compare as text."""
    return re.sub(r"\*\s+", "*", re.sub(r"\s+", " ", text)).strip().replace("( ", "(").replace(" ;", ";")


def parameter_type(parameter):
    """The type of 'const think_plan *plan' without the name of the parameter."""
    return "void" if parameter == "void" else squeeze(re.sub(r"(\w+)$", "", parameter))


class Model:
    """The whole public interface."""

    def __init__(self, root):
        self.root = root
        umbrella = (root / "include/think.h").read_text(encoding="utf-8")
        names = re.findall(r'#include "think/(\w+\.h)"', umbrella) + ["dlpack.h"]
        present = {path.name for path in (root / "include/think").glob("*.h")} - {"api.h"}
        if set(names) != present:
            raise Broken(f"include/think.h and the folder disagree about {sorted(set(names) ^ present)}")
        self.headers = [Header(root / "include/think" / name) for name in names]
        self.functions, self.comments = {}, {}
        for header in self.headers:
            for name, result, parameters, since, comment in header.functions:
                self.functions[name] = (header.name, result, parameters, since)
                self.comments[name] = comment
        listing = (root / "libthink/abi/functions.def").read_text(encoding="utf-8")
        self.listed = re.findall(r"^THINK_FUNCTION\((\w+), ([0-9.]+)\)", listing, flags=re.M)
        self._compare_list()
        self.types = dict(SCALARS)
        for header in self.headers:
            self.types.update({name: SCALARS[base] for base, name in header.aliases})
            self.types.update({name: 8 for _, name in header.callbacks})
        self.callbacks = {name for header in self.headers for _, name in header.callbacks}
        self.handles = {name for header in self.headers for name in header.opaque}

    def _compare_list(self):
        names = [name for name, _ in self.listed]
        if len(set(names)) != len(names):
            raise Broken("functions.def names a function twice")
        if set(names) != set(self.functions):
            raise Broken(f"functions.def and the headers disagree about {sorted(set(names) ^ set(self.functions))}")
        for name, since in self.listed:
            if self.functions[name][3] != since:
                raise Broken(f"{name}: since {since} in functions.def, {self.functions[name][3]} in {self.functions[name][0]}")

    def layout(self, struct, fields):
        """([(field, offset, size)], sizeof) by the rules of every 64-bit ABI: each field at a multiple of its own size."""
        offset, widest, placed = 0, 4, []
        for kind, name, count in fields:
            base = kind.removeprefix("const ")
            if kind.endswith("*"):
                size = 8
            elif base in self.types:
                size = self.types[base]
            else:
                raise Broken(f"{struct}.{name}: {kind} is not a type that the ABI rules allow")
            offset = (offset + size - 1) // size * size
            placed.append((name, offset, size * (count or 1), kind + (f"[{count}]" if count else "")))
            offset, widest = offset + size * (count or 1), max(widest, size)
        return placed, (offset + widest - 1) // widest * widest


def api_header(model):
    lines = [f"""/**
 * @file think/api.h
 * @brief Optional: all functions of the library as one table, for programs that load it with dlopen(). Not included by think.h.
 *
 * {GENERATED}
 */
#ifndef THINK_API_H
#define THINK_API_H

#include "dlpack.h"
#include "store.h"

#ifdef __cplusplus
extern "C" {{
#endif

/**
 * The functions, in an order that never changes: later versions add entries at the end. An entry is documented at the function of the same name,
 * `think_` before it: table->attend is think_attend().
 *
 * A library may be older or newer than these headers. Its table is as long as struct_size says. Entries from struct_size on do not exist: test them
 * with THINK_API_HAS() before use, unless every version of the ABI generation has them (those marked "since 0.9").
 */
typedef struct think_api {{
  uint32_t struct_size; /* bytes of the library's table */
  uint32_t abi_major;   /* THINK_ABI_MAJOR of the library */"""]
    group = None
    for name, since in model.listed:
        header, result, parameters, _ = model.functions[name]
        if (header, since) != group:
            lines.append(f"\n  /* think/{header}, since {since} */")
        group = (header, since)
        lines.append(f"  {result}{'' if result.endswith('*') else ' '}(*{name.removeprefix('think_')})({', '.join(parameters)});")
    lines.append(f"""}} think_api;

/** Does the library's table have this entry? THINK_API_HAS(table, merge) */
#define THINK_API_HAS(table, entry) ((table)->struct_size >= offsetof(think_api, entry) + sizeof((table)->entry))

/**
 * The function table: the only symbol that a program which uses dlopen() has to look up. Any thread.
 *
 * @param abi_major   THINK_ABI_MAJOR of the caller's headers
 * @param table_size  sizeof(think_api) of the caller's headers
 * @return a static table, owned by the library and valid until the process ends. A caller with older headers (a smaller table_size) gets the whole table
 *         and sees its beginning. A caller with newer headers gets what this library has: struct_size is then smaller than its own sizeof(think_api).
 *         NULL: the library is of another ABI generation, or table_size is smaller than any version of this generation had.
 * @since 0.9
 */
THINK_API const think_api *think_get_api(uint32_t abi_major, uint32_t table_size);

/** Type of think_get_api(), for the result of dlsym(). */
typedef const think_api *(*think_get_api_function)(uint32_t abi_major, uint32_t table_size);

#ifdef __cplusplus
}}
#endif
#endif
""")
    return "\n".join(lines)


def symbol_map(model):
    names = "".join(f"    {name};\n" for name, _ in model.listed)
    return f"# {GENERATED}\nTHINK_1 {{\n  global:\n{names}    think_get_api;\n  local:\n    *;\n}};\n"


def opaque_suppression(model):
    names = "|".join(sorted(name for header in model.headers for name in header.opaque))
    return (f"# Opaque handles: what is behind them is not ABI. {GENERATED}\n"
            f"[suppress_type]\n  type_kind = struct\n  name_regexp = ^({names})$\n")


LOCK_HEAD = f"""/* The frozen ABI: compiled as C11 and as C++17, nothing to run. {GENERATED}
 * Entries may be added and sizes of structs may grow; generate.py refuses every other change. */
#include "think.h"
#include "think/api.h"
#include "think/dlpack.h"

#ifdef __cplusplus
#include <type_traits>
#define LOCK_ASSERT(condition, text) static_assert(condition, text)
#define LOCK_SAME(...) (std::is_same<__VA_ARGS__>::value)
extern "C" {{
#else
#define LOCK_ASSERT(condition, text) _Static_assert(condition, text)
#define LOCK_SAME(...) __builtin_types_compatible_p(__VA_ARGS__)
#endif
#define LOCK_CONSTANT(name, value) LOCK_ASSERT((name) == (value), #name " changed")
#define LOCK_ALIAS(name, base) LOCK_ASSERT(LOCK_SAME(name, base), #name " changed")
#define LOCK_FUNCTION(name, ...) LOCK_ASSERT(LOCK_SAME(__typeof__(&name), __VA_ARGS__), #name " changed")
#define LOCK_SIZE(type, size) LOCK_ASSERT(sizeof(type) == (size), "size of " #type " changed")
#define LOCK_FIELD(type, field, offset, size, kind)                                                                  \\
  LOCK_ASSERT(offsetof(type, field) == (offset) && sizeof(((type *)0)->field) == (size), #type "." #field " moved"); \\
  LOCK_ASSERT(LOCK_SAME(__typeof__(((type *)0)->field), kind), "type of " #type "." #field " changed")

"""


def lock_entries(model):
    """[(key, line)]: the key names what is frozen, the line says how."""
    entries = []
    for header in model.headers:
        entries += [(f"constant {name}", f"LOCK_CONSTANT({name}, {value});") for name, value in header.constants]
        entries += [(f"alias {name}", f"LOCK_ALIAS({name}, {base});") for base, name in header.aliases]
        entries += [(f"callback {name}", whole) for whole, name in header.callbacks]
        for struct, fields in header.structs:
            if [(kind, name) for kind, name, _ in fields[:2]] != [("uint32_t", "struct_size"), ("uint32_t", "flags")]:
                raise Broken(f"{struct} does not begin with struct_size and flags")
            placed, size = model.layout(struct, fields)
            entries += [(f"field {struct}.{name}", f"LOCK_FIELD({struct}, {name}, {offset}, {bytes_}, {kind});") for name, offset, bytes_, kind in placed]
            entries.append((f"size {struct}", f"LOCK_SIZE({struct}, {size});"))
    for name, _ in model.listed:
        _, result, parameters, _ = model.functions[name]
        kinds = ", ".join(parameter_type(parameter) for parameter in parameters)
        entries.append((f"function {name}", f"LOCK_FUNCTION({name}, {result}{'' if result.endswith('*') else ' '}(*)({kinds}));"))
    entries.append(("function think_get_api", "LOCK_FUNCTION(think_get_api, const think_api *(*)(uint32_t, uint32_t));"))
    for position, (name, _) in enumerate(model.listed):
        member = name.removeprefix("think_")
        entries.append((f"field think_api.{member}", f"LOCK_FIELD(think_api, {member}, {8 + 8 * position}, 8, __typeof__(&{name}));"))
    entries.append(("size think_api", f"LOCK_SIZE(think_api, {8 + 8 * len(model.listed)});"))
    return entries


def lock_key(line):
    """The key of a line of a lock file, None for lines that freeze nothing."""
    for pattern, key in ((r"LOCK_CONSTANT\((\w+),", "constant {}"), (r"LOCK_ALIAS\((\w+),", "alias {}"), (r"LOCK_SIZE\((\w+),", "size {}"),
                         (r"LOCK_FIELD\((\w+, \w+),", "field {}"), (r"typedef .*\(\*(\w+)\)\(", "callback {}"), (r"LOCK_FUNCTION\((\w+),", "function {}")):
        match = re.match(pattern, line)
        if match:
            return key.format(match.group(1).replace(", ", "."))
    return None


def lock_file(entries):
    return LOCK_HEAD + "\n".join(line for _, line in entries) + "\n\n#ifdef __cplusplus\n}\n#endif\n"


# Numbers that say which version this is, and no caller may rely on.
VERSION_CONSTANTS = {"constant THINK_VERSION_MAJOR", "constant THINK_VERSION_MINOR", "constant THINK_VERSION_PATCH"}


def breaks(frozen_text, entries):
    """What the committed lock file froze and the headers no longer say."""
    now, found = dict(entries), []
    grown = set()
    for line in frozen_text.splitlines():
        key = lock_key(line)
        if key is None or line.startswith("#") or key in VERSION_CONSTANTS or now.get(key) == line:
            continue
        if key not in now:
            found.append(f"{key} is gone (was: {line})")
        elif key.startswith("size ") and int(re.search(r"(\d+)\);", now[key]).group(1)) > int(re.search(r"(\d+)\);", line).group(1)):
            grown.add(key.removeprefix("size "))
        else:
            found.append(f"{key} changed (was: {line} now: {now[key]})")
    # A field that fits into old padding would not move anything, but old callers leave garbage there: growth only behind the old end.
    old_sizes = {match.group(1): int(match.group(2)) for match in re.finditer(r"^LOCK_SIZE\((\w+), (\d+)\);", frozen_text, flags=re.M)}
    frozen_keys = {lock_key(line) for line in frozen_text.splitlines()}
    for key, line in entries:
        match = re.match(r"LOCK_FIELD\((\w+), \w+, (\d+),", line)
        if match and key not in frozen_keys and match.group(1) in old_sizes and int(match.group(2)) < old_sizes[match.group(1)]:
            found.append(f"{key} was added inside the old size of {match.group(1)} ({line})")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on drift or breakage")
    parser.add_argument("--break-abi", action="store_true", help="accept changes of frozen entries")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2], help="the project's root folder")
    options = parser.parse_args()
    lock = options.root / "tests/abi/lock.c"
    try:
        model = Model(options.root)
        entries = lock_entries(model)
        broken = breaks(lock.read_text(encoding="utf-8"), entries) if lock.exists() else []
        for line in broken:
            print(f"generate.py: the ABI is broken: {line}", file=sys.stderr)
        if broken and not options.break_abi:
            return 1
        outputs = {"include/think/api.h": api_header(model), "libthink/abi/think.map": symbol_map(model),
                   "libthink/abi/opaque.supp": opaque_suppression(model), "tests/abi/lock.c": lock_file(entries),
                   "bindings/think.json": describe.json_text(model)}
    except (Broken, describe.Unclear) as problem:
        print(f"generate.py: {problem}", file=sys.stderr)
        return 1
    stale = False
    for name, text in outputs.items():
        path = options.root / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale = True
        if options.check:
            print(f"generate.py: {name} is out of date; run libthink/abi/generate.py", file=sys.stderr)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
