"""Folders of this machine on their way into a workspace's tree and out of it: what blocks runs in threads.

What a broker sends is checked here again: a path that leads out of the folder, or a tree that isn't whole, is refused
whoever sends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from broker.client import workspace_models as models
from broker.client.wire import protocol_error
from broker.client.workspace_models import Progress
from broker.domain.tree import Entry, TreeFile, TreeLink
from broker.domain.tree_stream import MAX_PIECE, Announced, Bound, Intake, Piece, Total
from broker.errors import DataLossError, InvalidArgumentError
from broker.tree_folder.reading import FolderReader, FoundLink
from broker.tree_folder.writing import FolderWriter
from broker.v1 import workspaces_pb2

NO_BOUND = Bound(files=1 << 30, size=1 << 62)
"""How large a tree may be is the broker's word on the way in, and the disk's on the way out."""
_AHEAD = 256
"""Pieces that are read from the disk ahead of the network."""

T = TypeVar("T")
Next = Callable[[], "workspaces_pb2.ExportWorkspaceResponse | None"]
"""Waits for the next message of an export; ``None`` at the end of the stream."""


async def in_thread(work: Callable[[], T], stop: Callable[[], object] = lambda: None) -> T:
    """Runs what blocks in a thread. Who is cancelled calls ``stop`` and waits for its end: nothing goes on unseen."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # of no interest any more
        raise


class Source:
    """A folder on its way in.

    Args:
        folder: the folder itself, not a link to one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.empty: tuple[str, ...] = ()
        """Folders with nothing in them, which no tree keeps; known once pieces come."""

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """All of it, in the order of the paths' bytes.

        Raises:
            BrokerError: as ``broker.tree_folder.reading.FolderReader``.
        """
        source = self._pieces()
        try:
            while items := await in_thread(lambda: _some(source)):
                for item in items:
                    yield item
        finally:
            await in_thread(source.close)

    def _pieces(self) -> Generator[Piece, None, None]:
        with FolderReader(self._folder, max_files=NO_BOUND.files, max_bytes=NO_BOUND.size) as reader:
            survey = reader.survey()
            self.empty = survey.empty
            for item in survey.found:
                if isinstance(item, FoundLink):
                    yield Announced(item.path, TreeLink(item.target))
                else:
                    yield Announced(item.path, TreeFile("", item.size, item.mode))
                    yield from reader.read(item)


def _some(source: Iterator[Piece]) -> list[Piece]:
    found: list[Piece] = []
    size = 0
    for piece in source:
        found.append(piece)
        size += len(piece) if isinstance(piece, bytes) else 0
        if len(found) >= _AHEAD or size >= MAX_PIECE:
            break
    return found


def note(intake: Intake, piece: Piece) -> None:
    """Takes a piece.

    Raises:
        BrokerError: as ``Intake``.
    """
    if isinstance(piece, bytes):
        intake.take(piece)
    else:
        intake.announce(piece)


class Export:
    """A tree on its way out, message by message. Its methods block.

    Args:
        name: of the workspace, for errors.
        following: gives the messages.
        progress: is told how far it is.
    """

    def __init__(self, name: str, following: Next, progress: Progress) -> None:
        self._name = name
        self._next = following
        self._progress = progress
        self._intake = Intake(NO_BOUND)
        self._waiting: workspaces_pb2.ExportWorkspaceResponse | None = None
        self.state = ""
        """The state that it is of, once it has begun."""

    def write(self, folder: Path, *, unsafe_links: bool) -> Total:
        """Writes all of it into a folder; links only once everything has come.

        Raises:
            DataLossError: it isn't whole, or not what its listing said (``EXPORT_INCOMPLETE``).
            InternalError: its messages are out of order.
            BrokerError: as ``broker.tree_folder.writing.FolderWriter``.
        """
        listing = self._listing()
        with FolderWriter(folder, listing, allow_links_out=unsafe_links) as writer:
            items = self._items()
            for item in items:
                with self._sound():
                    note(self._intake, item)
                if isinstance(item, bytes):
                    raise protocol_error("an export brings bytes of no file")
                if listing.get(item.path) != item.entry:
                    raise self._incomplete(f"{item.path!a} isn't what the listing said")
                if isinstance(item.entry, TreeFile):
                    writer.write(item.path, item.entry, self._content(items))
            if len(self._intake.entries) != len(listing):
                raise self._incomplete("not all came that the listing said")
        return Total.of(self._intake.entries)

    def _listing(self) -> Mapping[str, Entry]:
        first = self._next()
        if first is None or first.WhichOneof("payload") != "header":
            raise protocol_error("an export begins without a header")
        self.state = first.header.state
        found: dict[str, Entry] = {}
        while (message := self._next()) is not None and message.WhichOneof("payload") == "listing":
            for item in message.listing.entries:
                if item.path in found:
                    raise self._incomplete(f"{item.path!a} is listed twice")
                found[item.path] = models.entry(item)
        self._waiting = message
        return found

    def _items(self) -> Iterator[Piece]:
        """The pieces up to the end; raises where that doesn't come."""
        message = self._waiting
        while message is not None:
            match message.WhichOneof("payload"):
                case "pieces":
                    yield from models.pieces(message.pieces)
                    self._progress(self._intake.files, self._intake.size)
                case "end":
                    with self._sound():
                        self._intake.end(models.total(message.end))
                    if self._next() is not None:
                        raise protocol_error("an export goes on after its end")
                    return
                case _:
                    raise protocol_error("the parts of an export are out of order")
            message = self._next()
        raise self._incomplete("it ended before its end came")

    def _content(self, items: Iterator[Piece]) -> Iterator[bytes]:
        while self._intake.missing:
            item = next(items)  # raises where none comes
            with self._sound():
                note(self._intake, item)
            if isinstance(item, bytes):
                yield item

    @contextmanager
    def _sound(self) -> Iterator[None]:
        """What ``Intake`` refuses here is the broker's fault, not the caller's."""
        try:
            yield
        except InvalidArgumentError as error:
            raise self._incomplete(error.message) from error

    def _incomplete(self, why: str) -> DataLossError:
        return DataLossError(
            f"the export of {self._name} isn't the whole tree: {why}",
            reason="EXPORT_INCOMPLETE",
            hint="Use nothing of what was written; export it again into another folder.",
        )
