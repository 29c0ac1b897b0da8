"""The events of one live call: written durably first, then told to those who watch."""

from __future__ import annotations

import asyncio
from collections import deque

from broker.domain.events import CallEvent, Finished, OutputPiece
from broker.errors import BrokerError, UnavailableError

_RING_EVENTS = 256
_RING_BYTES = 1 << 20


class Feed:
    """Numbers of events that are durable, and the latest of them in memory, bounded by number and bytes."""

    def __init__(self, last: int) -> None:
        self.last = last
        """Number of the last durable event."""
        self.finished = False
        self.failure: BrokerError | None = None
        """Why no further event will come although the call has not ended on record."""
        self.watchers = 0
        self._ring: deque[CallEvent] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()

    def publish(self, events: list[CallEvent]) -> None:
        """Tells of events that are durable now."""
        for event in events:
            self._ring.append(event)
            self._bytes += _size(event)
            self.last = event.number
            self.finished = self.finished or isinstance(event.payload, Finished)
        while self._ring and (len(self._ring) > _RING_EVENTS or self._bytes > _RING_BYTES):
            self._bytes -= _size(self._ring.popleft())
        self._wake()

    def fail(self, error: BrokerError) -> None:
        """Ends all watching with an error of ours."""
        self.failure = error
        self._wake()

    def recent(self, first: int) -> list[CallEvent]:
        """The events from a number on, where memory still has that very number; else nothing."""
        if not self._ring or first < self._ring[0].number:
            return []
        return [event for event in self._ring if event.number >= first]

    async def beyond(self, number: int) -> None:
        """Returns once there is an event after ``number``, or the feed has failed."""
        while self.last <= number and self.failure is None:
            await self._changed.wait()

    @property
    def over(self) -> bool:
        """Will no further event come?"""
        return self.finished or self.failure is not None

    async def ended(self) -> None:
        """Returns once no further event will come."""
        while not self.over:
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def stalled(call_id: str) -> UnavailableError:
    """The error for a call that has not ended and that nothing drives: only a start of the broker settles it."""
    return UnavailableError(
        f"calls/{call_id} has not ended, and this broker doesn't drive it: it is settled at the next start",
        reason="CALL_STALLED",
        hint="Look again once the broker has been restarted; `broker doctor` says how it stands.",
    )


def _size(event: CallEvent) -> int:
    return len(event.payload.data) if isinstance(event.payload, OutputPiece) else 256
