"""A call that goes on in this process: its record, its feed, and the one way to end it from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from broker.domain.call import CallState, check_move
from broker.domain.events import (
    OUTCOME_TEXTS,
    CallEvent,
    EventPayload,
    Finished,
    StoredRequest,
    encode_event,
    encode_outcome_texts,
)
from broker.domain.ports import CallRow, SealedObject, Transaction
from broker.domain.run import EgressRecord, EndCause
from broker.domain.tier import Tier
from broker.pipeline.feed import Feed
from broker.pipeline.stopwatch import Stopwatch
from broker.sandbox.egress.gate import EgressSession
from broker.sandbox.engine import Lease
from broker.specs.catalogue import Tool


@dataclass(frozen=True, slots=True)
class Ending:
    """Somebody ended the call: who, and a sentence for a person."""

    cause: EndCause
    detail: str


@dataclass(slots=True, eq=False)
class ActiveCall:
    """Owned by the one task that drives the call; others read it, watch its feed and may ask for its end."""

    row: CallRow
    request: StoredRequest
    tool: Tool
    feed: Feed
    clock: Stopwatch
    ending: Ending | None = None
    waiting: bool = True
    """It waits for its turn: nothing but its admission is on record, and it may be left for the next start."""
    sealed: SealedObject | None = None
    """What its texts are sealed with, where it began in the step that admitted it and waits for nobody; else it is opened for
    each write."""
    approval: str = ""
    """Id of the approval that it waits for or has been given; empty where nobody has to agree."""
    planned: bool = False
    """Its run on a copy has come to an effect, which is to be applied; the tool doesn't run again."""
    lease: Lease | None = None
    egress: EgressSession | None = None
    applies: EgressSession | None = None
    """The way out of the steps that apply its effect, once they have begun: one for all tries."""
    asked_to_end: asyncio.Event = field(default_factory=asyncio.Event)
    handed: asyncio.Event = field(default_factory=asyncio.Event)
    """There is nothing more to wait for before its caller is told of it: its job was handed to its lease, or it has ended, or
    that took too long."""
    foresight: Callable[[CallRow, Sequence[CallEvent]], None] | None = None
    """Told, on the loop, of the call as it will be and of its last events while these become durable, so that whoever follows it
    can make ready what is said then. They may never come."""
    task: asyncio.Task[None] | None = None

    @property
    def reached(self) -> tuple[EgressRecord, ...]:
        """What it did with hosts so far."""
        return () if self.egress is None else self.egress.records()

    @property
    def applying(self) -> bool:
        """Is its effect being applied, as far as is on record?"""
        return self.row.state is CallState.APPLYING

    def foreteller(self) -> Callable[[CallRow, Sequence[CallEvent]], None] | None:
        """What tells ``foresight`` from any thread; ``None`` where nobody wants to know. Call it on the loop."""
        loop, foresight = asyncio.get_running_loop(), self.foresight
        if foresight is None or not self.feed.room.is_set():  # who lags behind isn't there when they come
            return None

        def foretell(row: CallRow, events: Sequence[CallEvent]) -> None:
            with suppress(RuntimeError):  # the loop has ended: the outcome goes on record all the same
                loop.call_soon_threadsafe(foresight, row, events)

        return foretell

    def end(self, cause: EndCause, detail: str) -> None:
        """Ends the call wherever it stands; the first to ask is the one who is named."""
        if self.ending is None and not self.feed.finished:
            self.ending = Ending(cause, detail)
            self.asked_to_end.set()
        if self.lease is not None and self.ending is not None:
            self.lease.kill(self.ending.cause, self.ending.detail)


def move(row: CallRow, state: CallState) -> None:
    """Checks that a call may go to a state.

    Raises:
        InternalError: it may not.
    """
    check_move(row.state, state, Tier(row.tier))


def write_events(
    tx: Transaction, sealed: SealedObject, last: int, now: datetime, payloads: Sequence[EventPayload]
) -> list[CallEvent]:
    """Numbers and stores events after number ``last``, inside a transaction; publish them once it is durable."""
    events = [CallEvent(last + index, now, payload) for index, payload in enumerate(payloads, start=1)]
    chunks = {event.number: encode_event(event) for event in events}
    for event in events:
        if isinstance(event.payload, Finished):
            chunks[OUTCOME_TEXTS] = encode_outcome_texts(event.payload.outcome)
    sealed.put(tx, chunks)
    return events
