#!/usr/bin/env python3
"""What Rust takes from bindings/think.json besides bindgen's files: the functions of the dlopen feature, Default for the structs, and a second opinion on
all of bindgen's declarations, as assertions that the compiler checks.

    rust.py [--check]
"""

import re
import sys

from description import MADE_BY, load, write

BASE = {"int32_t": "i32", "uint32_t": "u32", "int64_t": "i64", "uint8_t": "u8", "size_t": "usize", "float": "f32", "double": "f64", "char": "c_char",
        "void": "c_void"}


def rust_type(kind):
    """*const *const f32 of 'const float *const *'"""
    words = re.findall(r"\w+|\*", kind.replace("struct ", ""))
    constant, base, result = False, None, None
    for word in words:
        if word == "*":
            result = f"*{'const' if constant else 'mut'} {result or BASE.get(base, base)}"
            constant = False
        elif word == "const":
            constant = True
        else:
            base = word
    return result or BASE.get(base, base)


def signature(function, named):
    parameters = ", ".join((f"{item['name']}: " if named else "") + rust_type(item["type"]) for item in function["parameters"])
    result = "" if function["result"] == "void" else f" -> {rust_type(function['result'])}"
    return parameters, result


def dynamic(about):
    lines = [f"// The functions, called through the table of the library that load() opens. {MADE_BY}", "",
             "use core::ffi::{c_char, c_void};", "", "use crate::loader::{note, table};", "use crate::types::*;"]
    for number, function in enumerate(about["functions"]):
        name, (parameters, result) = function["name"], signature(function, True)
        arguments = ", ".join(item["name"] for item in function["parameters"])
        entry = name.removeprefix("think_")
        lines += ["", "/// # Safety", "/// As in C.", f"pub unsafe fn {name}({parameters}){result} {{", f"    note({number});",
                  f"    (table().{entry}.unwrap_unchecked())({arguments})", "}"]
    return "#![allow(clippy::too_many_arguments)]\n" + "\n".join(lines) + "\n"


def checks(about):
    lines = [f"// think.json and bindgen must say the same, and what follows from both. {MADE_BY}", "", "use core::mem::{offset_of, size_of};", "",
             "use crate::types::*;", "", "/// Every function, in the order of the table.", f"pub const FUNCTIONS: [&str; {len(about['functions'])}] = ["]
    lines += [f'    "{function["name"]}",' for function in about["functions"]]
    lines += ["];", "", "const _: () = {"]
    for struct in about["structs"]:
        lines.append(f"    assert!(size_of::<{struct['name']}>() == {struct['size']});")
        lines += [f"    assert!(offset_of!({struct['name']}, {field['name']}) == {field['offset']});" for field in struct["fields"]]
    for group in about["constants"]:
        lines += [f"    assert!({member['name']} == {member['value']});" for member in group["members"]]
    lines += ["};", "", '#[cfg(not(feature = "dlopen"))]', "#[allow(clippy::type_complexity)]", "const _: () = {",
              "    use core::ffi::{c_char, c_void};", "", "    use crate::functions::*;"]
    for function in about["functions"]:
        parameters, result = signature(function, False)
        lines.append(f"    let _: unsafe extern \"C\" fn({parameters}){result} = {function['name']};")
    lines.append("};")
    for struct in about["structs"]:
        name = struct["name"]
        lines += ["", f"impl Default for {name} {{", "    fn default() -> Self {", f"        // SAFETY: plain data, filled by the library's {name}_init().",
                  "        unsafe {", f"            let mut made = core::mem::zeroed::<{name}>();",
                  f"            crate::{name}_init(&mut made, size_of::<{name}>() as u32);", "            made", "        }", "    }", "}"]
    return "\n".join(lines) + "\n"


def main():
    about = load()
    return write({"rust/think-sys/src/dynamic.rs": dynamic(about), "rust/think-sys/src/checks.rs": checks(about)}, "--check" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
