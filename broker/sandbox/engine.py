"""What an engine must offer: containers for one job each, made beforehand or when they are needed, and destroyed.

    lease = await engine.create(profile)
    try:
        if await lease.ready():
            async for event in lease.run(job):
                ...
                lease.taken(event)
    finally:
        await lease.destroy()

Any engine passes the suite in ``tests/conformance/engine``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.domain.container_facts import ContainerFacts
from broker.domain.run import EndCause, Job, Profile, RunEvent
from broker.sandbox.images import SandboxImage

LABEL_INSTANCE = "broker"
"""Label of every container: which broker it belongs to."""
PROXY_PORT = 3128
"""Where the runner's HTTP proxy listens on the sandbox's loopback."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine's runtime does by itself. What it doesn't is refused or enforced in another way, never assumed."""

    runtime: str
    """The engine's name for it."""
    memory: bool = True
    processes: bool = True
    cpu: bool = True
    disk: bool = True
    inodes: bool = True
    """Whether it keeps a limit on the number of files."""
    open_files: bool = True
    counters: bool = True
    """Whether the host's counters (memory, CPU, refused forks) are those of the tool."""
    oom_events: bool = True
    """Whether it says that the kernel killed a process for memory."""
    isolated_runner: bool = True
    """Whether the tool can't look into the runner (``/proc/1``), so that the runner's frames are its own."""


@dataclass(frozen=True, slots=True)
class OwnedContainer:
    """A container on the engine that carries a broker's label."""

    id: str
    state: str
    """The engine's word: ``created``, ``running``, ``exited``, ..."""


class Duplex(Protocol):
    """One connection that the tool opened on the sandbox's loopback."""

    async def read(self) -> bytes:
        """The next bytes, 64 KiB at most; empty once the tool has closed its side.

        Raises:
            ConnectionError: it broke.
        """

    async def write(self, data: bytes) -> None:
        """Sends bytes to the tool; waits while it doesn't read.

        Raises:
            ConnectionError: it broke.
        """

    async def end(self) -> None:
        """Closes our side; the tool reads the end after all bytes."""


class EgressGate(Protocol):
    """Serves what a tool opens on its loopback, for the one call that it was made for."""

    async def serve(self, listener: int, stream: Duplex) -> None:
        """Handles one connection to its end; the run cancels it at its own end. ``listener`` is the port."""


class Lease(Protocol):
    """One container, for one job. It has been started, and its runner waits."""

    @property
    def container_id(self) -> str:
        """The engine's id of the container."""

    @property
    def profile(self) -> Profile:
        """What it was made under."""

    async def ready(self, job: Job | None = None) -> bool:
        """Whether the runner answers now: within ten seconds where it may be starting, within one once it has answered.

        A lease that isn't ready can only be destroyed.

        Args:
            job: the one that ``run`` is going to be given, so that the sandbox can make ready for it. Nothing of its tool
                runs before ``run``. Who hands a job over asks no more and runs no other.

        Raises:
            InvalidArgumentError: as ``run``.
        """

    async def observe(self) -> ContainerFacts:
        """What the engine reports now for this very container; equal to ``Engine.expected_facts`` of its profile where
        nobody has changed anything.

        Raises:
            FailedPreconditionError: the container is gone (``ENGINE_NOT_FOUND``).
            UnavailableError: the engine refuses or doesn't answer.
        """

    def run(self, job: Job, egress: EgressGate | None = None, *, frame_digest: str = "") -> AsyncIterator[RunEvent]:
        """Runs the job, once per lease. The last event is ``Ended``; by then nothing of the tool can be heard any more,
        and every connection that it had opened is cut.

        Events come as they happen. Standard output, standard error and the files each have a window of bytes of their
        own: a reader who doesn't say ``taken`` stalls that one channel, and nothing else.

        Args:
            job: what to run.
            egress: serves what the tool opens on its loopback.
            frame_digest: ``job_frames.frame_digest`` of the job as it was approved; empty where nobody had to.

        Raises:
            FailedPreconditionError: the bytes that would be sent have another digest, and none was sent but what ``ready``
                was given, or a file's bytes have another than its own; the tool didn't start (``ENVELOPE_CHANGED``). The metadata has
                ``expected``, ``found`` and ``field``: ``job_frame`` or ``files[PATH]``.
            InvalidArgumentError: the job's files or patterns don't fit the sandbox; nothing ran.
            UnavailableError: the engine or the runner failed, with reason ``ENGINE_FAILED``; what the tool did before
                is unknown.
        """

    def taken(self, event: RunEvent) -> None:
        """The reader is done with an event: its channel may bring as many bytes more."""

    def kill(self, cause: EndCause, detail: str) -> None:
        """Ends the run from outside, at any time, in any state; the first cause given is the one that ``Ended`` names."""

    async def destroy(self, *, linger_s: float = 0.0) -> None:
        """Hears no more and has the container removed; may be called again. While something may still run in it, all
        streams are cut and it is killed at once; a runner that has nothing to do any more may end by itself before.

        Args:
            linger_s: by how much the removal may wait for a quieter moment, where the tool's processes have ended for
                sure.
        """

    async def removed(self) -> None:
        """Returns once the container is gone.

        Raises:
            UnavailableError: the engine refuses or doesn't answer.
        """


class Engine(Protocol):
    """Makes leases and knows what it owns."""

    async def create(self, profile: Profile) -> Lease:
        """A fresh container whose runner waits for a job. Who takes it destroys it; who is cancelled meanwhile leaves
        nothing behind.

        Raises:
            FailedPreconditionError: the engine doesn't have the image (``IMAGE_MISSING``) or the runtime
                (``RUNTIME_MISSING``), or can't keep a limit of the profile (``LIMIT_UNSUPPORTED``).
            UnavailableError: the engine can't give a container; nothing ran.
        """

    def expected_facts(self, profile: Profile) -> ContainerFacts:
        """What the engine must report for a container of this profile, by the request that makes one. No I/O.

        Raises:
            FailedPreconditionError: no image of that digest was among ``images`` (``IMAGE_MISSING``), or the engine has
                no such runtime (``RUNTIME_MISSING``).
        """

    async def capabilities(self, runtime: str) -> Capabilities:
        """What a runtime does; the empty name asks for the engine's own choice.

        Raises:
            FailedPreconditionError: the engine has no such runtime (``RUNTIME_MISSING``).
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

    def live(self) -> frozenset[str]:
        """Containers that this very process made and hasn't removed yet."""

    async def remove(self, container_id: str) -> None:
        """Kills and removes a container; one that is gone is no error.

        Raises:
            UnavailableError: the engine refuses or doesn't answer.
        """
