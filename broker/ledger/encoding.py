"""RFC 8785 bytes of entries, written and read back strictly."""

from __future__ import annotations

from typing import cast

import orjson

from broker.domain.canonical import MAX_SAFE_INTEGER, JsonObject, JsonValue, canonical, canonical_fast

_EXPONENT_FROM = 1e21
"""From here on RFC 8785 writes numbers with an exponent."""


class NotCanonicalError(ValueError):
    """The bytes are not the RFC 8785 form of a JSON object."""


def encode(entry: JsonObject, *, floats: bool = True) -> bytes:
    """The RFC 8785 bytes of a JSON object.

    Args:
        entry: the object.
        floats: may it hold any? Entries hold none: a verifier needs no more than integers then.

    Raises:
        ValueError: a value has no such form (NaN, an integer beyond 2^53-1, a lone surrogate, another type), or is a
            float where there may be none.
    """
    fast = canonical_fast(entry)
    if fast is not None:
        return fast
    _refuse_numbers(entry, floats=floats)
    return canonical(entry)


def decode(data: bytes) -> JsonObject:
    """Reads a JSON object that must be in RFC 8785 form already: encoding what was read gives the same bytes.

    Raises:
        NotCanonicalError: it isn't; the text says why.
    """
    try:
        value = orjson.loads(data)
        again = encode(value) if isinstance(value, dict) else b""
    except (ValueError, RecursionError) as error:
        raise NotCanonicalError(f"the bytes are not JSON that RFC 8785 can write: {type(error).__name__}") from error
    if not again:
        raise NotCanonicalError("the bytes are no JSON object")
    if again != data:
        raise NotCanonicalError("the bytes are JSON, but not in RFC 8785 form")
    return cast("JsonObject", value)


def _refuse_numbers(value: JsonValue, *, floats: bool) -> None:
    if isinstance(value, float):
        if not floats:
            raise ValueError("an entry holds no floats; write the number as an integer or a string")
        # RFC 8785 writes such a float with all its digits and no point: read back, it is an integer that I-JSON refuses.
        if MAX_SAFE_INTEGER < abs(value) < _EXPONENT_FROM:
            raise ValueError("a number beyond 2^53-1 must be a string")
    if isinstance(value, list):
        for item in value:
            _refuse_numbers(item, floats=floats)
    elif isinstance(value, dict):
        for item in value.values():
            _refuse_numbers(item, floats=floats)
