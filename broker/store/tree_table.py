"""States of workspaces' trees, and effects of calls on them, in the database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, insert, or_, select, update

from broker.domain.tree_ports import EffectRow, TreeState
from broker.errors import ConflictError
from broker.store.columns import read_time, time_text
from broker.store.prepared import Prepared, driver_of
from broker.store.tables import EFFECT, WORKSPACE_TREE

_T, _E = WORKSPACE_TREE.c, EFFECT.c
_STATE_COLUMNS = (_T.workspace, _T.state, _T.seq, _T.changed)
_EFFECT_COLUMNS = (
    _E.call_id,
    _E.workspace,
    _E.base,
    _E.after,
    _E.digest,
    _E.artifact,
    _E.undoes,
    _E.undone_by,
    _E.seq,
    _E.at,
)
_GET = Prepared(select(*_STATE_COLUMNS).where(_T.workspace == bindparam("which_workspace")))
_EFFECT = Prepared(select(*_EFFECT_COLUMNS).where(_E.call_id == bindparam("which_call")))


class SqlTreeTable:
    """Implements ``broker.domain.tree_ports.TreeTable``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._driver = driver_of(connection)

    def get(self, workspace: str) -> TreeState | None:
        """A workspace's state; ``None`` where it has no tree."""
        row = _GET.run(self._driver, {"which_workspace": workspace}).fetchone()
        return None if row is None else TreeState(row[0], row[1], row[2], read_time(row[3]))

    def state(self, workspace: str) -> str:
        """The digest of it; empty where it has no tree."""
        found = self.get(workspace)
        return "" if found is None else found.state

    def all(self) -> Sequence[TreeState]:
        """All, by the names of their workspaces."""
        rows = self._connection.execute(select(*_STATE_COLUMNS).order_by(_T.workspace))
        return [TreeState(row[0], row[1], row[2], read_time(row[3])) for row in rows]

    def move(self, workspace: str, old: str, new: str, seq: int, now: datetime) -> None:
        """Brings a workspace into a state; ``old`` is empty for one without a tree.

        Raises:
            ConflictError: its state is another than ``old`` (``STATE_MOVED``).
        """
        present = self.state(workspace)
        if present != old:
            raise ConflictError(
                f"the files of workspace {workspace} are in state {present or 'none'} now, and not in {old or 'none'}",
                reason="STATE_MOVED",
                hint="Look at what is there now, and try again.",
                metadata={"expected": old, "found": present},
            )
        values = {"state": new, "seq": seq, "changed": time_text(now)}
        if old:
            self._connection.execute(update(WORKSPACE_TREE).where(_T.workspace == workspace).values(values))
        else:
            self._connection.execute(insert(WORKSPACE_TREE), {"workspace": workspace, **values})

    def knows(self, workspace: str, state: str) -> bool:
        """Is it the workspace's state, or was it before or after an effect on it?"""
        if self.state(workspace) == state:
            return True
        was = select(_E.seq).where(_E.workspace == workspace, or_(_E.base == state, _E.after == state)).limit(1)
        return self._connection.execute(was).first() is not None

    def insert(self, effect: EffectRow) -> None:
        """Adds an effect.

        Raises:
            ConflictError: the call has one.
        """
        if self.effect(effect.call) is not None:
            raise ConflictError(f"{effect.call} has had its effect", reason="EFFECT_KNOWN")
        values = {
            "call_id": effect.call,
            "workspace": effect.workspace,
            "base": effect.base,
            "after": effect.after,
            "digest": effect.digest,
            "artifact": effect.artifact,
            "undoes": " ".join(effect.undoes),
            "undone_by": effect.undone_by,
            "seq": effect.seq,
            "at": time_text(effect.at),
        }
        self._connection.execute(insert(EFFECT), values)

    def effect(self, call: str) -> EffectRow | None:
        """A call's effect."""
        row = _EFFECT.run(self._driver, {"which_call": call}).fetchone()
        return None if row is None else _effect(row)

    def effects(self, workspace: str, after_seq: int) -> Sequence[EffectRow]:
        """The effects on a workspace whose entries have higher numbers than that, oldest first."""
        which = select(*_EFFECT_COLUMNS).where(_E.workspace == workspace, _E.seq > after_seq).order_by(_E.seq)
        return [_effect(row) for row in self._connection.execute(which)]

    def mark(self, call: str, *, undone_by: str) -> None:
        """Says which call took an effect back; empty where it is in effect again."""
        self._connection.execute(update(EFFECT).where(_E.call_id == call).values(undone_by=undone_by))


def _effect(row: Any) -> EffectRow:  # noqa: ANN401 - a driver's row
    return EffectRow(
        call=row[0],
        workspace=row[1],
        base=row[2],
        after=row[3],
        digest=row[4],
        artifact=row[5],
        undoes=tuple(row[6].split()),
        undone_by=row[7],
        seq=row[8],
        at=read_time(row[9]),
    )
