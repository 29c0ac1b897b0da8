"""JSON from outside, read strictly, and the one byte form (RFC 8785) that everything is hashed in."""

from __future__ import annotations

import hashlib
import json
import math
import re
from array import array
from collections.abc import Iterable
from itertools import accumulate
from typing import TypeAlias, cast

import msgspec
import orjson
import rfc8785
from typing_extensions import TypeAliasType

from broker.errors import FieldViolation, InvalidArgumentError

JsonValue = TypeAliasType("JsonValue", "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None")
JsonObject: TypeAlias = dict[str, JsonValue]

MAX_DEPTH = 32
"""Deepest nesting of arrays and objects that is read from outside."""

_INVALID = "INVALID_JSON"
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # read as signed: +1 and -1
_BAD_TEXT = re.compile("[\x00\ud800-\udfff]")

_BEYOND_BMP = re.compile(rb"[\xf0-\xff]")
_AS_RFC_8785 = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)


class _FloatError(Exception):
    """The text holds a float."""


def _found_float(_: str) -> float:
    raise _FloatError


_PLAIN = (str, int, bool, type(None))
_LEAST_FRACTION = 1e-3
_WITHOUT_FLOATS = msgspec.json.Decoder(float_hook=_found_float)

MAX_SAFE_INTEGER = 2**53 - 1
"""Integers beyond this are not the same number in every reader (I-JSON); send them as strings."""


def digest(data: bytes) -> str:
    """``sha256:`` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def canonical(value: object) -> bytes:
    """The RFC 8785 bytes of a JSON value that ``parse_json`` let through or that the broker made itself.

    Raises:
        ValueError: a value has no such form (NaN, an integer beyond 2^53-1, a lone surrogate, another type).
    """
    fast = canonical_fast(value)
    if fast is None:
        fast = _canonical_with_floats(value)
    return rfc8785.dumps(cast("JsonObject", value)) if fast is None else fast


def canonical_fast(value: object) -> bytes | None:
    """The same bytes at a fraction of the cost, for values without floats, as nearly all are; ``None`` for any other.

    Tests prove it equal to the reference package.
    """
    try:
        data = orjson.dumps(value, option=_AS_RFC_8785)
        again = _WITHOUT_FLOATS.decode(data)
    except (TypeError, _FloatError):
        return None  # floats are written otherwise in RFC 8785
    if b"null" in data and again != value:
        return None  # a NaN became null
    return data if _in_order(data) else None


def _canonical_with_floats(value: object) -> bytes | None:
    """The same for values whose floats are whole or of a common size, as limits and times are."""
    try:
        data = orjson.dumps(_without_odd_floats(value), option=_AS_RFC_8785)
    except (TypeError, _FloatError):
        return None
    return data if _in_order(data) else None


def _in_order(data: bytes) -> bool:
    """Beyond the BMP, RFC 8785's order of keys (UTF-16) is another than that of UTF-8."""
    return data.isascii() or _BEYOND_BMP.search(data) is None


def _without_odd_floats(value: object) -> object:
    """The value with whole floats as the integers that RFC 8785 writes them as; other floats of a common size, which all
    write alike, are left.

    Raises:
        _FloatError: it holds a float of another size, or something that isn't of JSON.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, float):
        if value.is_integer() and abs(value) <= MAX_SAFE_INTEGER:
            return int(value)
        if _LEAST_FRACTION <= abs(value) < MAX_SAFE_INTEGER:
            return value
    elif kind is dict:
        return {key: _without_odd_floats(item) for key, item in cast("JsonObject", value).items()}
    elif kind in (list, tuple):
        return [_without_odd_floats(item) for item in cast("list[JsonValue]", value)]
    raise _FloatError


def pointer(*parts: str | int) -> str:
    """An RFC 6901 JSON pointer to a value inside the arguments."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


def parse_json(text: str | bytes, *, field: str, max_bytes: int) -> JsonValue:
    """Reads JSON as I-JSON: no duplicate key, NaN, unsafe integer, lone surrogate or NUL, and bounded nesting.

    Args:
        text: the JSON text; bytes must be UTF-8.
        field: name of the request field, for the error.
        max_bytes: refuse longer texts.

    Raises:
        InvalidArgumentError: names the field and, inside the document, the JSON pointer.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(raw) > max_bytes:
        raise _refuse(field, f"is {len(raw)} bytes long; the limit is {max_bytes}", reason="TOO_LARGE")
    if _depth(raw) > MAX_DEPTH:
        raise _refuse(field, f"is nested deeper than {MAX_DEPTH} levels", reason="TOO_DEEP")
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _refuse(field, f"is not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise _refuse(field, f"is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from error
    except ValueError as error:
        raise _refuse(field, str(error)) from error
    _check(value, field)
    return cast("JsonValue", value)


def parse_object(text: str | bytes, *, field: str, max_bytes: int) -> JsonObject:
    """Like ``parse_json``, and the document must be an object."""
    value = parse_json(text, field=field, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise _refuse(field, "must be a JSON object")
    return value


def _depth(raw: bytes) -> int:
    """The deepest nesting; where it can't be over ``MAX_DEPTH``, perhaps 0."""
    # Counted before parsing, outside strings, so that nesting can't exhaust the parser's stack. No loop of ours touches
    # a byte: a megabyte is read while others wait for the interpreter.
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return 0  # deeper than that it can't be
    brackets = _STRINGS.sub(b"", raw).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(array("b", brackets)), default=0)


def _unique(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        message = f"has the key {twice!r} twice in one object"
        raise ValueError(message)
    return result


def _no_constant(name: str) -> float:
    message = f"holds {name}, which is not a JSON number"
    raise ValueError(message)


_Flaw: TypeAlias = tuple[list[str | int], str, str]
"""Where, innermost part first; what is wrong; the reason."""


def _check(value: object, field: str) -> None:
    flaw = _flaw(value)
    if flaw is not None:
        path, why, reason = flaw
        raise _refuse(field + pointer(*reversed(path)), why, reason=reason)


def _flaw(value: object) -> _Flaw | None:
    # The path is put together on the way out, so that documents without a flaw don't pay for it.
    if isinstance(value, str):
        return _text_flaw(value)
    if isinstance(value, dict):
        return _inner_flaw(value.items(), keys=True)
    if isinstance(value, list):
        return _inner_flaw(enumerate(value), keys=False)
    why = ""
    if isinstance(value, float) and not math.isfinite(value):
        why = "is a number beyond the range of a double"
    elif isinstance(value, int) and abs(value) > MAX_SAFE_INTEGER:
        why = "is an integer beyond 2^53-1; send it as a string"
    return ([], why, _INVALID) if why else None


def _inner_flaw(items: Iterable[tuple[str | int, object]], *, keys: bool) -> _Flaw | None:
    for part, item in items:
        if keys and (flaw := _text_flaw(str(part))) is not None:
            return flaw
        if (flaw := _flaw(item)) is not None:
            flaw[0].append(part)
            return flaw
    return None


def _text_flaw(text: str) -> _Flaw | None:
    found = _BAD_TEXT.search(text)
    if found is None:
        return None
    if "\x00" in text:
        return [], "holds a NUL character", "NUL_CHARACTER"
    return [], "holds a lone surrogate", _INVALID


def _refuse(field: str, why: str, *, reason: str = _INVALID) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} {why}", reason=reason, violations=(FieldViolation(field, why),))
