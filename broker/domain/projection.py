"""Projections: tables that hold nothing but what the ledger's entries, and what is sealed beside them, say.

They are there to be asked quickly. Each can be made anew, which is also how a change that went past the ledger is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Protocol, TypeAlias

from broker.domain.canonical import JsonObject, JsonValue

Cell: TypeAlias = str | int | float | bytes | None
"""A value as it lies in a column; a time is text."""

Key: TypeAlias = tuple[Cell, ...]
"""The values of a row's key columns, in the order of ``KEYS``."""

KEYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ledger_tile": ("level", "idx"),
        "ledger_agent": ("agent",),
        "ledger_index": ("seq",),
        "identity": ("id",),
        "certificate": ("fingerprint",),
        "session": ("id",),
        "schedule": ("id",),
        "call": ("id",),
        "voter_key": ("id",),
        "acceptance": ("founding_digest", "person"),
        "founding": ("seq",),
        "approval": ("id",),
        "vote": ("approval", "number"),
        "freeze": ("scope", "target"),
        "chat_account": ("service", "team", "user"),
        "approved_workflow": ("name", "digest"),
        "workspace_tree": ("workspace",),
        "effect": ("call_id",),
        "vault_usage": ("owner",),
    }
)
"""Table -> the columns that name a row. Rows that others refer to come first."""


def anything_fits(_: Cell) -> bool:
    """Any value may be right."""
    return True


@dataclass(frozen=True, slots=True)
class Unheld:
    """A column whose value neither an entry nor sealed content holds any more, such as what was erased.

    What the table has is left as it is; ``value`` is put where the row itself has to be made.
    """

    value: Cell | datetime
    why: str
    fits: Callable[[Cell], bool] = anything_fits
    """Could a value that is found be right? A digest in an entry may still tell."""


Expected: TypeAlias = Mapping[str, Cell | datetime | Unheld]
"""A row as the ledger wants it."""


class ProjectionTable(Protocol):
    """The tables of projections, row by row and whatever is in them."""

    def rows(self, table: str) -> Iterator[Mapping[str, Cell]]:
        """All rows of a table in the order of their keys; not to be mixed with ``put`` and ``delete``."""

    def put(self, table: str, row: Mapping[str, Cell]) -> None:
        """Stores a row, in place of one with the same key."""

    def delete(self, table: str, key: Key) -> None:
        """Deletes a row."""

    def last_chunk(self, object_id: str) -> int | None:
        """The highest index among an encrypted object's chunks; ``None`` where it has none."""

    def usage(self) -> Iterator[Mapping[str, Cell]]:
        """What each owner keeps who keeps anything, counted anew: rows of ``vault_usage`` in the order of their keys."""


class UnexpectedEntryError(ValueError):
    """An entry of a known type lacks a member, or has one of another kind: another version of the broker wrote it."""


def member(entry: JsonObject, *path: str) -> JsonValue:
    """A member of an entry, by its path.

    Raises:
        UnexpectedEntryError: there is none.
    """
    value: JsonValue = entry
    for name in path:
        if not isinstance(value, dict) or name not in value:
            raise UnexpectedEntryError(f"entry {entry.get('seq')} has no member {'.'.join(path)}")
        value = value[name]
    return value


def words(entry: JsonObject, *path: str) -> str:
    """A text in an entry, by its path.

    Raises:
        UnexpectedEntryError: there is none.
    """
    value = member(entry, *path)
    if not isinstance(value, str):
        raise UnexpectedEntryError(f"the member {'.'.join(path)} of entry {entry.get('seq')} is no text")
    return value


def number(entry: JsonObject, *path: str) -> int:
    """A whole number in an entry, by its path.

    Raises:
        UnexpectedEntryError: there is none.
    """
    value = member(entry, *path)
    if type(value) is not int:
        raise UnexpectedEntryError(f"the member {'.'.join(path)} of entry {entry.get('seq')} is no whole number")
    return value


def listed(entry: JsonObject, *path: str) -> list[str]:
    """A list of texts in an entry, by its path.

    Raises:
        UnexpectedEntryError: there is none.
    """
    value = member(entry, *path)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UnexpectedEntryError(f"the member {'.'.join(path)} of entry {entry.get('seq')} is no list of texts")
    return [str(item) for item in value]
