"""The end of a call on record: ledger entry, row and last event in one transaction, with whatever belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from broker.domain.approval import OPEN_STATES, ApprovalKind, ApprovalState
from broker.domain.call import CallState
from broker.domain.events import CallEvent, EventPayload, Finished, Outcome
from broker.domain.ports import CallRow, SealedObject, Transaction
from broker.pipeline import journal
from broker.pipeline.active import move, write_events
from broker.pipeline.parts import Parts


async def finish(
    parts: Parts,
    row: CallRow,
    state: CallState,
    outcome: Outcome,
    tail: Sequence[EventPayload] = (),
    *,
    also: Callable[[Transaction], None] | None = None,
    sealed: SealedObject | None = None,
    foresee: Callable[[CallRow, list[CallEvent]], None] | None = None,
) -> tuple[CallRow, list[CallEvent]]:
    """Writes a call's outcome. Durable on return.

    Args:
        parts: the broker's.
        row: the call as it stands.
        state: its last state.
        outcome: how it ended.
        tail: events that come before the last one.
        also: what else is written in the same transaction, before the outcome.
        sealed: what the call's texts are sealed with; ``None`` opens it.
        foresee: told, in another thread, what this returns before it is durable; it never is where this raises.
    """
    now = parts.clock()

    def work(tx: Transaction) -> tuple[CallRow, list[CallEvent]]:
        if also is not None:
            also(tx)
        ended = write_end(tx, parts, row, state, outcome, now=now, tail=tail, sealed=sealed)
        if foresee is not None:
            tx.meanwhile(partial(foresee, *ended))
        return ended

    written = await parts.store.write(work)
    parts.meter.ended(outcome.cause, state.value)
    return written


def write_end(
    tx: Transaction,
    parts: Parts,
    row: CallRow,
    state: CallState,
    outcome: Outcome,
    *,
    now: datetime,
    tail: Sequence[EventPayload] = (),
    sealed: SealedObject | None = None,
) -> tuple[CallRow, list[CallEvent]]:
    """The same as a part of a transaction: the call as it is once that is durable, and the events to tell then."""
    move(row, state)
    sealed = sealed or parts.vault.open(tx, row.id)
    ended = replace(row, state=state, ended=now)
    entry_type = "unknown" if state is CallState.UNKNOWN else "outcome"
    seq = parts.ledger.append(tx, entry_type, journal.outcome_body(ended, outcome, now, sealed), agent=row.agent)
    events = write_events(tx, sealed, row.last_event, now, [*tail, Finished(state, outcome)])
    done = replace(ended, outcome_seq=seq, last_event=events[-1].number)
    tx.calls.replace(done)
    return done, events


def close_of_call(parts: Parts, call_id: str, why: str) -> Callable[[Transaction], None]:
    """What ends the approval of a call that can't go on, where it has one."""

    def work(tx: Transaction) -> None:
        approval = tx.approvals.by_subject(call_id)
        if approval is not None:
            close_approval(parts, approval.id, why)(tx)

    return work


def close_approval(parts: Parts, approval_id: str, why: str) -> Callable[[Transaction], None]:
    """What ends a call's approval with the call, where it is still open: nothing may come of it any more."""

    def work(tx: Transaction) -> None:
        approval = parts.desk.expire(tx, parts.desk.find(tx, approval_id))
        # A runbook outlives a call that came to nothing: it is there for an emergency.
        if approval.state in OPEN_STATES and approval.kind is ApprovalKind.CALL:
            parts.desk.close(tx, approval, ApprovalState.CANCELLED, why=why)

    return work
