"""What is wrong with a value, said so that its sender can mend it.

Each violation names the field by JSON pointer. Values themselves are never repeated: they may be personal data, and
messages end in logs.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from jsonschema import ValidationError
from jsonschema.protocols import Validator

from broker.domain.canonical import JsonValue, canonical, pointer
from broker.errors import FieldViolation

MAX_VIOLATIONS = 10
"""Most violations in one answer."""

_TYPES: dict[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}
_BOUNDS = {
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "multipleOf": "must be a multiple of {}",
    "minLength": "must have at least {} characters, and has {size}",
    "maxLength": "must have at most {} characters, and has {size}",
    "minItems": "must have at least {} items, and has {size}",
    "maxItems": "must have at most {} items, and has {size}",
    "minProperties": "must have at least {} properties, and has {size}",
    "maxProperties": "must have at most {} properties, and has {size}",
    "pattern": "must match the pattern {}",
    "const": "must be {}",
    "enum": "must be one of {}",
}
_CHOICES = {
    "anyOf": "fits none of the {} forms that are allowed",
    "oneOf": "must fit exactly one of the {} forms that are allowed",
}


def violations(validator: Validator, value: JsonValue, field: str) -> tuple[FieldViolation, ...]:
    """Up to ``MAX_VIOLATIONS`` violations of a value; ``field`` is the request field that it stands in."""
    found: dict[FieldViolation, None] = {}
    for error in validator.iter_errors(value):
        for violation in _explain(error, field):
            found.setdefault(violation)
            if len(found) == MAX_VIOLATIONS:
                return tuple(found)
    return tuple(found)


def _explain(error: ValidationError, field: str) -> Iterator[FieldViolation]:
    here = field + pointer(*error.absolute_path)
    keyword = str(error.validator)
    limit: Any = error.validator_value
    value: Any = error.instance
    if keyword == "required":
        for name in limit:
            if name not in value:
                yield FieldViolation(here + pointer(name), "is required, and missing")
    elif keyword in {"additionalProperties", "unevaluatedProperties"} and limit is False and isinstance(value, dict):
        schema: Any = error.schema
        known = schema.get("properties", {})
        for name in value:
            # For unevaluatedProperties the library doesn't say which; those that no schema here names are the likely ones.
            if name not in known:
                close = difflib.get_close_matches(name[:64], known, n=1)
                hint = f"; did you mean {close[0]}?" if close else f"; known are: {', '.join(known) or 'none'}"
                yield FieldViolation(here + pointer(name), f"is not a known property{hint}")
    else:
        yield FieldViolation(here, _sentence(error, keyword, limit, value))


def _sentence(error: ValidationError, keyword: str, limit: object, value: object) -> str:
    if keyword == "type":
        wanted = [str(item) for item in limit] if isinstance(limit, list) else [str(limit)]
        return f"must be of type {' or '.join(wanted)}, and is of type {_TYPES.get(type(value), 'unknown')}"
    if keyword in _BOUNDS:
        size = len(value) if isinstance(value, str | list | dict) else 0
        return _BOUNDS[keyword].format(_shown(limit), size=size)
    if keyword in _CHOICES and isinstance(limit, list):
        return _CHOICES[keyword].format(len(limit))
    if keyword == "uniqueItems":
        return "must not hold the same item twice"
    return "is not allowed here" if error.schema is False else f"doesn't fit the schema's {keyword}"


def _shown(value: object) -> str:
    text = canonical(value).decode("utf-8")
    return text if len(text) <= 300 else f"{text[:300]}..."
