"""Freezes in the database."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, insert, select

from broker.domain.approval import Freeze, FreezeScope
from broker.store.columns import read_time, time_text
from broker.store.prepared import Prepared, driver_of
from broker.store.tables import FREEZE

_F = FREEZE.c
_ALL = Prepared(select(_F.scope, _F.target, _F.by, _F.since, _F.seq).order_by(_F.seq))
_IS = (_F.scope == bindparam("which_scope"), _F.target == bindparam("which_target"))


class SqlFreezeTable:
    """Implements ``broker.domain.approval_ports.FreezeTable``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._driver = driver_of(connection)

    def freeze(self, freeze: Freeze) -> None:
        """Adds a freeze, or leaves the one that is there."""
        which = {"which_scope": freeze.scope.value, "which_target": freeze.target}
        if self._connection.execute(select(_F.seq).where(*_IS), which).first() is None:
            values = {
                "scope": freeze.scope.value,
                "target": freeze.target,
                "by": freeze.by,
                "since": time_text(freeze.since),
                "seq": freeze.seq,
            }
            self._connection.execute(insert(FREEZE), values)

    def unfreeze(self, scope: FreezeScope, target: str) -> None:
        """Takes one away; nothing happens where there is none."""
        self._connection.execute(delete(FREEZE).where(*_IS), {"which_scope": scope.value, "which_target": target})

    def all(self) -> Sequence[Freeze]:
        """All, oldest first; asked at each call, so by the shortest way."""
        rows = _ALL.run(self._driver, {}).fetchall()
        return [Freeze(FreezeScope(row[0]), row[1], row[2], read_time(row[3]), row[4]) for row in rows]
