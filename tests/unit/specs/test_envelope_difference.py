"""Which fields of two envelopes differ."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.canonical import canonical
from broker.domain.envelope import envelope
from broker.domain.envelope_difference import MAX_NAMED, difference, named
from tests.unit.specs.test_envelope import BASE, all_changes


def paths(old: Any, new: Any) -> list[str]:  # noqa: ANN401 - any JSON object
    return [path for path, _, _ in difference(json.dumps(old).encode(), json.dumps(new).encode())]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a"]),
        ({"a": 1}, {"a": True}, ["a"]),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, ["a.c"]),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 3}}, ["a.c"]),
        ({"a": {"b": 1}}, {}, ["a"]),
        ({"a": {"b": 1}}, {"a": [1]}, ["a"]),
        ({"a": []}, {"a": {}}, ["a"]),
        ({"a": ["x", "y"]}, {"a": ["x", "z"]}, ["a[1]"]),
        ({"a": ["x", "y"]}, {"a": ["y", "x"]}, ["a[0]", "a[1]"]),
        ({"a": ["x"]}, {"a": ["x", "y"]}, ["a"]),
        ({"a": [{"path": "p/q.csv", "size": 1}]}, {"a": [{"path": "p/q.csv", "size": 2}]}, ["a[p/q.csv].size"]),
        ({"a": [{"path": "p"}]}, {"a": [{"path": "q"}]}, ["a[p]", "a[q]"]),
        ({"a": []}, {"a": [{"path": "/etc"}]}, ["a[/etc]"]),
        ({"a": [{"path": "p"}, {"path": "q"}]}, {"a": [{"path": "q"}, {"path": "p"}]}, ["a"]),
        ({"a": [{"path": "p"}, {"path": "p"}]}, {"a": [{"path": "p"}]}, ["a"]),
        ({"a": {"b c": 1}}, {"a": {"b c": 2}}, ['a["b c"]']),
        ({"a": {"b,c": 1}}, {"a": {"b,c": 2}}, ['a["b\\u002cc"]']),
        ({"a": {"\u202eb": 1}}, {"a": {}}, ['a["\\u202eb"]']),
        ({"a": {"x" * 300: 1}}, {"a": {}}, [f'a["{"x" * 60}..."]']),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, ["a", "b"]),
    ],
)
def test_fields_are_named_by_their_path(old: object, new: object, expected: list[str]) -> None:
    assert paths(old, new) == expected


def test_values_go_with_the_paths() -> None:
    assert difference(b'{"a":{"b":1}}', b'{"a":{"b":[2]},"c":null}') == [("a.b", 1, [2]), ("c", None, None)]


def test_every_change_of_an_envelope_is_named() -> None:
    base = envelope(**BASE)
    for change in all_changes():
        assert difference(base, envelope(**change))


def test_a_refusal_names_few_and_no_path_has_a_comma() -> None:
    fields = difference(b"{}", json.dumps({f"{number},{number}": 1 for number in range(20)}).encode())
    assert len(fields) == 20
    assert named(fields).count(",") == MAX_NAMED - 1
    assert named([]) == ""


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b'{"a":', b"[" * 100_000])
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no envelope"):
        difference(b"{}", data)


objects = st.dictionaries(
    st.text(max_size=3) | st.just("path"),
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.just("path"), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


@given(objects, objects)
def test_there_is_a_difference_where_the_bytes_differ_and_only_there(old: Any, new: Any) -> None:  # noqa: ANN401
    found = difference(canonical(old), canonical(new))
    assert bool(found) == (canonical(old) != canonical(new))
    assert not difference(canonical(old), canonical(old))
    assert all("," not in path for path, _, _ in found)
