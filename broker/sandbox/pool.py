"""The warm pool: containers that wait for one call each, and are never used again.

    async with Pool(engine, Sizing()) as pool:
        pool.prewarm(profiles)
        async with pool.lease(call_id, profile) as lease:
            ...

The newest container is claimed first: the kernel reclaims the pages of those that lie idle, so the newest answers
soonest. The older ones are the reserve; ``Sizing.max_age_s`` replaces them one by one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from time import perf_counter
from types import MappingProxyType, TracebackType
from typing import Self

import structlog

from broker.domain.container_facts import ContainerFacts
from broker.domain.meter import Claim, Meter, NoMeter, Step
from broker.domain.run import Job, Profile
from broker.errors import InternalError
from broker.sandbox.engine import Engine, Lease
from broker.sandbox.fingerprint import fingerprint
from broker.sandbox.pool_keeper import Keeper, Traffic
from broker.sandbox.pool_shelf import Shelf
from broker.sandbox.pool_sizing import Demand, Sizing
from broker.sandbox.pool_status import PoolStatus
from broker.sandbox.pool_works import CLOSE_S, Works, closed_error

_UNFIT_MAX = 2
"""So many unfit in one claim, and the rest of their profile's are thrown away unasked: each may cost a second."""
_LOOK_S = 0.05
"""How long after a claim the keeper looks, if the call takes so long. Whatever it finds to do about a claim can wait, and the
call would wait for its look.
"""

log = structlog.get_logger(__name__)


class Pool:
    """Gives each call a container that nobody used before, warm where one waits.

    It takes only what it made itself. Whatever it made is destroyed when it closes.

    Args:
        engine: makes the containers; closes after the pool.
        sizing: how many, and when.
        hardening: ``hardening_digest`` of the engine; part of every fingerprint.
        meter: takes claims, times and sizes.
        clock: monotonic seconds, for ages.
        close_s: how long the end waits for the engine at most.
    """

    def __init__(
        self,
        engine: Engine,
        sizing: Sizing,
        *,
        hardening: str = "",
        meter: Meter | None = None,
        clock: Callable[[], float] = time.monotonic,
        close_s: float = CLOSE_S,
    ) -> None:
        self._engine = engine
        self._sizing = sizing
        self._hardening = hardening
        self._meter = meter or NoMeter()
        self._clock = clock
        self._shelves: dict[str, Shelf] = {}
        self._calls: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._traffic = Traffic(sizing, clock, self._changed.set)
        self._works = Works(
            engine,
            sizing,
            self._shelves,
            meter=self._meter,
            clock=clock,
            changed=self._changed.set,
            close_s=close_s,
        )
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begins to fill."""
        keeper = Keeper(
            self._sizing,
            self._shelves,
            self._works,
            self._traffic,
            meter=self._meter,
            clock=self._clock,
            changed=self._changed,
        )
        self._keeper = asyncio.create_task(keeper.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Destroys all that it made, what calls still hold included, and waits until it is gone, within a limit.

        Calls that wait for a container get DRAINING.
        """
        if self._keeper:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        await self._works.close()

    @asynccontextmanager
    async def lease(self, call_id: str, profile: Profile, job: Job | None = None) -> AsyncIterator[Lease]:
        """A container for one call; at the end of the block it is destroyed, whatever happened.

        Args:
            call_id: the call; it can hold one container at a time.
            profile: what the present decision resolves to.
            job: what is going to run there, if the container may be made ready for it; nothing starts it here.

        Raises:
            FailedPreconditionError: as ``Engine.create``.
            UnavailableError: as ``Engine.create``, or the pool has shut down (``DRAINING``).
            InternalError: the call holds a container already.
        """
        began = perf_counter()
        if self._works.closed:
            raise closed_error()
        if call_id in self._calls:
            raise InternalError(f"the call {call_id} asks for a second container", reason="LEASE_TWICE")
        shelf = self._shelf(profile)
        self._calls[call_id] = ""
        shelf.users += 1
        try:
            with self._traffic.busy():
                lease = await self._claim(shelf, job)
                self._meter.took(Step.CLAIM, perf_counter() - began)
                self._calls[call_id] = lease.container_id
                shelf.leased += 1
                look = asyncio.get_running_loop().call_later(_LOOK_S, self._changed.set)
                linger_s = 0.0
                try:
                    yield lease
                    linger_s = self._sizing.linger_s
                finally:
                    look.cancel()
                    shelf.leased -= 1
                    self._works.discard(lease, linger_s=linger_s)
        finally:
            shelf.users -= 1
            del self._calls[call_id]

    def expected_facts(self, profile: Profile) -> ContainerFacts:
        """See ``Engine.expected_facts``."""
        return self._engine.expected_facts(profile)

    def prewarm(self, profiles: Sequence[Profile]) -> None:
        """Names the profiles that are kept at the floor always; those named before no longer are."""
        keys = {self._shelf(profile).key for profile in profiles}
        for key, shelf in self._shelves.items():
            shelf.prewarmed = key in keys
        if len(keys) > self._sizing.ceiling > 0:
            log.warning("sandbox.pool_too_small", profiles=len(keys), ceiling=self._sizing.ceiling)
        self._changed.set()

    def calls(self) -> Mapping[str, str]:
        """Call id -> container id, of the calls that hold a container now."""
        return MappingProxyType({call_id: container for call_id, container in self._calls.items() if container})

    def status(self) -> PoolStatus:
        """The pool at this moment."""
        now = self._clock()
        rows = tuple(shelf.row(now) for shelf in self._shelves.values())
        return PoolStatus(
            ceiling=self._sizing.ceiling,
            idle=sum(row.idle for row in rows),
            making=sum(row.making for row in rows),
            leased=sum(row.leased for row in rows),
            rows=rows,
            calls=self.calls(),
        )

    def _shelf(self, profile: Profile) -> Shelf:
        key = fingerprint(profile, self._hardening)
        shelf = self._shelves.get(key)
        if shelf is None:
            shelf = self._shelves[key] = Shelf(key, profile, Demand.fresh(self._sizing, self._clock()))
        return shelf

    async def _claim(self, shelf: Shelf, job: Job | None) -> Lease:
        """The newest that is fit, or one that is made; whoever took one from the shelf has it alone."""
        missed = shelf.known and not shelf.idle
        left = max(0, len(shelf.idle) - 1)
        shelf.demand = shelf.demand.called(self._sizing, self._clock(), left=left, missed=missed)
        unfit = 0
        while shelf.idle and unfit < _UNFIT_MAX:
            lease = shelf.idle.pop().lease
            if await self._fit(lease, shelf.profile, job):
                self._count(shelf, Claim.WARM)
                return lease
            unfit += 1
            self._count(shelf, Claim.UNFIT)
        if unfit:
            for item in shelf.idle:
                self._works.discard(item.lease)
            shelf.idle.clear()
        self._count(shelf, Claim.COLD)
        return await self._cold(shelf)

    async def _fit(self, lease: Lease, profile: Profile, job: Job | None) -> bool:
        """Whether a waiting container may be used; where it may not, it is destroyed."""
        fit = False
        try:
            if lease.profile != profile:
                log.error("sandbox.pool_profile_mismatch", container=lease.container_id)
            elif not (fit := await lease.ready(job)):
                log.warning("sandbox.pool_unfit", container=lease.container_id)
        finally:
            if not fit:
                self._works.discard(lease)
        return fit

    async def _cold(self, shelf: Shelf) -> Lease:
        """The next container of the shelf that gets ready: one that is being made, or one that is begun now."""
        if self._works.closed:
            raise closed_error()
        self._changed.set()
        place = shelf.wait()
        if shelf.promised_short:
            self._works.begin(shelf, for_call=True)
        try:
            return await place
        except asyncio.CancelledError:
            shelf.leave(place)
            if place.done() and not place.cancelled() and place.exception() is None:
                self._works.place(shelf, place.result())  # it came in the very moment in which the call went
            else:
                self._works.abandon(shelf)
            raise

    def _count(self, shelf: Shelf, claim: Claim) -> None:
        shelf.counts[claim] += 1
        self._meter.claimed(claim)
