"""An effect whose end is not known is taken back by itself, where people agreed to that beforehand, and only from a state
that the plan foresaw.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from broker.domain.call import CallState
from broker.domain.canonical import JsonObject
from broker.domain.envelope import salt_of
from broker.domain.outside import Step
from broker.domain.planned import Planned
from broker.domain.ports import CallRow, Transaction
from broker.errors import BrokerError
from broker.pipeline.active import ActiveCall, move
from broker.pipeline.outside_steps import Steps
from broker.pipeline.parts import Parts

_log = structlog.get_logger(__name__)


class SelfUndo:
    """Takes back what a call itself has done."""

    def __init__(self, parts: Parts, steps: Steps) -> None:
        self._parts = parts
        self._steps = steps

    async def take_back(self, active: ActiveCall, planned: Planned) -> None:
        """Takes it back: UNDONE, or UNKNOWN as before where that can't be said.

        Args:
            active: a call that is UNKNOWN, all of whose items are as it was to leave them.
            planned: its plan, in which people agreed that it is taken back so.
        """
        await self._write(active, CallState.UNDOING, "undo.intent", planned, {"why": "on_failure"})
        detail = ""
        try:
            ran = await self._steps.run(active, planned, Step.UNDO, "", effect=planned.effect.inverse())
            if ran.ended.exit_code != 0:
                detail = ran.told
        except BrokerError as error:
            detail = f"{error.reason}: {error.message}"
        state = CallState.UNKNOWN if detail else CallState.UNDONE
        if detail:
            _log.error("call.not_taken_back", call=active.row.id, error=detail)
        hosts: JsonObject = {"connections": sum(item.count for item in active.reached)}
        await self._write(active, state, "undo.outcome", planned, {"egress": hosts})

    async def _write(self, active: ActiveCall, state: CallState, kind: str, planned: Planned, more: JsonObject) -> None:
        parts, row = self._parts, active.row

        def work(tx: Transaction) -> CallRow:
            move(row, state)
            body: JsonObject = {
                "call_id": row.id,
                "workspace": row.workspace,
                "tool": {"name": row.tool, "version": row.tool_version},
                "tier": row.tier,
                "intent_seq": -1 if row.intent_seq is None else row.intent_seq,
                "undo": {
                    **more,
                    "state": state.value,
                    "digest": planned.effect.inverse().digest(salt_of(active.request.envelope)),
                },
            }
            parts.ledger.append(tx, kind, body, agent=row.agent)
            done = replace(row, state=state)
            tx.calls.replace(done)
            if state is CallState.UNDONE:
                tx.trees.mark(row.id, undone_by=row.id)
            return done

        active.row = await parts.store.write(work)
