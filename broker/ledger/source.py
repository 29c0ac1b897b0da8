"""Where a verifier gets entries from: a file, a database or a bundle, seen alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from broker.tlog.note import Note


class Row(NamedTuple):
    """One stored entry as it was found; any of it may be wrong."""

    seq: object
    prev: object
    leaf: object
    data: object


class UnreadableError(Exception):
    """Raised by a source of rows that can't be read any further; the text says why."""


@dataclass(frozen=True, slots=True)
class Reopen:
    """How a source is opened, here or in another process: one of ``broker.ledger.source_kinds``, and where it is."""

    kind: str
    target: str
    """A path or an address, without a password."""
    password: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.target


class Source(Protocol):
    """One consistent state of a ledger, open for reading; its rows may be read as often as wanted."""

    @property
    def name(self) -> str:
        """What a person calls it, such as its path; without passwords."""

    @property
    def incomplete(self) -> str:
        """Why the newest entries may be missing; empty where all is there that was committed."""

    @property
    def reopen(self) -> Reopen | None:
        """How another process can read the same entries; ``None`` where it can't."""

    def count(self) -> int:
        """Number of entries, by the last one's number: quick, and not verified.

        Raises:
            UnreadableError: it can't be read.
        """

    def rows(self, first: int = 0, last: int | None = None) -> Iterator[Row]:
        """Entries from number ``first`` to number ``last``, both included (``None``: to the end), as they are stored.

        Raises:
            UnreadableError: it can't be read any further.
        """


@runtime_checkable
class Projected(Protocol):
    """A source with projections of the entries beside them, which also say how far the ledger went."""

    def beyond(self, count: int) -> str:
        """What names an entry that the first ``count`` entries don't have; empty where nothing does.

        Raises:
            UnreadableError: it can't be read.
        """


@runtime_checkable
class Noted(Protocol):
    """A source that brings checkpoints along, as an exported bundle does."""

    def notes(self) -> Sequence[Note]:
        """The checkpoints in it, smallest first; not verified.

        Raises:
            DataLossError: they can't be read.
        """
