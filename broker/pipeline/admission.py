"""From a request to a call on record, or to a refusal that says why.

The policy is asked before the arguments are looked at, so that a caller who may not use a tool learns nothing of it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import timedelta

from broker.approvals.freezing import check_frozen
from broker.domain.call import (
    CallRequest,
    CallState,
    Decision,
    Lineage,
    PolicyRequest,
)
from broker.domain.canonical import digest
from broker.domain.envelope import fresh_salt
from broker.domain.events import REQUEST, REQUEST_TEXTS, CallEvent, StateChanged, StoredRequest, encode_request
from broker.domain.identity import Caller, IdentityKind
from broker.domain.ids import NAME_PATTERN, new_id
from broker.domain.meter import Step
from broker.domain.ports import OBJECT_COST, CallRow, Transaction, VaultRow
from broker.domain.requirement import Requirement
from broker.domain.tier import Tier
from broker.domain.workflow import WorkflowSpec, run_tier
from broker.errors import (
    BrokerError,
    ConflictError,
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from broker.identity.directory import Directory
from broker.identity.lineage import prove
from broker.pipeline import journal
from broker.pipeline.active import ActiveCall, move, write_events
from broker.pipeline.approving import Asked, ask, call_requirement, file_request, shown_files
from broker.pipeline.blobs import Blobs, check_storage
from broker.pipeline.checks import (
    check_carried,
    check_classes,
    check_paths,
    check_sizes,
    denied,
    request_digest,
    tool_tier,
)
from broker.pipeline.feed import Feed
from broker.pipeline.parts import Parts
from broker.pipeline.plan import plan_job, seal_envelope
from broker.pipeline.rates import Rates
from broker.pipeline.refusals import Refusals
from broker.pipeline.runbooks import check_usable
from broker.pipeline.start import Begun, Hold, Starter
from broker.pipeline.stopwatch import Stopwatch
from broker.pipeline.turns import Turns
from broker.pipeline.workflows import approved_workflow, check_inside
from broker.specs.catalogue import Tool


@dataclass(frozen=True, slots=True)
class Admitted:
    """The call, and what drives it; ``active`` is ``None`` where the same request had been admitted before."""

    call_id: str
    active: ActiveCall | None
    begun: Begun | None = None
    """Where its turn came at once, it has begun in the step that admitted it."""


@dataclass(frozen=True, slots=True)
class _Checked:
    tool: Tool
    decision: Decision
    lineage: Lineage
    blobs: tuple[VaultRow, ...]
    data_classes: tuple[str, ...]
    directory: Directory
    tier: Tier
    """The higher of the tool's and the workflow's."""
    workflow: WorkflowSpec | None
    requirement: Requirement | None
    """Who has to agree to the call; ``None`` where nobody has to."""


class Admission:
    """Admits calls. Every refusal is an exception; those by policy or lineage are on the record as well."""

    def __init__(self, parts: Parts, blobs: Blobs, refusals: Refusals, turns: Turns, starter: Starter) -> None:
        self._parts = parts
        self._blobs = blobs
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
            checked = await self._check(caller, request)
            if isinstance(checked, CallRow):
                return Admitted(checked.id, None)
            admitted = await self._take_in(caller, request, checked)
        except BrokerError as error:
            # The same request again has the same answer, whatever has changed since.
            known = await self._parts.store.read(lambda tx: self._known(tx, caller, request))
            if known is not None:
                return Admitted(known.id, None)
            if isinstance(error, PermissionDeniedError):
                await self._record(caller, request, error)
            raise
        clock.took(Step.ADMIT)
        return admitted

    async def _take_in(self, caller: Caller, request: CallRequest, checked: _Checked) -> Admitted:
        """Reserves a place, and a turn where one is free, for a call that is then put on record."""
        agent = caller.identity.id
        if request.context.runbook and checked.blobs:
            why = "can't stand in a call that uses a runbook"
            raise InvalidArgumentError(
                f"tool_call.files {why}",
                violations=(FieldViolation("tool_call.files", why),),
                reason="RUNBOOK_UNUSABLE",
            )
        if checked.requirement is not None or request.context.runbook:
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

    def _known(self, tx: Transaction, caller: Caller, request: CallRequest) -> CallRow | None:
        if not request.request_id:
            return None
        row = tx.calls.by_request(caller.identity.id, request.request_id)
        if row is not None and row.request_digest != request_digest(request):
            why = "whose content is another" if row.request_digest else "whose content has been erased"
            raise ConflictError(
                f"request id {request.request_id!r} stands for calls/{row.id}, {why}",
                reason="REQUEST_ID_REUSED",
                hint="Use a fresh request id for a new request.",
                metadata={"call": f"calls/{row.id}"},
            )
        return row

    async def _check(self, caller: Caller, request: CallRequest) -> _Checked | CallRow:
        """What a call may do; or the call that the same request has become before."""
        if caller.identity.kind is not IdentityKind.AGENT:
            raise PermissionDeniedError(
                "tools are called by agents; this certificate is a human's",
                reason="NOT_AN_AGENT",
                hint="Call under the certificate of an agent that you own.",
            )
        workspace = request.context.workspace
        if not NAME_PATTERN.fullmatch(workspace):
            why = "must be a name of lower-case letters, digits and hyphens"
            field = "tool_call.context.workspace"
            raise InvalidArgumentError(f"{field} {why}", violations=(FieldViolation(field, why),))
        tool = self._parts.catalogue.get(request.tool)
        tier = tool_tier(tool)
        decision = self._parts.policy.snapshot.decide(
            PolicyRequest(caller.subject, workspace, request.tool, "call", tier),
        )
        if not decision.allowed:
            raise denied(caller, request.tool, workspace, decision)
        if tool is None:
            raise NotFoundError(
                f"there is no tool {request.tool!r}", reason="TOOL_NOT_FOUND", hint="ListTools shows what there is."
            )
        if request.tool_version not in ("", tool.digest):
            raise FailedPreconditionError(
                f"{request.tool} is at version {tool.digest} now, and {request.tool_version} was meant",
                reason="TOOL_VERSION_CHANGED",
                hint="Get the tool again, and send its present version or none.",
                metadata={"version": tool.digest},
            )
        if tool.spec.image not in self._parts.images:
            raise UnavailableError(
                f"the image {tool.spec.image!r} of {request.tool} is not built here",
                reason="IMAGE_MISSING",
                hint="Build it on the broker's host: make images",
            )
        tool.validate_arguments(request.arguments)
        check_paths(tool, request.files)
        return await self._prove(caller, request, tool, decision)

    async def _prove(self, caller: Caller, request: CallRequest, tool: Tool, decision: Decision) -> _Checked | CallRow:
        directory = await self._parts.directory.current()
        now = self._parts.clock()

        def work(tx: Transaction) -> _Checked | CallRow:
            known = self._known(tx, caller, request)
            if known is not None:
                return known
            workflow = approved_workflow(tx, self._parts, request.context.workflow)
            tier = run_tier(tool.spec.risk, None if workflow is None else workflow.risk)
            lineage = prove(
                tx, directory, caller=caller, context=request.context, tier=tier, now=now, origin=self._parts.origin
            )
            blobs = tuple(self._blobs.visible(tx, caller, item.blob) for item in request.files)
            labels = {label for blob in blobs for label in blob.data_classes}
            workspace = self._parts.workspace_classes.get(request.context.workspace, ())
            classes = {*tool.spec.data_classes, *workspace, *request.context.data_classes, *labels}
            if workflow is not None:
                check_inside(workflow, context=request.context, tool=request.tool, data_classes=classes)
            check_carried(self._parts.tiers.row(tier).missing(request.context), tier)
            agent = caller.identity.id
            check_frozen(tx, agent=agent, tool=request.tool, workspace=request.context.workspace)
            return _Checked(
                tool=tool,
                decision=self._at_tier(caller, request, decision, tier),
                lineage=lineage,
                blobs=blobs,
                data_classes=tuple(sorted(classes)),
                directory=directory,
                tier=tier,
                workflow=workflow,
                requirement=call_requirement(self._parts, tier),
            )

        checked = await self._parts.store.read(work)
        if isinstance(checked, CallRow):
            return checked
        check_sizes(tool, checked.blobs)
        check_classes(checked.data_classes)
        return checked

    def _at_tier(self, caller: Caller, request: CallRequest, decision: Decision, tier: Tier) -> Decision:
        """The policy's word on the tier at which the call runs, where its workflow lifts it above the tool's."""
        workspace = request.context.workspace
        if decision.inputs.get("tier") == str(int(tier)):
            return decision
        lifted = self._parts.policy.snapshot.decide(
            PolicyRequest(caller.subject, workspace, request.tool, "call", tier)
        )
        if not lifted.allowed:
            raise denied(caller, request.tool, workspace, lifted)
        return lifted

    async def _record(self, caller: Caller, request: CallRequest, error: PermissionDeniedError) -> None:
        known = self._parts.catalogue.get(request.tool)
        workspace = request.context.workspace
        # Not whether a rule refused it: a rule for all workspaces refuses those that an agent makes up as well.
        named = workspace in self._parts.policy.snapshot.workspaces
        body = journal.refusal_body(
            reason=error.reason,
            rule=error.metadata.get("rule", ""),
            # What an agent makes up is not written down: it could fill the ledger with names.
            obj=request.tool if known else "?",
            workspace=workspace if named else "?",
            tier=tool_tier(known),
            owner=caller.identity.owner,
        )
        await self._refusals.record(caller.identity.id, body)

    async def _write(self, caller: Caller, request: CallRequest, checked: _Checked, *, at_once: bool) -> Admitted:
        now = self._parts.clock()
        call_id = new_id("call")
        tool = checked.tool
        # What waits for people is kept until they have decided, and from then on as long as any other call.
        waits_s = 0.0 if checked.requirement is None else checked.requirement.expiry_s
        expires = now + timedelta(seconds=tool.spec.retention + waits_s)
        plan = plan_job(
            self._parts,
            self._blobs,
            tool=tool,
            arguments_bytes=request.arguments_bytes,
            files=request.files,
            rows=checked.blobs,
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
        asks = checked.requirement is not None and not request.context.runbook
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
        )
        row = CallRow(
            id=call_id,
            agent=caller.identity.id,
            owner=caller.identity.owner,
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
        begun = Begun(plan, Hold(self._parts.sandboxes, call_id, plan.profile)) if at_once else None

        def work(tx: Transaction) -> Admitted:
            admitted = self._insert(tx, caller, request, row=row, stored=stored, checked=checked)
            if admitted.active is not None and asked is not None:
                self._wait_for_people(tx, admitted.active, asked)
            if admitted.active is not None and request.context.runbook:
                tool, arguments = checked.tool, request.arguments_bytes
                agent = caller.identity.id
                runbook = check_usable(
                    tx, self._parts, request.context.runbook, agent=agent, tool=tool, arguments=arguments
                )
                admitted.active.approval = runbook.id
            if admitted.active is None or begun is None:
                return admitted
            return self._begin(tx, admitted.active, begun, checked.directory)

        try:
            return await self._parts.store.write(work)
        except BaseException:
            if begun is not None:
                await begun.hold.release()
            raise

    def _begin(self, tx: Transaction, active: ActiveCall, begun: Begun, directory: Directory) -> Admitted:
        """Nobody waits before it: the intent goes with the admission, in one transaction."""
        active.row, events = self._starter.write_intent(tx, active, begun, directory)
        active.feed.publish(events)
        active.waiting = False
        return Admitted(active.row.id, active, begun)

    async def _ask(self, caller: Caller, request: CallRequest, checked: _Checked, envelope: bytes) -> Asked:
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
        approval = file_request(tx, self._parts.desk, asked, active.row)
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
        self,
        tx: Transaction,
        caller: Caller,
        request: CallRequest,
        *,
        row: CallRow,
        stored: StoredRequest,
        checked: _Checked,
    ) -> Admitted:
        now, tool = row.created, checked.tool
        known = self._known(tx, caller, request)  # another of the same id may have come in the meantime
        if known is not None:
            return Admitted(known.id, None)
        brief, texts = encode_request(stored)
        check_storage(self._parts, tx, row.agent, OBJECT_COST + len(brief) + len(texts))
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
        return Admitted(row.id, active)
