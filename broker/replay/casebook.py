"""A casebook: a reading copy of a ledger's facts, made from entries as they were verified, to be asked quickly.

It holds nothing that the ledger doesn't, and can be thrown away at any time. What it says is what the entries said when they
were read; who wants an entry itself gets it from the source, and only if it still has the hash under which it was filed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import orjson

from broker.domain.canonical import JsonObject
from broker.errors import DataLossError
from broker.tlog.merkle import leaf_hash

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Mark:
    """What is known of the entries in a casebook: goes with every answer that is given from it."""

    verdict: str
    """As ``broker ledger verify`` says it: ``ok``, ``recovered``, ``tampered``, ...; ``changed`` where the ledger is not the
    one that was read before."""
    why: str
    """Where and what is wrong; empty where nothing is."""
    origin: str
    """Which ledger."""
    entries: int
    """Number of entries that were read; of an extract, those that are in it."""
    head: str
    """Hash of the last of them, hexadecimal."""
    checkpoint_size: int = 0
    """Entries of the largest signed checkpoint that they agree with; 0 for none."""
    checkpoint_root: str = ""
    """Its root, hexadecimal."""
    votes_checked: int = 0
    """The votes were checked up to this entry, excluded."""
    extract: str = ""
    """Of which part of a ledger it is; empty for a whole one."""
    complete: str = ""
    """Of an extract: whether all that was selected is proved to be there, in words."""

    @property
    def sound(self) -> bool:
        """May the answers be relied on?"""
        return self.verdict in {"ok", "recovered"}


_UNREAD = Mark("malformed", "nothing has been read yet", "", 0, "")


class Bodies(Protocol):
    """Where the bytes of entries come from."""

    def body(self, seq: int) -> bytes | None:
        """The bytes of an entry; ``None`` where there is none."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as it was filed and as it still is."""

    seq: int
    leaf: bytes
    data: bytes
    body: JsonObject


class Casebook:
    """An open casebook. Made by ``broker.replay.making``.

    Args:
        connection: to its tables (``broker.replay.schema``); nothing is written through it here.
        bodies: where the entries themselves are.
    """

    def __init__(self, connection: sqlite3.Connection, bodies: Bodies) -> None:
        self._connection = connection
        self._bodies = bodies
        self.mark = read_mark(connection)
        self._words: dict[int, str] = {0: ""}
        self._numbers: dict[str, int] = {"": 0}

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a query; its text is ours, its values are not."""
        return self._connection.execute(statement, values).fetchall()

    def one(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        """The first row of a query."""
        found: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
        return found

    def text(self, number: int) -> str:
        """The word of a number."""
        found = self._words.get(number)
        if found is None:
            row = self.one("SELECT text FROM word WHERE id = ?", number)
            found = self._words[number] = "" if row is None else str(row[0])
        return found

    def number(self, text: str) -> int | None:
        """The number of a word; ``None`` where no entry has it."""
        found = self._numbers.get(text)
        if found is None:
            row = self.one("SELECT id FROM word WHERE text = ?", text)
            if row is None:
                return None
            found = self._numbers[text] = int(row[0])
        return found

    def entry(self, seq: int) -> Entry:
        """An entry, if it still is what was filed.

        Raises:
            DataLossError: it is gone or has other bytes (``LEDGER_CHANGED``).
        """
        row = self.one("SELECT leaf FROM entry WHERE seq = ?", seq)
        data = self._bodies.body(seq)
        if row is None or data is None or leaf_hash(data) != row[0]:
            raise DataLossError(
                f"entry {seq} of the ledger is not what it was when it was read",
                reason="LEDGER_CHANGED",
                hint="Run `broker ledger verify`, and keep the ledger as it is. Without casebook.db, which is made anew, what"
                " the ledger says now is shown, and marked.",
            )
        body = orjson.loads(data)
        return Entry(seq, row[0], data, body if isinstance(body, dict) else {})

    def entries(self, numbers: Iterable[int]) -> Iterator[Entry]:
        """Entries by their numbers, in the order given.

        Raises:
            DataLossError: as ``entry``.
        """
        return map(self.entry, numbers)


def moment(microseconds: int) -> datetime:
    """A time of a casebook."""
    return _EPOCH + timedelta(microseconds=microseconds)


def stamp(microseconds: int) -> str:
    """A time of a casebook as text: UTC, to the second."""
    return moment(microseconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_mark(connection: sqlite3.Connection) -> Mark:
    """The mark that a casebook has."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'mark'").fetchone()
    try:
        return _UNREAD if row is None else Mark(**json.loads(row[0]))
    except (ValueError, TypeError):
        return _UNREAD  # somebody else wrote it: all is read anew


def write_mark(connection: sqlite3.Connection, mark: Mark) -> None:
    """Keeps a mark, inside the caller's transaction."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('mark', ?)", (json.dumps(asdict(mark)),))
