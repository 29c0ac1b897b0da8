"""Ledger entries in the database."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from broker.domain.ports import Head, StoredEntry
from broker.errors import InternalError
from broker.store.tables import LEDGER_AGENT, LEDGER_ENTRY

# Built once: SQLAlchemy's statement cache then costs a dictionary look-up per use.
_HEAD = select(LEDGER_ENTRY.c.seq, LEDGER_ENTRY.c.leaf).order_by(LEDGER_ENTRY.c.seq.desc()).limit(1)
_INSERT = insert(LEDGER_ENTRY)
_ENTRIES = (
    select(LEDGER_ENTRY.c.seq, LEDGER_ENTRY.c.prev, LEDGER_ENTRY.c.leaf, LEDGER_ENTRY.c.data)
    .where(LEDGER_ENTRY.c.seq >= bindparam("first"))
    .order_by(LEDGER_ENTRY.c.seq)
    .limit(bindparam("most"))
)
_AGENT_HEAD = select(LEDGER_AGENT.c.seq, LEDGER_AGENT.c.leaf).where(LEDGER_AGENT.c.agent == bindparam("which"))
_AGENT_INSERT = insert(LEDGER_AGENT)
_AGENT_UPDATE = (
    update(LEDGER_AGENT)
    .where(LEDGER_AGENT.c.agent == bindparam("which"))
    .values(seq=bindparam("new_seq"), leaf=bindparam("new_leaf"))
)


class SqlLedgerTable:
    """Implements ``broker.domain.ports.LedgerTable``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def head(self) -> Head | None:
        """The last entry, or ``None`` in an empty ledger."""
        row = self._connection.execute(_HEAD).first()
        return None if row is None else Head(row[0], row[1])

    def insert(self, entry: StoredEntry) -> None:
        """Adds the next entry.

        Raises:
            InternalError: the database refused it: it isn't the one that follows the last.
        """
        values = {"seq": entry.seq, "prev": entry.prev, "leaf": entry.leaf, "data": entry.data}
        try:
            self._connection.execute(_INSERT, values)
        except IntegrityError as error:
            message = f"the database refused ledger entry {entry.seq}: {error.orig}"
            raise InternalError(message, reason="LEDGER_REFUSED") from error

    def entries(self, first: int, limit: int) -> Sequence[StoredEntry]:
        """Up to ``limit`` entries from ``first`` on, in order."""
        rows = self._connection.execute(_ENTRIES, {"first": first, "most": limit})
        return [StoredEntry(*row) for row in rows]

    def agent_head(self, agent: str) -> Head | None:
        """The last entry of an agent's own chain."""
        row = self._connection.execute(_AGENT_HEAD, {"which": agent}).first()
        return None if row is None else Head(row[0], row[1])

    def set_agent_head(self, agent: str, head: Head) -> None:
        """Moves an agent's own chain on."""
        if head.seq == 0:
            self._connection.execute(_AGENT_INSERT, {"agent": agent, "seq": head.seq, "leaf": head.leaf})
            return
        values = {"which": agent, "new_seq": head.seq, "new_leaf": head.leaf}
        if self._connection.execute(_AGENT_UPDATE, values).rowcount != 1:
            message = f"the chain of agent {agent} has no entry before number {head.seq}"
            raise InternalError(message, reason="LEDGER_REFUSED")
