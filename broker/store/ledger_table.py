"""Ledger entries in the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, insert, select, update

from broker.domain.ports import Head, StoredEntry
from broker.errors import InternalError
from broker.store.prepared import Prepared, driver_of
from broker.store.tables import LEDGER_AGENT, LEDGER_ENTRY

_HEAD = Prepared(select(LEDGER_ENTRY.c.seq, LEDGER_ENTRY.c.leaf).order_by(LEDGER_ENTRY.c.seq.desc()).limit(1))
_INSERT = Prepared(insert(LEDGER_ENTRY))
_ENTRIES = (
    select(LEDGER_ENTRY.c.seq, LEDGER_ENTRY.c.prev, LEDGER_ENTRY.c.leaf, LEDGER_ENTRY.c.data)
    .where(LEDGER_ENTRY.c.seq >= bindparam("first"))
    .order_by(LEDGER_ENTRY.c.seq)
    .limit(bindparam("most"))
)
_AGENT_HEAD = Prepared(
    select(LEDGER_AGENT.c.seq, LEDGER_AGENT.c.leaf).where(LEDGER_AGENT.c.agent == bindparam("which"))
)
_AGENT_INSERT = Prepared(insert(LEDGER_AGENT))
_AGENT_UPDATE = Prepared(
    update(LEDGER_AGENT)
    .where(LEDGER_AGENT.c.agent == bindparam("which"))
    .values(seq=bindparam("new_seq"), leaf=bindparam("new_leaf"))
)


class SqlLedgerTable:
    """Implements ``broker.domain.ports.LedgerTable``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._driver = driver_of(connection)

    def head(self) -> Head | None:
        """The last entry, or ``None`` in an empty ledger."""
        row = _HEAD.run(self._driver, {}).fetchone()
        return None if row is None else Head(row[0], row[1])

    def insert(self, entry: StoredEntry) -> None:
        """Adds the next entry.

        Raises:
            InternalError: the database refused it: it isn't the one that follows the last.
        """
        values = {"seq": entry.seq, "prev": entry.prev, "leaf": entry.leaf, "data": entry.data}
        try:
            _INSERT.run(self._driver, values)
        except sqlite3.IntegrityError as error:
            message = f"the database refused ledger entry {entry.seq}: {error}"
            raise InternalError(message, reason="LEDGER_REFUSED") from error

    def entries(self, first: int, limit: int) -> Sequence[StoredEntry]:
        """Up to ``limit`` entries from ``first`` on, in order."""
        rows = self._connection.execute(_ENTRIES, {"first": first, "most": limit})
        return [StoredEntry(*row) for row in rows]

    def agent_head(self, agent: str) -> Head | None:
        """The last entry of an agent's own chain."""
        row = _AGENT_HEAD.run(self._driver, {"which": agent}).fetchone()
        return None if row is None else Head(row[0], row[1])

    def set_agent_head(self, agent: str, head: Head) -> None:
        """Moves an agent's own chain on."""
        if head.seq == 0:
            _AGENT_INSERT.run(self._driver, {"agent": agent, "seq": head.seq, "leaf": head.leaf})
            return
        values = {"which": agent, "new_seq": head.seq, "new_leaf": head.leaf}
        if _AGENT_UPDATE.run(self._driver, values).rowcount != 1:
            message = f"the chain of agent {agent} has no entry before number {head.seq}"
            raise InternalError(message, reason="LEDGER_REFUSED")
