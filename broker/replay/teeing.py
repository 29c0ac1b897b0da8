"""Sources of entries whose rows are filed as a verifier reads them, and where their bytes are found afterwards."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence

from broker.ledger.source import Noted, Projected, Reopen, Row, Source
from broker.replay.filing import Filer
from broker.tlog.merkle import CompactRange, leaf_hash
from broker.tlog.note import Note

_STEP = 5_000


class Filed:
    """A source whose rows, where they are read to the end, are filed on their way; ``roots`` are those of the sizes wanted.

    Args:
        source: the ledger.
        filer: takes the entries.
        tree: over the entries before the first that is read.
        sizes: at which the tree's root is wanted.
    """

    reopen: Reopen | None = None
    """No other process may read it: what it read would not be filed."""

    def __init__(self, source: Source, filer: Filer, tree: CompactRange, sizes: Collection[int]) -> None:
        self._source = source
        self._filer = filer
        self._sizes = frozenset(sizes)
        self.tree = tree
        self.leaf = b""
        self.roots: dict[int, bytes] = {}

    @property
    def name(self) -> str:
        """The source's."""
        return self._source.name

    @property
    def incomplete(self) -> str:
        """The source's."""
        return self._source.incomplete

    def count(self) -> int:
        """The source's."""
        return self._source.count()

    def rows(self, first: int = 0, last: int | None = None) -> Iterator[Row]:
        """The source's rows; those to the end are filed, each before it is given on."""
        if last is not None:
            yield from self._source.rows(first, last)
            return
        tree, sizes, take = self.tree, self._sizes, self._filer.take
        for row in self._source.rows(first, last):
            if isinstance(row.data, bytes):
                leaf = self.leaf = leaf_hash(row.data)
                take(tree.size, leaf, row.data)
                tree.append(leaf)
                if tree.size in sizes:
                    self.roots[tree.size] = tree.root()
                if not tree.size % _STEP:
                    self._filer.flush()
            yield row


class FiledProjected(Filed):
    """The same of a source with projections."""

    def beyond(self, count: int) -> str:
        """The source's."""
        return self._source.beyond(count) if isinstance(self._source, Projected) else ""


class FiledBundle(FiledProjected):
    """The same of a bundle."""

    def notes(self) -> Sequence[Note]:
        """The source's."""
        return self._source.notes() if isinstance(self._source, Noted) else ()


def filed(source: Source, filer: Filer, tree: CompactRange, sizes: Collection[int]) -> Filed:
    """A source whose rows are filed, which offers all that the source itself offers to a verifier."""
    if isinstance(source, Noted):
        return FiledBundle(source, filer, tree, sizes)
    if isinstance(source, Projected):
        return FiledProjected(source, filer, tree, sizes)
    return Filed(source, filer, tree, sizes)


class SourceBodies:
    """Bytes of entries, from the ledger: a ``broker.replay.casebook.Bodies``."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def body(self, seq: int) -> bytes | None:
        """The bytes of an entry; ``None`` where there is none."""
        row = next(iter(self._source.rows(seq, seq)), None)
        return row.data if row is not None and isinstance(row.data, bytes) else None


class TableBodies:
    """Bytes of entries, from the casebook itself."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def body(self, seq: int) -> bytes | None:
        """The bytes of an entry; ``None`` where there is none."""
        row = self._connection.execute("SELECT data FROM body WHERE seq = ?", (seq,)).fetchone()
        return None if row is None else bytes(row[0])
