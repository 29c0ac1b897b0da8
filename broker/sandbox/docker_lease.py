"""One container for one job, on a Docker engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any, Protocol

import structlog

from broker.domain.run import EndCause, Ended, Job, Profile, RunEvent
from broker.errors import FailedPreconditionError, InternalError, InvalidArgumentError, UnavailableError
from broker.sandbox.docker_events import ContainerWatch
from broker.sandbox.docker_stream import Connection
from broker.sandbox.events import EventQueue
from broker.sandbox.evidence import Counters, HostEvidence
from broker.sandbox.jobs import check_job, send_job
from broker.sandbox.transcript import Phase, Transcript, visible
from broker.sandbox.verdict import Kill, decide
from broker.sandbox.wire import STDERR_CHANNEL, Demultiplexer, FrameParser, ProtocolViolation

STARTUP_S = 60.0
"""How long in all a runner may let us wait before it starts the tool."""
COLLECT_S = 60.0
"""How long in all a runner may let us wait after the tool's end."""
DRAIN_S = 1.0
"""After a kill, how long what is still on its way may take to arrive."""
EVIDENCE_S = 2.0
"""How long the end of a run waits for the engine to say what happened."""
_READ = 64 * 1024
_RUNNER_WORDS = 4096
_KILLED = 9
_KILLED_CODE = 128 + _KILLED

log = structlog.get_logger(__name__)


class EngineHands(Protocol):
    """What a lease needs of its engine."""

    async def remove(self, container_id: str) -> None:
        """Kills and removes a container."""

    async def state(self, container_id: str) -> tuple[int, bool]:
        """Process id of a container's process 1 (0: none), and whether the engine calls it killed for memory."""

    def background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs something beside; the engine waits for it when it closes."""


class DockerLease:
    """A started container whose runner waits for its job; made by ``DockerEngine.lease``."""

    def __init__(
        self,
        hands: EngineHands,
        *,
        call_id: str,
        container_id: str,
        profile: Profile,
        connection: Connection,
        watch: ContainerWatch,
    ) -> None:
        self._hands = hands
        self._call_id = call_id
        self._id = container_id
        self._limits = profile.limits
        self._connection = connection
        self._watch = watch
        self._queue = EventQueue()
        self._transcript: Transcript | None = None
        self._kill: Kill | None = None
        self._counters: Counters | None = None
        self._host: HostEvidence | None = None
        self._started_at = 0.0
        self._ended_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._drain: asyncio.TimerHandle | None = None
        self._pump: asyncio.Task[None] | None = None
        self._driver: asyncio.Task[None] | None = None
        self._removal: asyncio.Task[None] | None = None
        self._runner_words = b""
        self._patience = {Phase.WAITING: STARTUP_S, Phase.COLLECTING: COLLECT_S}
        self._look = asyncio.create_task(self._look_at_host())

    @property
    def container_id(self) -> str:
        """The engine's id of the container."""
        return self._id

    async def run(self, job: Job) -> AsyncIterator[RunEvent]:
        """See ``broker.sandbox.engine.Lease.run``."""
        if self._driver or (self._removal and not self._kill):
            raise InternalError("a lease runs one job, once", reason="LEASE_USED")
        check_job(job, self._limits)
        self._transcript = Transcript(
            job.outputs, output_limit=self._limits.output_bytes, wants_result=job.wants_result
        )
        self._driver = asyncio.create_task(self._drive(job, self._transcript))
        ended = False
        try:
            while (event := await self._queue.get()) is not None:
                ended = isinstance(event, Ended)
                yield event
        finally:
            if not ended:
                self.kill(EndCause.CLIENT, "the reader of the events went away")

    def kill(self, cause: EndCause, detail: str) -> None:
        """See ``broker.sandbox.engine.Lease.kill``."""
        if self._kill or (self._transcript and self._transcript.phase in {Phase.DONE, Phase.REFUSED}):
            return
        self._kill = Kill(cause, detail)
        self._sample()
        self._stop_timer()
        self._start_removal()
        if self._pump:
            self._drain = asyncio.get_running_loop().call_later(DRAIN_S, self._pump.cancel)

    async def destroy(self) -> None:
        """See ``broker.sandbox.engine.Lease.destroy``."""
        self._connection.cut()
        self._queue.close(error=_engine_failed("the container was destroyed in the middle of its run"))
        self._stop_timer()
        if self._drain:
            self._drain.cancel()
        tasks = [task for task in (self._driver, self._pump, self._look) if task]
        for task in tasks:
            task.cancel()
        self._start_removal()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._host:
            self._host.close()

    async def removed(self) -> None:
        """Returns once the container is gone.

        Raises:
            UnavailableError: the engine refused to remove it, or doesn't answer.
        """
        if self._removal:
            await asyncio.shield(self._removal)

    async def _drive(self, job: Job, transcript: Transcript) -> None:
        """From the first frame to the last event; whatever goes wrong ends the queue with an error."""
        feeder = asyncio.create_task(send_job(job, self._connection.writer))
        self._pump = asyncio.create_task(self._read(transcript))
        try:
            if self._kill:
                self._pump.cancel()
            error = await self._follow(feeder, self._pump)
            self._ended_at = self._ended_at or time.monotonic()
            self._stop_timer()
            if error is None:
                await self._conclude(transcript)
            else:
                self._connection.cut()
                self._queue.close(error=error)
        finally:
            feeder.cancel()
            self._pump.cancel()
            await asyncio.gather(feeder, self._pump, return_exceptions=True)
            self._queue.close(error=InternalError("the sandbox's driver ended before its run"))

    async def _follow(self, feeder: asyncio.Task[None], pump: asyncio.Task[None]) -> Exception | None:
        """Waits until the runner has said its last, or the job can't be handed over."""
        await asyncio.wait({feeder, pump}, return_when=asyncio.FIRST_COMPLETED)
        if not pump.done():
            broken = feeder.exception()
            if isinstance(broken, Exception) and not isinstance(broken, OSError):
                return broken
            await asyncio.wait({pump})  # where the connection broke, the container's last words say more than that
        return self._trouble(pump)

    def _trouble(self, pump: asyncio.Task[None]) -> Exception | None:
        if pump.cancelled() or not pump.done() or (error := pump.exception()) is None:
            return None
        if self._kill:
            return None  # a stream that breaks when its container is killed is no failure
        log.warning("sandbox.runner_failed", call=self._call_id, container=self._id, error=str(error))
        if isinstance(error, ProtocolViolation):
            return _engine_failed(f"the sandbox's runner spoke nonsense: {error}")
        if isinstance(error, TimeoutError):
            return _engine_failed("the sandbox's runner fell silent")
        if isinstance(error, OSError):
            return _engine_failed("the connection to the sandbox broke")
        return error if isinstance(error, Exception) else InternalError("the sandbox's reader failed")

    async def _conclude(self, transcript: Transcript) -> None:
        """Gathers the evidence, cuts the stream, and ends the queue."""
        error: Exception | None = None
        died_of_memory = False
        if not self._kill:
            await self._gather_evidence(transcript)
            if transcript.phase is Phase.REFUSED:
                error = InvalidArgumentError(
                    f"the job can't be put into the sandbox: {transcript.refusal}", reason="INPUT_REFUSED"
                )
            elif transcript.phase is not Phase.DONE:
                died_of_memory = await self._died_of_memory()
                error = None if died_of_memory or self._kill else self._vanished(transcript)
        self._connection.cut()
        if error:
            self._queue.close(error=error)
        else:
            self._queue.close(self._ended(transcript, died_of_memory=died_of_memory))

    async def _gather_evidence(self, transcript: Transcript) -> None:
        """Reads the counters; where they don't tell, waits a moment for the engine's event."""
        await asyncio.wait({self._look}, timeout=EVIDENCE_S)
        if not self._kill:  # else they were read before the kill, when there was more to read
            self._sample()
        if self._may_be_memory(transcript):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._watch.oom.wait(), EVIDENCE_S / 4)

    def _vanished(self, transcript: Transcript) -> UnavailableError:
        if self._runner_words:
            log.error("sandbox.runner_words", call=self._call_id, words=visible(self._runner_words))
        return _engine_failed(f"the sandbox's runner ended while {transcript.phase.value}")

    def _may_be_memory(self, transcript: Transcript) -> bool:
        """Whether the engine's event is worth waiting for: a SIGKILL, and no counter that says whose."""
        report = transcript.exit
        killed = report is not None and (report.signal == _KILLED or report.exit_code == _KILLED_CODE)
        return killed and self._counters is not None and self._counters.oom_kills is None

    async def _died_of_memory(self) -> bool:
        """Asks the engine, once the container has died, whether memory was why."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._watch.died.wait(), EVIDENCE_S)
        if self._watch.oom.is_set():
            return True
        try:
            return (await self._hands.state(self._id))[1]
        except (UnavailableError, FailedPreconditionError):
            return False  # the engine doesn't answer, or the container is gone already: nobody can tell any more

    def _ended(self, transcript: Transcript, *, died_of_memory: bool) -> Ended:
        report, counters = transcript.exit, self._counters or Counters()
        verdict = decide(
            limits=self._limits,
            kill=self._kill,
            report=None if died_of_memory else report,
            counters=counters,
            oom_event=self._watch.oom.is_set(),
            over=transcript.over,
        )
        warnings = list(transcript.warnings)
        if verdict.cause is EndCause.TOOL and counters.oom_kills:
            warnings.append(f"the kernel killed {counters.oom_kills} process(es) for memory; the tool went on")
        wall = self._ended_at - self._started_at if self._started_at else 0.0
        return Ended(
            exit_code=report.exit_code if report else None,
            signal=report.signal if report else _KILLED,
            cause=verdict.cause,
            cause_source=verdict.source,
            detail=verdict.detail,
            stdout=transcript.stdout(),
            stderr=transcript.stderr(),
            wall_s=wall,
            cpu_s=counters.cpu_s if counters.cpu_s is not None else report.cpu_s if report else None,
            memory_peak_bytes=counters.memory_peak_bytes,
            oom_kills=counters.oom_kills,
            warnings=tuple(warnings),
        )

    async def _read(self, transcript: Transcript) -> None:
        """Reads until the runner's last frame or the end of the stream."""
        outer, inner = Demultiplexer(), FrameParser()
        while data := await self._next_bytes(transcript.phase):
            for channel, piece in outer.feed(data):
                if channel == STDERR_CHANNEL:
                    self._runner_words = (self._runner_words + piece)[-_RUNNER_WORDS:]
                    continue
                for frame in inner.feed(piece):
                    for event in transcript.take(frame):
                        self._keep_time(transcript.phase)
                        await self._queue.put(event)
                    self._keep_time(transcript.phase)
                    if transcript.phase in {Phase.DONE, Phase.REFUSED}:
                        return

    async def _next_bytes(self, phase: Phase) -> bytes:
        """While the tool runs the time limit watches; before and after it, a budget of waiting does."""
        reader = self._connection.reader
        if phase is Phase.RUNNING:
            return await reader.read(_READ)
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, self._patience[phase])):
                return await reader.read(_READ)
        finally:
            self._patience[phase] -= time.monotonic() - began

    def _keep_time(self, phase: Phase) -> None:
        if phase is Phase.RUNNING and not self._started_at:
            self._started_at = time.monotonic()
            text = f"stopped at the time limit of {self._limits.wall_s:g} s"
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._limits.wall_s, self.kill, EndCause.TIME, text)
        elif phase is not Phase.RUNNING and self._started_at and not self._ended_at:
            self._ended_at = time.monotonic()
            self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _sample(self) -> None:
        if self._host:
            self._counters = self._host.sample()

    async def _look_at_host(self) -> None:
        """Finds the container's process on this host, while the tool is on its way."""
        try:
            pid, _ = await self._hands.state(self._id)
        except (UnavailableError, FailedPreconditionError):
            return
        if pid:
            self._host = HostEvidence(pid, self._id)

    def _start_removal(self) -> None:
        if self._removal is None:
            self._removal = self._hands.background(self._hands.remove(self._id))


def _engine_failed(text: str) -> UnavailableError:
    return UnavailableError(
        text, reason="ENGINE_FAILED", hint="what the tool did before is unknown; look at `broker doctor`"
    )
