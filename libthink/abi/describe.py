"""bindings/think.json: the public interface as data, with what the comments of the headers say about it. Used by generate.py.

Everything that is not declared in C comes from the comments by these rules:

    direction   out: the pointer is an error record, receives a handle (T **), or its text says "receives"; inout: another pointer that is not const;
                in: the rest
    ownership   caller: the caller gets a handle and destroys it with `destroy`; consumed: the call destroys it; retained: it is used after the call, the
                text says until when ("outlive", "stays the caller's"); borrowed: used during the call; static: a result that lives as long as the process
    nullable    the text of the pointer says "NULL = ...", "NULL with ...", "may be NULL"; or it is an error record, a batch, a launch (where no workspace is
                needed), the argument of a destroy or init function, or what is "handed to" a callback
    "as in think_x()" and "the same" stand for the text of that function's parameter of the same name, and of the parameter before
"""

import json
import re

SCHEMA = 1


class Unclear(Exception):
    """A comment says something about what is not there."""


def plain(comment):
    """The text of a comment in one line."""
    text = re.sub(r"^/\*\*?<?|\*/$", "", comment.strip())
    return re.sub(r"\s+", " ", re.sub(r"^[ \t]*\*(?!\*)", " ", text, flags=re.M)).strip()


def comment_before(text, position):
    """The comment that ends right before a declaration, '' if there is none. One behind code belongs to that code."""
    before = text[:position].rstrip()
    start = before.rfind("/*")
    return before[start:] if before.endswith("*/") and not before[before.rfind("\n", 0, start) + 1:start].strip() else ""


def tags(comment):
    """(description, {parameter: text}, text of @return)"""
    parts = re.split(r"@(param|return|since|file|brief)\b", plain(comment))
    parameters, result = {}, None
    for tag, body in zip(parts[1::2], parts[2::2]):
        if tag == "param":
            name, _, body = body.strip().partition(" ")
            parameters[name] = body.strip()
        elif tag == "return":
            result = body.strip()
    return parts[0].strip(), parameters, result


def pointed(kind):
    """What a pointer points to: 'think_plan' of 'const think_plan *'."""
    return kind.replace("const ", "").replace("struct ", "").replace("*", "").replace("const", "").strip()


def may_be_null(text):
    return bool(re.search(r"(^|[;.:,)] |\()(may be NULL|NULL( =| with| where| for|\.|$))|^handed to", text))


def parameter_entry(model, function, name, kind, text, meaning):
    """`meaning` is the text with what it refers to."""
    entry = {"name": name, "type": kind}
    target, pointer = pointed(kind), "*" in kind
    constant = kind.startswith("const ")
    destroys = function.endswith("_destroy")
    if pointer and (target == "think_error" and name == "error" or kind.count("*") == 2 and target in model.handles):
        entry["direction"] = "out"
    elif pointer and not constant and target not in model.handles:
        entry["direction"] = "out" if "receives" in meaning.split(";")[0] or function.endswith("_init") else "inout"
    else:
        entry["direction"] = "in"
    if pointer or target in model.callbacks:
        if kind.count("*") == 2 and target in model.handles:
            entry["ownership"], entry["destroy"] = "caller", target + "_destroy"
        elif destroys:
            entry["ownership"] = "consumed"
        elif re.search(r"\boutlive\b|stays the caller's", meaning):
            entry["ownership"] = "retained"
        else:
            entry["ownership"] = "borrowed"
        entry["nullable"] = target in ("think_error", "think_batch", "think_launch") or destroys or function.endswith("_init") or may_be_null(meaning)
    if text:
        entry["text"] = text
    return entry


def meant(model, parameter, text, before):
    """The text of a parameter with that of the one it refers to."""
    reference = re.search(r"\bas in (think_\w+)\(\)", text)
    if reference:
        if reference.group(1) not in model.functions:
            raise Unclear(f"a comment refers to {reference.group(1)}(), which does not exist")
        return tags(model.comments[reference.group(1)])[1].get(parameter, "") + "; " + text
    return before + "; " + text if re.search(r"(^|, )the same$", text) else text


def function_entry(model, name):
    header, result, parameters, since = model.functions[name]
    description, about, returned = tags(model.comments[name])
    entry = {"name": name, "header": header, "since": since, "result": result, "fallible": result == "think_status", "text": description}
    if result.endswith("*"):
        entry["result_ownership"] = "static"
    if returned:
        entry["returns"] = returned
    entry["parameters"], meaning = [], ""
    for parameter in parameters:
        if parameter == "void":
            continue
        kind, word = re.fullmatch(r"(.*?)(\w+)", parameter, flags=re.S).groups()
        meaning = meant(model, word, about.get(word, ""), meaning)
        entry["parameters"].append(parameter_entry(model, name, word, kind.strip(), about.get(word, ""), meaning))
    unknown = set(about) - {parameter["name"] for parameter in entry["parameters"]}
    if unknown:
        raise Unclear(f"{name}: the comment describes {sorted(unknown)}, which are no parameters")
    return entry


def field_texts(text, struct):
    """{field: text of the comment behind it}"""
    body = re.search(rf"typedef\s+struct\s+{struct}\s*\{{(.*?)\}}\s*{struct}\s*;", text, flags=re.S).group(1)
    return {name: plain(comment) for name, comment in re.findall(r"(\w+)(?:\[\d+\])?[ \t]*;[ \t]*(/\*.*?\*/)", body, flags=re.S)}


def struct_entry(model, header, struct, fields):
    placed, size = model.layout(struct, fields)
    texts = field_texts(header.text, struct)
    entry = {"name": struct, "header": header.name, "size": size, "init": struct + "_init",
             "text": tags(comment_before(header.text, re.search(rf"typedef\s+struct\s+{struct}\s*\{{", header.text).start()))[0], "fields": []}
    for (kind, name, count), (_, offset, bytes_, _) in zip(fields, placed):
        field = {"name": name, "type": kind, "offset": offset, "bytes": bytes_}
        if count:
            field["count"] = count
        if name in texts:
            field["text"] = texts[name]
        entry["fields"].append(field)
    return entry


def constants(header):
    """Constants in groups: those that follow each other with nothing but comments between. A blank line begins a new group."""
    groups, end, values = [], None, dict(header.constants)
    for match in re.finditer(r"^#define[ \t]+(THINK_\w+)[ \t]+\S+(?:[ \t]*(/\*.*?\*/))?", header.text, flags=re.M | re.S):
        name = match.group(1)
        if name not in values:
            continue
        member = {"name": name, "value": int(values[name].rstrip("u"), 0)}
        before, between = comment_before(header.text, match.start()), header.text[end:match.start()] if end else "code"
        if re.sub(r"/\*.*?\*/", "", between, flags=re.S).strip() or between.startswith("\n\n"):
            alias = re.search(r"typedef\s+\w+\s+(\w+)\s*;\s*$", header.text[:match.start()])
            text = comment_before(header.text, alias.start()) if alias else before
            groups.append({"type": alias.group(1) if alias else "int32_t", "header": header.name, "flags": values[name].endswith("u"), "text": tags(text)[0],
                           "members": []})
            before = ""
        text = match.group(2) or before
        if text:
            member["text"] = tags(text)[0]
        groups[-1]["members"].append(member)
        end = match.end()
    return groups


def description(model):
    functions = [function_entry(model, name) for name, _ in model.listed]
    groups = [group for header in model.headers for group in constants(header)]
    return {
        "schema": SCHEMA,
        "made_by": "libthink/abi/generate.py, from the public headers and functions.def; its rules are in libthink/abi/describe.py",
        "abi_major": next(member["value"] for group in groups for member in group["members"] if member["name"] == "THINK_ABI_MAJOR"),
        "aliases": [{"name": name, "type": base, "header": header.name} for header in model.headers for base, name in header.aliases],
        "handles": [{"name": name, "header": header.name} for header in model.headers for name in header.opaque if name.startswith("think_")],
        "callbacks": [{"name": name, "header": header.name, "declaration": whole,
                       "text": tags(comment_before(header.text, re.search(rf"typedef\s+[\w\s*]+\(\*{name}\)", header.text).start()))[0]}
                      for header in model.headers for whole, name in header.callbacks],
        "constants": groups,
        "structs": [struct_entry(model, header, struct, fields) for header in model.headers for struct, fields in header.structs],
        "functions": functions,
    }


def json_text(model):
    """One line for each function, field and constant: a change shows up as the lines it concerns."""
    lines, about = ["{"], description(model)
    compact = lambda value: json.dumps(value, ensure_ascii=True, separators=(", ", ": "))
    keys = list(about)
    for key in keys:
        value, comma = about[key], "," if key != keys[-1] else ""
        if not isinstance(value, list):
            lines.append(f" {compact(key)}: {compact(value)}{comma}")
            continue
        lines.append(f" {compact(key)}: [")
        for item in value:
            inner = next((name for name in ("parameters", "fields", "members") if item.get(name)), None)
            behind = "," if item is not value[-1] else ""
            if inner is None:
                lines.append(f"  {compact(item)}{behind}")
                continue
            head = compact({name: part for name, part in item.items() if name != inner})
            lines.append(f"  {head[:-1]}, {compact(inner)}: [")
            lines += [f"   {compact(part)}{',' if part is not item[inner][-1] else ''}" for part in item[inner]]
            lines.append(f"  ]}}{behind}")
        lines.append(f" ]{comma}")
    return "\n".join(lines + ["}"]) + "\n"
