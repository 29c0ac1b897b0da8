"""The container of one call, claimed beside whatever else has to be done first."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from broker.domain.run import Job, Profile
from broker.errors import InternalError
from broker.sandbox.engine import Lease
from broker.sandbox.pool import Pool


class Hold:
    """The container of one call, claimed beside whatever else has to be done first.

    Args:
        pool: gives the container.
        call_id: the call.
        profile: what the decision resolved to.
        job: what is going to run there, where the container may be made ready for it before the intent is durable.
    """

    def __init__(self, pool: Pool, call_id: str, profile: Profile, job: Job | None = None) -> None:
        self._pool = pool
        self._call_id = call_id
        self._profile = profile
        self._job = job
        self._stack = AsyncExitStack()
        self._task: asyncio.Task[Lease] | None = None
        self._released = False
        self._loop = asyncio.get_running_loop()

    def begin_soon(self) -> None:
        """Begins to claim; any thread may say so."""
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if self._task is None and not self._released:
            claim = self._pool.lease(self._call_id, self._profile, self._job)
            self._task = asyncio.create_task(self._stack.enter_async_context(claim))
            self._task.add_done_callback(_heard)

    @property
    def settled(self) -> bool:
        """Whether the claim has ended, in one way or another."""
        return self._task is not None and self._task.done()

    async def lease(self) -> Lease:
        """The container.

        Raises:
            BrokerError: as ``Pool.lease``.
        """
        self._begin()
        if self._task is None:
            raise InternalError("the container of a call was given up before it was asked for")
        return await self._task

    async def release(self) -> None:
        """Has the container destroyed, if there is one; may be called again."""
        self._released = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._stack.aclose()


def _heard(task: asyncio.Task[Lease]) -> None:
    # Where nobody comes to ask for the lease, its failure has been heard all the same.
    if not task.cancelled():
        task.exception()
