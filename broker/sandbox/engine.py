"""What an engine must offer: a lease on one container per call, used once and destroyed.

    async with engine.lease(call_id, profile) as lease:
        async for event in lease.run(job):
            ...

Any engine passes the suite in ``tests/conformance/engine``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from broker.domain.run import EndCause, Job, Profile, RunEvent
from broker.sandbox.images import SandboxImage

LABEL_INSTANCE = "broker"
"""Label of every container: which broker it belongs to."""
LABEL_CALL = "broker.call"
"""Label of every container: the call that it was made for."""


@dataclass(frozen=True, slots=True)
class OwnedContainer:
    """A container on the engine that carries a broker's label."""

    id: str
    call_id: str
    state: str
    """The engine's word: ``created``, ``running``, ``exited``, ..."""


class Lease(Protocol):
    """One container, for one job."""

    @property
    def container_id(self) -> str:
        """The engine's id of the container."""

    def run(self, job: Job) -> AsyncIterator[RunEvent]:
        """Runs the job, once per lease. The last event is ``Ended``; by then nothing of the tool can be heard any more.

        Events come as they happen; who doesn't take them slows the tool down, up to its time limit.

        Raises:
            InvalidArgumentError: the job's files or patterns don't fit the sandbox; nothing ran.
            UnavailableError: the engine or the runner failed, with reason ``ENGINE_FAILED``; what the tool did before
                is unknown.
        """

    def kill(self, cause: EndCause, detail: str) -> None:
        """Ends the run from outside, at any time, in any state; the first cause given is the one that ``Ended`` names."""

    async def destroy(self) -> None:
        """Cuts all streams at once and has the container killed and removed; may be called again."""


class Engine(Protocol):
    """Makes leases and knows what it owns."""

    def lease(self, call_id: str, profile: Profile) -> AbstractAsyncContextManager[Lease]:
        """A fresh container for a call, destroyed on the way out whatever happens.

        Raises:
            FailedPreconditionError: the engine doesn't have the image.
            UnavailableError: the engine can't give a container; nothing ran.
        """

    async def image(self, name: str) -> SandboxImage:
        """The sandbox image that specs call ``name``.

        Raises:
            FailedPreconditionError: there is none; says how to make it.
        """

    async def images(self) -> Sequence[SandboxImage]:
        """All sandbox images that this broker can speak to."""

    async def list_owned(self) -> Sequence[OwnedContainer]:
        """Every container that carries this broker's label, whoever made it."""

    def live_calls(self) -> frozenset[str]:
        """Calls whose containers this very process made and hasn't removed yet."""

    async def remove(self, container_id: str) -> None:
        """Kills and removes a container; one that is gone is no error.

        Raises:
            UnavailableError: the engine refuses or doesn't answer.
        """
