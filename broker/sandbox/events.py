"""A queue of run events with one reader, which ends with a last event or an error."""

from __future__ import annotations

import asyncio
from collections import deque

from broker.domain.run import RunEvent


class EventQueue:
    """Events on their way to a reader who may be slow; the windows of the channels bound what waits here."""

    def __init__(self) -> None:
        self._waiting: deque[RunEvent] = deque()
        self._changed = asyncio.Event()
        self._closed = False
        self._error: Exception | None = None

    def put(self, event: RunEvent) -> None:
        """Adds an event; dropped once the queue is closed."""
        if not self._closed:
            self._waiting.append(event)
            self._changed.set()

    def close(self, last: RunEvent | None = None, error: Exception | None = None) -> None:
        """Ends the queue: with a last event, or with an error that the reader gets after all events."""
        if self._closed:
            return
        if last is not None:
            self._waiting.append(last)
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
        return self._waiting.popleft()
