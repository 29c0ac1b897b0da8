"""A warm pool over an engine in memory, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from broker.domain.run import Job, Limits, Profile
from broker.sandbox.pool import Pool
from broker.sandbox.pool_sizing import Sizing
from tests.memory_engine import Bell, Clock, Counting, MemoryEngine

PROFILE = Profile("sha256:1", Limits())
JOB = Job("argv", ("true",), "", {}, b"{}")
OTHER = Profile("sha256:2", Limits())
NEVER_S = 3600.0
SIZING = Sizing(quiet_s=0.001, retry_s=0.001, retry_max_s=0.002)
BUSY = replace(SIZING, quiet_s=NEVER_S, refill_wait_s=NEVER_S, linger_s=NEVER_S)
"""The pool does nothing of its own accord once a call has come."""


@dataclass
class World:
    """A pool, its engine, its meter and its clock."""

    pool: Pool
    engine: MemoryEngine
    meter: Counting
    clock: Clock | None
    bell: Bell

    async def filled(self, count: int) -> None:
        """Returns once so many wait, and nothing is being made."""
        await self.bell.until(lambda: (self.pool.status().idle, self.pool.status().making) == (count, 0))

    async def call(self, call_id: str, profile: Profile = PROFILE) -> str:
        """A whole call; gives its container."""
        async with self.pool.lease(call_id, profile) as lease:
            return lease.container_id


@asynccontextmanager
async def pool_of(
    sizing: Sizing = SIZING, warm: Sequence[Profile] = (), *, clock: Clock | None = None
) -> AsyncIterator[World]:
    """A pool that must end with nothing left on its engine."""
    engine = MemoryEngine()
    meter = Counting(engine.bell)
    more = {"clock": clock} if clock else {}
    async with Pool(engine, sizing, meter=meter, **more) as pool:
        pool.prewarm(warm)
        world = World(pool, engine, meter, clock, engine.bell)
        if warm:
            await world.filled(min(sizing.ceiling, len(warm) * max(sizing.floor, 1)))
        yield world
    assert engine.there == {}
    assert engine.making == 0
    assert engine.most >= min(1, engine.begun)
    assert all(lease.lingers for lease in engine.made)
