"""Rows on their way into a casebook: what is filed together is written together, some thousand entries at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

import msgspec

from broker.replay.already import Seen
from broker.replay.filing_questions import Row

INSERTS: Mapping[str, str] = {
    "word": "INSERT INTO word VALUES (?, ?)",
    "entry": "INSERT OR IGNORE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)",
    "body": "INSERT OR IGNORE INTO body VALUES (?, ?)",
    "boot": "INSERT INTO boot VALUES (?, ?, ?)",
    "path": f"INSERT INTO path VALUES ({', '.join('?' * 17)})",  # noqa: S608 - ours
    "touches": "INSERT OR IGNORE INTO touches VALUES (?, ?)",
    "undo": "INSERT OR IGNORE INTO undo VALUES (?, ?, ?)",
    "question": "INSERT INTO question VALUES (?, ?, ?, ?, ?, ?, ?)",
    "decision": f"INSERT INTO decision VALUES ({', '.join('?' * 11)})",  # noqa: S608 - ours
    "egress": f"INSERT INTO egress VALUES ({', '.join('?' * 10)})",  # noqa: S608 - ours
    "vote": "INSERT INTO vote VALUES (?, ?, ?, ?, ?, ?, ?)",
    "used": "INSERT OR IGNORE INTO used VALUES (?, ?, ?)",
    "counted": "INSERT OR IGNORE INTO counted VALUES (?, ?, ?, ?)",
    "act": "INSERT INTO act VALUES (?, ?, ?, ?, ?, ?, ?)",
    "gone": "INSERT OR IGNORE INTO gone VALUES (?, ?)",
}
"""How a row gets into a table to which rows are only added."""
UNSET = -(2**63)
"""Stands for NULL: the driver takes longer for one ``None`` than for all other columns of a row."""


class CallRow(msgspec.Struct, gc=False):
    """A row of ``call``, its columns in their order; entry after entry says more of it."""

    id: int
    name: str
    path: int = 0
    session: int = 0
    ts: int = 0
    first: int = 0
    decision: int = UNSET
    plan: int = UNSET
    intent: int = UNSET
    outcome: int = UNSET
    ended: int = UNSET
    state: int = 0
    cause: int = 0
    exit_code: int = UNSET
    approval: int = 0
    reversibility: int = 0
    effect: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0


class ApprovalRow(msgspec.Struct, gc=False):
    """A row of ``approval``, likewise."""

    id: int
    name: str
    kind: int = 0
    subject: int = 0
    workspace: int = 0
    object: int = 0
    requester: int = 0
    tier: int = 0
    call: int = 0
    requested: int = UNSET
    ts: int = 0
    closed: int = UNSET
    closed_ts: int = UNSET
    state: int = 0
    requirement: str = ""
    excluded: str = ""


def _replacing(table: str, kind: type[msgspec.Struct]) -> str:
    fields = msgspec.structs.fields(kind)
    columns = ("nullif(?, -9223372036854775808)" if item.default == UNSET else "?" for item in fields)
    return f"INSERT OR REPLACE INTO {table} VALUES ({', '.join(columns)})"  # noqa: S608 - ours


_CALL = _replacing("call", CallRow)
_APPROVAL = _replacing("approval", ApprovalRow)


class Pending:
    """The rows that aren't written yet, by table, and the calls and approvals that changed.

    Args:
        connection: a casebook, in a transaction of the caller's.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.rows: dict[str, list[Row]] = {name: [] for name in INSERTS}
        self._seen, self._seen_all = Seen(), not connection.execute("SELECT 1 FROM call LIMIT 1").fetchone()
        self._calls: dict[str, CallRow] = {}
        self._approvals: dict[str, ApprovalRow] = {}
        self._next_call = _next(connection, "call")
        self._next_approval = _next(connection, "approval")

    def call(self, name: str, seq: int, ts: int) -> CallRow:
        """The row of a call, which is begun with this entry if it is new."""
        known = self._calls.get(name)
        if known is None:
            # To look for what can't be there costs more than all else that is done with the entry.
            new = not self._seen.add(name) and self._seen_all
            row = None if new else self._connection.execute("SELECT * FROM call WHERE name = ?", (name,)).fetchone()
            if row is not None:
                known = CallRow(*map(_set, row))
            else:
                known = CallRow(self._next_call, name, ts=ts, first=seq)
                self._next_call += 1
            self._calls[name] = known
        return known

    def approval(self, name: str, ts: int) -> ApprovalRow:
        """The row of an approval, likewise."""
        known = self._approvals.get(name)
        if known is None:
            row = self._connection.execute("SELECT * FROM approval WHERE name = ?", (name,)).fetchone()
            if row is not None:
                known = ApprovalRow(*map(_set, row))
            else:
                known = ApprovalRow(self._next_approval, name, ts=ts)
                self._next_approval += 1
            self._approvals[name] = known
        return known

    def write(self) -> None:
        """Writes all of it, and forgets it."""
        for table, rows in self.rows.items():
            if rows:
                self._connection.executemany(INSERTS[table], rows)
                rows.clear()
        self._connection.executemany(_CALL, map(msgspec.structs.astuple, self._calls.values()))
        self._calls.clear()
        self._connection.executemany(_APPROVAL, map(msgspec.structs.astuple, self._approvals.values()))
        self._approvals.clear()


def _set(value: Any) -> Any:  # noqa: ANN401 - a column
    return UNSET if value is None else value


def _next(connection: sqlite3.Connection, table: str) -> int:
    found = connection.execute(f"SELECT max(id) FROM {table}").fetchone()[0]  # noqa: S608 - ours
    return (found or 0) + 1
