"""Compares the rows of a table with those that the ledger wants, whatever somebody has put into its columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from broker.domain.projection import KEYS, Cell, Expected, Key, Unheld
from broker.store.columns import time_text

MAX_LISTED = 1000
"""Rows of one table that a comparison names; it counts all."""

Found: TypeAlias = Mapping[str, Cell]
"""A row as it lies in the table."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that isn't as the ledger wants it."""

    kind: str
    """``missing``, ``extra`` or ``different``."""
    key: Key
    columns: tuple[str, ...] = ()
    """Those that differ."""


@dataclass(frozen=True, slots=True)
class Fix:
    """What is to be done about a row: ``wanted`` is ``None`` for one that must go, ``found`` for one that isn't there."""

    key: Key
    wanted: Expected | None
    found: Found | None


@dataclass(slots=True)
class TableReport:
    """How one table compares. Rows count once: as equal, or in one of the other ways."""

    table: str
    equal: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    behind: int = 0
    """Entries that the index doesn't have yet: it is made beside the appends, and isn't wrong for that."""
    differences: list[Difference] = field(default_factory=list)
    """At most ``MAX_LISTED``."""
    unheld: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(column, why) -> rows in which nothing but the table itself holds the value, which is then not judged."""

    @property
    def wrong(self) -> int:
        """Rows that aren't as they must be."""
        return self.missing + self.extra + self.different

    def take(self, key: Key, wanted: Expected | None, found: Found | None) -> Fix | None:
        """Counts one row; what is to be done about it, if anything."""
        columns: tuple[str, ...] = ()
        if wanted is None:
            kind = "extra"
            self.extra += 1
        elif found is None:
            kind = "missing"
            self.missing += 1
        elif columns := self._differing(wanted, found):
            kind = "different"
            self.different += 1
        else:
            self.equal += 1
            return None
        if len(self.differences) < MAX_LISTED:
            self.differences.append(Difference(kind, key, columns))
        return Fix(key, wanted, found)

    def _differing(self, wanted: Expected, found: Found) -> tuple[str, ...]:
        columns = []
        for name, value in wanted.items():
            there = found[name]
            if isinstance(value, Unheld):
                self.unheld[name, value.why] += 1
                if not value.fits(there):
                    columns.append(name)
            elif not _same(plain(value), there):
                columns.append(name)
        return tuple(columns)


def merged(
    table: str, expected: Iterable[Expected], found: Iterable[Found]
) -> Iterator[tuple[Key, Expected | None, Found | None]]:
    """The rows of both sides, key by key; both must come in the order of their keys."""
    names = KEYS[table]
    left, right = iter(expected), iter(found)
    wanted, there = next(left, None), next(right, None)
    while wanted is not None or there is not None:
        mine = None if wanted is None else tuple(plain(wanted[name]) for name in names)
        its = None if there is None else tuple(there[name] for name in names)
        first = min((key for key in (mine, its) if key is not None), key=in_order)
        yield first, wanted if first == mine else None, there if first == its else None
        wanted = next(left, None) if first == mine else wanted
        there = next(right, None) if first == its else there


def in_order(key: Key) -> list[tuple[int, float, bytes]]:
    """Sorts keys as the databases do, also those with values of different kinds: nothing, numbers, text, bytes."""
    return [_order(value) for value in key]


def plain(value: Cell | datetime | Unheld) -> Cell:
    """A value as it is stored."""
    if isinstance(value, Unheld):
        value = value.value
    return time_text(value) if isinstance(value, datetime) else value


def storable(wanted: Expected, found: Found | None) -> dict[str, Cell]:
    """A row to store: what the ledger doesn't hold stays as it was found, if that could be right."""
    row: dict[str, Cell] = {}
    for name, value in wanted.items():
        if isinstance(value, Unheld) and found is not None and value.fits(found[name]):
            row[name] = found[name]
        else:
            row[name] = plain(value)
    return row


def ranked(rows: Iterable[Mapping[str, Cell | datetime | Unheld]], common: frozenset[Cell]) -> dict[Cell, int]:
    """Fingerprint -> its place, from 1, among the certificates that both sides have: the numbers may have gaps."""
    shared = [(plain(row["number"]), plain(row["fingerprint"])) for row in rows if row["fingerprint"] in common]
    return {key[1]: place for place, key in enumerate(sorted(shared, key=in_order), start=1)}


def _order(value: Cell) -> tuple[int, float, bytes]:
    match value:
        case None:
            return 0, 0, b""
        case int() | float():
            return 1, value, b""
        case str():
            return 2, 0, value.encode("utf-8", "surrogatepass")
        case _:
            return 3, 0, value


def _same(wanted: Cell, found: Cell) -> bool:
    if isinstance(wanted, int | float) and isinstance(found, int | float):
        return wanted == found
    return type(wanted) is type(found) and wanted == found
