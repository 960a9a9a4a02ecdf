#!/usr/bin/env python3
"""The generated files of the Python package: declarations for cffi, constants, and one class for each struct with its stub. Input: bindings/think.json.

    python.py [--check]
"""

import sys
import textwrap

from description import MADE_BY, class_name, load, pointed, write

FLOATS, TEXT = {"float", "double"}, "char"


def declarations(about):
    lines = []
    for alias in about["aliases"]:
        lines.append(f"typedef {alias['type']} {alias['name']};")
    for handle in about["handles"]:
        lines.append(f"typedef struct {handle['name']} {handle['name']};")
    for callback in about["callbacks"]:
        lines.append(callback["declaration"])
    for struct in about["structs"]:
        lines.append(f"typedef struct {struct['name']} {{")
        for field in struct["fields"]:
            star = "" if field["type"].endswith("*") else " "
            lines.append(f"  {field['type']}{star}{field['name']}{'[%d]' % field['count'] if 'count' in field else ''};")
        lines.append(f"}} {struct['name']};")
    for function in about["functions"]:
        parameters = ", ".join(f"{item['type']}{'' if item['type'].endswith('*') else ' '}{item['name']}" for item in function["parameters"])
        star = "" if function["result"].endswith("*") else " "
        lines.append(f"{function['result']}{star}{function['name']}({parameters or 'void'});")
    text = "\n".join(lines)
    since = "".join(f'    "{function["name"]}": "{function["since"]}",\n' for function in about["functions"])
    pointers = "".join(f'    ("{struct["name"]}", "{field["name"]}"): "{field["type"]}",\n' for struct in about["structs"] for field in struct["fields"]
                       if field["type"].endswith("*") and pointed(field["type"]) not in {each["name"] for each in about["structs"]})
    fields = ""
    for struct in about["structs"]:
        names = ", ".join(f'"{field["name"]}"' for field in visible(struct))
        fields += textwrap.fill(f'"{struct["name"]}": [{names}],', 150, initial_indent="    ", subsequent_indent=" " * 8) + "\n"
    return (f'"""The C interface for cffi. {MADE_BY}"""\n\nDECLARATIONS = """\n{text}\n"""\n\n'
            f"FIELDS = {{\n{fields}}}\n\nPOINTERS = {{\n{pointers}}}\n\nSINCE = {{\n{since}}}\n")


def constants(about):
    lines = [f'"""The constants of the C interface, THINK_ taken off. {MADE_BY}"""\n', "from typing import Final"]
    for group in about["constants"]:
        lines.append("")
        if group["text"]:
            lines += ["# " + line for line in textwrap.wrap(group["text"], 150)]
        for member in group["members"]:
            name = member["name"].removeprefix("THINK_")
            value = hex(member["value"]) if group["type"] == "think_dtype" else str(member["value"])
            lines.append(f"{name}: Final = {value}")
            if member.get("text"):
                lines.append(f'"""{member["text"]}"""')
    return "\n".join(lines) + "\n"


def visible(struct):
    """The fields that mean something to callers."""
    return [field for field in struct["fields"] if field["name"] != "struct_size" and not field["name"].startswith("reserved")]


def kinds(about, field):
    """(what is read, what may be assigned)"""
    kind, target = field["type"], pointed(field["type"])
    names = {struct["name"] for struct in about["structs"]}
    if "count" in field:
        return ("str", "str") if kind == TEXT else ("tuple[int, ...]", "Sequence[int]")
    if kind.endswith("*"):
        if target in names:
            return (f"{class_name(target)} | None",) * 2
        return "int", "Data | None"
    if kind in {callback["name"] for callback in about["callbacks"]}:
        return "int", "object"
    return ("float",) * 2 if kind in FLOATS else ("int",) * 2


def structs(about):
    lines = [f'"""One class for each struct of the C interface. {MADE_BY}"""\n', "from ._struct import Struct"]
    for struct in about["structs"]:
        lines += ["", "", f"class {class_name(struct['name'])}(Struct):"]
        text = textwrap.fill(struct["text"] or class_name(struct["name"]), 150, subsequent_indent="    ")
        lines += [f'    """{text}', ""]
        for field in visible(struct):
            lines += textwrap.wrap(f"{field['name']}: {field.get('text', '')}".rstrip(": "), 150, initial_indent="    ", subsequent_indent="        ")
        lines += ['    """', "", f'    _name = "{struct["name"]}"', "    __slots__ = ()"]
    return "\n".join(lines) + "\n"


def stub(about):
    lines = [f'"""{MADE_BY}"""\n', "from collections.abc import Sequence\n", "from ._struct import Data, Struct"]
    for struct in about["structs"]:
        name, fields = class_name(struct["name"]), visible(struct)
        lines += ["", f"class {name}(Struct):"]
        lines += ["    def __init__(self, *, " + ", ".join(f"{field['name']}: {kinds(about, field)[1]} = ..." for field in fields) + ") -> None: ..."]
        for field in fields:
            read, assigned = kinds(about, field)
            if read == assigned:
                lines.append(f"    {field['name']}: {read}")
            else:
                lines += ["    @property", f"    def {field['name']}(self) -> {read}: ...", f"    @{field['name']}.setter",
                          f"    def {field['name']}(self, value: {assigned}) -> None: ..."]
    return "\n".join(lines) + "\n"


def main():
    about = load()
    package = "python/libthink/"
    return write({package + "_declarations.py": declarations(about), package + "constants.py": constants(about), package + "structs.py": structs(about),
                  package + "structs.pyi": stub(about)}, "--check" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
