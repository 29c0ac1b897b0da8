"""From a call's turn to its outcome: decide again, write the intent, run, write how it ended.

The intent is durable before anything of the tool runs; the outcome is durable before anybody is told of it. What went wrong
on our side is never shown as the tool's doing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import structlog

from broker.domain.call import CallState
from broker.domain.envelope import frame_digest_of
from broker.domain.events import CallEvent, EventPayload, Outcome
from broker.domain.meter import Step
from broker.domain.ports import CallRow, Transaction
from broker.domain.run import EndCause, Job
from broker.domain.tree import Effect
from broker.errors import (
    BrokerError,
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from broker.pipeline.active import ActiveCall, Ending, write_events
from broker.pipeline.applying import Applying
from broker.pipeline.blobs import Blobs, BlobWriter
from broker.pipeline.claims import Claims
from broker.pipeline.collect import Collector
from broker.pipeline.effect_reading import EffectReader
from broker.pipeline.ending import close_approval, finish
from broker.pipeline.folder_applying import FolderApplying
from broker.pipeline.hold import Hold
from broker.pipeline.outside import Outside
from broker.pipeline.parts import Parts
from broker.pipeline.planning import Planning
from broker.pipeline.ran import Ran
from broker.pipeline.recordings import with_recording
from broker.pipeline.start import Begun, Starter
from broker.pipeline.turns import Turns
from broker.pipeline.verdict import judge, lost, never_ran
from broker.pipeline.waiting import NOT_YET, Waiting
from broker.sandbox.egress.gate import EgressSession
from broker.sandbox.engine import Lease

_log = structlog.get_logger(__name__)
_AGAIN_S = 2.0
_WITH_CONTAINER = frozenset({CallState.RUNNING, CallState.PLANNING, CallState.APPLYING})
"""States in which a container may be at work for the call."""
T = TypeVar("T")


class Execution:
    """Drives admitted calls, each in its own task."""

    def __init__(self, parts: Parts, turns: Turns, starter: Starter, blobs: Blobs) -> None:
        self._parts = parts
        self._turns = turns
        self._starter = starter
        self._waiting = Waiting(parts)
        claims = Claims()
        self._planning = Planning(parts, blobs, claims)
        applying = Applying(parts, starter)
        self._applying = FolderApplying(parts, applying)
        self._outside = Outside(parts, blobs, applying, claims)

    async def drive(self, active: ActiveCall, begun: Begun | None = None) -> None:
        """Takes a call to its end, from the queue or from where it has begun; what fails on our side ends the feed with
        that failure.
        """
        try:
            if active.applying:
                await self._resume(active)
            elif active.approval:
                await self._drive_approved(active)
            elif begun is not None or await self._wait_for_turn(active):
                try:
                    await self._run(active, begun)
                finally:
                    self._turns.release(active.row.agent)
                if active.approval and active.row.state is CallState.PENDING_APPROVAL:
                    await self._drive_approved(active)
        except asyncio.CancelledError:
            active.feed.fail(_stopping())
            raise
        except BrokerError as error:
            _log.error("call.failed", call=active.row.id, reason=error.reason, error=error.message)
            active.feed.fail(error)
        except Exception:  # noqa: BLE001 - the fail-closed boundary of a call: its outcome stays unknown
            _log.exception("call.failed", call=active.row.id)
            active.feed.fail(UnavailableError("the broker failed during the call; its outcome is not on record"))
        finally:
            active.handed.set()

    async def _resume(self, active: ActiveCall) -> None:
        try:
            await self._outside.resume(active)
        except BrokerError as error:
            if active.applying:
                detail = f"the broker stopped while the effect was applied, and it can't be looked at: {error.message}"
                await self._finish(active, CallState.UNKNOWN, lost(detail))
            raise

    async def _drive_approved(self, active: ActiveCall) -> None:
        """Waits for people, then for its turn; where they no longer agree at the use, it waits again."""
        active.sealed = None  # people may take days, and no keys are held for so long
        agent = active.row.agent
        while await self._waiting.approved(active):
            count = self._parts.bell.count
            self._turns.reserve(agent, force=True)
            if not await self._wait_for_turn(active):
                return
            try:
                await self._run(active, None)
            finally:
                self._turns.release(agent)
            if active.row.state is not CallState.APPROVED:
                return
            active.waiting = True
            # What the use refused is looked at again once something has changed, and not at once.
            await self._parts.bell.heard(count, _AGAIN_S)

    async def _wait_for_turn(self, active: ActiveCall) -> bool:
        agent = active.row.agent
        turn = asyncio.ensure_future(self._turns.acquire(agent))
        asked = asyncio.ensure_future(active.asked_to_end.wait())
        try:
            await asyncio.wait({turn, asked}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._turns.release(agent)
            else:
                turn.cancel()
                self._turns.give_back(agent)
            raise
        finally:
            asked.cancel()
        if turn.done():
            active.waiting = False
            active.clock.took(Step.QUEUE)
            return True
        turn.cancel()
        self._turns.give_back(agent)
        await self._cancel_before_start(active)
        return False

    async def _cancel_before_start(self, active: ActiveCall) -> None:
        ending = active.ending or Ending(EndCause.CLIENT, "cancelled")
        await self._never_ran(active, never_ran(ending.cause, ending.detail))

    async def _run(self, active: ActiveCall, begun: Begun | None) -> None:
        if active.planned:
            await self.apply(active)
            return
        begun = begun or await self._begun(active, self._starter.begin)
        if begun is None:
            return
        try:
            ran = await self._in_container(active, begun)
        finally:
            await begun.hold.release()
        if ran is None:
            return
        await self._planning.settle(active, begun.plan, ran)
        if active.planned and not active.approval:
            await self.apply(active)

    async def apply(self, active: ActiveCall) -> None:
        """Applies the plan of a call: in one step of ours, or by the tool's own program where it lies outside."""
        if active.tool.spec.outside is None:
            await self._begun(active, self._applying.apply)
            return
        begun = await self._begun(active, self._outside.begin)
        if begun is None:
            return
        try:
            try:
                ran = await self._in_container(active, begun)
            finally:
                await begun.hold.release()
            if ran is not None:
                await self._outside.settle(active, begun, ran)
        except Exception as error:
            if active.applying:
                await self._finish(
                    active, CallState.UNKNOWN, lost(f"the broker failed while the effect was applied: {error}")
                )
            raise
        finally:
            self._outside.over(active)

    async def _begun(self, active: ActiveCall, begin: Callable[[ActiveCall], Awaitable[T]]) -> T | None:
        """Begins a call whose turn has come; one that may not or can't begin is ended, and nothing was done."""
        if active.ending is not None:
            await self._cancel_before_start(active)
            return None
        try:
            return await begin(active)
        except (PermissionDeniedError, UnauthenticatedError, FailedPreconditionError, NotFoundError) as error:
            if active.ending is not None:
                await self._cancel_before_start(active)
                return None
            if active.approval and error.reason in NOT_YET:
                return None
            await self._finish(active, CallState.DENIED, never_ran(EndCause.POLICY, f"{error.reason}: {error.message}"))
        except BrokerError as error:
            if active.ending is not None:
                await self._cancel_before_start(active)
                return None
            # Nothing ran, whatever became of the intent: the call ends here, and its caller is told whose fault it is.
            detail = f"the broker could not start the call: {error.reason}: {error.message}"
            await self._finish(active, CallState.CANCELLED, never_ran(EndCause.ENGINE, detail))
        return None

    async def _in_container(self, active: ActiveCall, begun: Begun) -> Ran | None:
        """Runs a call that has begun; what goes wrong before its job is handed over is no run.

        Returns:
            What a run on a copy came to; ``None`` where the call has ended.
        """
        claimed = await self._claimed(active, begun)
        if claimed is None:
            return None
        lease, egress = claimed
        collector = self._collector(active, begun)
        try:
            return await self._run_job(active, begun.plan.job, lease, egress, collector)
        except BrokerError as error:
            if active.row.state not in _WITH_CONTAINER:
                raise
            return await self._broke(active, error, collector)
        except Exception:
            if active.applying:
                _log.exception("call.failed", call=active.row.id)
                return _unknown("the broker failed during the call", collector)
            if active.row.state in _WITH_CONTAINER:
                await self._lost(active, "the broker failed during the call", collector.unwritten())
            raise
        finally:
            active.lease = None

    async def _claimed(self, active: ActiveCall, begun: Begun) -> tuple[Lease, EgressSession] | None:
        """The call's container, and its way out; ``None`` where the call has ended instead."""
        try:
            egress = active.egress or self._parts.egress.session(active.row.id, begun.plan.profile.egress)
            active.egress, active.lease = egress, await self._container(active, begun.hold)
        except BrokerError as error:
            await self._never_started(active, error)
            return None
        except Exception:
            await self._never_ran(active, never_ran(EndCause.ENGINE, "the broker failed before the tool could start"))
            raise
        if active.lease is None:
            await self._cancel_before_start(active)
            return None
        return active.lease, egress

    def _collector(self, active: ActiveCall, begun: Begun) -> Collector:
        tree = begun.plan.tree if active.tool.spec.planned else None
        return Collector(
            emit=lambda payloads: self._emit(active, payloads),
            new_blob=lambda: BlobWriter(
                self._parts,
                active.row.agent,
                data_classes=active.request.data_classes,
                quota=False,
                workspace=active.row.workspace,
                call=active.row.id,
            ),
            expires=active.request.expires,
            room=active.feed.room,
            tree=None if tree is None else EffectReader(self._parts.objects, tree.entries),
        )

    async def _broke(self, active: ActiveCall, error: BrokerError, collector: Collector) -> Ran | None:
        """What is said of a run that broke off on our side."""
        if active.applying and not isinstance(error, FailedPreconditionError):
            return _unknown(error.message, collector)  # not even that it hadn't started is sure enough to say so
        if collector.started:
            await self._lost(active, error.message, collector.unwritten())
        else:
            await self._never_started(active, error)
        return None

    async def _container(self, active: ActiveCall, hold: Hold) -> Lease | None:
        """The call's container; ``None`` where the call is to end before there is one."""
        if hold.settled:
            return await hold.lease()
        claim = asyncio.ensure_future(hold.lease())
        asked = asyncio.ensure_future(active.asked_to_end.wait())
        try:
            await asyncio.wait({claim, asked}, return_when=asyncio.FIRST_COMPLETED)
            return claim.result() if claim.done() else None
        finally:
            claim.cancel()
            asked.cancel()

    async def _run_job(
        self, active: ActiveCall, job: Job, lease: Lease, egress: EgressSession, collector: Collector
    ) -> Ran | None:
        active.clock.restart()
        # What people agreed to is compared once more with the very bytes that go out; those of a planned effect were compared
        # with its plan, and files of the workspace may have come since.
        approved = frame_digest_of(active.request.envelope) if active.approval and not active.planned else ""
        if active.ending is not None:
            lease.kill(active.ending.cause, active.ending.detail)
        asyncio.get_running_loop().call_soon(active.handed.set)  # once the step that follows has let the job start
        collected = await collector.consume(lease.run(job, egress, frame_digest=approved), lease.taken)
        active.clock.took(Step.RUN)
        state, outcome = judge(
            active.tool,
            collected.ended,
            collected.result,
            collected.files,
            egress=egress.records(),
            warnings=egress.warnings(),
        )
        if collector.tree is not None:
            effect, complete = collector.tree.effect(), collected.ended.tree_complete
            return Ran(state, outcome, effect, complete=complete, tail=tuple(collected.tail))
        # Nobody hears the run any more: nothing it does from here on reaches anybody. The removal may follow.
        await self._finish(active, state, outcome, collected.tail)
        return None

    async def _never_started(self, active: ActiveCall, error: BrokerError) -> None:
        detail = f"the tool never started, as far as its sandbox said: {error.message}"
        await self._never_ran(active, never_ran(EndCause.ENGINE, detail))

    async def _never_ran(self, active: ActiveCall, outcome: Outcome) -> None:
        if active.row.state is CallState.APPLYING:
            await self._outside.never_started(active, outcome)
        else:
            await self._finish(active, CallState.CANCELLED, outcome)

    async def _emit(self, active: ActiveCall, payloads: list[EventPayload]) -> None:
        now = self._parts.clock()

        def work(tx: Transaction) -> tuple[CallRow, list[CallEvent]]:
            sealed = active.sealed or self._parts.vault.open(tx, active.row.id)
            events = write_events(tx, sealed, active.row.last_event, now, payloads)
            row = replace(active.row, last_event=events[-1].number)
            tx.calls.replace(row)
            return row, events

        active.row, events = await self._parts.store.write(work)
        active.feed.publish(events)

    async def _lost(self, active: ActiveCall, why: str, tail: Sequence[EventPayload]) -> None:
        if active.row.state is CallState.PLANNING:
            detail = f"the plan broke off, and nothing was changed: {why}"
            await self._finish(active, CallState.CANCELLED, lost(detail), tail)
            return
        _log.error("call.unknown", call=active.row.id, error=why)
        detail = f"the call may have run; its outcome is not known: {why}"
        await self._finish(active, CallState.UNKNOWN, replace(lost(detail), egress=active.reached), tail)

    async def _finish(
        self, active: ActiveCall, state: CallState, outcome: Outcome, tail: Sequence[EventPayload] = ()
    ) -> None:
        outcome = outcome if outcome.egress else replace(outcome, egress=active.reached)
        outcome = await with_recording(self._parts, active, outcome)
        also = close_approval(self._parts, active.approval, outcome.cause.value) if active.approval else None
        active.row, events = await finish(
            self._parts, active.row, state, outcome, tail, also=also, sealed=active.sealed, foresee=active.foreteller()
        )
        active.feed.publish(events)
        active.clock.took(Step.FINISH)
        self._parts.directory.look_soon()


def _unknown(why: str, collector: Collector) -> Ran:
    return Ran(CallState.UNKNOWN, lost(why), Effect(()), complete=False, tail=tuple(collector.unwritten()))


def _stopping() -> UnavailableError:
    return UnavailableError(
        "the broker is shutting down; the call goes on when it starts again, unless it was running",
        reason="DRAINING",
        hint="Watch the call by its name once the broker is back.",
        retry_after_s=1.0,
    )
