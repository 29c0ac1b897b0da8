"""What comes out of a container: output into events, result files into blobs, all of it bounded.

Output is written durably before anybody sees it. What comes while a write is under way, or soon after one, is joined, so
that a tool that prints byte by byte costs no commit per byte. Joining keeps each stream in order; which of two streams
spoke first within one flush is not kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

from broker.domain.events import EventPayload, OutputFile, OutputPiece
from broker.domain.run import Ended, FileData, FileEnd, FileStart, Output, Result, RunEvent, Started
from broker.errors import UnavailableError
from broker.pipeline.blobs import BlobWriter

_BUFFERED = 64
_MAX_PIECE = 64 * 1024
_FLUSH_S = 0.02
"""Least time between two writes of output."""


@dataclass(slots=True)
class Collected:
    """The end of a run; ``tail`` is output that is not on record yet and goes there with the outcome."""

    ended: Ended
    result: bytes | None
    files: tuple[OutputFile, ...]
    tail: list[EventPayload]


class _Buffer:
    """A few events between the run and the collector. Whoever leaves first never keeps the other waiting."""

    def __init__(self) -> None:
        self._events: deque[RunEvent] = deque()
        self._some = asyncio.Event()
        self._room = asyncio.Event()
        self.urgent = asyncio.Event()
        """Set when there is no point in waiting for more: it is full, or nothing will come any more."""
        self.over = False

    async def fill(self, events: AsyncIterator[RunEvent]) -> None:
        """Takes all events of a run; in the end nothing more will come, for whatever reason."""
        try:
            async for event in events:
                while len(self._events) >= _BUFFERED:
                    self._room.clear()
                    await self._room.wait()
                self._events.append(event)
                self._some.set()
                if isinstance(event, Ended) or len(self._events) >= _BUFFERED:
                    self.urgent.set()
        finally:
            self.over = True
            self._some.set()
            self.urgent.set()

    async def wait(self) -> None:
        """Returns once there is an event, or none will come."""
        await self._some.wait()

    def take(self) -> list[RunEvent]:
        """All events that are there."""
        taken = list(self._events)
        self._events.clear()
        self._room.set()
        if not self.over:
            self._some.clear()
            self.urgent.clear()
        return taken


@dataclass(slots=True)
class Collector:
    """Consumes the events of one run.

    Args:
        emit: writes payloads durably as events, and tells of them.
        new_blob: makes a writer for a result file.
        expires: until when result files are kept.
    """

    emit: Callable[[list[EventPayload]], Awaitable[None]]
    new_blob: Callable[[], BlobWriter]
    expires: datetime
    started: bool = False
    _offsets: dict[str, int] = field(default_factory=lambda: {"stdout": 0, "stderr": 0})
    _pending: list[tuple[str, int, bytearray]] = field(default_factory=list)
    _open: dict[str, bytearray] = field(default_factory=dict)
    _files: list[OutputFile] = field(default_factory=list)
    _result: bytes | None = None
    _file: tuple[str, BlobWriter] | None = None

    async def consume(self, events: AsyncIterator[RunEvent]) -> Collected:
        """Takes the run's events to the last.

        Raises:
            UnavailableError: the stream of events ended without its end: the engine failed.
        """
        buffer = _Buffer()
        filling = asyncio.create_task(buffer.fill(events))
        loop = asyncio.get_running_loop()
        flushed = loop.time() - _FLUSH_S
        try:
            while True:
                await buffer.wait()
                await _patience(buffer.urgent, flushed + _FLUSH_S - loop.time())
                taken = buffer.take()
                for event in taken:
                    if isinstance(event, Ended):
                        return Collected(event, self._result, tuple(self._files), self._drain())
                    await self._take(event)
                if buffer.over and not taken:
                    await filling  # raises what ended the stream
                    raise UnavailableError("the run's events ended without an end", reason="ENGINE_FAILED")
                if self._pending:
                    await self.emit(self._drain())
                    flushed = loop.time()
        finally:
            filling.cancel()
            await asyncio.gather(filling, return_exceptions=True)

    async def _take(self, event: RunEvent) -> None:
        match event:
            case Started():
                self.started = True
            case Output(stream, data):
                self._add(stream, data)
            case FileStart(path, _):
                self._file = (path, self.new_blob())
            case FileData(data) if self._file is not None:
                await self._file[1].write(data)
            case FileEnd() if self._file is not None:
                path, writer = self._file
                row = await writer.finish(self.expires)
                self._files.append(OutputFile(path, row.id, row.size, row.digest))
                self._file = None
            case Result(data):
                self._result = data
            case _:
                raise UnavailableError("the run's events came out of order", reason="ENGINE_FAILED")

    def _add(self, stream: str, data: bytes) -> None:
        offset = self._offsets[stream]
        self._offsets[stream] = offset + len(data)
        piece = self._open.get(stream)
        if piece is None or len(piece) + len(data) > _MAX_PIECE:
            piece = self._open[stream] = bytearray()
            self._pending.append((stream, offset, piece))
        piece += data

    def _drain(self) -> list[EventPayload]:
        pieces: list[EventPayload] = [
            OutputPiece(stream, offset, bytes(data)) for stream, offset, data in self._pending
        ]
        self._pending.clear()
        self._open.clear()
        return pieces


async def _patience(urgent: asyncio.Event, seconds: float) -> None:
    if seconds <= 0 or urgent.is_set():
        return
    waiting = asyncio.ensure_future(urgent.wait())
    try:
        await asyncio.wait({waiting}, timeout=seconds)
    finally:
        waiting.cancel()
