"""Members of an entry that anybody may have made up, each taken only if it is what it should be. Pure."""

from __future__ import annotations

from broker.domain.canonical import JsonObject, JsonValue

SHORT = 12
"""Characters of a digest that are shown."""


def part(entry: JsonObject, name: str) -> JsonObject:
    """An object; empty where there is none."""
    value: JsonValue = entry.get(name)
    return value if isinstance(value, dict) else {}


def text(entry: JsonObject, name: str) -> str:
    """A text; empty where there is none."""
    value = entry.get(name)
    return value if isinstance(value, str) else ""


def listed(entry: JsonObject, name: str) -> list[JsonValue]:
    """A list; empty where there is none."""
    value = entry.get(name)
    return value if isinstance(value, list) else []


def brief(entry: JsonObject, name: str) -> str:
    """The first characters of a digest."""
    return text(entry, name).removeprefix("sha256:")[:SHORT]
