"""A bounded queue of run events with one writer and one reader, which ends with a last event or an error."""

from __future__ import annotations

import asyncio
from collections import deque

from broker.domain.run import FileData, Output, Result, RunEvent

_EVENT_COST = 256
"""What an event counts besides its bytes, so that a flood of tiny pieces is bounded too."""


class EventQueue:
    """Events on their way to a reader who may be slow.

    Args:
        limit: bytes that may wait; the writer waits once that is exceeded, by at most one event.
    """

    def __init__(self, limit: int = 2**20) -> None:
        self._limit = limit
        self._waiting: deque[RunEvent] = deque()
        self._size = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False
        self._error: Exception | None = None

    async def put(self, event: RunEvent) -> None:
        """Adds an event, then waits for room. An event is never lost, even when the wait is cancelled."""
        self._add(event)
        if self._size > self._limit:
            self._room.clear()
            await self._room.wait()

    def close(self, last: RunEvent | None = None, error: Exception | None = None) -> None:
        """Ends the queue: with a last event, or with an error that the reader gets after all events."""
        if self._closed:
            return
        if last is not None:
            self._add(last)
        self._error = error
        self._closed = True
        self._changed.set()

    async def get(self) -> RunEvent | None:
        """The next event, or ``None`` at the end.

        Raises:
            Exception: the error that the queue was closed with.
        """
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        event = self._waiting.popleft()
        self._size -= _cost(event)
        if self._size <= self._limit // 2:
            self._room.set()
        return event

    def _add(self, event: RunEvent) -> None:
        self._waiting.append(event)
        self._size += _cost(event)
        self._changed.set()


def _cost(event: RunEvent) -> int:
    return _EVENT_COST + (len(event.data) if isinstance(event, Output | FileData | Result) else 0)
