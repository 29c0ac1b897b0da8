"""What comes out of a container: output into events, result files into blobs, all of it bounded.

Output is written durably before anybody sees it. The tool may write on once its output is on record and its
caller, where one follows, has room for more: so a slow caller slows the tool, and nothing grows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

from broker.domain.events import EventPayload, OutputFile
from broker.domain.run import Ended, Exited, FileData, FileEnd, FileStart, Output, Result, RunEvent, Started
from broker.errors import UnavailableError
from broker.pipeline.blobs import BlobWriter
from broker.pipeline.effect_reading import TREE_EVENTS, EffectReader
from broker.pipeline.flushing import Flusher


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
        room: set while whoever follows the call has room for more output.
    """

    emit: Callable[[list[EventPayload]], Awaitable[None]]
    new_blob: Callable[[], BlobWriter]
    expires: datetime
    room: asyncio.Event
    tree: EffectReader | None = None
    """Takes what the tool changed of its workspace's files; ``None`` for a tool that works on none."""
    started: bool = False
    _files: list[OutputFile] = field(default_factory=list)
    _result: bytes | None = None
    _file: tuple[str, BlobWriter] | None = None
    _flusher: Flusher | None = None

    async def consume(self, events: AsyncIterator[RunEvent], taken: Callable[[RunEvent], None]) -> Collected:
        """Takes the run's events to the last.

        Args:
            events: the run's events.
            taken: told of each event that has been dealt with.

        Raises:
            UnavailableError: the stream of events ended without its end: the engine failed.
        """
        flusher = self._flusher = Flusher(self.emit, taken, self.room)
        try:
            with flusher.interrupting():
                ended = await self._read(events, taken, flusher)
            return Collected(ended, self._result, tuple(self._files), await flusher.end())
        finally:
            await flusher.close()
            if self._file is not None:  # the run was ended in the middle of it
                await self._file[1].discard()
            if self.tree is not None:
                await self.tree.discard()

    def unwritten(self) -> list[EventPayload]:
        """Output of a run that broke off, as far as it had come; it isn't on record yet."""
        return [] if self._flusher is None else self._flusher.unwritten()

    async def _read(
        self, events: AsyncIterator[RunEvent], taken: Callable[[RunEvent], None], flusher: Flusher
    ) -> Ended:
        async for event in events:
            if isinstance(event, Ended):
                return event
            if isinstance(event, Output):
                flusher.add(event)
                continue
            await self._take(event)
            taken(event)
        raise UnavailableError("the run's events ended without an end", reason="ENGINE_FAILED")

    async def _take(self, event: RunEvent) -> None:
        if self.tree is not None and (self.tree.reading or isinstance(event, TREE_EVENTS)):
            await self.tree.take(event)
            return
        match event:
            case Started():
                self.started = True
            case Exited() if self._flusher is not None:
                self._flusher.exited()
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
