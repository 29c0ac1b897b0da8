"""RFC 8785: examples of the RFC's own text, and the fast path of the ledger beside the reference package."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.canonical import canonical
from broker.ledger.encoding import NotCanonicalError, decode, encode

# RFC 8785, section 3.2.2 to 3.2.4: input and its canonical bytes.
RFC_INPUT = (
    '{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],'
    ' "string": "\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/", "literals": [null, true, false]}'
)
RFC_OUTPUT_HEX = (
    "7b226c69746572616c73223a5b6e756c6c2c747275652c66616c73655d2c226e756d62657273223a5b3333333333333333332e333333333333"
    "332c31652b33302c342e352c302e3030322c31652d32375d2c22737472696e67223a22e282ac245c75303030665c6e4127425c225c5c5c5c5c"
    "222f227d"
)
# Section 3.2.3: the order of keys is that of their UTF-16 code units.
RFC_SORTED_KEYS = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_the_example_of_the_rfc() -> None:
    assert encode(json.loads(RFC_INPUT)).hex() == RFC_OUTPUT_HEX


def test_the_key_order_of_the_rfc() -> None:
    found = json.loads(encode(dict.fromkeys(reversed(RFC_SORTED_KEYS), 0)))
    assert list(found) == RFC_SORTED_KEYS


@pytest.mark.parametrize("value", [2**53, -(2**53), float("nan"), float("inf"), "\ud800", 2.0**53, -1e20])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        encode({"x": value})  # type: ignore[dict-item]  # wrong on purpose


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**53) + 1, max_value=2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not 2**53 <= abs(number) < 1e21)
    | st.text()
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5), max_leaves=30
)
_OBJECTS = st.dictionaries(st.text(), _VALUES, max_size=6)


@given(_OBJECTS)
def test_the_fast_path_gives_the_reference_bytes(value: dict[str, Any]) -> None:
    assert encode(value) == rfc8785.dumps(value)


@given(_VALUES)
def test_the_fast_path_of_any_value_gives_the_reference_bytes(value: object) -> None:
    assert canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]  # JSON


@pytest.mark.parametrize(
    "number",
    [
        0.0,
        -0.0,
        1.0,
        0.1,
        1e-3,
        1e-3 - 1e-19,
        1e-4,
        1e-5,
        1e15 + 0.5,
        2.0**52 - 0.5,
        2.0**53,
        1e16,
        1e21,
        1.5e300,
        5e-324,
        2**53 - 1.0,
    ],
)
def test_floats_at_the_borders_of_the_fast_path(number: float) -> None:
    assert canonical([number, -number]) == rfc8785.dumps([number, -number])


@pytest.mark.parametrize("value", [2**53, "\ud800", {"\ud800": 1}, {1: 2}, float("nan"), {"a": {1, 2}}, b"x"])
def test_what_has_no_canonical_form_is_refused_by_any_path(value: object) -> None:
    with pytest.raises((ValueError, rfc8785.CanonicalizationError)):
        canonical(value)


@given(_OBJECTS)
def test_canonical_bytes_are_read_back(value: dict[str, Any]) -> None:
    data = encode(value)
    assert encode(decode(data)) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'{"a":1 }',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a":1.0}',
        b'{"a":-0}',
        b'{"a":1e2}',
        b'{"a":"\\u0041"}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":9007199254740993}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":1}\n',
        b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_bytes_in_another_form_are_refused(data: bytes) -> None:
    with pytest.raises(NotCanonicalError):
        decode(data)
