#!/usr/bin/env python3
"""The rules for public headers that no compiler enforces (python standard library only).

    header_rules.py INCLUDE_DIR              check the headers
    header_rules.py INCLUDE_DIR --self-test  plant one violation of each rule in a copy and see that it is found
"""

import pathlib
import re
import sys

WORDS = {
    "bool": r"\b(_Bool|bool)\b", "long": r"\blong\b", "plain integer": r"\b(int|short|unsigned|signed)\b", "enum": r"\benum\b",
    "union": r"\bunion\b", "inline": r"\b(inline|__inline|__inline__)\b", "varargs": r"\.\.\.", "static": r"\bstatic\b",
    "bit-field": r"\b\w+\s*:\s*\d+\s*;", "unsigned 64 bit": r"\buint64_t\b", "CUDA type": r"\b(cuda\w+|CU[a-z]\w+)\b", "wide char": r"\bwchar_t\b",
    "time type": r"\btime_t\b", "file type": r"\bFILE\b",
}
# The callers' C and C++ implementation has to provide these and nothing else.
SYSTEM_HEADERS = {"stddef.h", "stdint.h"}


def strip_comments(text):
    return re.sub(r"/\*.*?\*/", lambda match: re.sub(r"[^\n]", " ", match.group()), text, flags=re.S)


def check(name, text, structs):
    """Violations in one header, as text."""
    found = []
    code = strip_comments(text)
    for match in re.finditer(r"#include\s*([<\"])([^>\"]+)[>\"]", code):
        if match.group(1) == "<" and match.group(2) not in SYSTEM_HEADERS:
            found.append(f"{name}: includes <{match.group(2)}>")
        if match.group(1) == '"' and not re.fullmatch(r"(think/)?\w+\.h", match.group(2)):
            found.append(f"{name}: includes \"{match.group(2)}\", which is not a public header")
    if "//" in re.sub(r'"[^"]*"', "", code):
        found.append(f"{name}: a // comment")
    if "__cplusplus" not in code and name != "think.h":
        found.append(f"{name}: no extern \"C\" guard")
    body = re.sub(r"^[ \t]*#.*(?:\\\n.*)*$", "", code, flags=re.M)
    for what, pattern in WORDS.items():
        for match in re.finditer(pattern, body):
            found.append(f"{name}:{body.count(chr(10), 0, match.start()) + 1}: {what}: {match.group()!r}")
    for match in re.finditer(r"^[ \t]*#define[ \t]+(\w+)", code, flags=re.M):
        if not match.group(1).startswith("THINK_"):
            found.append(f"{name}: macro {match.group(1)} outside of THINK_")
    for result, function, parameters in re.findall(r"^THINK_API\s+(.+?)(\w+)\s*\(([^()]*)\)\s*;", body, flags=re.M | re.S):
        if not function.startswith("think_"):
            found.append(f"{name}: function {function} outside of think_")
        for item in [result + " result"] + parameters.split(","):
            words = item.replace("const", " ").split()
            if "*" not in item and words and words[0] in structs:
                found.append(f"{name}: {function} passes {words[0]} by value")
        if re.match(r"(const\s+)?think_status\b", result) and not re.search(r"think_error\s*\*\s*error\s*$", parameters):
            found.append(f"{name}: {function} returns think_status but does not end with think_error *error")
    for function in re.findall(r"^[a-z_][\w \t*]*?(\w+)\s*\([^()]*\)\s*;", body, flags=re.M):
        if not re.search(rf"^(THINK_API|typedef)\b.*\b{function}\b", body, flags=re.M):
            found.append(f"{name}: {function} is declared without THINK_API")
    return found


def check_folder(headers):
    structs = set()
    for text in headers.values():
        structs.update(re.findall(r"\}\s*(think_\w+)\s*;", strip_comments(text)))
        structs.update(re.findall(r"typedef\s+struct\s+\w+\s+(think_\w+)\s*;", strip_comments(text)))
    return [line for name, text in headers.items() for line in check(name, text, structs)]


VIOLATIONS = [
    "THINK_API bool think_x(void);", "THINK_API long think_x(void);", "THINK_API think_status think_x(unsigned n, think_error *error);",
    "typedef enum think_x { THINK_A } think_x;", "typedef union think_x { int32_t a; float b; } think_x;", "static inline int32_t think_x(void) { return 0; }",
    "THINK_API void think_x(const char *format, ...);", "typedef struct think_x { uint32_t a : 3; } think_x;", "THINK_API void think_x(think_batch batch);",
    "THINK_API think_error think_x(void);", "THINK_API think_status think_x(int32_t n);", "int32_t think_x(void);", "#include <stdbool.h>",
    '#include "../kernels/common/shape.h"', "#define KEYS 0", "THINK_API void other_x(void);", "THINK_API uint64_t think_x(void);", "// a comment",
    "THINK_API void think_x(cudaStream_t stream);",
]


def main():
    folder = pathlib.Path(sys.argv[1])
    headers = {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in [folder / "think.h", *sorted((folder / "think").glob("*.h"))]}
    found = check_folder(headers)
    for line in found:
        print(line, file=sys.stderr)
    if found:
        return 1
    if "--self-test" in sys.argv[2:]:
        for line in VIOLATIONS:
            planted = dict(headers)
            planted["think/tensor.h"] = headers["think/tensor.h"].replace('extern "C" {\n#endif\n', 'extern "C" {\n#endif\n' + line + "\n", 1)
            if planted["think/tensor.h"] == headers["think/tensor.h"] or not check_folder(planted):
                print(f"not found: {line}", file=sys.stderr)
                return 1
        print(f"{len(VIOLATIONS)} planted violations found")
    print(f"{len(headers)} headers keep the rules")
    return 0


if __name__ == "__main__":
    sys.exit(main())
