"""Repeated refusals in the database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from broker.domain.ports import Refusal
from broker.store.columns import read_time, time_text
from broker.store.tables import REFUSAL

_R = REFUSAL.c
_SAME = (_R.agent == bindparam("which_agent"), _R.key == bindparam("which_key"))
_BUMP = update(REFUSAL).where(*_SAME).values(count=_R.count + 1, last=bindparam("moment"))
_COUNT = select(_R.count).where(*_SAME)
_KEYS = select(_R.key).where(_R.agent == bindparam("which_agent"))
_INSERT = insert(REFUSAL)
_DUE = (
    select(_R.agent, _R.key, _R.first, _R.last, _R.count, _R.body)
    .where(_R.first < bindparam("moment"))
    .order_by(_R.first, _R.agent, _R.key)
)
_REMOVE = delete(REFUSAL).where(*_SAME)


class SqlRefusalTable:
    """Implements ``broker.domain.ports.RefusalTable``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def bump(self, agent: str, key: str, now: datetime, body: bytes) -> int:
        """Counts one more; returns the count since the row was made: 1 is the first. The first one's body stays."""
        which = {"which_agent": agent, "which_key": key}
        moment = time_text(now)
        if self._connection.execute(_BUMP, {**which, "moment": moment}).rowcount:
            return int(self._connection.execute(_COUNT, which).scalar_one())
        values = {"agent": agent, "key": key, "first": moment, "last": moment, "count": 1, "body": body}
        self._connection.execute(_INSERT, values)
        return 1

    def keys(self, agent: str) -> frozenset[str]:
        """The keys of an agent's rows."""
        return frozenset(self._connection.execute(_KEYS, {"which_agent": agent}).scalars())

    def due(self, first_before: datetime) -> Sequence[Refusal]:
        """Rows whose first refusal is older than that, the oldest first."""
        rows = self._connection.execute(_DUE, {"moment": time_text(first_before)})
        return [Refusal(row[0], row[1], read_time(row[2]), read_time(row[3]), row[4], row[5]) for row in rows]

    def remove(self, agent: str, key: str) -> None:
        """Forgets a row, once its entry is written."""
        self._connection.execute(_REMOVE, {"which_agent": agent, "which_key": key})
