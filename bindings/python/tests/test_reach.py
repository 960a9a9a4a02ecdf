"""Nothing is missing: every function, struct and constant of think.json, in the declarations and through the classes."""

import pathlib
import re

import libthink
import pytest
from conftest import RECORDER, THINK

ffi = libthink.native.ffi


@pytest.mark.parametrize("struct", THINK["structs"], ids=lambda struct: struct["name"])
def test_struct_layout(struct):
    kind = ffi.typeof(struct["name"])
    assert ffi.sizeof(kind) == struct["size"]
    fields = dict(kind.fields)
    assert list(fields) == [field["name"] for field in struct["fields"]]
    for field in struct["fields"]:
        assert fields[field["name"]].offset == field["offset"]
        assert ffi.sizeof(fields[field["name"]].type) == field["bytes"]


@pytest.mark.parametrize("struct", THINK["structs"], ids=lambda struct: struct["name"])
def test_struct_class(struct):
    """Each struct has a class; the init function gives its size; each number reads back; unknown and reserved fields are refused."""
    kind = getattr(libthink, "".join(part.capitalize() for part in struct["name"].removeprefix("think_").split("_")))
    made = kind()
    assert made._c.struct_size == struct["size"]
    for field in struct["fields"]:
        name = field["name"]
        if name == "struct_size" or name.startswith("reserved"):
            with pytest.raises(AttributeError):
                getattr(made, name)
            with pytest.raises(AttributeError):
                setattr(made, name, 0)
        elif field["type"] == "float":
            setattr(made, name, 0.5)
            assert getattr(made, name) == 0.5
        elif field["type"] == "char":
            setattr(made, name, "text")
            assert getattr(made, name) == "text"
        elif "count" in field:
            setattr(made, name, range(1, field["count"] + 1))
            assert getattr(made, name) == tuple(range(1, field["count"] + 1))
        elif field["type"].startswith("const think_"):
            inner = getattr(libthink, "".join(part.capitalize() for part in re.search(r"think_(\w+)", field["type"])[1].split("_")))()
            setattr(made, name, inner)
            assert getattr(made, name) is inner
            with pytest.raises(TypeError):
                setattr(made, name, libthink.Error())
        elif "*" in field["type"]:
            setattr(made, name, 4096)
            assert getattr(made, name) == 4096
            setattr(made, name, None)
            assert getattr(made, name) == 0
        elif field["type"] not in {callback["name"] for callback in THINK["callbacks"]}:
            setattr(made, name, 7)
            assert getattr(made, name) == 7 and f"{name}=7" in libthink.Struct.__repr__(made)
    with pytest.raises(AttributeError):
        made.no_such_field = 1
    with pytest.raises(AttributeError):
        kind(no_such_field=1)


@pytest.mark.parametrize("function", THINK["functions"], ids=lambda function: function["name"])
def test_function_signature(function):
    kind = ffi.typeof(getattr(RECORDER.lib, function["name"]))
    assert kind.result is ffi.typeof(function["result"])
    assert list(kind.args) == [ffi.typeof(parameter["type"]) for parameter in function["parameters"]]


def test_constants():
    for group in THINK["constants"]:
        for member in group["members"]:
            assert getattr(libthink.constants, member["name"].removeprefix("THINK_")) == member["value"]


def test_every_function_is_called_by_the_tests(request):
    """Before test_nullable_is_true(), which calls nearly everything without the classes."""
    files = {pathlib.Path(item.fspath).name for item in request.session.items}
    everything = {path.name for path in pathlib.Path(__file__).parent.glob("test_*.py")}
    if files != everything:
        pytest.skip("only part of the tests was run")
    missing = {function["name"] for function in THINK["functions"]} - RECORDER.called
    assert not missing


def test_nullable_is_true(plan):
    """With a right handle and NULL for all else, the library complains about a pointer that think.json says is needed, or about a number."""
    cache = libthink.Cache(plan)
    handles = {"think_plan": plan._handle, "think_cache": cache._handle}
    asked = 0
    for function in THINK["functions"]:
        parameters = function["parameters"]
        if not function["fallible"] or parameters[0]["type"].replace("const ", "").rstrip(" *") not in handles or "export_dense" in function["name"]:
            continue
        arguments = [handles[parameters[0]["type"].replace("const ", "").rstrip(" *")]]
        arguments += [ffi.cast(item["type"], 0) if "*" in item["type"] or item["type"].startswith("think_") else 0 for item in parameters[1:-1]]
        needed = [place for place, item in enumerate(parameters, 1) if "ownership" in item and not item["nullable"] and place > 1]
        if not needed:
            continue
        with pytest.raises(libthink.ThinkError) as raised:
            libthink.native.call(function["name"], *arguments)
        if isinstance(raised.value, libthink.ArgumentError):
            numbers = [place for place, item in enumerate(parameters, 1) if "ownership" not in item]
            assert raised.value.argument in needed + numbers, (function["name"], str(raised.value))
            asked += 1
    assert asked > 20
