"""Output of a run on its way to the record: joined for a moment, written durably, and only then acknowledged.

Whoever prints byte by byte costs no commit per byte, and what a short tool prints goes with its outcome: nothing is begun
for it but a timer. Joining keeps each stream in order; which of two streams spoke first within one write is not kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from broker.domain.events import EventPayload, OutputPiece
from broker.domain.run import Output, RunEvent

_MAX_PIECE = 64 * 1024
_FIRST_S = 0.01
"""How long the first output waits for more: about as long as a tool that is done takes to end."""
_FLUSH_S = 0.02
"""Least time between two writes of output."""
_URGENT_BYTES = 128 * 1024
"""So much output is written at once."""


class _Pending:
    """Output that is not on record yet, in pieces, with the events that brought it."""

    def __init__(self) -> None:
        self.some = asyncio.Event()
        self.urgent = asyncio.Event()
        """Set when there is no point in waiting for more."""
        self._offsets = {"stdout": 0, "stderr": 0}
        self._pieces: list[tuple[str, int, bytearray]] = []
        self._open: dict[str, bytearray] = {}
        self._events: list[Output] = []
        self._size = 0

    def add(self, event: Output) -> None:
        """Joins a piece of output to what waits."""
        stream, data = event.stream, event.data
        offset = self._offsets[stream]
        self._offsets[stream] = offset + len(data)
        piece = self._open.get(stream)
        if piece is None or len(piece) + len(data) > _MAX_PIECE:
            piece = self._open[stream] = bytearray()
            self._pieces.append((stream, offset, piece))
        piece += data
        self._events.append(event)
        self._size += len(data)
        self.some.set()
        if self._size >= _URGENT_BYTES:
            self.urgent.set()

    def drain(self) -> tuple[list[EventPayload], list[Output]]:
        """All that waits, and the events that brought it."""
        pieces: list[EventPayload] = [OutputPiece(stream, at, bytes(data)) for stream, at, data in self._pieces]
        events = self._events
        self._pieces, self._open, self._events, self._size = [], {}, [], 0
        self.some.clear()
        self.urgent.clear()
        return pieces, events


class Flusher:
    """Writes the output of one run, in a task that begins with the first output that has waited long enough.

    Args:
        emit: writes payloads durably as events, and tells of them.
        taken: told of each piece of output once it is on record.
        room: set while whoever follows the call has room for more output.
    """

    def __init__(
        self,
        emit: Callable[[list[EventPayload]], Awaitable[None]],
        taken: Callable[[RunEvent], None],
        room: asyncio.Event,
    ) -> None:
        self._emit = emit
        self._taken = taken
        self._room = room
        self._pending = _Pending()
        self._exited = asyncio.Event()
        self._writing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[object] | None = None
        self._interrupted = False

    def add(self, event: Output) -> None:
        """Takes a piece of output; the loop must run."""
        self._pending.add(event)
        if self._task is None and self._pending.urgent.is_set():
            self._begin()
        elif self._task is None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FIRST_S, self._begin)

    def exited(self) -> None:
        """The tool has ended: there is nobody to slow down any more."""
        self._exited.set()

    def unwritten(self) -> list[EventPayload]:
        """What is not on record yet; it is the caller's from now on."""
        return self._pending.drain()[0]

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Ends the block with the error of a write that fails beside it."""
        here = self._reader = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if not self._interrupted or here is None or self._task is None:
                raise
            here.uncancel()
            self._task.result()
        finally:
            self._reader = None  # the failure may be on its way already

    async def end(self) -> list[EventPayload]:
        """Waits for a write that is under way, and writes no more.

        Returns:
            What is not on record yet.

        Raises:
            Exception: what a write failed with.
        """
        async with self._writing:
            if self._task is not None and self._task.done():
                await self._task
            return self.unwritten()

    async def close(self) -> None:
        """Ends the task, if there is one; may be called again."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is None:
            return
        async with self._writing:  # a write that is under way takes numbers of events: it is waited for, not cut
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is None:
            self._task = asyncio.create_task(self._flush())
            self._task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[None]) -> None:
        if self._reader is not None and not task.cancelled() and task.exception() is not None:
            self._interrupted = True
            self._reader.cancel()

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        due = 0.0  # the first has waited
        while True:
            await self._pending.some.wait()
            if due:
                await _first(max(_FIRST_S, due - loop.time()), self._pending.urgent)
            if not self._room.is_set():
                await _first(None, self._room, self._exited)  # once the tool has ended there is nobody to slow down
            async with self._writing:
                pieces, events = self._pending.drain()
                if pieces:  # else the run has ended before its turn came, and has them
                    await self._emit(pieces)
            due = loop.time() + _FLUSH_S
            for event in events:
                self._taken(event)


async def _first(timeout_s: float | None, *events: asyncio.Event) -> None:
    """Returns once one of the events is set, or the time is over."""
    if any(event.is_set() for event in events):
        return
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
