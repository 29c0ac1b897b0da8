"""RFC 8785 bytes of entries: a fast path for what entries nearly always are, proved equal to ``rfc8785`` by tests."""

from __future__ import annotations

import json
from typing import cast

from broker.domain.canonical import MAX_SAFE_INTEGER, JsonObject, JsonValue, canonical

_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":"))

_EXPONENT_FROM = 1e21
"""From here on RFC 8785 writes numbers with an exponent."""


class NotCanonicalError(ValueError):
    """The bytes are not the RFC 8785 form of a JSON object."""


def encode(entry: JsonObject) -> bytes:
    """The RFC 8785 bytes of a JSON object.

    Raises:
        ValueError: a value has no such form (NaN, an integer beyond 2^53-1, a lone surrogate, another type).
    """
    if _plain(entry):
        text = _ENCODER.encode(entry)
        if text.isascii():
            return text.encode("ascii")
    else:
        _refuse_unreadable(entry)
    return canonical(entry)


def decode(data: bytes) -> JsonObject:
    """Reads a JSON object that must be in RFC 8785 form already: encoding what was read gives the same bytes.

    Raises:
        NotCanonicalError: it isn't; the text says why.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
        again = encode(value) if isinstance(value, dict) else b""
    except (ValueError, RecursionError) as error:
        raise NotCanonicalError(f"the bytes are not JSON that RFC 8785 can write: {type(error).__name__}") from error
    if not again:
        raise NotCanonicalError("the bytes are no JSON object")
    if again != data:
        raise NotCanonicalError("the bytes are JSON, but not in RFC 8785 form")
    return cast("JsonObject", value)


def _plain(value: JsonValue) -> bool:
    # Only exact types: a float, a big integer or a subclass takes the slow way. Whether all text is ASCII (where code
    # point order and RFC 8785's UTF-16 order of keys are one) shows after encoding.
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return -MAX_SAFE_INTEGER <= cast("int", value) <= MAX_SAFE_INTEGER
    if kind is list:
        return all(map(_plain, cast("list[JsonValue]", value)))
    if kind is dict:
        mapping = cast("dict[str, JsonValue]", value)
        return all(type(key) is str for key in mapping) and all(map(_plain, mapping.values()))
    return False


def _refuse_unreadable(value: JsonValue) -> None:
    # RFC 8785 writes such a float with all its digits and no point: read back, it is an integer that I-JSON refuses.
    if isinstance(value, float) and MAX_SAFE_INTEGER < abs(value) < _EXPONENT_FROM:
        raise ValueError("a number beyond 2^53-1 must be a string")
    if isinstance(value, list):
        for item in value:
            _refuse_unreadable(item)
    elif isinstance(value, dict):
        for item in value.values():
            _refuse_unreadable(item)


def _no_constant(name: str) -> float:
    message = f"{name} is not JSON"
    raise ValueError(message)
