"""From a request to a call on record, or to a refusal that says why."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import timedelta

from broker.domain.call import (
    CallRequest,
    CallState,
)
from broker.domain.canonical import digest
from broker.domain.envelope import fresh_salt
from broker.domain.events import REQUEST, REQUEST_TEXTS, CallEvent, StateChanged, StoredRequest, encode_request
from broker.domain.identity import Caller
from broker.domain.ids import new_id
from broker.domain.meter import Step
from broker.domain.ports import OBJECT_COST, CallRow, SealedObject, Transaction
from broker.errors import (
    BrokerError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    PermissionDeniedError,
)
from broker.identity.directory import Directory
from broker.pipeline import journal
from broker.pipeline.active import ActiveCall, move, write_events
from broker.pipeline.admission_check import Checked, RequestChecks
from broker.pipeline.approving import Asked, ask, check_askable, file_request, shown_files
from broker.pipeline.blobs import Blobs, check_storage
from broker.pipeline.checks import (
    PolicyDeniedError,
    request_digest,
    tool_tier,
)
from broker.pipeline.feed import Feed
from broker.pipeline.hold import Hold
from broker.pipeline.parts import Parts
from broker.pipeline.plan import plan_job, seal_envelope
from broker.pipeline.rates import Rates
from broker.pipeline.refusals import Refusals
from broker.pipeline.runbooks import check_usable
from broker.pipeline.start import Begun, Starter
from broker.pipeline.stopwatch import Stopwatch
from broker.pipeline.taking_back import call_inputs
from broker.pipeline.turns import Turns
from broker.specs.catalogue import Tool


@dataclass(frozen=True, slots=True)
class Admitted:
    """The call, and what drives it; ``active`` is ``None`` where the same request had been admitted before."""

    call_id: str
    active: ActiveCall | None
    begun: Begun | None = None
    """Where its turn came at once, it has begun in the step that admitted it."""


class Admission:
    """Admits calls. Every refusal is an exception; those by policy or lineage are on the record as well."""

    def __init__(self, parts: Parts, blobs: Blobs, refusals: Refusals, turns: Turns, starter: Starter) -> None:
        self._parts = parts
        self._blobs = blobs
        self._checks = RequestChecks(parts, blobs)
        self._refusals = refusals
        self._turns = turns
        self._starter = starter
        bounds = parts.bounds
        self._rates = Rates(per_s=bounds.admissions_per_s, burst=bounds.admissions_burst, clock=time.monotonic)

    async def admit(self, caller: Caller, request: CallRequest) -> Admitted:
        """Checks, decides and records a request.

        Raises:
            PermissionDeniedError: policy, lineage or tier; names the rule.
            InvalidArgumentError: arguments, files or context; names the field.
            ConflictError: the request id stands for another request.
            ResourceExhaustedError: rate, quota or queue; says when to try again.
            FailedPreconditionError: another version of the tool was meant.
        """
        clock = Stopwatch(self._parts.meter)
        try:
            self._rates.take(caller.identity.id)
            checked = await self._checks.check(caller, request)
            if isinstance(checked, CallRow):
                return Admitted(checked.id, None)
            admitted = await self._take_in(caller, request, checked)
        except BrokerError as error:
            # The same request again has the same answer, whatever has changed since.
            known = await self._parts.store.read(lambda tx: self._checks.known(tx, caller, request))
            if known is not None:
                return Admitted(known.id, None)
            if isinstance(error, PermissionDeniedError):
                await self._record(caller, request, error)
            raise
        clock.took(Step.ADMIT)
        return admitted

    async def _take_in(self, caller: Caller, request: CallRequest, checked: Checked) -> Admitted:
        """Reserves a place, and a turn where one is free, for a call that is then put on record."""
        agent = caller.identity.id
        if request.context.runbook and checked.blobs:
            why = "can't stand in a call that uses a runbook"
            raise InvalidArgumentError(
                f"tool_call.files {why}",
                violations=(FieldViolation("tool_call.files", why),),
                reason="RUNBOOK_UNUSABLE",
            )
        if request.context.runbook and checked.tool.spec.planned:
            why = "names a tool whose effect is planned: what it would change isn't known beforehand"
            raise InvalidArgumentError(
                f"tool_call.context.runbook {why}",
                violations=(FieldViolation("tool_call.context.runbook", why),),
                reason="RUNBOOK_UNUSABLE",
            )
        if (checked.requirement is not None and not checked.tool.spec.planned) or request.context.runbook:
            # It takes a place once people have agreed: what waits for them holds up nobody.
            return await self._write(caller, request, checked, at_once=False)
        self._turns.reserve(agent)
        at_once = self._turns.take()
        give_back = self._turns.release if at_once else self._turns.give_back
        try:
            admitted = await self._write(caller, request, checked, at_once=at_once)
        except BaseException:
            give_back(agent)
            raise
        if admitted.active is None:
            give_back(agent)
        return admitted

    async def _record(self, caller: Caller, request: CallRequest, error: PermissionDeniedError) -> None:
        known = self._parts.catalogue.get(request.tool)
        workspace = request.context.workspace
        # Not whether a rule refused it: a rule for all workspaces refuses those that an agent makes up as well.
        named = workspace in self._parts.policy.snapshot.workspaces
        decision = error.decision if isinstance(error, PolicyDeniedError) and known and named else None
        body = journal.refusal_body(
            reason=error.reason,
            rule=error.metadata.get("rule", ""),
            # What an agent makes up is not written down: it could fill the ledger with names.
            obj=request.tool if known else "?",
            workspace=workspace if named else "?",
            tier=tool_tier(known),
            owner=caller.identity.owner,
            # What the decision read: without it nobody could ask what another policy would have said.
            policy=None if decision is None else journal.decision_body(decision, caller.identity.id),
        )
        await self._refusals.record(caller.identity.id, body)

    async def _write(self, caller: Caller, request: CallRequest, checked: Checked, *, at_once: bool) -> Admitted:
        now = self._parts.clock()
        call_id = new_id("call")
        tool = checked.tool
        # What waits for people is kept until they have decided, and from then on as long as any other call.
        waits_s = 0.0 if checked.requirement is None else checked.requirement.expiry_s
        expires = now + timedelta(seconds=tool.spec.retention + waits_s)
        base = ""
        if tool.spec.workspace is not None:
            base = await self._parts.folders.state(request.context.workspace)
        tree = await call_inputs(
            self._parts, tool, workspace=request.context.workspace, base=base, arguments=request.arguments
        )
        plan = plan_job(
            self._parts,
            self._blobs,
            tool=tool,
            arguments_bytes=request.arguments_bytes,
            files=request.files,
            rows=checked.blobs,
            tree=tree,
        )
        envelope = seal_envelope(
            call_id,
            request=request,
            lineage=checked.lineage,
            tool=tool,
            plan=plan,
            container=self._parts.sandboxes.expected_facts(plan.profile),
            tier=checked.tier,
            decision=checked.decision,
            expires=expires,
            salt=fresh_salt(),
        )
        # What a planned call will change isn't known yet: people are asked once it is.
        asks = checked.requirement is not None and not request.context.runbook and not tool.spec.planned
        asked = await self._ask(caller, request, checked, envelope) if asks else None
        stored = StoredRequest(
            tool=request.tool,
            tool_version=tool.digest,
            arguments_json=request.arguments_bytes.decode(),
            files=request.files,
            file_digests=dict(plan.file_digests),
            context=request.context,
            request_id=request.request_id,
            fingerprint=caller.certificate.fingerprint,
            agent_name=caller.identity.name,
            lineage=checked.lineage,
            decision=replace(checked.decision, inputs=dict(checked.decision.inputs)),
            data_classes=checked.data_classes,
            expires=expires,
            envelope=envelope.decode(),
            asked_version=request.tool_version,
            workflow_digest="" if checked.workflow is None else checked.workflow.digest(),
            base="" if tree is None else tree.base,
            undoes=() if tree is None else tree.undoes,
            acts_for="" if tree is None else tree.named,
        )
        row = CallRow(
            id=call_id,
            agent=caller.identity.id,
            owner=checked.lineage.owner,
            tool=request.tool,
            tool_version=tool.digest,
            workspace=request.context.workspace,
            workflow=request.context.workflow,
            state=CallState.QUEUED,
            tier=int(checked.tier),
            request_id=request.request_id,
            request_digest=request_digest(request),
            created=now,
            expires=expires,
            last_event=1,
            envelope_digest=digest(envelope),
        )
        begun = Begun(plan, Hold(self._parts.sandboxes, call_id, plan.profile, plan.job), envelope) if at_once else None

        def work(tx: Transaction) -> Admitted:
            known = self._checks.known(tx, caller, request)  # another of the same id may have come in the meantime
            if known is not None:
                return Admitted(known.id, None)
            active, sealed = self._insert(tx, request, row=row, stored=stored, tool=tool)
            if asked is not None:
                self._wait_for_people(tx, active, asked)
            if checked.requirement is not None and tool.spec.planned:
                lineage, requirement = checked.lineage, checked.requirement
                check_askable(tx, self._parts.desk, active.row, lineage=lineage, tool=tool, requirement=requirement)
            if request.context.runbook:
                arguments, agent = request.arguments_bytes, caller.identity.id
                runbook = check_usable(
                    tx, self._parts, request.context.runbook, agent=agent, tool=tool, arguments=arguments
                )
                active.approval = runbook.id
            if begun is None:
                return Admitted(active.row.id, active)
            return self._begin(tx, active, sealed, begun, checked.directory)

        try:
            return await self._parts.store.write(work)
        except BaseException:
            if begun is not None:
                await begun.hold.release()
            raise

    def _begin(
        self, tx: Transaction, active: ActiveCall, sealed: SealedObject, begun: Begun, directory: Directory
    ) -> Admitted:
        """Nobody waits before it: the intent goes with the admission, in one transaction."""
        active.row, events = self._starter.write(tx, active, begun, directory, sealed=sealed)
        active.feed.publish(events)
        active.waiting, active.sealed = False, sealed
        return Admitted(active.row.id, active, begun)

    async def _ask(self, caller: Caller, request: CallRequest, checked: Checked, envelope: bytes) -> Asked:
        """What people are shown; put together before the transaction, since it may be long."""
        requirement = checked.requirement
        if requirement is None:
            raise InternalError("nobody has to agree to this call")
        files = await shown_files(self._blobs, request.files, checked.blobs)

        def work(tx: Transaction) -> Asked:
            return ask(
                tx,
                self._parts,
                caller=caller,
                request=request,
                tool=checked.tool,
                tier=checked.tier,
                lineage=checked.lineage,
                decision=checked.decision,
                call=envelope,
                files=files,
                workflow=checked.workflow,
                requirement=requirement,
            )

        return await self._parts.store.read(work)

    def _wait_for_people(self, tx: Transaction, active: ActiveCall, asked: Asked) -> None:
        """Puts the request for approval on record with the call that it is about."""
        approval = file_request(tx, self._parts.desk, asked, active.row, active.request)
        sealed = self._parts.vault.open(tx, active.row.id)
        state = CallState.PENDING_APPROVAL
        waits = StateChanged(state, f"waits for approvals/{approval.id}, until {approval.expires.isoformat()}")
        events = write_events(tx, sealed, active.row.last_event, active.row.created, [waits])
        move(active.row, state)
        active.row = replace(active.row, state=state, last_event=events[-1].number)
        active.approval = approval.id
        tx.calls.replace(active.row)
        active.feed.publish(events)

    def _insert(
        self, tx: Transaction, request: CallRequest, *, row: CallRow, stored: StoredRequest, tool: Tool
    ) -> tuple[ActiveCall, SealedObject]:
        """Puts a call on record; with it, what its texts are sealed with."""
        now = row.created
        brief, texts = encode_request(stored)
        quota = self._parts.bounds.storage_quota_bytes
        check_storage(tx, row.agent, OBJECT_COST + len(brief) + len(texts), quota=quota)
        sealed = self._parts.vault.create(
            tx,
            object_id=row.id,
            owner=row.agent,
            kind="call",
            now=now,
            expires=row.expires,
            workspace=row.workspace,
            call=row.id,
        )
        sealed.put(tx, {REQUEST: brief, REQUEST_TEXTS: texts})
        body = {
            **journal.request_body(
                row, stored, self._parts.images[tool.spec.image], sealed, egress=tool.spec.egress_rules
            ),
            **journal.decision_body(stored.decision, row.agent),
        }
        seq = self._parts.ledger.append(tx, "decision", body, agent=row.agent)
        for item in request.files:
            tx.vault.extend(item.blob, row.expires)
        queued = StateChanged(CallState.QUEUED)
        events: list[CallEvent] = write_events(tx, sealed, 0, now, [queued])
        row = replace(row, decision_seq=seq)
        tx.calls.insert(row)
        clock = Stopwatch(self._parts.meter)
        active = ActiveCall(row=row, request=stored, tool=tool, feed=Feed(0), clock=clock)
        active.feed.publish(events)
        return active, sealed
