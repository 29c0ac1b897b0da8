"""What comes out of a container: output into events, result files into blobs, all of it bounded.

Output is written durably before anybody sees it. What comes soon after a write is joined, so that a tool that prints byte
by byte costs no commit per byte, and what a short tool prints goes with its outcome. Joining keeps each stream in order;
which of two streams spoke first within one flush is not kept. The tool may write on once its output is on record and its
caller, where one follows, has room for more: so a slow caller slows the tool, and nothing grows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from broker.domain.events import EventPayload, OutputFile, OutputPiece
from broker.domain.run import Ended, Exited, FileData, FileEnd, FileStart, Output, Result, RunEvent, Started
from broker.errors import UnavailableError
from broker.pipeline.blobs import BlobWriter
from broker.pipeline.effect_reading import TREE_EVENTS, EffectReader

_MAX_PIECE = 64 * 1024
_FIRST_S = 0.01
"""How long the first output waits for more: about as long as a tool that is done takes to end."""
_FLUSH_S = 0.02
"""Least time between two writes of output."""
_URGENT_BYTES = 128 * 1024
"""So much output is written at once."""


@dataclass(slots=True)
class Collected:
    """The end of a run; ``tail`` is output that is not on record yet and goes there with the outcome."""

    ended: Ended
    result: bytes | None
    files: tuple[OutputFile, ...]
    tail: list[EventPayload]


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


@dataclass(slots=True)
class Collector:
    """Consumes the events of one run.

    Args:
        emit: writes payloads durably as events, and tells of them.
        new_blob: makes a writer for a result file.
        expires: until when result files are kept.
        room: set while whoever follows the call has room for more output.
    """

    emit: Callable[[list[EventPayload]], Awaitable[None]]
    new_blob: Callable[[], BlobWriter]
    expires: datetime
    room: asyncio.Event
    tree: EffectReader | None = None
    """Takes what the tool changed of its workspace's files; ``None`` for a tool that works on none."""
    started: bool = False
    _pending: _Pending = field(default_factory=_Pending)
    _exited: asyncio.Event = field(default_factory=asyncio.Event)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _files: list[OutputFile] = field(default_factory=list)
    _result: bytes | None = None
    _file: tuple[str, BlobWriter] | None = None

    async def consume(self, events: AsyncIterator[RunEvent], taken: Callable[[RunEvent], None]) -> Collected:
        """Takes the run's events to the last.

        Args:
            events: the run's events.
            taken: told of each event that has been dealt with.

        Raises:
            UnavailableError: the stream of events ended without its end: the engine failed.
        """
        flushing = asyncio.create_task(self._flush(taken))
        try:
            with _interrupting(flushing):
                ended = await self._read(events, taken)
            async with self._writing:
                if flushing.done():
                    await flushing
                return Collected(ended, self._result, tuple(self._files), self._pending.drain()[0])
        finally:
            async with self._writing:  # a write that is under way takes numbers of events: it is waited for, not cut
                flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)
            if self._file is not None:  # the run was ended in the middle of it
                await self._file[1].discard()
            if self.tree is not None:
                await self.tree.discard()

    def unwritten(self) -> list[EventPayload]:
        """Output of a run that broke off, as far as it had come; it isn't on record yet."""
        return self._pending.drain()[0]

    async def _read(self, events: AsyncIterator[RunEvent], taken: Callable[[RunEvent], None]) -> Ended:
        async for event in events:
            if isinstance(event, Ended):
                return event
            if isinstance(event, Output):
                self._pending.add(event)
                continue
            await self._take(event)
            taken(event)
        raise UnavailableError("the run's events ended without an end", reason="ENGINE_FAILED")

    async def _flush(self, taken: Callable[[RunEvent], None]) -> None:
        loop = asyncio.get_running_loop()
        flushed = loop.time() - _FLUSH_S
        while True:
            await self._pending.some.wait()
            await _first(max(_FIRST_S, flushed + _FLUSH_S - loop.time()), self._pending.urgent)
            if not self.room.is_set():
                await _first(None, self.room, self._exited)  # once the tool has ended there is nobody to slow down
            async with self._writing:
                pieces, events = self._pending.drain()
                await self.emit(pieces)
            flushed = loop.time()
            for event in events:
                taken(event)

    async def _take(self, event: RunEvent) -> None:
        if self.tree is not None and (self.tree.reading or isinstance(event, TREE_EVENTS)):
            await self.tree.take(event)
            return
        match event:
            case Started():
                self.started = True
            case Exited():
                self._exited.set()
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


@contextmanager
def _interrupting(beside: asyncio.Task[None]) -> Iterator[None]:
    """Ends the block with the error of a task that fails beside it."""
    here = asyncio.current_task()
    interrupted = over = False

    def settled(task: asyncio.Task[None]) -> None:
        nonlocal interrupted
        if here is not None and not over and not task.cancelled() and task.exception() is not None:
            interrupted = True
            here.cancel()

    beside.add_done_callback(settled)
    try:
        yield
    except asyncio.CancelledError:
        if not interrupted or here is None:
            raise
        here.uncancel()
        beside.result()
    finally:
        over = True  # the callback may be on its way already
        beside.remove_done_callback(settled)


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
