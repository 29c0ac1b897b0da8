"""The fast way to read an entry gives what the reference gives, and refuses what it refuses, for any value and any bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from broker.ledger import segment
from broker.ledger.encoding import NotCanonicalError

_SAFE = 2**53 - 1
_KEYS = st.text(max_size=6) | st.sampled_from(
    ["\ue000", "\U0001f600", "\uffff", "é", "a", "A", "\x7f", "\x00", '"', "\\", "/"]
)
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-_SAFE - 2, _SAFE + 2)
    | st.floats()
    | st.text(max_size=12)
    | st.text(st.characters(min_codepoint=0, max_codepoint=0x2FF), max_size=12)
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=5), max_leaves=12
)


def _reference(data: bytes) -> Any:  # noqa: ANN401 - any JSON
    """What RFC 8785 says of some bytes, by the standard library and the reference package: the object, or ``None``."""
    try:
        value = json.loads(data.decode("utf-8"))
        return value if isinstance(value, dict) and rfc8785.dumps(value) == data else None
    except (ValueError, RecursionError, rfc8785.CanonicalizationError):
        return None


def _same(data: bytes) -> None:
    wanted = _reference(data)
    try:
        found = segment.read(data)
    except NotCanonicalError:
        assert wanted is None, data
        return
    assert found == wanted, data
    assert json.dumps(found) == json.dumps(wanted), data  # true is not 1, and keys keep their order


@given(st.dictionaries(_KEYS, _VALUES, max_size=5))
def test_any_object_in_each_writers_form(value: dict[str, Any]) -> None:
    for ascii_only in (True, False):
        for sort in (True, False):
            text = json.dumps(value, ensure_ascii=ascii_only, sort_keys=sort, separators=(",", ":"))
            _same(text.encode("utf-8", "surrogatepass"))
    try:
        data = rfc8785.dumps(value)
    except (ValueError, rfc8785.CanonicalizationError):
        return
    _same(data)


_PIECES = st.sampled_from(
    [
        *(b"{", b"}", b"[", b"]", b":", b",", b" ", b"\n", b"\t", b"\xef\xbb\xbf", b"\x00", b'{"a":1}'),
        *(b'"a"', b'"b"', b'"\\u0061"', b'"\\/"', b'"\\n"', b'"\\u000a"', b'"\\u001F"', b'"\\u001f"', b'"\\ud800"'),
        *(b'"\\ud83d\\ude00"', b'"\xf0\x9f\x98\x80"', b'"\xed\xa0\x80"', b'"\x7f"', b'"\xff"', b'"\xee\x80\x80"'),
        *(b'"\xc3\xa9"', b'"\\u00e9"', b"0", b"-0", b"-1", b"01", b"1.0", b"1e5", b"1E5", b"0.1", b"1e400"),
        *(b"9007199254740991", b"9007199254740992", b"-9007199254740992", b"18446744073709551616"),
        *(b"NaN", b"Infinity", b"-Infinity", b"true", b"false", b"null"),
    ]
)


@given(st.lists(_PIECES, max_size=14).map(b"".join))
def test_any_spelling(data: bytes) -> None:
    _same(data)
    _same(b'{"k":' + data + b"}")


@given(st.binary(max_size=40))
def test_any_bytes(data: bytes) -> None:
    _same(data)
    _same(b'{"' + data + b'":1}')


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"a":2,"a":1}',
        b'{"b":1,"a":1}',
        b'{"a":1.0}',
        b'{"a":1e5}',
        b'{"a":100000.0}',
        b'{"a":-0}',
        b'{"a":-0.0}',
        b'{"a":0.25}',
        b'{"a":1e+21}',
        b'{"a":9007199254740992}',
        b'{"a":10000000000000000000000000000000000000000}',
        b'{"a":NaN}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\u007f"}',
        b'{"a":"\\u001F"}',
        b'{"a":"\\/"}',
        b'{"a": 1}',
        b'{"a":1}\n',
        b' {"a":1}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":1}{"a":1}',
        b"",
        b"[]",
        b"null",
        '{"\ue000":1,"\U0001f600":2}'.encode(),
        '{"\U0001f600":2,"\ue000":1}'.encode(),
        b'{"a":' * 300 + b"1" + b"}" * 300,
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b"[" * 20_000,
    ],
    ids=repr,
)
def test_each_odd_spelling(data: bytes) -> None:
    _same(data)


@given(
    st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=4), st.integers(-_SAFE, _SAFE) | st.booleans())
)
@example({"a": _SAFE, "b": -_SAFE})
def test_the_common_case_is_taken_by_the_fast_way(value: dict[str, Any]) -> None:
    data = rfc8785.dumps(value)

    def slow(_: bytes) -> dict[str, Any]:
        raise AssertionError(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "decode", slow)
        assert segment.read(data) == value
