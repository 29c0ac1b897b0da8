"""JSON from outside: what is let through has one meaning and one byte form."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.canonical import MAX_DEPTH, canonical, parse_json, parse_object, pointer
from broker.errors import InvalidArgumentError

SAFE = 2**53 - 1
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-SAFE, SAFE) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def read(text: str | bytes) -> object:
    return parse_json(text, field="arguments", max_bytes=1 << 20)


@given(VALUES)
def test_what_is_read_is_what_was_written(value: object) -> None:
    assert read(json.dumps(value)) == value
    assert read(json.dumps(value, ensure_ascii=False)) == value


@given(VALUES)
def test_the_byte_form_is_the_same_for_the_same_value(value: object) -> None:
    once = canonical(read(json.dumps(value)))
    again = canonical(read(once)) if not _large(value) else once
    assert once == again


def _large(value: object) -> bool:
    # RFC 8785 writes whole doubles beyond 2^53 as integers, which are refused when they come back.
    if isinstance(value, float):
        return abs(value) > SAFE
    if isinstance(value, dict):
        return any(_large(item) for item in value.values())
    return isinstance(value, list) and any(_large(item) for item in value)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_with_the_field(data: bytes) -> None:
    refused: InvalidArgumentError | None = None
    try:
        read(data)
    except InvalidArgumentError as error:
        refused = error
    assert refused is None or refused.violations[0].field.startswith("arguments")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"a":1,"a":2}', "arguments"),
        ('{"a":[1,{"b":NaN}]}', "arguments"),
        ('{"a/b":{"~":9007199254740993}}', "arguments/a~1b/~0"),
        ('{"a":["x","\\u0000"]}', "arguments/a/1"),
        ('{"\\u0000":1}', "arguments"),
        ('["\\ud800"]', "arguments/0"),
        ("1e999", "arguments"),
        ("{", "arguments"),
        ("", "arguments"),
        ('{"a":1}x', "arguments"),
    ],
)
def test_the_place_is_named(text: str, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        read(text)
    assert caught.value.violations[0].field == field


def test_nesting_is_bounded_before_it_is_parsed() -> None:
    assert read("[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None
    for text in ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "[" * 1_000_000, '{"a":' * 100_000):
        with pytest.raises(InvalidArgumentError):
            read(text)
    assert read(json.dumps("[" * 1000)) == "[" * 1000


def test_an_object_is_an_object() -> None:
    with pytest.raises(InvalidArgumentError):
        parse_object("[]", field="arguments", max_bytes=10)
    assert parse_object("{}", field="arguments", max_bytes=2) == {}


def test_pointers_are_escaped() -> None:
    assert pointer("a/b", 0, "~") == "/a~1b/0/~0"
