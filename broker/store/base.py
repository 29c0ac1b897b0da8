"""What the stores have in common: a thread that writes, a few that read, and how functions get to them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from broker.domain.ports import Transaction
from broker.errors import BrokerError
from broker.store.session import WriteSession
from broker.store.writer import GroupWriter

READERS = 4
"""Threads that read at one time."""

T = TypeVar("T")


class SqlStore(ABC):
    """Implements ``broker.domain.ports.Store`` but for what each database does in its own way.

    ``write_sync`` and ``read_sync`` are for programs without an event loop; in one they would block it.
    """

    def __init__(self, session: WriteSession) -> None:
        self._writer = GroupWriter(session)
        self._scrubbed = -1  # an earlier run may have left behind what it deleted
        self._pool = ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="store-reader")

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Runs ``work`` in a writing transaction; returns once it is durable.

        ``work`` may run again only if its caller calls again. Cancelling the caller before the writer takes ``work``
        means that it never runs; after that it runs to its end, and whether it was durable shows only in the database.

        Raises:
            UnavailableError: ``STORE_BUSY`` or ``STORE_FAILED`` (nothing was written, or, where the text says so, it is
                unknown), ``STORE_CLOSED``.
            Exception: whatever ``work`` raised; nothing that it wrote is kept.
        """
        return await self._writer.run(work)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Runs ``work`` on a consistent snapshot.

        Raises:
            InternalError: ``STORE_READ_ONLY``: ``work`` tried to write.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, work)

    def write_sync(self, work: Callable[[Transaction], T]) -> T:
        """Like ``write``, for programs without an event loop."""
        return self._writer.run_here(work)

    def read_sync(self, work: Callable[[Transaction], T]) -> T:
        """Like ``read``, for programs without an event loop."""
        return self._pool.submit(self._read, work).result()

    @property
    def failed(self) -> bool:
        """Has a COMMIT failed, so that nobody knows whether it is durable? No write is taken after that."""
        return self._writer.failed

    def stop(self, why: BrokerError) -> None:
        """Takes no further writes, for good: nothing is recorded on top of what is known to be wrong."""
        self._writer.stop(why)

    @property
    def scrub_due(self) -> bool:
        """May the files still show what was deleted? True until the first ``scrub`` after opening, too."""
        return self._writer.deletions != self._scrubbed

    @abstractmethod
    async def scrub(self) -> None:
        """Makes what was deleted unreadable in the files, as far as the database can."""

    @abstractmethod
    def data_version(self) -> int:
        """A number that differs after anybody has committed."""

    @abstractmethod
    async def serve_alone(self) -> None:
        """Makes this the one broker that serves the database, until it is closed.

        Raises:
            FailedPreconditionError: ``ALREADY_SERVING``.
        """

    def weakness(self) -> str:
        """What in the database's set-up weakens its protection of the ledger, as a sentence; mostly empty."""
        return ""

    @abstractmethod
    def close(self) -> None:
        """Finishes what is queued and closes the database; blocks."""

    @abstractmethod
    def _read(self, work: Callable[[Transaction], T]) -> T:
        """Runs ``work`` on a consistent snapshot, in this thread."""
