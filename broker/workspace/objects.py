"""Content-addressed objects, for callers on the event loop: whatever blocks is done in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from broker.workspace.files import Batch, ObjectFiles, Reader

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs what blocks in a thread. Who is cancelled meanwhile waits for its end: it may use what the caller will close."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError:
                continue
        if not running.cancelled():
            running.exception()  # it is of no interest any more, and must not be called unretrieved
        raise


class ObjectBatch:
    """Objects that become durable together, at the end of the ``async with`` block; none of them where it fails."""

    def __init__(self, files: ObjectFiles, *, anew: bool = False) -> None:
        self._batch = Batch(files, anew=anew)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await in_thread(self._batch.commit if kind is None else self._batch.drop)

    async def put(self, pieces: AsyncIterator[bytes]) -> tuple[str, int]:
        """Adds an object; gives digest and size. One after the other, not at once."""
        draft = await in_thread(self._batch.draft)
        async for piece in pieces:
            await in_thread(draft.write, piece)
        return await in_thread(self._batch.take, draft)

    async def put_bytes(self, data: bytes) -> tuple[str, int]:
        """Adds an object that is in memory; gives digest and size."""
        return await in_thread(self._batch.put_bytes, data), len(data)


class Objects:
    """Objects in a folder of their own, mode 0700; each a file, mode 0600, named by the SHA-256 of its bytes.

    Args:
        folder: made where there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.files = ObjectFiles(folder)

    def batch(self, *, anew: bool = False) -> ObjectBatch:
        """To put many objects at the cost of one.

        Args:
            anew: write those that are there as well, since their bytes may have been damaged.
        """
        return ObjectBatch(self.files, anew=anew)

    async def put(self, pieces: AsyncIterator[bytes]) -> tuple[str, int]:
        """Puts an object; it is durable when this returns digest and size."""
        async with self.batch() as batch:
            return await batch.put(pieces)

    async def put_bytes(self, data: bytes) -> tuple[str, int]:
        """Like ``put``."""
        async with self.batch() as batch:
            return await batch.put_bytes(data)

    async def open(self, digest: str) -> AsyncIterator[bytes]:
        """An object's bytes; the last of them only where all of them have its digest.

        Raises:
            DataLossError: ``TREE_DAMAGED``: it is missing, or has other bytes.
        """
        reader = Reader(self.files, digest)
        try:
            while piece := await in_thread(reader.read):
                yield piece
        finally:
            reader.close()

    async def read(self, digest: str, most: int) -> bytes:
        """A whole object.

        Raises:
            DataLossError: ``TREE_DAMAGED``: it is missing, or has other bytes.
            ResourceExhaustedError: ``OBJECT_TOO_LARGE``: it has more than ``most`` bytes.
        """
        return await in_thread(self.files.load, digest, most)

    async def has(self, digest: str) -> bool:
        """Is it there? Its bytes aren't looked at."""
        return await in_thread(self.files.size, digest) is not None
