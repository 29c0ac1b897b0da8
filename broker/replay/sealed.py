"""Runs one job in a container of its own, and brings back what came of it; nothing of it reaches anybody else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.domain.events import OutputFile
from broker.domain.run import (
    Ended,
    Exited,
    FileData,
    FileEnd,
    FileStart,
    Job,
    Output,
    Profile,
    Result,
    RunEvent,
    Started,
)
from broker.domain.tree import Effect, Entry
from broker.errors import FailedPreconditionError, UnavailableError
from broker.pipeline.effect_reading import TREE_EVENTS, EffectReader
from broker.sandbox.engine import EgressGate, Engine
from broker.workspace.files import Batch, Draft
from broker.workspace.objects import Objects, in_thread


@dataclass(frozen=True, slots=True)
class SealedRun:
    """What came of a run. Bytes of result files and of changed files lie in the scratch objects."""

    ended: Ended
    output: Mapping[str, bytes] = field(repr=False)
    """What was kept of ``stdout`` and ``stderr``."""
    result: bytes | None
    files: tuple[OutputFile, ...]
    """Result files; none has a blob."""
    effect: Effect | None
    """What changed in the working folder; ``None`` for a job without a tree."""


async def run_sealed(
    engine: Engine,
    profile: Profile,
    job: Job,
    *,
    gate: EgressGate,
    scratch: Objects,
    before: Mapping[str, Entry] | None = None,
    frames: str = "",
) -> SealedRun:
    """Runs a job in a fresh container, which is removed whatever happens.

    Args:
        engine: one whose containers carry a label that no broker takes for its own.
        profile: of the container.
        job: what runs.
        gate: serves what the tool opens on its loopback; it reaches nobody.
        scratch: where files go.
        before: what lies in the working folder of a job with a tree.
        frames: digest that the job's frames must have; empty where they can't have a known one.

    Raises:
        FailedPreconditionError: the engine lacks image or runtime, or the container or the job isn't what it has to be
            (``CONTAINER_DIFFERS``, ``ENVELOPE_CHANGED``); no tool has started.
        UnavailableError: the engine failed.
    """
    lease = await engine.create(profile)
    collector = _Collector(scratch, before)
    try:
        # As before a call that people agreed to: the engine says what this very container is.
        if await lease.observe() != engine.expected_facts(profile):
            raise FailedPreconditionError(
                "the engine made another container than it was asked for",
                reason="CONTAINER_DIFFERS",
                hint="Look at `broker doctor` and at the engine's own settings.",
            )
        async for event in lease.run(job, gate, frame_digest=frames):
            if isinstance(event, Ended):
                return await collector.done(event)
            await collector.take(event)
            lease.taken(event)
    finally:
        await collector.discard()
        await lease.destroy()
    raise UnavailableError("the run's events ended without an end", reason="ENGINE_FAILED")


class _Collector:
    """Takes the events of one run."""

    def __init__(self, scratch: Objects, before: Mapping[str, Entry] | None) -> None:
        self._output = {"stdout": bytearray(), "stderr": bytearray()}
        self._result: bytes | None = None
        self._files: list[OutputFile] = []
        self._batch = Batch(scratch.files)
        self._open: tuple[str, Draft] | None = None
        self._tree = None if before is None else EffectReader(scratch, before)

    async def take(self, event: RunEvent) -> None:
        """Takes any event but the last.

        Raises:
            UnavailableError: it is out of order: the engine failed.
        """
        if self._tree is not None and (self._tree.reading or isinstance(event, TREE_EVENTS)):
            await self._tree.take(event)
            return
        match event:
            case Started() | Exited():
                pass
            case Output(stream, data):
                self._output[stream] += data  # the sandbox has cut it at the tool's own limit
            case Result(data):
                self._result = data
            case FileStart(path, _):
                self._open = path, await in_thread(self._batch.draft)
            case FileData(data) if self._open is not None:
                await in_thread(self._open[1].write, data)
            case FileEnd() if self._open is not None:
                path, draft = self._open
                digest, size = await in_thread(self._batch.take, draft)
                self._files.append(OutputFile(path, "", size, digest))
                self._open = None
            case _:
                raise UnavailableError("the run's events came out of order", reason="ENGINE_FAILED")

    async def done(self, ended: Ended) -> SealedRun:
        """All that came, with its end."""
        await in_thread(self._batch.commit)
        output = {name: bytes(data) for name, data in self._output.items()}
        effect = None if self._tree is None else self._tree.effect()
        return SealedRun(ended, output, self._result, tuple(self._files), effect)

    async def discard(self) -> None:
        """Ends what was cut short."""
        if self._tree is not None:
            await self._tree.discard()
        await in_thread(self._batch.drop)
