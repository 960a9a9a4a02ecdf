#!/usr/bin/env python3
"""Cut the output of abidw down to the public surface (python standard library only).

    surface.py IN.abi OPAQUE.supp OUT.abi

Kept are the exported functions and the types that callers can see through them. The types named in OPAQUE.supp become declarations, so
what is behind them (C++ classes, the standard library) does not reach the file: a change there is no change of the ABI, the baseline stays
small, and scalar types of system headers stay comparable, which abidiff's --headers-dir would hide. Source positions and paths are dropped,
types are numbered anew. abidw 2.2 forgets which symbol belongs to a function whose address another unit takes before, as the function table
does: without the link that is made here, by name, abidiff would compare nothing.
"""

import re
import sys
import xml.etree.ElementTree as xml

POSITION = ("filepath", "line", "column", "path", "comp-dir-path")


def opaque_pattern(path):
    with open(path, encoding="utf-8") as file:
        match = re.search(r"^\s*name_regexp\s*=\s*(\S+)\s*$", file.read(), flags=re.M)
    if not match:
        sys.exit(f"surface.py: no name_regexp in {path}")
    return re.compile(match.group(1))


def references(element):
    """Type ids that an element and its children mention."""
    for child in element.iter():
        for key, value in child.attrib.items():
            if key in ("type-id", "naming-typedef-id", "def-of-decl-id") or key.endswith("-type-id"):
                yield value


def main():
    source, supp, target = sys.argv[1:]
    opaque = opaque_pattern(supp)
    corpus = xml.parse(source).getroot()
    types, functions = {}, {}
    symbols = {symbol.get("name"): symbol.get("version") for symbol in corpus.iterfind("elf-function-symbols/elf-symbol")}
    for unit in corpus.iter("abi-instr"):
        for element in unit.iter():
            if "id" in element.attrib:
                # of a declaration and a definition under one id the definition is the one to keep
                known = types.get(element.attrib["id"])
                if known is None or known.get("is-declaration-only") == "yes":
                    types[element.attrib["id"]] = element
            if element.tag == "function-decl" and element.get("name") in symbols:
                name, version = element.get("name"), symbols[element.get("name")]
                element.attrib["elf-symbol-id"] = f"{name}@@{version}" if version else name
                functions[name] = element
    if set(functions) != set(symbols):
        sys.exit(f"surface.py: no debug information about {sorted(set(symbols) - set(functions))}")
    for element in types.values():
        if element.tag in ("class-decl", "union-decl") and opaque.search(element.get("name", "")):
            name, identifier = element.get("name"), element.get("id")
            element.clear()
            element.attrib.update({"name": name, "is-struct": "yes", "visibility": "default", "is-declaration-only": "yes", "id": identifier})
    wanted, queue = [], [identifier for function in functions.values() for identifier in references(function)]
    while queue:
        identifier = queue.pop(0)
        if identifier in wanted or identifier not in types:
            continue
        wanted.append(identifier)
        queue.extend(references(types[identifier]))
    numbers = {identifier: f"type-id-{position + 1}" for position, identifier in enumerate(wanted)}
    result = xml.Element("abi-corpus", {key: value for key, value in corpus.attrib.items() if key in ("version", "architecture")})
    result.append(corpus.find("elf-function-symbols"))
    unit = xml.SubElement(result, "abi-instr", {"address-size": "64", "path": "surface", "language": "LANG_C99"})
    for element in [types[identifier] for identifier in wanted] + [functions[name] for name in sorted(functions)]:
        unit.append(element)
    for element in unit.iter():
        if "id" in element.attrib:  # array bounds have numbers of their own
            numbers.setdefault(element.get("id"), f"type-id-{len(numbers) + 1}")
        for key in list(element.attrib):
            if key in POSITION and element is not unit:
                del element.attrib[key]
            elif element.attrib[key] in numbers and key.endswith("id"):
                element.attrib[key] = numbers[element.attrib[key]]
    xml.indent(result, " ")
    xml.ElementTree(result).write(target, encoding="unicode")
    with open(target, "a", encoding="utf-8") as file:
        file.write("\n")


if __name__ == "__main__":
    main()
