"""Approvals and votes in the database."""

from __future__ import annotations

import builtins
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from broker.domain.approval import OPEN_STATES, Approval, ApprovalKind, ApprovalState, Vote, VoteDecision
from broker.domain.approval_ports import ApprovalQuery
from broker.domain.call import CallState
from broker.domain.canonical import canonical
from broker.domain.requirement import Channel, parse
from broker.errors import ConflictError, NotFoundError
from broker.store.columns import list_text, optional_time_text, read_optional_time, read_time, time_text
from broker.store.tables import APPROVAL, CALL, VOTE

_A, _V = APPROVAL.c, VOTE.c
_OPEN = sorted(state.value for state in OPEN_STATES)
_SELECT = select(*APPROVAL.columns)
_GET = _SELECT.where(_A.id == bindparam("which"))
_BY_SUBJECT = _SELECT.where(_A.subject == bindparam("which")).order_by(_A.id.desc()).limit(1)
_DUE = (
    _SELECT.where(_A.state.in_(_OPEN), _A.expires <= bindparam("now"))
    .order_by(_A.expires, _A.id)
    .limit(bindparam("most"))
)
_CLOSE = (
    update(APPROVAL)
    .where(_A.id == bindparam("which"))
    .values(state=bindparam("new_state"), closed=bindparam("new_closed"), closed_seq=bindparam("new_seq"))
)
# A look back at what was used waits for nobody.
_PENDING = select(func.count()).where(
    _A.requester == bindparam("which"), _A.state.in_(_OPEN), _A.kind != ApprovalKind.REVIEW.value
)
_CANCELLED = select(func.count()).where(
    _A.requester == bindparam("which"),
    _A.state == ApprovalState.CANCELLED.value,
    _A.closed >= bindparam("since"),
    # What the broker itself refused at the use is no withdrawal of the requester's.
    _A.subject.not_in(select(CALL.c.id).where(CALL.c.id == _A.subject, CALL.c.state == CallState.DENIED.value)),
)
_LAST_DENIED = select(func.max(_A.closed)).where(
    _A.requester == bindparam("which"),
    _A.state == ApprovalState.DENIED.value,
    _A.kind == ApprovalKind.CALL.value,
)
_VOTES = select(*VOTE.columns).where(_V.approval == bindparam("which")).order_by(_V.number)


class SqlApprovalTable:
    """Implements ``broker.domain.approval_ports.ApprovalTable``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def insert(self, approval: Approval) -> None:
        """Adds an approval.

        Raises:
            ConflictError: there is one of that id.
        """
        values = {
            "id": approval.id,
            "kind": approval.kind.value,
            "subject": approval.subject,
            "workspace": approval.workspace,
            "obj": approval.obj,
            "tier": approval.tier,
            "requester": approval.requester,
            "excluded": list_text(approval.excluded),
            "state": approval.state.value,
            "requirement": canonical(approval.requirement.json()).decode(),
            "envelope_digest": approval.envelope_digest,
            "rendering_digest": approval.rendering_digest,
            "created": time_text(approval.created),
            "expires": time_text(approval.expires),
            "requested_seq": approval.requested_seq,
            "closed": optional_time_text(approval.closed),
            "closed_seq": approval.closed_seq,
        }
        try:
            self._connection.execute(insert(APPROVAL), values)
        except IntegrityError as error:
            raise ConflictError(f"there is an approval {approval.id} already") from error

    def get(self, approval_id: str) -> Approval | None:
        """By id."""
        row = self._connection.execute(_GET, {"which": approval_id}).first()
        return None if row is None else _approval(row)

    def by_subject(self, subject: str) -> Approval | None:
        """The newest one about a subject."""
        row = self._connection.execute(_BY_SUBJECT, {"which": subject}).first()
        return None if row is None else _approval(row)

    def close(self, approval: Approval) -> None:
        """Stores state and closing of an approval.

        Raises:
            NotFoundError: there is no such approval.
        """
        values = {
            "which": approval.id,
            "new_state": approval.state.value,
            "new_closed": optional_time_text(approval.closed),
            "new_seq": approval.closed_seq,
        }
        if self._connection.execute(_CLOSE, values).rowcount == 0:
            raise NotFoundError(f"there is no approval {approval.id}")

    def list(self, query: ApprovalQuery) -> Sequence[Approval]:
        """Newest first."""
        statement = _SELECT
        if query.states:
            statement = statement.where(_A.state.in_(sorted(state.value for state in query.states)))
        if query.kinds:
            statement = statement.where(_A.kind.in_(sorted(kind.value for kind in query.kinds)))
        for column, wanted in (
            (_A.workspace, query.workspace),
            (_A.requester, query.requester),
            (_A.subject, query.subject),
        ):
            if wanted:
                statement = statement.where(column == wanted)
        if query.before:
            statement = statement.where(_A.id < query.before)
        rows = self._connection.execute(statement.order_by(_A.id.desc()).limit(query.limit))
        return [_approval(row) for row in rows]

    def due(self, now: datetime, limit: int) -> Sequence[Approval]:
        """Open ones whose time is over, the oldest first."""
        rows = self._connection.execute(_DUE, {"now": time_text(now), "most": limit})
        return [_approval(row) for row in rows]

    def pending(self, requester: str) -> int:
        """How many of a requester's are open, reviews apart."""
        return int(self._connection.execute(_PENDING, {"which": requester}).scalar_one())

    def cancelled(self, requester: str, since: datetime) -> int:
        """How many of a requester's were withdrawn, or came to nothing with their call, since a moment."""
        values = {"which": requester, "since": time_text(since)}
        return int(self._connection.execute(_CANCELLED, values).scalar_one())

    def last_denied(self, requester: str) -> datetime | None:
        """When a call of a requester's was last denied by a person."""
        return read_optional_time(self._connection.execute(_LAST_DENIED, {"which": requester}).scalar_one())

    def insert_vote(self, vote: Vote) -> None:
        """Adds a vote.

        Raises:
            ConflictError: its number is taken.
        """
        values = {
            "approval": vote.approval,
            "number": vote.number,
            "person": vote.person,
            "key": vote.key,
            "decision": vote.decision.value,
            "channel": vote.channel.value,
            "cast": time_text(vote.cast),
            "seq": vote.seq,
        }
        try:
            self._connection.execute(insert(VOTE), values)
        except IntegrityError as error:
            raise ConflictError(f"there is a vote {vote.number} on {vote.approval} already") from error

    def votes(self, approval_id: str) -> Sequence[Vote]:
        """In the order in which they came."""
        rows = self._connection.execute(_VOTES, {"which": approval_id})
        return [
            Vote(
                approval=row.approval,
                number=row.number,
                person=row.person,
                key=row.key,
                decision=VoteDecision(row.decision),
                channel=Channel(row.channel),
                cast=read_time(row.cast),
                seq=row.seq,
            )
            for row in rows
        ]


def _approval(row: Any) -> Approval:  # noqa: ANN401 - a row of the table's columns
    excluded: builtins.list[str] = json.loads(row.excluded)
    return Approval(
        id=row.id,
        kind=ApprovalKind(row.kind),
        subject=row.subject,
        workspace=row.workspace,
        obj=row.obj,
        tier=row.tier,
        requester=row.requester,
        excluded=tuple(excluded),
        state=ApprovalState(row.state),
        requirement=parse(json.loads(row.requirement)),
        envelope_digest=row.envelope_digest,
        rendering_digest=row.rendering_digest,
        created=read_time(row.created),
        expires=read_time(row.expires),
        requested_seq=row.requested_seq,
        closed=read_optional_time(row.closed),
        closed_seq=row.closed_seq,
    )
