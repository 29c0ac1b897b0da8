"""Reading and following calls: who may see one, how it looks, its events from any number on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from typing import TypeAlias

from broker.domain.call import RESTING_STATES, PolicyRequest
from broker.domain.events import CallEvent, CallView, Finished, Outcome, StoredRequest, decode_event
from broker.domain.identity import Caller, IdentityKind
from broker.domain.ports import CallQuery, CallRow, Transaction
from broker.domain.tier import Tier
from broker.errors import DataLossError, NotFoundError, OutOfRangeError
from broker.pipeline.active import ActiveCall
from broker.pipeline.feed import stalled
from broker.pipeline.kept import read_outcome, read_request
from broker.pipeline.parts import Parts

Told: TypeAlias = list[tuple[CallEvent, CallView | None]]
"""Events in order, at least one; with the last of a call, the call in its last state."""

_BATCH = 64
_SERVICE = "broker.v1.ToolBroker"


class Calls:
    """The calls on record and those that go on."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.active: dict[str, ActiveCall] = {}

    def visible(self, tx: Transaction, caller: Caller, call_id: str, method: str) -> CallRow:
        """A call that the caller may use a method on: an agent its own; a human those of their agents, and whatever
        lies in a workspace where the policy allows them the method.

        Raises:
            NotFoundError: there is none, or it is none of the caller's business.
        """
        row = tx.calls.get(call_id)
        if row is None or not self._may(caller, row, method):
            raise NotFoundError(
                f"calls/{call_id[:64]} doesn't exist, or is not yours to see",
                reason="CALL_NOT_FOUND",
                hint="ListToolCalls shows the calls that you may see.",
            )
        return row

    def _may(self, caller: Caller, row: CallRow, method: str) -> bool:
        if caller.identity.kind is IdentityKind.AGENT:
            return row.agent == caller.identity.id
        return row.owner == caller.identity.id or self._oversees(caller, row.workspace, method)

    def _oversees(self, caller: Caller, workspace: str, method: str) -> bool:
        # What belongs to others is asked of the policy in the workspace that it lies in, not in the caller's own `-`.
        request = PolicyRequest(caller.subject, workspace, f"{_SERVICE}/{method}", "rpc", Tier.INTERNAL)
        return self._parts.policy.snapshot.decide(request).allowed

    def view(self, tx: Transaction, row: CallRow, *, brief: bool = False) -> CallView:
        """A call with what is kept of its content; ``brief`` leaves out, unread, what may be long."""
        request: StoredRequest | None = None
        outcome: Outcome | None = None
        try:
            sealed = self._parts.vault.open(tx, row.id)
        except NotFoundError:
            sealed = None  # its time is over and its keys are destroyed: what remains is the row
        if sealed is not None:
            request = read_request(tx, sealed, brief=brief)
            outcome = read_outcome(tx, sealed, row, brief=brief)
        return call_view(row, request, outcome)

    async def get(self, caller: Caller, call_id: str) -> CallView:
        """One call.

        Raises:
            NotFoundError: as ``visible``.
        """
        return await self._parts.store.read(lambda tx: self.view(tx, self.visible(tx, caller, call_id, "GetToolCall")))

    async def search(self, caller: Caller, query: CallQuery, agent: str) -> list[CallView]:
        """Calls that the caller may see, in brief, newest first; ``agent`` is an id or a name, empty for all."""

        def work(tx: Transaction) -> list[CallView]:
            agents = _agents(tx, caller, agent)
            if agents is None:
                return []
            rows = self._listed(tx, caller, replace(query, agents=agents))
            return [self.view(tx, row, brief=True) for row in rows]

        return await self._parts.store.read(work)

    def _listed(self, tx: Transaction, caller: Caller, query: CallQuery) -> list[CallRow]:
        found: list[CallRow] = []
        while True:
            page = tx.calls.list(query)
            found += [row for row in page if self._may(caller, row, "ListToolCalls")]
            if len(page) < query.limit or len(found) >= query.limit:
                return found[: query.limit]
            query = replace(query, before=page[-1].id)

    async def attend(self, active: ActiveCall, foresee: Callable[[Told], None]) -> AsyncGenerator[Told, None]:
        """Events of a call that its own caller has just asked for, from the first on, those together that are ready at the
        same time; who takes them slowly slows the tool. The last comes with the call in its last state.

        Args:
            active: the call.
            foresee: shown the last events while they become durable. What it makes of them is not to be told before they come
                from here, the very same objects; where the disk fails they never do.
        """
        active.feed.watchers += 1
        active.foresight = lambda row, events: foresee([(event, self._ended(active, event, row)) for event in events])
        try:
            with active.feed.attended() as sent:
                async for events in self._follow(active.row, active, 1):
                    told = [(event, self._ended(active, event, active.row)) for event in events]
                    yield told
                    sent(events[-1].number)
                    if told[-1][1] is not None:
                        return
        finally:
            active.feed.watchers -= 1
            active.foresight = None

    @staticmethod
    def _ended(active: ActiveCall, event: CallEvent, row: CallRow) -> CallView | None:
        if not isinstance(event.payload, Finished):
            return None
        # What is on record now is what was put there: nothing needs to be read.
        return call_view(row, active.request, event.payload.outcome)

    async def watch(self, caller: Caller, call_id: str, first: int) -> AsyncGenerator[Told, None]:
        """Events from number ``first`` on, to the last, as ``attend``; the last comes with the call in its last state.

        Raises:
            NotFoundError: as ``visible``.
            OutOfRangeError: ``first`` lies beyond the events that there are, or those before it are no longer kept.
        """
        row = await self._parts.store.read(lambda tx: self.visible(tx, caller, call_id, "WatchToolCall"))
        number = first or 1
        active = self.active.get(call_id)
        last = max(row.last_event, active.feed.last if active else 0)
        if number < 1 or number > last + 1:
            raise OutOfRangeError(
                f"calls/{call_id} has events 1 to {last}; {number} is outside",
                reason="EVENT_OUT_OF_RANGE",
                metadata={"last_event": str(last)},
                hint="Watch from 1, or from the number after the last event that you have.",
            )
        if row.state in RESTING_STATES and number == row.last_event + 1:
            return
        if active is not None:
            active.feed.watchers += 1
        try:
            async for events in self._follow(row, active, number):
                told: Told = [(event, None) for event in events]
                if isinstance(events[-1].payload, Finished):
                    view = await self._parts.store.read(lambda tx: self.view(tx, self._row(tx, call_id)))
                    yield [*told[:-1], (events[-1], view)]
                    return
                yield told
        finally:
            if active is not None:
                active.feed.watchers -= 1

    async def _follow(self, row: CallRow, active: ActiveCall | None, number: int) -> AsyncIterator[list[CallEvent]]:
        while True:
            events = active.feed.recent(number) if active else []
            if not events and (active is None or number <= active.feed.last):
                events = await self._kept(row.id, number)
            for event in events:
                if event.number != number:
                    raise DataLossError(f"event {number} of calls/{row.id} is missing", reason="EVENT_MISSING")
                number += 1
            if events:
                yield events
                continue
            if active is None:
                raise stalled(row.id)
            await active.feed.beyond(number - 1)
            if active.feed.failure is not None and active.feed.last < number:
                raise active.feed.failure

    async def _kept(self, call_id: str, first: int) -> list[CallEvent]:
        def work(tx: Transaction) -> list[CallEvent]:
            try:
                sealed = self._parts.vault.open(tx, call_id)
            except NotFoundError as error:
                raise OutOfRangeError(
                    f"the events of calls/{call_id} are no longer kept",
                    reason="EVENTS_EXPIRED",
                    hint="The ledger still proves that it ran and how it ended.",
                ) from error
            return [decode_event(data) for _, data in sealed.read(tx, first, _BATCH)]

        return await self._parts.store.read(work)

    @staticmethod
    def _row(tx: Transaction, call_id: str) -> CallRow:
        row = tx.calls.get(call_id)
        if row is None:
            raise DataLossError(f"calls/{call_id} is gone", reason="CALL_MISSING")
        return row


def call_view(row: CallRow, request: StoredRequest | None, outcome: Outcome | None) -> CallView:
    """A call as those see it who may, from its parts."""
    return CallView(
        id=row.id,
        request=request,
        state=row.state,
        agent=row.agent,
        tool=row.tool,
        tool_version=row.tool_version,
        tier=Tier(row.tier),
        created=row.created,
        started=row.started,
        ended=row.ended,
        expires=row.expires,
        last_event=row.last_event,
        envelope_digest=row.envelope_digest,
        decision_seq=row.decision_seq,
        request_id=row.request_id,
        outcome=outcome,
    )


def _agents(tx: Transaction, caller: Caller, agent: str) -> frozenset[str] | None:
    # None: nothing can match; the empty set: no restriction.
    if not agent:
        return frozenset({caller.identity.id}) if caller.identity.kind is IdentityKind.AGENT else frozenset()
    found = tx.identities.get(agent) or tx.identities.by_name(IdentityKind.AGENT, agent)
    return frozenset({found.id}) if found else None
