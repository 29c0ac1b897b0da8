"""The events of one live call: written durably first, then told to those who watch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from broker.domain.events import CallEvent, Finished, OutputPiece
from broker.errors import BrokerError, UnavailableError

_RING_EVENTS = 256
_RING_BYTES = 1 << 20
_LAG_BYTES = 1 << 20
"""How far the call's own caller may lag behind before the tool is slowed down."""


class Feed:
    """Numbers of events that are durable, and the latest of them in memory, bounded by number and bytes."""

    def __init__(self, last: int) -> None:
        self.last = last
        """Number of the last durable event."""
        self.finished = False
        self.failure: BrokerError | None = None
        """Why no further event will come although the call has not ended on record."""
        self.watchers = 0
        self.room = asyncio.Event()
        """Set while the call's own caller, if one attends, isn't too far behind."""
        self.room.set()
        self._unsent: deque[tuple[int, int]] | None = None
        self._lag = 0
        self._ring: deque[CallEvent] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()

    def publish(self, events: list[CallEvent]) -> None:
        """Tells of events that are durable now."""
        for event in events:
            self._ring.append(event)
            self._bytes += _size(event)
            if self._unsent is not None:
                self._unsent.append((event.number, _size(event)))
                self._lag += _size(event)
            self.last = event.number
            self.finished = self.finished or isinstance(event.payload, Finished)
        while self._ring and (len(self._ring) > _RING_EVENTS or self._bytes > _RING_BYTES):
            self._bytes -= _size(self._ring.popleft())
        if self._lag > _LAG_BYTES:
            self.room.clear()
        self._wake()

    @contextmanager
    def attended(self) -> Iterator[Callable[[int], None]]:
        """While the block lasts, the call's own caller follows it, and slows the tool down where it lags.

        Yields:
            What to tell the number of each event that the caller has been sent.
        """
        unsent = self._unsent = deque((event.number, _size(event)) for event in self._ring)
        self._lag = sum(size for _, size in unsent)

        def sent(number: int) -> None:
            while unsent and unsent[0][0] <= number:
                self._lag -= unsent.popleft()[1]
            if self._lag <= _LAG_BYTES // 2:
                self.room.set()

        try:
            yield sent
        finally:
            self._unsent, self._lag = None, 0
            self.room.set()

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
