"""What a run changed on its copy, event by event, into an effect; its files go among the objects of trees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

from broker.domain.run import (
    Exited,
    FileData,
    FileEnd,
    Output,
    RunEvent,
    Started,
    TreeFileStart,
    TreeLinkMade,
    TreeMode,
    TreeRemoved,
)
from broker.domain.tree import Effect, Entry, TreeFile, TreeLink, reserved
from broker.errors import UnavailableError
from broker.rollback.restore import CHANGES
from broker.workspace.objects import Objects

TREE_EVENTS = (TreeFileStart, TreeLinkMade, TreeMode, TreeRemoved)
"""The events that begin with a tree."""


class EffectReader:
    """Takes the events about a tree, each once and in order.

    Args:
        objects: where new content goes.
        before: what lay in the working folder.
    """

    def __init__(self, objects: Objects, before: Mapping[str, Entry]) -> None:
        self._objects = objects
        self._before = before
        self._after = dict(before)
        self._open: tuple[TreeFileStart, asyncio.Queue[bytes | None], asyncio.Task[tuple[str, int]]] | None = None

    @property
    def reading(self) -> bool:
        """Is it in the middle of a file?"""
        return self._open is not None

    async def take_tree(self, event: RunEvent) -> None:
        """Takes an event of a run whose output nobody wants: those about the tree, and no others.

        Raises:
            UnavailableError: as ``take``.
        """
        if not isinstance(event, Started | Output | Exited):
            await self.take(event)

    async def take(self, event: RunEvent) -> None:
        """Takes an event about the tree.

        Raises:
            UnavailableError: it is none about a tree, or out of order: the engine failed.
        """
        match event:
            case TreeFileStart() if self._open is None:
                pieces: asyncio.Queue[bytes | None] = asyncio.Queue(4)
                self._open = (event, pieces, asyncio.create_task(self._objects.put(_pieces(pieces))))
            case FileData(data) if self._open is not None:
                await self._hand_over(self._open[1], self._open[2], data)
            case FileEnd() if self._open is not None:
                start, pieces, task = self._open
                await self._hand_over(pieces, task, None)
                digest, size = await task
                self._open = None
                self._after[start.path] = TreeFile(digest, size, start.mode)
            case TreeLinkMade(path, target):
                self._after[path] = TreeLink(target)
            case TreeRemoved(path):
                self._after.pop(path, None)
            case TreeMode(path, mode):
                old = self._after.get(path)
                if not isinstance(old, TreeFile):
                    raise _out_of_order()
                self._after[path] = TreeFile(old.digest, old.size, mode)
            case _:
                raise _out_of_order()

    async def _hand_over(
        self, pieces: asyncio.Queue[bytes | None], task: asyncio.Task[tuple[str, int]], data: bytes | None
    ) -> None:
        putting = asyncio.ensure_future(pieces.put(data))
        await asyncio.wait({putting, task}, return_when=asyncio.FIRST_COMPLETED)
        if task.done() and not putting.done():
            putting.cancel()
            task.result()

    async def discard(self) -> None:
        """Ends a file that was cut short; nothing is kept of it under a name."""
        if self._open is not None:
            task = self._open[2]
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
            self._open = None

    def effect(self) -> Effect:
        """All that was changed; where the broker itself put files beside the tree, what became of them is no part of it."""
        found = Effect.between(self._before, self._after)
        if CHANGES not in self._before:
            return found
        return Effect.of(change for change in found.changes if not reserved(change.path))


async def _pieces(queue: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
    while (piece := await queue.get()) is not None:
        yield piece


def _out_of_order() -> UnavailableError:
    return UnavailableError("the run's events came out of order", reason="ENGINE_FAILED")
