#!/usr/bin/env python3
"""The generated classes of the Java package: one for each struct, which reads and writes its fields in direct memory, and the constants. Input:
bindings/think.json. The functions are SWIG's (swig.sh).

    java.py [--check]
"""

import html
import re
import sys
import textwrap

from description import MADE_BY, load, pointed, record_name, write

PACKAGE = "java/src/main/java/org/libthink/"
BUFFER = {"int": "Int", "long": "Long", "float": "Float"}
NUMBERS = {"int32_t": "int", "uint32_t": "int", "int64_t": "long", "float": "float"}


def java_name(name):
    """keyKept of key_kept"""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def comment(text, indent=""):
    text = re.sub(r"@(?=\w)", "&#64;", html.escape(text, quote=False))
    if len(indent) + len(text) + 8 <= 150:
        return [f"{indent}/** {text} */"]
    return [f"{indent}/**", *textwrap.wrap(text, 150, initial_indent=indent + " * ", subsequent_indent=indent + " * "), f"{indent} */"]


def property_of(about, owner, field, place):
    """(lines, is it a reference) of the methods of one field; `place` is that of what it keeps alive."""
    kind, offset, name = field["type"], field["offset"], java_name(field["name"])
    aliases = {alias["name"]: alias["type"] for alias in about["aliases"]}
    text = comment(field.get("text") or field["name"], "  ")
    target = pointed(kind)
    if kind == "char":
        size = field["count"]
        return [*text, f"  public String {name}() {{ return text({offset}, {size}); }}", "", f"  public {owner} {name}(String value) {{",
                f"    text({offset}, {size}, value);", "    return this;", "  }"], False
    if kind.endswith("*") and target in {struct["name"] for struct in about["structs"]}:
        inner = record_name(target)
        if field.get("text", "").startswith("["):
            getter = f"  public long {name}() {{ return bytes.getLong({offset}); }}"
            setter = [f"  public {owner} {name}({inner}... values) {{", f"    point({offset}, {place}, values.length == 0 ? null : packed(values));"]
        else:
            getter = f"  public {inner} {name}() {{ return ({inner}) struct({offset}, {place}, {inner}.SIZE, {inner}::new); }}"
            setter = [f"  public {owner} {name}({inner} value) {{", f"    point({offset}, {place}, value);"]
        return [*text, getter, "", *setter, "    return this;", "  }"], True
    if kind.endswith("*"):
        lines = [*text, f"  public long {name}() {{ return bytes.getLong({offset}); }}", "", f"  public {owner} {name}(Memory value) {{",
                 f"    point({offset}, {place}, value);", "    return this;", "  }"]
        if kind.startswith("const ") and target in NUMBERS:
            lines += ["", "  /** The same with a copy of these numbers. */",
                      f"  public {owner} {name}({NUMBERS[target]}... values) {{ return {name}(Memory.of(values)); }}"]
        return lines, True
    kind = aliases.get(kind, kind)
    java = NUMBERS.get(kind, "long")  # a callback: the address of a C function
    if "count" in field:
        count = field["count"]
        step = field["bytes"] // count
        lines = [*text, f"  public {java}[] {name}() {{",
                 f"    return new {java}[] {{{', '.join(f'bytes.get{BUFFER[java]}({offset + step * i})' for i in range(count))}}};", "  }", "",
                 f"  public {owner} {name}({java}... values) {{", f"    expect(\"{name}\", {count}, values.length);",
                 f"    for (int i = 0; i < {count}; ++i) bytes.put{BUFFER[java]}({offset} + {step} * i, values[i]);", "    return this;", "  }"]
        return lines, False
    return [*text, f"  public {java} {name}() {{ return bytes.get{BUFFER[java]}({offset}); }}", "", f"  public {owner} {name}({java} value) {{",
            f"    bytes.put{BUFFER[java]}({offset}, value);", "    return this;", "  }"], False


def struct_class(about, struct):
    owner, place, body, shown = record_name(struct["name"]), 0, [], []
    for field in struct["fields"]:
        if field["name"] == "struct_size" or field["name"].startswith("reserved"):
            continue
        lines, kept = property_of(about, owner, field, place)
        place += kept
        body += ["", *lines]
        shown.append(java_name(field["name"]))
    numbers = ", ".join(f'"{name}", {name}()' for name in shown)
    return "\n".join([
        f"// {MADE_BY}", "package org.libthink;", "", *comment(struct["text"] or owner), f"public final class {owner} extends Struct {{",
        f"  static final int SIZE = {struct['size']};", "", "  /** With what the library's init function says. */", f"  public {owner}() {{",
        f"    super(SIZE, {place});", f"    Native.{struct['init']}(this, SIZE);", "  }", "", f"  {owner}(Memory memory) {{ super(memory, {place}); }}",
        *body, "", "  @Override", "  public String toString() {", *textwrap.wrap(f'return shown("{owner}", {numbers});', 150, initial_indent=" " * 4,
                                                                              subsequent_indent=" " * 8), "  }", "}", ""])


def constants(about):
    lines = [f"// {MADE_BY}", "package org.libthink;", "", "/** The constants of the C interface, THINK_ taken off. */", "public final class Constants {",
             "  private Constants() {}"]
    for group in about["constants"]:
        lines += [""] + [f"  // {line}" for line in textwrap.wrap(group["text"], 145)]
        for member in group["members"]:
            value = hex(member["value"]) if group["type"] == "think_dtype" else member["value"]
            if member.get("text"):
                lines += comment(member["text"], "  ")
            lines.append(f"  public static final int {member['name'].removeprefix('THINK_')} = {value};")
    return "\n".join(lines) + "\n}\n"


def layout(about):
    """Where C reads what the classes write, as assertions that the compiler checks."""
    lines = [f"/* {MADE_BY} */", "#include <stddef.h>", '#include "think.h"', ""]
    for struct in about["structs"]:
        lines.append(f'_Static_assert(sizeof({struct["name"]}) == {struct["size"]}, "");')
        lines += [f'_Static_assert(offsetof({struct["name"]}, {field["name"]}) == {field["offset"]}, "");' for field in struct["fields"]]
    return "\n".join(lines) + "\n"


def main():
    about = load()
    files = {f"{PACKAGE}{record_name(struct['name'])}.java": struct_class(about, struct) for struct in about["structs"]}
    return write({**files, PACKAGE + "Constants.java": constants(about), "java/src/main/c/layout.h": layout(about)}, "--check" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
