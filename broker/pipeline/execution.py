"""From a call's turn to its outcome: decide again, write the intent, run, write how it ended.

The intent is durable before the container exists; the outcome is durable before anybody is told of it. What went wrong
on our side is never shown as the tool's doing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import structlog

from broker.domain.call import CallRequest, CallState, Decision, PolicyRequest
from broker.domain.canonical import digest, parse_object
from broker.domain.events import CallEvent, EventPayload, Finished, Outcome, StateChanged, StoredRequest
from broker.domain.identity import Caller
from broker.domain.meter import Step
from broker.domain.ports import CallRow, Transaction, VaultRow
from broker.domain.run import EndCause
from broker.errors import (
    BrokerError,
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from broker.identity.directory import Directory
from broker.identity.lineage import prove
from broker.pipeline import journal
from broker.pipeline.active import ActiveCall, Ending, move, write_events
from broker.pipeline.blobs import Blobs, BlobWriter
from broker.pipeline.checks import denied, require_no_approval
from broker.pipeline.collect import Collector
from broker.pipeline.parts import Parts
from broker.pipeline.plan import Plan, plan_job, seal_envelope
from broker.pipeline.turns import Turns
from broker.pipeline.verdict import judge, lost, never_ran

_log = structlog.get_logger(__name__)


class Execution:
    """Drives admitted calls, each in its own task."""

    def __init__(self, parts: Parts, blobs: Blobs, turns: Turns) -> None:
        self._parts = parts
        self._blobs = blobs
        self._turns = turns

    async def drive(self, active: ActiveCall) -> None:
        """Takes a call from the queue to its end; what fails on our side ends the feed with that failure."""
        try:
            if await self._wait_for_turn(active):
                try:
                    await self._run(active)
                finally:
                    self._turns.release(active.row.agent)
        except asyncio.CancelledError:
            active.feed.fail(_stopping())
            raise
        except BrokerError as error:
            _log.error("call.failed", call=active.row.id, reason=error.reason, error=error.message)
            active.feed.fail(error)
        except Exception:  # noqa: BLE001 - the fail-closed boundary of a call: its outcome stays unknown
            _log.exception("call.failed", call=active.row.id)
            active.feed.fail(UnavailableError("the broker failed during the call; its outcome is not on record"))

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
        await self._finish(active, CallState.CANCELLED, never_ran(ending.cause, ending.detail))

    async def _run(self, active: ActiveCall) -> None:
        if active.ending is not None:
            await self._cancel_before_start(active)
            return
        try:
            plan = await self._begin(active)
        except (PermissionDeniedError, UnauthenticatedError, FailedPreconditionError, NotFoundError) as error:
            await self._finish(active, CallState.DENIED, never_ran(EndCause.POLICY, f"{error.reason}: {error.message}"))
            return
        except BrokerError as error:
            # Nothing ran, whatever became of the intent: the call ends here, and its caller is told whose fault it is.
            detail = f"the broker could not start the call: {error.reason}: {error.message}"
            await self._finish(active, CallState.CANCELLED, never_ran(EndCause.ENGINE, detail))
            return
        try:
            await self._in_container(active, plan)
        except BrokerError as error:
            if active.row.state is not CallState.RUNNING:
                raise
            await self._lost(active, error.message)
        except Exception:
            if active.row.state is CallState.RUNNING:
                await self._lost(active, "the broker failed during the call")
            raise

    async def _begin(self, active: ActiveCall) -> Plan:
        """Decides again and writes the intent, in one transaction: nothing comes between the two."""
        parts, request = self._parts, active.request
        plan = await self._plan(active)
        self._check_envelope(active, plan)
        directory = await parts.directory.current()
        now = parts.clock()

        def work(tx: Transaction) -> tuple[CallRow, list[CallEvent]]:
            decision = self._decide_again(tx, active, directory)
            move(active.row, CallState.RUNNING)
            sealed = parts.vault.open(tx, active.row.id)
            body = {
                **journal.request_body(active.row, request, plan.profile.image, sealed),
                **journal.decision_body(decision, active.row.agent),
                "decision_seq": -1 if active.row.decision_seq is None else active.row.decision_seq,
            }
            seq = parts.ledger.append(tx, "intent", body, agent=active.row.agent)
            running = StateChanged(CallState.RUNNING)
            events = write_events(tx, sealed, active.row.last_event, now, [running])
            row = replace(
                active.row, state=CallState.RUNNING, started=now, intent_seq=seq, last_event=events[-1].number
            )
            tx.calls.replace(row)
            return row, events

        active.row, events = await parts.store.write(work)
        active.feed.publish(events)
        active.clock.took(Step.BEGIN)
        return plan

    async def _plan(self, active: ActiveCall) -> Plan:
        parts, row, request = self._parts, active.row, active.request
        tool = parts.catalogue.get(row.tool)
        if tool is None or tool.digest != row.tool_version or tool.spec.image not in parts.images:
            raise FailedPreconditionError(
                f"{row.tool} is not what it was when the call was admitted",
                reason="TOOL_VERSION_CHANGED",
                hint="Call it again.",
            )
        blobs = await parts.store.read(lambda tx: _blobs(tx, request)) if request.files else []
        return plan_job(
            parts,
            self._blobs,
            tool=tool,
            arguments_bytes=request.arguments_json.encode(),
            files=request.files,
            rows=blobs,
        )

    def _check_envelope(self, active: ActiveCall, plan: Plan) -> None:
        """Recomputes the envelope from what is about to run: what was admitted is what runs."""
        request = active.request
        arguments_bytes = request.arguments_json.encode()
        wire_request = CallRequest(
            tool=request.tool,
            tool_version=request.tool_version,
            arguments=parse_object(arguments_bytes, field="arguments", max_bytes=len(arguments_bytes)),
            arguments_bytes=arguments_bytes,
            files=request.files,
            context=request.context,
            request_id=request.request_id,
        )
        now = seal_envelope(
            active.row.id,
            request=wire_request,
            lineage=request.lineage,
            tool=active.tool,
            plan=plan,
            decision=request.decision,
            expires=request.expires,
        )
        if digest(now) != active.row.envelope_digest:
            raise FailedPreconditionError(
                f"what would run is not what was admitted: envelope {digest(now)} instead of {active.row.envelope_digest}",
                reason="ENVELOPE_CHANGED",
                hint="Call it again.",
            )

    def _decide_again(self, tx: Transaction, active: ActiveCall, directory: Directory) -> Decision:
        parts, request = self._parts, active.request
        now = parts.clock()
        if request.context.delegation:
            directory = Directory.load(tx)  # the delegating human's certificate, as of this very transaction
        identity = tx.identities.get(active.row.agent)
        certificate = tx.identities.certificate(request.fingerprint)
        if identity is None or certificate is None or certificate.revoked is not None:
            raise UnauthenticatedError("the certificate of the call has been revoked", reason="CERTIFICATE_REVOKED")
        caller = Caller(identity, certificate)
        tier = active.tool.spec.risk
        lineage = prove(tx, directory, caller=caller, context=request.context, tier=tier, now=now, origin=parts.origin)
        if lineage != request.lineage:
            raise PermissionDeniedError(
                "the call's lineage has changed since it was admitted", reason="LINEAGE_CHANGED"
            )
        decision = parts.policy.snapshot.decide(
            PolicyRequest(caller.subject, request.context.workspace, active.row.tool, "call", tier)
        )
        if not decision.allowed:
            raise denied(caller, active.row.tool, request.context.workspace, decision)
        require_no_approval(active.tool, tier)
        return decision

    async def _in_container(self, active: ActiveCall, plan: Plan) -> None:
        collector = Collector(
            emit=lambda payloads: self._emit(active, payloads),
            new_blob=lambda: BlobWriter(
                self._parts, active.row.agent, data_classes=active.request.data_classes, quota=False
            ),
            expires=active.request.expires,
            room=active.feed.room,
        )
        egress = active.egress = self._parts.egress.session(active.row.id, plan.profile.egress)
        try:
            async with self._parts.sandboxes.lease(active.row.id, plan.profile) as lease:
                active.lease = lease
                active.clock.restart()
                if active.ending is not None:
                    lease.kill(active.ending.cause, active.ending.detail)
                collected = await collector.consume(lease.run(plan.job, egress), lease.taken)
                active.clock.took(Step.RUN)
                state, outcome = judge(
                    active.tool,
                    collected.ended,
                    collected.result,
                    collected.files,
                    egress=egress.records(),
                    warnings=egress.warnings(),
                )
                # The run's streams are cut: nothing it does from here on reaches anybody. The removal may follow.
                await self._finish(active, state, outcome, collected.tail)
        except BrokerError as error:
            if active.row.state is CallState.RUNNING and not collector.started:
                detail = f"the tool never started: {error.message}"
                await self._finish(active, CallState.CANCELLED, never_ran(EndCause.ENGINE, detail))
                return
            raise
        finally:
            active.lease = None

    async def _emit(self, active: ActiveCall, payloads: list[EventPayload]) -> None:
        now = self._parts.clock()

        def work(tx: Transaction) -> tuple[CallRow, list[CallEvent]]:
            sealed = self._parts.vault.open(tx, active.row.id)
            events = write_events(tx, sealed, active.row.last_event, now, payloads)
            row = replace(active.row, last_event=events[-1].number)
            tx.calls.replace(row)
            return row, events

        active.row, events = await self._parts.store.write(work)
        active.feed.publish(events)

    async def _lost(self, active: ActiveCall, why: str) -> None:
        _log.error("call.unknown", call=active.row.id, error=why)
        detail = f"the call may have run; its outcome is not known: {why}"
        egress = active.egress.records() if active.egress else ()
        await self._finish(active, CallState.UNKNOWN, replace(lost(detail), egress=egress))

    async def _finish(
        self, active: ActiveCall, state: CallState, outcome: Outcome, tail: Sequence[EventPayload] = ()
    ) -> None:
        active.row, events = await finish(self._parts, active.row, state, outcome, tail)
        active.feed.publish(events)
        active.clock.took(Step.FINISH)
        self._parts.meter.ended(outcome.cause, state.value)


async def finish(
    parts: Parts, row: CallRow, state: CallState, outcome: Outcome, tail: Sequence[EventPayload] = ()
) -> tuple[CallRow, list[CallEvent]]:
    """Writes a call's outcome: ledger entry, record and last event in one transaction. Durable on return."""
    now = parts.clock()

    def work(tx: Transaction) -> tuple[CallRow, list[CallEvent]]:
        move(row, state)
        sealed = parts.vault.open(tx, row.id)
        ended = replace(row, state=state, ended=now)
        entry_type = "unknown" if state is CallState.UNKNOWN else "outcome"
        seq = parts.ledger.append(tx, entry_type, journal.outcome_body(ended, outcome, now, sealed), agent=row.agent)
        events = write_events(tx, sealed, row.last_event, now, [*tail, Finished(state, outcome)])
        done = replace(ended, outcome_seq=seq, last_event=events[-1].number)
        tx.calls.replace(done)
        return done, events

    return await parts.store.write(work)


def _blobs(tx: Transaction, request: StoredRequest) -> list[VaultRow]:
    rows = [tx.vault.get(item.blob) for item in request.files]
    found = [row for row in rows if row is not None]
    if len(found) != len(rows):
        raise NotFoundError("an input file of the call is no longer kept", reason="BLOB_NOT_FOUND")
    return found


def _stopping() -> UnavailableError:
    return UnavailableError(
        "the broker is shutting down; the call goes on when it starts again, unless it was running",
        reason="DRAINING",
        hint="Watch the call by its name once the broker is back.",
        retry_after_s=1.0,
    )
