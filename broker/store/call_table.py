"""Calls in the database."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from broker.domain.call import CallState
from broker.domain.ports import CallQuery, CallRow
from broker.errors import ConflictError, NotFoundError
from broker.store.columns import optional_time_text, read_optional_time, read_time, time_text
from broker.store.prepared import Prepared, driver_of, integrity_errors
from broker.store.tables import CALL

_C = CALL.c
_COLUMNS = tuple(column.name for column in CALL.columns)
_SELECT = select(*(_C[name] for name in _COLUMNS))
_GET = Prepared(_SELECT.where(_C.id == bindparam("which")))
_BY_REQUEST = Prepared(_SELECT.where(_C.agent == bindparam("agent"), _C.request_id == bindparam("request_id")))
_INSERT = Prepared(insert(CALL))
_REPLACE = Prepared(
    update(CALL)
    .where(_C.id == bindparam("which"))
    .values({name: bindparam(f"new_{name}") for name in _COLUMNS if name != "id"})
)
_COUNT = select(func.count()).select_from(CALL).where(_C.state.in_(bindparam("states", expanding=True)))
_COUNT_AGENT = _COUNT.where(_C.agent == bindparam("agent"))


class SqlCallTable:
    """Implements ``broker.domain.ports.CallTable``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._driver = driver_of(connection)

    def insert(self, row: CallRow) -> None:
        """Adds a call.

        Raises:
            ConflictError: the id, or the agent's request id, is taken.
        """
        try:
            _INSERT.run(self._driver, _values(row))
        except integrity_errors() as error:
            message = f"the call {row.id}, or one of its agent with the same request id, is there already"
            raise ConflictError(message) from error

    def get(self, call_id: str) -> CallRow | None:
        """By id."""
        row = _GET.run(self._driver, {"which": call_id}).fetchone()
        return None if row is None else _read(row)

    def by_request(self, agent: str, request_id: str) -> CallRow | None:
        """By an agent's own request id; an empty one stands for no call."""
        if not request_id:
            return None
        row = _BY_REQUEST.run(self._driver, {"agent": agent, "request_id": request_id}).fetchone()
        return None if row is None else _read(row)

    def replace(self, row: CallRow) -> None:
        """Stores a row in place of the one with the same id.

        Raises:
            NotFoundError: there is no such call.
        """
        values = {f"new_{name}": value for name, value in _values(row).items() if name != "id"}
        if _REPLACE.run(self._driver, {"which": row.id, **values}).rowcount == 0:
            raise NotFoundError(f"there is no call {row.id}")

    def list(self, query: CallQuery) -> Sequence[CallRow]:
        """Newest first."""
        statement = _SELECT
        if query.agents:
            statement = statement.where(_C.agent.in_(sorted(query.agents)))
        if query.states:
            statement = statement.where(_C.state.in_(sorted(state.value for state in query.states)))
        for column, wanted in ((_C.tool, query.tool), (_C.workspace, query.workspace), (_C.workflow, query.workflow)):
            if wanted:
                statement = statement.where(column == wanted)
        if query.created_from is not None:
            statement = statement.where(_C.created >= time_text(query.created_from))
        if query.created_before is not None:
            statement = statement.where(_C.created < time_text(query.created_before))
        if query.before:
            statement = statement.where(_C.id < query.before)
        rows = self._connection.execute(statement.order_by(_C.id.desc()).limit(query.limit))
        return [_read(row) for row in rows]

    def count(self, agent: str, states: frozenset[CallState]) -> int:
        """How many calls of an agent (of all, where empty) are in one of the states."""
        wanted: builtins.list[str] = sorted(state.value for state in states)
        if agent:
            found = self._connection.execute(_COUNT_AGENT, {"agent": agent, "states": wanted})
        else:
            found = self._connection.execute(_COUNT, {"states": wanted})
        return int(found.scalar_one())


def _values(row: CallRow) -> dict[str, object]:
    return {
        "id": row.id,
        "agent": row.agent,
        "owner": row.owner,
        "tool": row.tool,
        "tool_version": row.tool_version,
        "workspace": row.workspace,
        "workflow": row.workflow,
        "state": row.state.value,
        "tier": int(row.tier),
        "request_id": row.request_id,
        "request_digest": row.request_digest,
        "created": time_text(row.created),
        "started": optional_time_text(row.started),
        "ended": optional_time_text(row.ended),
        "expires": optional_time_text(row.expires),
        "decision_seq": row.decision_seq,
        "intent_seq": row.intent_seq,
        "outcome_seq": row.outcome_seq,
        "last_event": row.last_event,
        "envelope_digest": row.envelope_digest,
    }


def _read(row: Sequence[Any]) -> CallRow:
    values = dict(zip(_COLUMNS, row, strict=True))
    values["state"] = CallState(values["state"])
    values["created"] = read_time(values["created"])
    for name in ("started", "ended", "expires"):
        values[name] = read_optional_time(values[name])
    return CallRow(**values)
