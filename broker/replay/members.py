"""Members of entries that may be anything: each is taken only if it is what it should be."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
MOST = 2**62
"""Numbers of at least this size, either way, are not taken."""


def microseconds(text: object) -> int:
    """A time as entries have it, in microseconds since 1970; 0 where it is none."""
    try:
        return (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND  # type: ignore[arg-type]  # refused below
    except (TypeError, ValueError):
        return 0


def text(of: Mapping[str, Any], name: str) -> str:
    """A member that is text; empty where it isn't."""
    value = of.get(name)
    return value if isinstance(value, str) else ""


def plain(value: object) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else as_json(value)


def part(of: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A member that is an object; an empty one where it isn't."""
    value = of.get(name)
    return value if isinstance(value, dict) else {}


def listed(of: Mapping[str, Any], name: str) -> list[Any]:
    """A member that is a list; an empty one where it isn't."""
    value = of.get(name)
    return value if isinstance(value, list) else []


def items(of: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The objects in a member that is a list."""
    return [item for item in listed(of, name) if isinstance(item, dict)]


def number(of: Mapping[str, Any], name: str) -> int:
    """A member that is an integer of at most 62 bits; 0 where it isn't."""
    value = of.get(name)
    return value if type(value) is int and -MOST < value < MOST else 0


def as_json(value: object) -> str:
    """JSON with sorted keys; empty for nothing."""
    return "" if value is None else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
