"""The wait for people: a call stands still until they agree, one of them says no, its time is over, or it is cancelled.

Its own task alone changes the call. Votes change the approval, and this looks at it again whenever the bell rings; a vote
that another process took is seen at the next look all the same.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from broker.approvals.freezing import frozen
from broker.domain.approval import OPEN_STATES, Approval, ApprovalState
from broker.domain.call import CallState
from broker.domain.events import CallEvent, Outcome, StateChanged
from broker.domain.ports import CallRow, Transaction
from broker.domain.run import EndCause
from broker.pipeline.active import ActiveCall, Ending, move, write_events
from broker.pipeline.approving import kept_out_now
from broker.pipeline.ending import close_approval, finish
from broker.pipeline.parts import Parts
from broker.pipeline.verdict import never_ran

_LOOK_S = 2.0
"""How long at the most until the database is looked at again."""

NOT_YET = frozenset({"APPROVAL_NOT_MET", "FROZEN", "APPROVAL_CLOSED"})
"""Reasons for which a call whose people had agreed goes back to waiting, where its end is settled too."""

_ENDS = {
    ApprovalState.DENIED: CallState.DENIED,
    ApprovalState.EXPIRED: CallState.EXPIRED,
    ApprovalState.CANCELLED: CallState.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class _Look:
    approval: Approval
    ready: bool


class Waiting:
    """Waits for people, for one call at a time."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def approved(self, active: ActiveCall) -> bool:
        """Returns ``True`` once people agree and nothing holds the call up; ``False`` where it has ended instead."""
        await self._stand(active, CallState.PENDING_APPROVAL)
        while True:
            count = self._parts.bell.count
            look = await self._parts.store.read(lambda tx: self._look(tx, active))
            if active.ending is not None:
                await self._cancel(active, active.ending)
                return False
            state = look.approval.state
            if state in OPEN_STATES and look.approval.expires <= self._parts.clock():
                await self._end(active, ApprovalState.EXPIRED)
                return False
            if state not in OPEN_STATES:
                await self._end(active, state)
                return False
            if look.ready:
                await self._stand(active, CallState.APPROVED)
                return True
            left = (look.approval.expires - self._parts.clock()).total_seconds()
            await self._something(active, count, max(0.0, min(left, _LOOK_S)))

    async def _something(self, active: ActiveCall, count: int, timeout_s: float) -> None:
        heard = asyncio.ensure_future(self._parts.bell.heard(count, timeout_s))
        asked = asyncio.ensure_future(active.asked_to_end.wait())
        try:
            await asyncio.wait({heard, asked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            heard.cancel()
            asked.cancel()
            # Theirs are swallowed, and never one of this task's own: a broker that stops cancels it, and it must end.
            await asyncio.gather(heard, asked, return_exceptions=True)

    def _look(self, tx: Transaction, active: ActiveCall) -> _Look:
        approval = self._parts.desk.find(tx, active.approval)
        row = active.row
        agreement = self._parts.desk.agreement
        agreement.read_on(tx)
        held = frozen(tx, agent=row.agent, tool=row.tool, workspace=row.workspace, known=agreement.frozen())
        ready = False
        if approval.state is ApprovalState.APPROVED and held is None:
            # Counted as the use will count: else it would be tried, and fail, and be tried again without end.
            ready = self._parts.desk.count(tx, approval, kept_out_now(tx, self._parts, active)).met
        return _Look(approval, ready)

    async def _stand(self, active: ActiveCall, state: CallState) -> None:
        if active.row.state is state:
            return

        def work(tx: Transaction) -> tuple[CallRow, list[CallEvent]]:
            move(active.row, state)
            sealed = self._parts.vault.open(tx, active.row.id)
            events = write_events(tx, sealed, active.row.last_event, self._parts.clock(), [StateChanged(state)])
            row = replace(active.row, state=state, last_event=events[-1].number)
            tx.calls.replace(row)
            return row, events

        active.row, events = await self._parts.store.write(work)
        active.feed.publish(events)

    async def _cancel(self, active: ActiveCall, ending: Ending) -> None:
        await self._finish(active, CallState.CANCELLED, never_ran(ending.cause, ending.detail), "call cancelled")

    async def _end(self, active: ActiveCall, state: ApprovalState) -> None:
        done = "was changed" if active.planned else "ran"
        detail = f"approvals/{active.approval} is {state.value}: nothing {done}"
        end = _ENDS.get(state, CallState.DENIED)
        await self._finish(active, end, never_ran(EndCause.POLICY, detail), state.value.lower())

    async def _finish(self, active: ActiveCall, state: CallState, outcome: Outcome, why: str) -> None:
        also = close_approval(self._parts, active.approval, why)
        active.row, events = await finish(self._parts, active.row, state, outcome, also=also)
        active.feed.publish(events)
        self._parts.bell.ring(active.approval)
