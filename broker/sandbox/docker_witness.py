"""What can be said of how a run ended besides the runner's own words: the host's counters and the engine's events."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from broker.domain.run import EndCause, Ended, Limits
from broker.errors import FailedPreconditionError, UnavailableError
from broker.sandbox.docker_events import ContainerWatch
from broker.sandbox.engine_hands import EngineSight
from broker.sandbox.evidence import Counters, HostEvidence, find_process
from broker.sandbox.transcript import Transcript
from broker.sandbox.verdict import Kill, decide

EVIDENCE_S = 2.0
"""How long the end of a run waits for the engine to say what happened."""
_KILLED = 9
_KILLED_CODE = 128 + _KILLED
_NOT_ISOLATED = (
    "this container runtime doesn't keep the tool from the runner: exit code, output and files are the sandbox's word"
)
_UNCONFIRMED = "the engine had not confirmed the removal of the container yet"


class Witness:
    """Of one container; looks at the host as soon as it is made, before a job waits for that.

    Args:
        sight: the engine.
        container_id: the engine's id.
        watch: what the engine says of it.
        isolated: whether the tool can't speak in the runner's place.
    """

    def __init__(self, sight: EngineSight, container_id: str, watch: ContainerWatch, *, isolated: bool) -> None:
        self._sight = sight
        self._id = container_id
        self._watch = watch
        self._isolated = isolated
        self._counters: Counters | None = None
        self._host: HostEvidence | None = None
        self._cpu_before: float | None = None
        self._has_begun = False
        self._look = asyncio.create_task(self._look_at_host())

    def run_begins(self) -> None:
        """The job is handed over: what was used before isn't the job's."""
        self._has_begun = True
        if self._host:
            self._cpu_before = self._host.cpu_s()

    def sample(self) -> None:
        """Reads the host's counters, while they are there."""
        if self._host:
            self._counters = self._host.sample()

    async def look(self) -> None:
        """Returns once it is known whether the host can be looked at."""
        if not self._look.done():  # as nearly always: else two turns of the loop
            await asyncio.wait({self._look}, timeout=EVIDENCE_S)

    async def hear_of_memory(self, transcript: Transcript) -> None:
        """Waits a moment for the engine's event where it is worth it: a SIGKILL, and no counter that says whose."""
        report = transcript.exit
        killed = report is not None and (report.signal == _KILLED or report.exit_code == _KILLED_CODE)
        if killed and self._counters is not None and self._counters.oom_kills is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._watch.oom.wait(), EVIDENCE_S / 4)

    async def died_of_memory(self) -> bool:
        """Asks the engine, once the container has died, whether memory was why."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._watch.died.wait(), EVIDENCE_S)
        with suppress(TimeoutError):  # the engine may tell of the death first, and of its cause some milliseconds later
            await asyncio.wait_for(self._watch.oom.wait(), EVIDENCE_S / 4)
        if self._watch.oom.is_set():
            return True
        try:
            return (await self._sight.state(self._id))[1]
        except (UnavailableError, FailedPreconditionError):
            return False  # the engine doesn't answer, or the container is gone already: nobody can tell any more

    def ended(
        self,
        limits: Limits,
        transcript: Transcript,
        kill: Kill | None,
        *,
        wall_s: float,
        died_of_memory: bool,
        unconfirmed: bool = False,
    ) -> Ended:
        """The last event of a run, from all the evidence.

        Args:
            limits: what the run was allowed.
            transcript: what the runner said.
            kill: who ended it from outside, if anybody did.
            wall_s: how long it took.
            died_of_memory: whether the container died at its memory limit.
            unconfirmed: whether nobody knows if the engine has killed the container.
        """
        report, counters = transcript.exit, self._counters or Counters()
        verdict = decide(
            limits=limits,
            kill=kill,
            report=None if died_of_memory else report,
            counters=counters,
            oom_event=self._watch.oom.is_set(),
            over=transcript.over,
            partial=transcript.tree_partial,
            isolated=self._isolated,
        )
        warnings = list(transcript.warnings)
        if verdict.cause is EndCause.TOOL and counters.oom_kills:
            warnings.append(f"the kernel killed {counters.oom_kills} process(es) for memory; the tool went on")
        if not self._isolated:
            warnings.append(_NOT_ISOLATED)
        if unconfirmed:
            warnings.append(_UNCONFIRMED)
        killed = None if unconfirmed else _KILLED
        return Ended(
            exit_code=report.exit_code if report else None,
            signal=report.signal if report else killed,
            cause=verdict.cause,
            cause_source=verdict.source,
            detail=verdict.detail,
            stdout=transcript.stdout(),
            stderr=transcript.stderr(),
            wall_s=wall_s,
            cpu_s=self._cpu_s(counters, transcript),
            memory_peak_bytes=counters.memory_peak_bytes,
            oom_kills=counters.oom_kills,
            warnings=tuple(warnings),
            tree_complete=transcript.tree_complete and kill is None,
        )

    async def close(self) -> None:
        """Lets go of the host."""
        self._look.cancel()
        await asyncio.gather(self._look, return_exceptions=True)
        if self._host:
            self._host.close()

    def _cpu_s(self, counters: Counters, transcript: Transcript) -> float | None:
        """The run's own processor time: what the host counted since the job came, else what the runner says."""
        if counters.cpu_s is not None:
            return max(0.0, counters.cpu_s - (self._cpu_before or 0.0))
        return transcript.exit.cpu_s if transcript.exit else None

    async def _look_at_host(self) -> None:
        # A runtime with a kernel of its own has other processes there too; the engine knows the one that counts.
        pid = find_process(self._id) if self._isolated else 0
        try:
            if not pid:
                pid, _ = await self._sight.state(self._id)
        except (UnavailableError, FailedPreconditionError):
            return
        if pid:
            self._host = HostEvidence(pid, self._id)
            if self._has_begun:
                self.run_begins()
