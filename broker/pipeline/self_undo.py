"""An effect whose end is not known is taken back by itself, where people agreed to that beforehand, and only from a state
that the plan foresaw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from broker.domain.call import CallState
from broker.domain.canonical import JsonObject
from broker.domain.envelope import salt_of
from broker.domain.outside import Step
from broker.domain.planned import Planned
from broker.domain.ports import CallRow, Transaction
from broker.domain.run import EgressRecord
from broker.errors import BrokerError, FailedPreconditionError
from broker.pipeline import journal
from broker.pipeline.active import ActiveCall, move
from broker.pipeline.outside_steps import Steps
from broker.pipeline.parts import Parts
from broker.pipeline.undoing_outside import check_acting

_log = structlog.get_logger(__name__)


class SelfUndo:
    """Takes back what a call itself has done."""

    def __init__(self, parts: Parts, steps: Steps) -> None:
        self._parts = parts
        self._steps = steps

    async def take_back(self, active: ActiveCall, planned: Planned) -> None:
        """Takes it back: UNDONE, or UNKNOWN as before where that can't be said. Nothing is done where the tool is another now,
        or something of it is frozen.

        Args:
            active: a call that is UNKNOWN, all of whose items are as it was to leave them.
            planned: its plan, in which people agreed that it is taken back so.
        """
        outside = planned.outside
        if outside is None:
            return
        try:
            await self._parts.store.read(lambda tx: check_acting(tx, self._parts, active.row, outside))
        except BrokerError as error:
            _log.error("call.not_taken_back", call=active.row.id, error=error.message)
            return
        await self._begin(active, planned)
        detail = await self._done(active, planned, outside.undo_frames)
        if detail:
            _log.error("call.not_taken_back", call=active.row.id, error=detail)
        await self._end(active, CallState.UNKNOWN if detail else CallState.UNDONE, detail)

    async def _done(self, active: ActiveCall, planned: Planned, frames: str) -> str:
        """Why it can't be said that it was done; empty where it can."""
        try:
            back = planned.effect.inverse()
            ran = await self._steps.run(active, planned, Step.UNDO, "", effect=back, frames=frames)
            if ran.ended.exit_code != 0:
                return ran.told
            look = await self._steps.look(active, planned, "")
        except BrokerError as error:
            return f"{error.reason}: {error.message}"
        return "not all is as it was before" if look.known and look.unlike_before else ""

    async def _begin(self, active: ActiveCall, planned: Planned) -> None:
        parts, row = self._parts, active.row
        digest = planned.effect.inverse().digest(salt_of(active.request.envelope))

        def work(tx: Transaction) -> CallRow:
            present = tx.calls.get(row.id)
            if present is None or present.state is not CallState.UNKNOWN:
                raise FailedPreconditionError(f"{row.id} is not UNKNOWN any more", reason="ALREADY_UNDONE")
            move(present, CallState.UNDOING)
            undo: JsonObject = {"state": CallState.UNDOING.value, "why": "on_failure", "digest": digest}
            parts.ledger.append(tx, "undo.intent", {**_about(present), "undo": undo}, agent=row.agent)
            done = replace(present, state=CallState.UNDOING)
            tx.calls.replace(done)
            return done

        active.row = await parts.store.write(work)

    async def _end(self, active: ActiveCall, state: CallState, detail: str) -> None:
        parts, row = self._parts, active.row

        def work(tx: Transaction) -> CallRow:
            return write_undone(tx, parts=parts, row=row, state=state, detail=detail, reached=active.reached)

        active.row = await parts.store.write(work)


def write_undone(
    tx: Transaction,
    *,
    parts: Parts,
    row: CallRow,
    state: CallState,
    detail: str,
    reached: Sequence[EgressRecord] = (),
) -> CallRow:
    """Writes how the taking back of a call by itself ended, as a part of a transaction.

    Args:
        tx: a writing transaction.
        parts: the broker's.
        row: the call as it stands.
        state: ``UNDONE`` or ``UNKNOWN``.
        detail: why it isn't known; empty where it is.
        reached: what it did with hosts.
    """
    move(row, state)
    sealed = parts.vault.open(tx, row.id)
    undo: JsonObject = {"state": state.value, "detail_commit": sealed.commit("undo", detail.encode())}
    body: JsonObject = {**_about(row), "undo": undo, "egress": journal.egress_body(reached, sealed)}
    parts.ledger.append(tx, "undo.outcome", body, agent=row.agent)
    done = replace(row, state=state)
    tx.calls.replace(done)
    if state is CallState.UNDONE:
        tx.trees.mark(row.id, undone_by=row.id)
    return done


def _about(row: CallRow) -> JsonObject:
    return {
        "call_id": row.id,
        "workspace": row.workspace,
        "tool": {"name": row.tool, "version": row.tool_version},
        "tier": row.tier,
        "intent_seq": -1 if row.intent_seq is None else row.intent_seq,
    }
