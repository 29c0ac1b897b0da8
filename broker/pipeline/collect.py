"""What comes out of a container: output into events, result files into blobs, all of it bounded.

Output is written durably before anybody sees it. Pieces that come while a write is under way are joined, so that a tool
that prints byte by byte costs no commit per byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

from broker.domain.events import EventPayload, OutputFile, OutputPiece
from broker.domain.run import Ended, FileData, FileEnd, FileStart, Output, Result, RunEvent, Started
from broker.errors import UnavailableError
from broker.pipeline.blobs import BlobWriter

_QUEUE = 64
_MAX_PIECE = 64 * 1024


@dataclass(slots=True)
class Collected:
    """The end of a run; ``tail`` is output that is not on record yet and goes there with the outcome."""

    ended: Ended
    result: bytes | None
    files: tuple[OutputFile, ...]
    tail: list[EventPayload]


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
    _pending: list[OutputPiece] = field(default_factory=list)
    _files: list[OutputFile] = field(default_factory=list)
    _result: bytes | None = None
    _file: tuple[str, BlobWriter] | None = None

    async def consume(self, events: AsyncIterator[RunEvent]) -> Collected:
        """Takes the run's events to the last.

        Raises:
            UnavailableError: the stream of events ended without its end: the engine failed.
        """
        queue: asyncio.Queue[RunEvent | None] = asyncio.Queue(_QUEUE)
        pump = asyncio.create_task(_pump(events, queue))
        try:
            while True:
                event = await queue.get()
                ended = await self._take(event, pump)
                while ended is None and not queue.empty():
                    ended = await self._take(queue.get_nowait(), pump)
                if ended is not None:
                    return Collected(ended, self._result, tuple(self._files), list(self._pending))
                await self._flush()
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def _take(self, event: RunEvent | None, pump: asyncio.Task[None]) -> Ended | None:
        match event:
            case None:
                await pump  # raises what ended the stream
                raise UnavailableError("the run's events ended without an end", reason="ENGINE_FAILED")
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
            case Ended():
                return event
            case _:
                raise UnavailableError("the run's events came out of order", reason="ENGINE_FAILED")
        return None

    def _add(self, stream: str, data: bytes) -> None:
        offset = self._offsets[stream]
        self._offsets[stream] = offset + len(data)
        last = self._pending[-1] if self._pending else None
        if last is not None and last.stream == stream and len(last.data) + len(data) <= _MAX_PIECE:
            self._pending[-1] = OutputPiece(stream, last.offset, last.data + data)
        else:
            self._pending.append(OutputPiece(stream, offset, data))

    async def _flush(self) -> None:
        if self._pending:
            pending: list[EventPayload] = list(self._pending)
            self._pending.clear()
            await self.emit(pending)


async def _pump(events: AsyncIterator[RunEvent], queue: asyncio.Queue[RunEvent | None]) -> None:
    try:
        async for event in events:
            await queue.put(event)
    finally:
        await queue.put(None)
