"""The catalogue: all or nothing, and what it says of arguments and results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.errors import InvalidArgumentError
from broker.specs.catalogue import Catalogue, Tool
from broker.specs.shipped import shipped_folder

Write = Callable[..., Path]


def load(path: Path) -> Catalogue:
    return Catalogue.load([path.parent])


def the_tool(path: Path) -> Tool:
    tool = load(path).get("demo.echo")
    assert tool is not None
    return tool


def test_the_shipped_tools() -> None:
    catalogue = Catalogue.load([shipped_folder()])
    assert catalogue.names == (
        *("data.query", "python.run", "shell.run", "sqlite.execute", "text.search"),
        "workspace.undo",
    )
    assert [tool.spec.name for tool in catalogue.all()] == list(catalogue.names)
    assert catalogue.get("data.quer") is None
    assert [int(tool.spec.risk) for tool in catalogue.all()] == [1, 1, 2, 4, 1, 0]
    query = catalogue.get("data.query")
    assert query is not None
    assert query.digest == query.spec.digest(query.files)
    assert list(query.files) == ["data_query.py"]


def test_a_changed_script_is_a_new_version(good: dict[str, Any], write: Write) -> None:
    path = write({**good, "run": {"python": {"file": "it.py"}}})
    write("print(1)\n", "it.py")
    before = the_tool(path).digest
    write("print(2)\n", "it.py")
    assert the_tool(path).digest != before


def test_one_fault_refuses_all(good: dict[str, Any], write: Write) -> None:
    write(good)
    path = write({**good, "name": "demo.other", "tier": 9}, "other.yaml")
    with pytest.raises(InvalidArgumentError) as caught:
        load(path)
    assert caught.value.reason == "SPECS_INVALID"
    assert caught.value.violations[0].field == f"{path}:4:7"


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="is not a folder"):
        Catalogue.load([tmp_path / "gone"])


SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["text"],
    "properties": {
        "text": {"type": "string", "minLength": 2, "maxLength": 5, "pattern": "^[a-z]+$"},
        "more": {"type": "array", "maxItems": 2, "uniqueItems": True, "items": {"type": "string"}},
        "count": {"type": "integer", "minimum": 1, "maximum": 9, "multipleOf": 2},
        "unit": {"enum": ["kg", "lb"]},
        "a/b~c": {"type": "boolean"},
        "deep": {
            "type": "object",
            "required": ["x"],
            "additionalProperties": False,
            "properties": {"x": {"$ref": "#/$defs/x"}},
        },
        "either": {"anyOf": [{"type": "null"}, {"type": "integer"}]},
    },
    "$defs": {"x": {"type": "number", "exclusiveMinimum": 0}},
}


@pytest.mark.parametrize(
    ("value", "field", "text"),
    [
        ({}, "arguments/text", "is required, and missing"),
        ({"text": 5}, "arguments/text", "must be of type string, and is of type integer"),
        ({"text": True}, "arguments/text", "must be of type string, and is of type boolean"),
        ({"text": "a"}, "arguments/text", "must have at least 2 characters, and has 1"),
        ({"text": "abcdef"}, "arguments/text", "must have at most 5 characters, and has 6"),
        ({"text": "A1"}, "arguments/text", 'must match the pattern "^[a-z]+$"'),
        ({"text": "ab", "more": ["x", 5]}, "arguments/more/1", "must be of type string, and is of type integer"),
        ({"text": "ab", "more": ["x", "y", "z"]}, "arguments/more", "must have at most 2 items, and has 3"),
        ({"text": "ab", "more": ["x", "x"]}, "arguments/more", "must not hold the same item twice"),
        ({"text": "ab", "count": 0}, "arguments/count", "must be at least 1"),
        ({"text": "ab", "count": 10}, "arguments/count", "must be at most 9"),
        ({"text": "ab", "count": 3}, "arguments/count", "must be a multiple of 2"),
        ({"text": "ab", "count": True}, "arguments/count", "must be of type integer, and is of type boolean"),
        ({"text": "ab", "unit": "g"}, "arguments/unit", 'must be one of ["kg","lb"]'),
        ({"text": "ab", "a/b~c": 1}, "arguments/a~1b~0c", "must be of type boolean, and is of type integer"),
        ({"text": "ab", "deep": {}}, "arguments/deep/x", "is required, and missing"),
        ({"text": "ab", "deep": {"x": 0}}, "arguments/deep/x", "must be more than 0"),
        ({"text": "ab", "deep": {"x": 1, "y": 2}}, "arguments/deep/y", "is not a known property; known are: x"),
        ({"text": "ab", "either": "x"}, "arguments/either", "fits none of the 2 forms that are allowed"),
        ({"text": "ab", "txt": 1}, "arguments/txt", "is not a known property; did you mean text?"),
    ],
)
def test_violations_name_field_and_fault(
    good: dict[str, Any], write: Write, value: dict[str, Any], field: str, text: str
) -> None:
    tool = the_tool(write({**good, "arguments": SCHEMA}))
    tool.validate_arguments({"text": "ab"})
    with pytest.raises(InvalidArgumentError) as caught:
        tool.validate_arguments(value)
    assert caught.value.reason == "ARGUMENTS_INVALID"
    assert [(item.field, item.description) for item in caught.value.violations] == [(field, text)]
    assert caught.value.metadata["tool_version"] == tool.digest


def test_at_most_ten_violations_and_no_values_in_them(good: dict[str, Any], write: Write) -> None:
    tool = the_tool(write(good))
    with pytest.raises(InvalidArgumentError) as caught:
        tool.validate_arguments({"text": {"secret": "4711-0815"}, "more": [4711] * 50})
    assert len(caught.value.violations) == 10
    assert "4711" not in str(caught.value) + repr(caught.value.violations)


def test_results(good: dict[str, Any], write: Write) -> None:
    schema = {"type": "object", "additionalProperties": False, "properties": {"n": {"type": "integer"}}}
    tool = the_tool(write({**good, "result": schema}))
    assert tool.validate_result(b'{"n": 1}') == {"n": 1}
    for data, field in (
        (b'{"n": "x"}', "result/n"),
        (b'{"m": 1}', "result/m"),
        (b"{", "result"),
        (b"", "result"),
        (b"\xff", "result"),
        (b'{"n": 1, "n": 2}', "result"),
        (b'{"n": NaN}', "result"),
        (b"[" * 100_000, "result"),
        (b'"' + b"x" * 2**20 + b'"', "result"),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            tool.validate_result(data)
        assert caught.value.reason == "RESULT_INVALID"
        assert caught.value.violations[0].field == field


def test_a_result_that_was_not_declared_is_refused(good: dict[str, Any], write: Write) -> None:
    with pytest.raises(InvalidArgumentError, match="declares none"):
        the_tool(write(good)).validate_result(b"{}")
