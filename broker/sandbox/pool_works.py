"""Makes and destroys the warm pool's containers, each in a task of its own that outlives the call it is for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from time import perf_counter
from typing import Any

import structlog

from broker.domain.meter import Meter, Step
from broker.errors import InternalError, UnavailableError
from broker.sandbox.engine import Engine, Lease
from broker.sandbox.pool_shelf import Idle, Making, Shelf
from broker.sandbox.pool_sizing import Sizing

_FINISH_S = 5.0
"""At the end, what is being made may get ready for so long, to be destroyed then; after that it is cut off."""
_CANCEL_S = 1.0
"""How long what is cut off may take to notice."""
CLOSE_S = 20.0
"""At the end, how long the engine may take in all; an engine that hangs must not keep the broker from ending."""

log = structlog.get_logger(__name__)


class Works:
    """The hands of the pool.

    Args:
        engine: makes the containers.
        sizing: the bounds.
        shelves: all of the pool's, to know what counts against the ceiling.
        meter: takes the times.
        clock: monotonic seconds.
        changed: called whenever a container came or couldn't come.
        close_s: how long ``close`` waits at most.
    """

    def __init__(
        self,
        engine: Engine,
        sizing: Sizing,
        shelves: Mapping[str, Shelf],
        *,
        meter: Meter,
        clock: Callable[[], float],
        changed: Callable[[], None],
        close_s: float = CLOSE_S,
    ) -> None:
        self._engine = engine
        self._sizing = sizing
        self._shelves = shelves
        self._meter = meter
        self._clock = clock
        self._changed = changed
        self._close_s = close_s
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._making: set[asyncio.Task[None]] = set()
        self._there: set[Lease] = set()
        self._lingering: set[Lease] = set()
        self._going: set[Lease] = set()

    @property
    def closed(self) -> bool:
        """Whether the pool has shut down: nothing is kept any more."""
        return self._closed

    @property
    def lingering(self) -> bool:
        """Whether used containers wait for a quiet moment."""
        return bool(self._lingering)

    def warm(self) -> int:
        """What counts against the ceiling."""
        return sum(shelf.stock.total for shelf in self._shelves.values())

    def refills(self) -> int:
        """Containers that are being made for no call."""
        return sum(not making.for_call for shelf in self._shelves.values() for making in shelf.makings)

    def begin(self, shelf: Shelf, *, for_call: bool) -> None:
        """Begins to make a container."""
        making = Making(for_call)
        shelf.makings.add(making)
        task = self._spawn(self._make(shelf, making))
        self._making.add(task)
        task.add_done_callback(self._making.discard)

    def place(self, shelf: Shelf, lease: Lease) -> None:
        """Gives a fresh container to the call that has waited longest, or keeps it, or destroys it."""
        if self._closed:
            self.discard(lease)
        elif shelf.serve(lease):
            return
        elif self.warm() < self._sizing.ceiling:
            shelf.idle.append(Idle(lease, self._clock()))
        else:
            self.discard(lease)

    def abandon(self, shelf: Shelf) -> None:
        """A call stopped waiting: what was being made for it is kept where the pool wants it, and undone elsewhere."""
        if len(shelf.makings) <= shelf.waiting:
            return
        making = next((item for item in shelf.makings if item.for_call), None) or next(iter(shelf.makings))
        wanted = shelf.demand.wanted(self._sizing, self._clock(), prewarmed=shelf.prewarmed)
        if shelf.stock.total <= wanted and self.warm() <= self._sizing.ceiling:
            making.for_call = False
        else:
            shelf.makings.discard(making)  # destroyed when it comes: the engine can't stop half-way either

    def discard(self, lease: Lease, *, linger_s: float = 0.0) -> None:
        """Destroys a container beside; returns at once. One that is being destroyed already is no error."""
        if lease not in self._there:
            return
        self._there.remove(lease)
        self._going.add(lease)
        if linger_s and not self._closed:
            self._lingering.add(lease)
            self._spawn(self._destroy(lease, linger_s))
        else:
            self._spawn(self._destroy(lease, 0.0))

    def hasten(self) -> None:
        """The moment is quiet: used containers need not linger any longer."""
        for lease in self._lingering:
            self._spawn(lease.destroy())
        self._lingering.clear()

    async def close(self) -> None:
        """Ends everything that waits, lies ready, is used or is being made, and waits until all of it is gone.

        What the engine hasn't removed within the time limit is left to it; the next start removes what is still there.
        """
        self._closed = True
        limit = asyncio.get_running_loop().time() + self._close_s
        for shelf in self._shelves.values():
            while shelf.serve(closed_error()):
                pass
            shelf.idle.clear()
            shelf.makings.clear()
        for lease in tuple(self._there):
            self.discard(lease)
        self.hasten()
        if self._making:
            await asyncio.wait(self._making, timeout=min(_FINISH_S, self._close_s))
        for task in self._making:
            task.cancel()
        while self._tasks and (left_s := limit - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=left_s)
        if cut_off := tuple(self._tasks):
            log.error("sandbox.pool_close_cut_off", containers=len(self._going), after_s=self._close_s)
            for task in cut_off:
                task.cancel()
            await asyncio.wait(cut_off, timeout=_CANCEL_S)

    async def _make(self, shelf: Shelf, making: Making) -> None:
        try:
            lease = await self._create(shelf, making)
        except Exception as error:  # noqa: BLE001  # a call gets it; and whatever it is, the pool must go on
            shelf.makings.discard(making)
            self._failed(shelf, making, error)
        else:
            if shelf.recovered():
                log.info("sandbox.pool_recovered", image=shelf.profile.image)
            if making in shelf.makings:
                shelf.makings.discard(making)
                self.place(shelf, lease)
            else:
                self.discard(lease)
        finally:
            shelf.makings.discard(making)
            self._changed()

    async def _create(self, shelf: Shelf, making: Making) -> Lease:
        """A container; one that no call waits for has answered before it counts as warm."""
        began = perf_counter()
        lease = await self._engine.create(shelf.profile)
        self._there.add(lease)
        self._meter.took(Step.CREATE, perf_counter() - began)
        good = False
        try:
            if lease.profile != shelf.profile:
                raise InternalError("the engine made a container under another profile", reason="PROFILE_MISMATCH")
            idle = making in shelf.makings and not shelf.waiting
            if idle and not await lease.ready():
                raise UnavailableError("the runner of a new container doesn't answer", reason="ENGINE_FAILED")
            good = True
        finally:
            if not good:
                self.discard(lease)
        return lease

    def _failed(self, shelf: Shelf, making: Making, error: Exception) -> None:
        """A call learns of the failure of what was begun for it; what was begun for none is begun again for it."""
        if shelf.failed(error, self._sizing, self._clock()):
            log.warning("sandbox.pool_cannot_make", image=shelf.profile.image, reason=shelf.trouble, error=str(error))
        if not shelf.promised_short:
            return
        if making.for_call:
            shelf.serve(error)
        elif not self._closed:
            self.begin(shelf, for_call=True)

    async def _destroy(self, lease: Lease, linger_s: float) -> None:
        began = perf_counter()
        try:
            await lease.destroy(linger_s=linger_s)
            await lease.removed()
        finally:
            self._lingering.discard(lease)
            self._going.discard(lease)
        self._meter.took(Step.REMOVE, perf_counter() - began)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._settle)
        return task

    def _settle(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            # What is left on the engine, the reaper finds.
            log.error("sandbox.pool_task_failed", kind=type(error).__name__, error=str(error))


def closed_error() -> UnavailableError:
    """What a call gets that comes too late."""
    return UnavailableError("the broker is shutting down", reason="DRAINING", retry_after_s=1.0)
