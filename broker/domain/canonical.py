"""JSON from outside, read strictly, and the one byte form (RFC 8785) that everything is hashed in."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TypeAlias, cast

import rfc8785
from typing_extensions import TypeAliasType

from broker.errors import FieldViolation, InvalidArgumentError

JsonValue = TypeAliasType("JsonValue", "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None")
JsonObject: TypeAlias = dict[str, JsonValue]

MAX_DEPTH = 32
"""Deepest nesting of arrays and objects that is read from outside."""

MAX_SAFE_INTEGER = 2**53 - 1
"""Integers beyond this are not the same number in every reader (I-JSON); send them as strings."""


def digest(data: bytes) -> str:
    """``sha256:`` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def canonical(value: object) -> bytes:
    """The RFC 8785 bytes of a JSON value that ``parse_json`` let through or that the broker made itself."""
    return rfc8785.dumps(cast("JsonObject", value))


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
    _check(value, field, ())
    return cast("JsonValue", value)


def parse_object(text: str | bytes, *, field: str, max_bytes: int) -> JsonObject:
    """Like ``parse_json``, and the document must be an object."""
    value = parse_json(text, field=field, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise _refuse(field, "must be a JSON object")
    return value


def _depth(raw: bytes) -> int:
    # Counted before parsing, outside strings, so that nesting can't exhaust the parser's stack.
    depth = deepest = 0
    in_string = escaped = False
    for byte in raw:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in (0x5B, 0x7B):
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                return deepest
        elif byte in (0x5D, 0x7D):
            depth -= 1
    return deepest


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


def _check(value: object, field: str, path: tuple[str | int, ...]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_text(key, field + pointer(*path))
            _check(item, field, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, field, (*path, index))
    elif isinstance(value, str):
        _check_text(value, field + pointer(*path))
    elif isinstance(value, float) and not math.isfinite(value):
        raise _refuse(field + pointer(*path), "is a number beyond the range of a double")
    elif isinstance(value, int) and abs(value) > MAX_SAFE_INTEGER:
        raise _refuse(field + pointer(*path), "is an integer beyond 2^53-1; send it as a string")


def _check_text(text: str, where: str) -> None:
    if "\x00" in text:
        raise _refuse(where, "holds a NUL character", reason="NUL_CHARACTER")
    if any(0xD800 <= ord(char) <= 0xDFFF for char in text):
        raise _refuse(where, "holds a lone surrogate")


def _refuse(field: str, why: str, *, reason: str = "INVALID_JSON") -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} {why}", reason=reason, violations=(FieldViolation(field, why),))
