"""One container for one job, on a Docker engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import structlog

from broker.domain.container_facts import ContainerFacts
from broker.domain.run import EndCause, Ended, Job, Profile, RunEvent
from broker.errors import InternalError, InvalidArgumentError, UnavailableError
from broker.sandbox.attached import AttachedStream
from broker.sandbox.connections import Connections
from broker.sandbox.conversation import Conversation
from broker.sandbox.docker_events import ContainerWatch
from broker.sandbox.docker_witness import Witness
from broker.sandbox.engine import EgressGate
from broker.sandbox.engine_hands import EngineHands
from broker.sandbox.handover import Handover
from broker.sandbox.job_frames import JobFrames, listening, send_job
from broker.sandbox.patience import Patience
from broker.sandbox.transcript import Phase, Transcript, visible
from broker.sandbox.verdict import Kill
from broker.sandbox.wire import ProtocolViolation

READY_S = 1.0
"""How long a waiting runner may take to answer."""
FIRST_READY_S = 10.0
"""How long a runner may take that was never asked before: it may still be starting, and answers once it is warm."""
STARTUP_S = 60.0
"""How long in all a runner may let us wait before it starts the tool."""
COLLECT_S = 60.0
"""How long in all a runner may let us wait after the tool's end; while a reader lets it wait, nothing counts."""
DRAIN_S = 1.0
"""After a kill, how long what is still on its way may take to arrive."""
LEAVE_S = 0.8
"""How long a runner that has nothing to do any more may take to end by itself before it is killed; under full load the
engine takes 0.3 s and more to say that it has.
"""

log = structlog.get_logger(__name__)


class DockerLease:
    """A started container whose runner waits for its job; made by ``DockerEngine.create``.

    Args:
        hands: the engine.
        container_id: the engine's id.
        profile: what the container was made under.
        stream: attached to it.
        watch: what the engine says of it.
        isolated: whether the tool can't speak in the runner's place.
    """

    def __init__(
        self,
        hands: EngineHands,
        *,
        container_id: str,
        profile: Profile,
        stream: AttachedStream,
        watch: ContainerWatch,
        isolated: bool = True,
    ) -> None:
        self._hands = hands
        self._id = container_id
        self._profile = profile
        self._stream = stream
        self._watch = watch
        self._conversation = Conversation(stream.write, self._moved)
        self._transcript: Transcript | None = None
        self._handed: Handover | None = None
        """What the runner has already, and may not start yet."""
        self._connections: Connections | None = None
        self._kill: Kill | None = None
        self._failure: Exception | None = None
        self._over = asyncio.Event()
        """The runner has said its last, in one way or another."""
        self._isolated = isolated
        self._witness = Witness(hands, container_id, watch, isolated=isolated)
        self._started_at = 0.0
        self._ended_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._drain: asyncio.TimerHandle | None = None
        self._patience: Patience | None = None
        self._driver: asyncio.Task[None] | None = None
        self._removal: asyncio.Task[None] | None = None
        self._has_answered = False
        self._unconfirmed = False
        """Neither the stream nor the engine had said within ``DRAIN_S`` that a kill has happened."""
        self._now = asyncio.Event()
        """The removal may not linger any more."""
        stream.listen(self)

    @property
    def container_id(self) -> str:
        """The engine's id of the container."""
        return self._id

    @property
    def profile(self) -> Profile:
        """What it was made under."""
        return self._profile

    async def ready(self, job: Job | None = None) -> bool:
        """See ``broker.sandbox.engine.Lease.ready``."""
        if self._driver or self._handed or self._removal or self._over.is_set() or self._watch.died.is_set():
            return False
        answer = self._conversation.ping(self._hand_ahead(job) if job else b"")
        try:
            async with asyncio.timeout(READY_S if self._has_answered else FIRST_READY_S):
                self._has_answered = await answer
                return self._has_answered
        except TimeoutError:
            return False

    async def observe(self) -> ContainerFacts:
        """See ``broker.sandbox.engine.Lease.observe``."""
        return await self._hands.observe(self._id)

    async def run(
        self, job: Job, egress: EgressGate | None = None, *, frame_digest: str = ""
    ) -> AsyncIterator[RunEvent]:
        """See ``broker.sandbox.engine.Lease.run``."""
        if self._driver or (self._removal and not self._kill) or (self._handed and self._handed.job is not job):
            raise InternalError("a lease runs one job, once", reason="LEASE_USED")
        handover = self._handed or Handover(job, self._profile.limits)
        handover.frames.check(frame_digest)
        ports = listening(job)
        if ports and egress is None:
            raise InternalError("a job whose tool may open connections needs somebody who serves them")
        transcript = self._transcript = handover.transcript
        if egress is not None and ports:
            self._connections = Connections(egress, ports, self._stream.write)
        self._conversation.begin(transcript, self._connections)
        if not self._handed:
            self._witness.run_begins()
        self._be_patient(STARTUP_S)
        unsent = None
        if not self._kill and not self._over.is_set():  # else it never gets its job, or isn't let start
            transcript.let_start()
            rest = handover.rest(handed=self._handed is not None)
            self._stream.write(rest)  # a small one goes before anything else has its turn
            unsent = None if rest else handover.frames
        self._driver = asyncio.create_task(self._drive(unsent, transcript))
        ended = False
        try:
            while (event := await self._conversation.queue.get()) is not None:
                ended = isinstance(event, Ended)
                yield event
        finally:
            if not ended:
                self.kill(EndCause.CLIENT, "the reader of the events went away")

    def _hand_ahead(self, job: Job) -> bytes:
        """What is sent of a job before it may start; from now on the runner can only refuse it."""
        if job.files or job.links:  # there may be thousands, and none goes ahead
            return b""
        handover = Handover(job, self._profile.limits)
        if handover.ahead:
            self._handed, self._transcript = handover, handover.transcript
            self._conversation.begin(handover.transcript, None)
            self._witness.run_begins()
        return handover.ahead

    def taken(self, event: RunEvent) -> None:
        """See ``broker.sandbox.engine.Lease.taken``."""
        self._conversation.windows.taken(event)
        self._weigh_patience()

    def kill(self, cause: EndCause, detail: str) -> None:
        """See ``broker.sandbox.engine.Lease.kill``."""
        if self._kill or (self._transcript and self._transcript.phase in {Phase.DONE, Phase.REFUSED}):
            return
        self._kill = Kill(cause, detail)
        self._witness.sample()
        self._stop_timers()
        if self._connections:
            self._connections.cut()
        self._now.set()
        self._start_removal(0.0)
        loop = asyncio.get_running_loop()
        self._drain = loop.call_later(DRAIN_S, self._drained) if self._driver else loop.call_later(0.0, self._end)

    async def destroy(self, *, linger_s: float = 0.0) -> None:
        """See ``broker.sandbox.engine.Lease.destroy``."""
        self._hear_no_more()
        if not self._idle:
            linger_s = 0.0
        self._conversation.queue.close(error=_engine_failed("the container was destroyed in the middle of its run"))
        self._conversation.over()
        self._stop_timers()
        if self._connections:
            self._connections.cut()
        if not linger_s:
            self._now.set()
        self._start_removal(linger_s)
        if self._driver:
            self._driver.cancel()
            await asyncio.gather(self._driver, return_exceptions=True)
        if self._drain:
            self._drain.cancel()
        await self._witness.close()

    def hurry(self) -> None:
        """A removal that lingers begins now."""
        self._now.set()

    async def removed(self) -> None:
        """See ``broker.sandbox.engine.Lease.removed``."""
        if self._removal:
            await asyncio.shield(self._removal)

    def on_bytes(self, data: bytes) -> None:
        """See ``broker.sandbox.attached.Receiver``."""
        if self._over.is_set():
            return
        try:
            self._conversation.feed(data)
        except ProtocolViolation as violation:
            self._end(_engine_failed(f"the sandbox's runner spoke nonsense: {violation}"))
        self._weigh_patience()

    def on_lost(self) -> None:
        """See ``broker.sandbox.attached.Receiver``."""
        self._end()

    def _end(self, failure: Exception | None = None) -> None:
        """Nothing more is heard from the runner; the first reason counts."""
        if self._over.is_set():
            return
        if failure and not self._kill:  # a stream that breaks when its container is killed is no failure
            log.warning("sandbox.runner_failed", container=self._id, error=str(failure))
            self._failure = failure
            self._stream.cut()  # whoever speaks so is heard no more, and told no more
        self._over.set()
        self._conversation.over()

    def _drained(self) -> None:
        """What was on its way after a kill has had its time."""
        if not self._over.is_set():
            self._unconfirmed = not (self._watch.died.is_set() or _succeeded(self._removal))
        self._end()

    def _moved(self, phase: Phase) -> None:
        """The run has come to another phase."""
        if phase is Phase.RUNNING:
            self._stop_timers()
            self._started_at = time.monotonic()
            wall_s = self._profile.limits.wall_s
            text = f"stopped at the time limit of {wall_s:g} s"
            self._timer = asyncio.get_running_loop().call_later(wall_s, self.kill, EndCause.TIME, text)
        elif phase is Phase.COLLECTING:
            self._ended_at = time.monotonic()
            self._stop_timers()
            if self._connections:
                self._connections.cut()
            if not self._kill:
                self._be_patient(COLLECT_S)
        else:
            self._end()

    def _be_patient(self, budget_s: float) -> None:
        silent = _engine_failed("the sandbox's runner fell silent")
        self._patience = Patience(budget_s, lambda: self._end(silent))
        self._weigh_patience()

    def _weigh_patience(self) -> None:
        if self._patience:
            self._patience.run(on=not self._over.is_set() and not self._conversation.windows.scarce)

    async def _drive(self, unsent: JobFrames | None, transcript: Transcript) -> None:
        """From the first frame to the last event; whatever goes wrong ends the queue with an error."""
        feeder = None
        if unsent:
            feeder = asyncio.create_task(send_job(unsent, self._stream))
            feeder.add_done_callback(self._fed)
        queue = self._conversation.queue
        try:
            await self._over.wait()
            self._ended_at = self._ended_at or time.monotonic()
            self._stop_timers()
            if self._connections:
                self._connections.cut()
                await self._connections.ended()
            if self._failure is None:
                await self._conclude(transcript)
            else:
                queue.close(error=self._failure)
        finally:
            if feeder:
                feeder.cancel()
                await asyncio.gather(feeder, return_exceptions=True)
            queue.close(error=InternalError("the sandbox's driver ended before its run"))

    def _fed(self, feeder: asyncio.Task[None]) -> None:
        """The job is handed over, or can't be. Where the connection broke, the container's last words say more."""
        error = None if feeder.cancelled() else feeder.exception()
        if isinstance(error, Exception) and not isinstance(error, OSError):
            self._end(error)

    async def _conclude(self, transcript: Transcript) -> None:
        """Gathers the evidence, hears no more, and ends the queue."""
        error: Exception | None = None
        died_of_memory = False
        if not self._kill:
            await self._witness.look()
            if not self._kill:  # else they were read before the kill, when there was more to read
                self._witness.sample()
            await self._witness.hear_of_memory(transcript)
            if transcript.phase is Phase.REFUSED:
                error = InvalidArgumentError(
                    f"the job can't be put into the sandbox: {transcript.refusal}", reason="INPUT_REFUSED"
                )
            elif transcript.phase is not Phase.DONE:
                died_of_memory = await self._witness.died_of_memory()
                error = None if died_of_memory or self._kill else self._vanished(transcript)
        self._hear_no_more()
        if error:
            self._conversation.queue.close(error=error)
        else:
            wall_s = self._ended_at - self._started_at if self._started_at else 0.0
            limits = self._profile.limits
            ended = self._witness.ended(
                limits,
                transcript,
                self._kill,
                wall_s=wall_s,
                died_of_memory=died_of_memory,
                unconfirmed=self._unconfirmed,
            )
            self._conversation.queue.close(ended)

    def _vanished(self, transcript: Transcript) -> UnavailableError:
        if self._conversation.runner_words:
            log.error("sandbox.runner_words", container=self._id, words=visible(self._conversation.runner_words))
        return _engine_failed(f"the sandbox's runner ended while {transcript.phase.value}")

    def _stop_timers(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._patience:
            self._patience.run(on=False)
            self._patience = None

    def _start_removal(self, linger_s: float) -> None:
        if self._removal is None:
            self._removal = self._hands.background(self._remove(linger_s))

    def _hear_no_more(self) -> None:
        if self._idle:
            self._stream.hush()  # cut when it is removed: that is work for the engine, and somebody waits for the outcome
        else:
            self._stream.cut()  # whatever the engine does with the container: the tool ends with its runner

    @property
    def _idle(self) -> bool:
        """Whether nothing but its runner is in the container, which has nothing to do any more. Where a tool can speak in
        the runner's place, nobody knows.
        """
        if self._kill or self._failure:
            return False
        if self._transcript is None:
            return True
        return self._isolated and self._transcript.phase in {Phase.HELD, Phase.DONE, Phase.REFUSED}

    async def _remove(self, linger_s: float) -> None:
        try:
            if not self._now.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._now.wait(), linger_s)
            if self._idle:
                await self._part()
            await self._hands.remove(self._id)
        finally:
            self._stream.cut()
            self._hands.gone(self._id)

    async def _part(self) -> None:
        """Lets the runner end by itself: to kill a container costs an engine as much as a seventh of all else that it does
        for it.
        """
        self._stream.cut()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._watch.died.wait(), LEAVE_S)


def _succeeded(task: asyncio.Task[None] | None) -> bool:
    return task is not None and task.done() and not task.cancelled() and task.exception() is None


def _engine_failed(text: str) -> UnavailableError:
    return UnavailableError(
        text, reason="ENGINE_FAILED", hint="what the tool did before is unknown; look at `broker doctor`"
    )
