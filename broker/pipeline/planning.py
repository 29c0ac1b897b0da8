"""From a run on a copy to an effect that may be applied: read, kept undoable, tried, and shown to whom it takes.

Nothing outside the sandbox is changed here, whatever fails: a plan that comes to nothing ends its call, and that is all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial

import structlog

from broker.domain.call import CallState
from broker.domain.canonical import JsonObject
from broker.domain.envelope import salt_of
from broker.domain.events import CallEvent, EventPayload, Outcome, StateChanged
from broker.domain.identity import Caller
from broker.domain.planned import PLANNED, Planned, encode_planned
from broker.domain.ports import CallRow, Transaction
from broker.domain.run import EndCause, EvidenceSource
from broker.domain.tier import Tier
from broker.domain.tree import reserved
from broker.errors import BrokerError, FailedPreconditionError, FieldViolation, UnauthenticatedError
from broker.pipeline import journal
from broker.pipeline.active import ActiveCall, move, write_events
from broker.pipeline.applying import applied, write_applied
from broker.pipeline.approving import Asked, ask, call_requirement, file_request, shown_files
from broker.pipeline.blobs import Blobs
from broker.pipeline.claims import Claims
from broker.pipeline.effect_history import check_in_effect
from broker.pipeline.ending import finish
from broker.pipeline.outside_plan import read_plan
from broker.pipeline.outside_steps import Steps
from broker.pipeline.parts import Parts
from broker.pipeline.plan import Plan
from broker.pipeline.ran import Ran
from broker.pipeline.rehearsing import rehearse
from broker.pipeline.start import input_blobs, wire_request
from broker.pipeline.workflows import approved_workflow
from broker.rollback.artifact import KIND, Manifest, pack
from broker.rollback.shown import MAX_TEXT, shown_changes, summary

_log = structlog.get_logger(__name__)


class Planning:
    """Makes plans of runs."""

    def __init__(self, parts: Parts, blobs: Blobs, claims: Claims) -> None:
        self._parts = parts
        self._blobs = blobs
        self._claims = claims
        self._steps = Steps(parts, blobs)

    async def settle(self, active: ActiveCall, plan: Plan, ran: Ran) -> None:
        """Takes a call on from the end of its run: it has ended, waits for people, or may be applied at once.

        Args:
            active: the call; its state tells what became of it.
            plan: what it ran.
            ran: how the run ended; its container is gone.
        """
        tail = ran.tail
        if plan.tree is not None and plan.tree.step is not None:
            ran = read_plan(active.tool, plan.tree, ran)
        wrong = self._wrong(plan, ran)
        if wrong is not None:
            await self._end(active, *wrong, tail)
            return
        if ran.already:
            try:
                await self._nothing_left(active, ran)
            except BrokerError as error:
                await self._refused(active, ran, error)
            return
        if not ran.effect.changes:
            await self._end(active, CallState.SUCCEEDED, ran.outcome, tail)
            return
        try:
            planned = await self._keep(active, plan, ran)
            asked = await self._ask(active, planned)
        except BrokerError as error:
            await self._refused(active, ran, error)
            return
        await self._record(active, planned, asked, tail)

    async def _refused(self, active: ActiveCall, ran: Ran, error: BrokerError) -> None:
        _log.warning("plan.refused", call=active.row.id, reason=error.reason, error=error.message)
        ours = error.reason in {"REHEARSAL_FAILED", "ENGINE_FAILED"}
        detail = f"{error.reason}: {error.message}; nothing was changed"
        cause = EndCause.ENGINE if ours else EndCause.POLICY
        outcome = replace(ran.outcome, cause=cause, cause_source=EvidenceSource.BROKER, detail=detail)
        outcome = replace(outcome, egress=active.reached)
        await self._end(active, CallState.CANCELLED if ours else CallState.DENIED, outcome, ran.tail)

    def _wrong(self, plan: Plan, ran: Ran) -> tuple[CallState, Outcome] | None:
        """How the call ends whose run is no plan; ``None`` where it is one."""
        outcome = ran.outcome
        if ran.state is CallState.UNKNOWN:
            detail = f"{outcome.detail}; it was a plan, and nothing was changed"
            return CallState.CANCELLED, replace(outcome, detail=detail)
        if ran.state is not CallState.SUCCEEDED:
            return ran.state, outcome
        if not ran.complete:
            detail = "not all that the tool changed could be told, as the warnings say: nothing was changed"
            return CallState.FAILED, replace(outcome, detail=detail)
        inside = plan.tree is None or plan.tree.step is None
        kept = [path for path in ran.effect.paths if reserved(path)] if inside else []
        if kept:
            detail = f"the tool changed {min(kept)!a}, where no workspace may have files: nothing was changed"
            return CallState.FAILED, replace(outcome, detail=detail)
        expected = None if plan.tree is None else plan.tree.expected
        if expected is not None and ran.effect != expected and not ran.already:
            detail = "what was put back is not what had been there: nothing was changed"
            broker = EvidenceSource.BROKER
            return CallState.CANCELLED, replace(outcome, cause=EndCause.ENGINE, cause_source=broker, detail=detail)
        return None

    async def _end(self, active: ActiveCall, state: CallState, outcome: Outcome, tail: Sequence[EventPayload]) -> None:
        active.row, events = await finish(self._parts, active.row, state, outcome, tail)
        active.feed.publish(events)
        self._parts.directory.look_soon()

    async def _nothing_left(self, active: ActiveCall, ran: Ran) -> None:
        """Ends an undo of what isn't there: on record it counts as taken back from now on, and nothing is changed."""
        parts = self._parts
        planned = Planned("", "", ran.effect, "", ran.outcome, active.request.undoes)
        detail = "all is as it was before: nothing had to be taken back"
        effect = applied(planned, salt_of(active.request.envelope))
        outcome = replace(ran.outcome, detail=detail, effect=effect, egress=active.reached)

        def work(tx: Transaction) -> tuple[CallRow, list[CallEvent]]:
            for call in active.request.undoes:
                check_in_effect(tx, call)
            row = active.row
            return write_applied(tx, parts, row, CallState.SUCCEEDED, outcome, now=parts.clock(), tail=ran.tail)

        with self._claims.of(
            active.request.undoes
        ):  # what another takes back just now may be as before because of that
            active.row, events = await parts.store.write(work)
        active.feed.publish(events)
        parts.meter.ended(outcome.cause, active.row.state.value)

    async def _keep(self, active: ActiveCall, plan: Plan, ran: Ran) -> Planned:
        """Keeps what takes the effect back, and tries it.

        Raises:
            BrokerError: it can't be kept, or doesn't bring back what was there (``REHEARSAL_FAILED``).
        """
        parts, row, tree = self._parts, active.row, plan.tree
        if tree is None:
            raise FailedPreconditionError("a plan needs a workspace's files", reason="WORKSPACE_EMPTY")
        manifest = Manifest(row.id, row.workspace, tree.base, ran.effect)
        kept = await parts.artifacts.put(
            pack(manifest, parts.objects.open),
            workspace=row.workspace,
            call=row.id,
            kind=KIND,
            retention=timedelta(seconds=active.tool.spec.retention),
        )
        planned = Planned(tree.base, tree.selection, ran.effect, kept.digest, ran.outcome, tree.undoes)
        if tree.step is None:
            await rehearse(parts, row.id, kept.digest, row.id, ran.effect)
            return planned
        return await self._steps.tried(active, planned)

    async def _ask(self, active: ActiveCall, planned: Planned) -> Asked | None:
        """What people are shown, where the tier asks for people.

        Raises:
            FailedPreconditionError: not all of the effect can be shown (``EFFECT_NOT_SHOWN``).
            BrokerError: as ``ask``.
        """
        parts, request = self._parts, active.request
        requirement = call_requirement(parts, Tier(active.row.tier))
        if requirement is None:
            return None
        effect = await self._shown(planned, salt_of(request.envelope))
        blobs = await parts.store.read(lambda tx: input_blobs(tx, request)) if request.files else []
        files = await shown_files(self._blobs, request.files, blobs)

        def work(tx: Transaction) -> Asked:
            identity = tx.identities.get(active.row.agent)
            certificate = tx.identities.certificate(request.fingerprint)
            if identity is None or certificate is None:
                raise UnauthenticatedError("the certificate of the call has been revoked", reason="CERTIFICATE_REVOKED")
            return ask(
                tx,
                parts,
                caller=Caller(identity, certificate),
                request=wire_request(request),
                tool=active.tool,
                tier=Tier(active.row.tier),
                lineage=request.lineage,
                decision=request.decision,
                call=request.envelope.encode(),
                files=files,
                workflow=approved_workflow(tx, parts, request.context.workflow),
                requirement=requirement,
                effect=effect,
            )

        return await parts.store.read(work)

    async def _shown(self, planned: Planned, salt: str) -> JsonObject:
        files = self._parts.objects.files
        content = partial(files.load, most=MAX_TEXT)
        changes, missing = await asyncio.to_thread(shown_changes, planned.effect, content)
        if missing:
            raise FailedPreconditionError(
                f"{len(missing)} of the changes can't be shown whole to those who decide: {missing[0].path!r}",
                reason="EFFECT_NOT_SHOWN",
                violations=tuple(FieldViolation(item.path, item.why) for item in missing[:20]),
                hint="Nobody approves what they can't see. Change less in one call.",
            )
        return {"bound": planned.bound(salt), "summary": summary(planned.effect), "changes": changes}

    async def _record(
        self, active: ActiveCall, planned: Planned, asked: Asked | None, tail: Sequence[EventPayload]
    ) -> None:
        """Writes the plan's end; with it, where people have to agree, the request to them."""
        parts = self._parts

        def work(tx: Transaction) -> tuple[CallRow, str, list[CallEvent]]:
            now, row = parts.clock(), active.row
            sealed = parts.vault.open(tx, row.id)
            sealed.put(tx, {PLANNED: encode_planned(planned)})
            bound = planned.bound(salt_of(active.request.envelope))
            body = journal.plan_outcome_body(row, planned, bound, sealed)
            parts.ledger.append(tx, "plan.outcome", body, agent=row.agent)
            more: list[EventPayload] = list(tail)
            approval = ""
            if asked is not None:
                filed = file_request(tx, parts.desk, asked, row, active.request)
                approval, state = filed.id, CallState.PENDING_APPROVAL
                move(row, state)
                row = replace(row, state=state)
                waits = f"waits for approvals/{filed.id}, until {filed.expires.isoformat()}"
                more.append(StateChanged(state, waits))
            events = write_events(tx, sealed, row.last_event, now, more) if more else []
            row = replace(row, last_event=events[-1].number) if events else row
            tx.calls.replace(row)
            return row, approval, events

        try:
            active.row, active.approval, events = await parts.store.write(work)
        except BrokerError as error:
            # Too many wait already, or nobody is left who could agree: as when a call is refused at once.
            detail = f"{error.reason}: {error.message}; nothing was changed"
            outcome = replace(planned.outcome, cause=EndCause.POLICY, cause_source=EvidenceSource.BROKER, detail=detail)
            await self._end(active, CallState.DENIED, outcome, tail)
            return
        active.planned = True
        active.waiting = bool(active.approval)
        active.feed.publish(events)
        parts.bell.ring(active.approval)
