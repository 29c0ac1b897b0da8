"""An engine in memory, for what is only about when containers are made, handed out and destroyed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from broker.domain.container_facts import ContainerFacts, Cpu
from broker.domain.meter import Claim, NoMeter, Step
from broker.domain.run import EndCause, Job, Profile, RunEvent
from broker.errors import UnavailableError
from broker.sandbox.engine import Capabilities, EgressGate, OwnedContainer
from broker.sandbox.images import SandboxImage

DEADLINE_S = 20.0


class Bell:
    """Rings at every change; whoever waits looks again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Something changed."""
        self._event.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns once the condition holds; fails where it never does."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._event.clear()
                await self._event.wait()


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@dataclass
class Counting(NoMeter):
    """A meter that keeps what it hears, and rings."""

    bell: Bell
    claims: list[Claim] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    sizes: list[tuple[int, int, int]] = field(default_factory=list)

    def claimed(self, claim: Claim) -> None:
        """See ``Meter``."""
        self.claims.append(claim)

    def took(self, step: Step, seconds: float) -> None:
        """See ``Meter``."""
        assert seconds >= 0
        self.steps.append(step)

    def pool(self, *, idle: int, making: int, leased: int) -> None:
        """See ``Meter``."""
        self.sizes.append((idle, making, leased))
        self.bell.ring()


class MemoryLease:
    """A container that is nothing but its states."""

    def __init__(self, engine: MemoryEngine, container_id: str, profile: Profile) -> None:
        self._engine = engine
        self._id = container_id
        self.profile = profile
        self.fit = True
        self.answers = asyncio.Event()
        """Its check doesn't return while this isn't set."""
        self.answers.set()
        self.removal_error: Exception | None = None
        """What the wait for its removal ends with."""
        self.observed = engine.expected_facts(profile)
        """What the engine reports of it."""
        self.handed: Job | None = None
        """What it has been made ready for."""
        self.lingers: list[float] = []
        """Of each call of ``destroy``."""

    @property
    def container_id(self) -> str:
        """See ``Lease``."""
        return self._id

    async def ready(self, job: Job | None = None) -> bool:
        """See ``Lease``."""
        self.handed = job
        assert not self.lingers, "asked after its end"
        self._engine.checks += 1
        self._engine.bell.ring()
        await asyncio.sleep(0)
        await self.answers.wait()
        return self.fit

    async def observe(self) -> ContainerFacts:
        """See ``Lease``."""
        await asyncio.sleep(0)
        return self.observed

    async def run(
        self, job: Job, egress: EgressGate | None = None, *, frame_digest: str = ""
    ) -> AsyncIterator[RunEvent]:
        """See ``Lease``; nothing here runs."""
        raise NotImplementedError(job, egress, frame_digest)
        yield

    def taken(self, event: RunEvent) -> None:
        """See ``Lease``."""
        raise NotImplementedError

    def kill(self, cause: EndCause, detail: str) -> None:
        """See ``Lease``."""
        raise NotImplementedError

    async def destroy(self, *, linger_s: float = 0.0) -> None:
        """See ``Lease``: gone at once without lingering, else with the second call."""
        self.lingers.append(linger_s)
        if not linger_s or self._engine.lingers_out:
            self._engine.there.pop(self._id, None)
        self._engine.bell.ring()

    async def removed(self) -> None:
        """See ``Lease``."""
        if self.removal_error:
            raise self.removal_error
        await self._engine.bell.until(lambda: self._id not in self._engine.there)


class MemoryEngine:
    """Makes containers as the test lets it."""

    def __init__(self) -> None:
        self.bell = Bell()
        self.there: dict[str, MemoryLease] = {}
        self.made: list[MemoryLease] = []
        self.begun = 0
        self.checks = 0
        self.most = 0
        """The most that were being made at one time."""
        self.making = 0
        self.error: Exception | None = None
        """What all attempts end with."""
        self.errors: list[Exception] = []
        """What the next attempts end with, one each."""
        self.gate = asyncio.Event()
        """Nothing is finished while it isn't set."""
        self.gate.set()
        self.unready = 0
        """So many of the next ones don't answer."""
        self.disguise: Profile | None = None
        """Under what profile the next ones are said to have been made."""
        self.lingers_out = False
        """Whether a lingering container goes by itself."""
        self.broken_lists: list[Exception] = []
        """What the next lists end with."""
        self.lists = 0
        self.foreign: list[OwnedContainer] = []
        self.stubborn: set[str] = set()
        """What it refuses to remove."""
        self._ids = itertools.count(1)

    async def create(self, profile: Profile) -> MemoryLease:
        """See ``Engine``."""
        self.begun += 1
        self.making += 1
        self.most = max(self.most, self.making)
        self.bell.ring()
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
        finally:
            self.making -= 1
            self.bell.ring()
        if self.errors:
            raise self.errors.pop(0)
        if self.error:
            raise self.error
        lease = MemoryLease(self, f"container-{next(self._ids)}", self.disguise or profile)
        if self.unready:
            self.unready -= 1
            lease.fit = False
        self.there[lease.container_id] = lease
        self.made.append(lease)
        return lease

    def expected_facts(self, profile: Profile) -> ContainerFacts:
        """See ``Engine``."""
        return ContainerFacts(
            profile.image,
            profile.runtime,
            memory_bytes=profile.limits.memory_bytes,
            processes=profile.limits.processes,
            cpu=Cpu(nano=int(profile.limits.cpu_cores * 1e9)),
        )

    async def capabilities(self, runtime: str) -> Capabilities:
        """See ``Engine``."""
        return Capabilities(runtime)

    async def image(self, name: str) -> SandboxImage:
        """See ``Engine``; there is none."""
        raise NotImplementedError(name)

    async def images(self) -> Sequence[SandboxImage]:
        """See ``Engine``."""
        return []

    async def list_owned(self) -> Sequence[OwnedContainer]:
        """See ``Engine``."""
        self.lists += 1
        self.bell.ring()
        if self.broken_lists:
            raise self.broken_lists.pop(0)
        return [*(OwnedContainer(item, "running") for item in self.there), *self.foreign]

    def live(self) -> frozenset[str]:
        """See ``Engine``."""
        return frozenset(self.there)

    async def remove(self, container_id: str) -> None:
        """See ``Engine``."""
        if container_id in self.stubborn:
            raise UnavailableError("the engine refuses", reason="ENGINE_FAILED")
        self.foreign = [item for item in self.foreign if item.id != container_id]
        self.bell.ring()
