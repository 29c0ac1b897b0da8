"""One run of a program in a container of its own, beside the call's events: a rehearsal, or a look at what is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from broker.domain.run import Ended, Job, Output, Profile
from broker.domain.tree import Effect, Entry
from broker.errors import UnavailableError
from broker.pipeline.effect_reading import EffectReader
from broker.pipeline.parts import Parts
from broker.sandbox.engine import EgressGate, Lease

_SAID = 1000
"""Bytes of what a program says on standard error that go into a refusal."""


@dataclass(frozen=True, slots=True)
class StepRan:
    """How it ended, and what it changed in its working folder."""

    ended: Ended
    effect: Effect
    said: str
    """The beginning of its standard error, for a person."""

    @property
    def good(self) -> bool:
        """Did it do what it was to do, and was all of it told?"""
        return self.ended.exit_code == 0 and self.ended.tree_complete

    @property
    def told(self) -> str:
        """How it ended, for a person."""
        return f"{self.ended.detail}: {self.said}" if self.said else self.ended.detail


async def run_step(
    parts: Parts,
    holder: str,
    profile: Profile,
    job: Job,
    *,
    before: Mapping[str, Entry],
    egress: EgressGate | None = None,
    frames: str = "",
    holds: Callable[[Lease | None], None] = lambda _: None,
) -> StepRan:
    """Runs a job in a fresh container.

    Args:
        parts: the broker's.
        holder: under which the container is claimed: it holds no other at this time.
        profile: of the container.
        job: what runs; it has a tree.
        before: what lies in its working folder.
        egress: serves the hosts that it may reach; ``None`` for none.
        frames: digest of the job's frames as it was agreed to; empty where nobody had to.
        holds: told of the container, so that somebody can end the run, and of its end.

    Raises:
        FailedPreconditionError: the job has other frames (``ENVELOPE_CHANGED``).
        BrokerError: the engine failed.
    """
    reader, said = EffectReader(parts.objects, before), bytearray()
    try:
        async with parts.sandboxes.lease(holder, profile) as lease:
            holds(lease)
            async for event in lease.run(job, egress, frame_digest=frames):
                if isinstance(event, Ended):
                    return StepRan(event, reader.effect(), said.decode("utf-8", "replace").strip())
                if isinstance(event, Output) and event.stream == "stderr":
                    said += event.data[: _SAID - len(said)]
                await reader.take_tree(event)
                lease.taken(event)
    finally:
        holds(None)
        await reader.discard()
    raise UnavailableError("the run's events ended without an end", reason="ENGINE_FAILED")
