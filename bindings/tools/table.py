#!/usr/bin/env python3
"""bindings/swig/table.h: calls of the C functions by name go through the table of a library that is opened at run time. Input: bindings/think.json.

    table.py [--check]
"""

import sys

from description import MADE_BY, load, write


def table(about):
    lines = [f"/* The functions by name, through the table that think_open() finds (open.h). {MADE_BY} */", "#ifndef THINK_TABLE_H",
             "#define THINK_TABLE_H", ""]
    lines += [f"#define {function['name']} (think_table->{function['name'].removeprefix('think_')})" for function in about["functions"]]
    return "\n".join(lines) + "\n\n#endif\n"


if __name__ == "__main__":
    sys.exit(write({"swig/table.h": table(load())}, "--check" in sys.argv[1:]))
