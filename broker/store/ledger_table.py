"""Ledger entries in the database, and the projections of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from sqlalchemy import Connection, bindparam, func, insert, select, update

from broker.domain.ports import EntryKeys, EntryQuery, Head, StoredEntry
from broker.errors import InternalError
from broker.store.late_rows import LateRows, Row
from broker.store.prepared import Driver, Prepared, driver_of, integrity_errors
from broker.store.savepoint import Savepoint
from broker.store.tables import LEDGER_AGENT, LEDGER_ENTRY, LEDGER_INDEX, LEDGER_TILE

_E, _A, _T, _X = LEDGER_ENTRY.c, LEDGER_AGENT.c, LEDGER_TILE.c, LEDGER_INDEX.c
_HEAD = Prepared(select(_E.seq, _E.leaf).order_by(_E.seq.desc()).limit(1))
_INSERT = Prepared(insert(LEDGER_ENTRY))
_ENTRIES = Prepared(
    select(_E.seq, _E.prev, _E.leaf, _E.data)
    .where(_E.seq >= bindparam("first"))
    .order_by(_E.seq)
    .limit(bindparam("most"))
)
_LEAVES = Prepared(select(_E.leaf).where(_E.seq >= bindparam("first")).order_by(_E.seq).limit(bindparam("most")))
_AGENT_HEAD = Prepared(select(_A.seq, _A.leaf).where(_A.agent == bindparam("which")))
_AGENT_HEADS = Prepared(
    select(_A.agent, _A.seq, _A.leaf).where(_A.entry_seq >= bindparam("first")).order_by(_A.entry_seq)
)
_AGENT_INSERT = Prepared(insert(LEDGER_AGENT))
_AGENT_UPDATE = Prepared(
    update(LEDGER_AGENT)
    .where(_A.agent == bindparam("which"))
    .values(seq=bindparam("new_seq"), leaf=bindparam("new_leaf"), entry_seq=bindparam("new_entry_seq"))
)
_TILE = Prepared(select(_T.hashes).where(_T.level == bindparam("which_level"), _T.idx == bindparam("which_idx")))
_TILE_INSERT = Prepared(insert(LEDGER_TILE))
_TILE_UPDATE = Prepared(
    update(LEDGER_TILE)
    .where(_T.level == bindparam("which_level"), _T.idx == bindparam("which_idx"))
    .values(hashes=bindparam("new_hashes"))
)
_INDEX = Prepared(insert(LEDGER_INDEX))
_INDEXED = Prepared(select(func.coalesce(func.max(_X.seq) + 1, 0)))

_NO_LEAF = "0" * 64
_LEAF_BYTES = 32
_TOO_MANY_BYTES = 65536
_MOST_LATE = 256
_MOST_AGENTS = 4096


class SqlLedgerTable:
    """Implements ``broker.domain.ports.LedgerTable``.

    In a transaction that writes, entries and agents' heads are taken at once and given to the database together: before
    anything reads them there, and before the commit. An entry that doesn't follow the last is refused at once all the
    same, by what the database would refuse it for.

    Args:
        connection: the connection.
        savepoint: what is needed before a statement writes; ``None`` where nothing is to be written.
    """

    def __init__(self, connection: Connection, savepoint: Savepoint | None = None) -> None:
        self._connection = connection
        self._driver = driver_of(connection)
        self._savepoint = savepoint
        self._head: Head | None = None
        self._agents: dict[str, Head | None] = {}
        self._late = LateRows()
        self._marked: Head | None = None
        self._lost = False

    def begin(self, *, known: bool = False) -> None:
        """Begins a transaction.

        Args:
            known: nobody else has written since the one before, and that was committed: the heads are as they were.
        """
        self._late.clear()
        self._lost = False
        if not known:
            self._head = None
        if not known or len(self._agents) > _MOST_AGENTS:
            self._agents.clear()

    def mark(self) -> None:
        """Marks a point to go back to."""
        self._marked = self._head
        self._late.mark()

    def undo(self) -> None:
        """Goes back to the mark; what the database got after it must be undone there as well."""
        self._head = self._marked
        self._agents.update(self._late.undo())
        self._lost = False

    def flush(self) -> None:
        """Gives the database what was taken.

        Raises:
            InternalError: ``LEDGER_REFUSED``: the database refused an entry, now or before.
            sqlite3.Error, psycopg.Error: as the driver raises it.
        """
        if self._lost:
            raise InternalError("the database didn't take the ledger's entries", reason="LEDGER_REFUSED")
        if not self._late.waiting:
            return
        self._need()
        self._lost = True  # where it raises, the transaction must be undone, whatever its function makes of the error
        entries, new, moved = self._late.give()
        try:
            _write(self._driver, _INSERT, entries)
        except integrity_errors() as error:
            raise _refused(cast("int", entries[0]["seq"])) from error
        _write(self._driver, _AGENT_INSERT, new)
        _write(self._driver, _AGENT_UPDATE, moved)
        self._lost = False

    def head(self) -> Head | None:
        """The last entry, or ``None`` in an empty ledger."""
        if self._head is None:
            row = _HEAD.run(self._driver, {}).fetchone()
            self._head = None if row is None else Head(row[0], row[1])
        return self._head

    def insert(self, entry: StoredEntry) -> None:
        """Adds the next entry.

        Raises:
            InternalError: ``LEDGER_REFUSED``: it isn't the one that follows the last.
        """
        head = self.head()
        seq, prev = (0, _NO_LEAF) if head is None else (head.seq + 1, head.leaf.hex())
        if (
            entry.seq != seq
            or entry.prev != prev
            or len(entry.leaf) != _LEAF_BYTES
            or len(entry.data) >= _TOO_MANY_BYTES
        ):
            raise _refused(entry.seq)
        self._late.add_entry(entry)
        self._head = Head(seq, entry.leaf)
        self._taken()

    def entries(self, first: int, limit: int) -> Sequence[StoredEntry]:
        """Up to ``limit`` entries from ``first`` on, in order."""
        self.flush()
        rows = _ENTRIES.run(self._driver, {"first": first, "most": limit}).fetchall()
        return [StoredEntry(*row) for row in rows]

    def leaves(self, first: int, limit: int) -> Sequence[bytes]:
        """Up to ``limit`` leaf hashes (32 bytes each) from ``first`` on, in order."""
        self.flush()
        return [row[0] for row in _LEAVES.run(self._driver, {"first": first, "most": limit}).fetchall()]

    def agent_head(self, agent: str) -> Head | None:
        """The last entry of an agent's own chain."""
        if agent in self._agents:
            return self._agents[agent]
        row = _AGENT_HEAD.run(self._driver, {"which": agent}).fetchone()
        found = self._agents[agent] = None if row is None else Head(row[0], row[1])
        return found

    def agent_heads(self, changed_from: int = 0) -> Sequence[tuple[str, Head]]:
        """The agents whose last entry has this number in the ledger or a later one, with their heads."""
        self.flush()
        rows = _AGENT_HEADS.run(self._driver, {"first": changed_from}).fetchall()
        return [(row[0], Head(row[1], row[2])) for row in rows]

    def set_agent_head(self, agent: str, head: Head, entry_seq: int) -> None:
        """Moves an agent's own chain on; ``entry_seq`` is the number of that entry in the ledger.

        Raises:
            InternalError: ``LEDGER_REFUSED``: it isn't the one that follows the chain's last.
        """
        last = self.agent_head(agent)
        if head.seq != (0 if last is None else last.seq + 1):
            message = f"the chain of agent {agent} has no entry before number {head.seq}, or has one after it"
            raise InternalError(message, reason="LEDGER_REFUSED")
        self._late.add_move(agent, last, head, entry_seq)
        self._agents[agent] = head
        self._taken()

    def tile(self, level: int, index: int) -> bytes | None:
        """A tile, up to 256 hashes of 32 bytes: the nodes of tree level ``8 * level``; or ``None``."""
        row = _TILE.run(self._driver, {"which_level": level, "which_idx": index}).fetchone()
        return None if row is None else row[0]

    def put_tile(self, level: int, index: int, hashes: bytes) -> None:
        """Keeps a tile in place of what was kept under its level and index.

        Raises:
            InternalError: it isn't whole hashes, or more than fit.
        """
        self._need()
        values = {"which_level": level, "which_idx": index, "new_hashes": hashes}
        try:
            if _TILE_UPDATE.run(self._driver, values).rowcount == 0:
                _TILE_INSERT.run(self._driver, {"level": level, "idx": index, "hashes": hashes})
        except integrity_errors() as error:
            message = f"the database refused {len(hashes)} bytes as tile {index} of level {level}"
            raise InternalError(message, reason="LEDGER_REFUSED") from error

    def index(self, rows: Mapping[int, EntryKeys]) -> None:
        """Makes entries findable, by their numbers: those that follow ``indexed``."""
        self._need()
        _INDEX.run_many(
            self._driver,
            [
                {
                    "seq": seq,
                    "type": keys.type,
                    "ts": keys.ts,
                    "agent": keys.agent or None,
                    "call_id": keys.call_id or None,
                    "workspace": keys.workspace or None,
                    "tool": keys.tool or None,
                }
                for seq, keys in rows.items()
            ],
        )

    def indexed(self) -> int:
        """How many entries are findable: those with numbers below that."""
        row = _INDEXED.run(self._driver, {}).fetchone()
        return int(row[0])

    def find(self, query: EntryQuery) -> Sequence[int]:
        """Numbers of the entries that fit, oldest first unless the query says otherwise."""
        statement = select(_X.seq).where(_X.seq >= query.first)
        if query.before is not None:
            statement = statement.where(_X.seq < query.before)
        if query.types:
            statement = statement.where(_X.type.in_(sorted(query.types)))
        wanted = (
            (_X.agent, query.agent),
            (_X.call_id, query.call_id),
            (_X.workspace, query.workspace),
            (_X.tool, query.tool),
        )
        for column, value in wanted:
            if value:
                statement = statement.where(column == value)
        if query.ts_from:
            statement = statement.where(_X.ts >= query.ts_from)
        if query.ts_before:
            statement = statement.where(_X.ts < query.ts_before)
        order = _X.seq.desc() if query.newest_first else _X.seq
        return list(self._connection.execute(statement.order_by(order).limit(query.limit)).scalars())

    def _need(self) -> None:
        if self._savepoint is not None:
            self._savepoint.need()

    def _taken(self) -> None:
        # Where nothing may be written, the database must say so at once.
        if self._savepoint is None or self._late.waiting >= _MOST_LATE:
            self.flush()


def _write(driver: Driver, statement: Prepared, rows: Sequence[Row]) -> None:
    if len(rows) == 1:
        statement.run(driver, rows[0])
    elif rows:
        statement.run_many(driver, rows)


def _refused(seq: int) -> InternalError:
    message = f"the database refused ledger entry {seq}: it is not the one that follows the last"
    return InternalError(message, reason="LEDGER_REFUSED")
