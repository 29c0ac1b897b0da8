"""The moment in which a call begins: decided again, and its intent written, in one transaction.

Nothing comes between the two. While the intent is being made durable the call's container is looked for already; nothing
reaches it before.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from broker.approvals.desk import Used
from broker.approvals.freezing import check_frozen
from broker.domain.call import CallRequest, CallState, Decision, PolicyRequest
from broker.domain.canonical import JsonObject, digest, parse_object
from broker.domain.container_facts import ContainerFacts
from broker.domain.envelope import salt_of
from broker.domain.events import CallEvent, StateChanged, StoredRequest
from broker.domain.identity import Caller
from broker.domain.meter import Step
from broker.domain.ports import CallRow, Transaction, VaultRow
from broker.domain.requirement import Requirement
from broker.domain.run import Profile
from broker.domain.tier import Tier
from broker.domain.workflow import run_tier
from broker.errors import (
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from broker.identity.directory import Directory
from broker.identity.lineage import prove
from broker.pipeline import journal
from broker.pipeline.active import ActiveCall, move, write_events
from broker.pipeline.approving import call_requirement, check_rows, kept_out_now, same_call
from broker.pipeline.blobs import Blobs
from broker.pipeline.checks import denied
from broker.pipeline.envelope_check import envelope_changed
from broker.pipeline.parts import Parts
from broker.pipeline.plan import Plan, plan_job, seal_envelope
from broker.pipeline.runbooks import ask_review, lasting, same_as_runbook
from broker.pipeline.workflows import approved_workflow, check_named
from broker.sandbox.engine import Lease
from broker.sandbox.pool import Pool


class Hold:
    """The container of one call, claimed beside whatever else has to be done first.

    Args:
        pool: gives the container.
        call_id: the call.
        profile: what the decision resolved to.
    """

    def __init__(self, pool: Pool, call_id: str, profile: Profile) -> None:
        self._pool = pool
        self._call_id = call_id
        self._profile = profile
        self._stack = AsyncExitStack()
        self._task: asyncio.Task[Lease] | None = None
        self._released = False
        self._loop = asyncio.get_running_loop()

    def begin_soon(self) -> None:
        """Begins to claim; any thread may say so."""
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if self._task is None and not self._released:
            claim = self._pool.lease(self._call_id, self._profile)
            self._task = asyncio.create_task(self._stack.enter_async_context(claim))
            self._task.add_done_callback(_heard)

    @property
    def settled(self) -> bool:
        """Whether the claim has ended, in one way or another."""
        return self._task is not None and self._task.done()

    async def lease(self) -> Lease:
        """The container.

        Raises:
            BrokerError: as ``Pool.lease``.
        """
        self._begin()
        if self._task is None:
            raise InternalError("the container of a call was given up before it was asked for")
        return await self._task

    async def release(self) -> None:
        """Has the container destroyed, if there is one; may be called again."""
        self._released = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._stack.aclose()


def _heard(task: asyncio.Task[Lease]) -> None:
    # Where nobody comes to ask for the lease, its failure has been heard all the same.
    if not task.cancelled():
        task.exception()


@dataclass(frozen=True, slots=True)
class Begun:
    """What a call runs, and where."""

    plan: Plan
    hold: Hold


class Starter:
    """Begins calls."""

    def __init__(self, parts: Parts, blobs: Blobs) -> None:
        self._parts = parts
        self._blobs = blobs

    async def begin(self, active: ActiveCall) -> Begun:
        """Begins a call that has waited for its turn; the container may be there already when the intent is durable.

        Raises:
            BrokerError: it may not begin, or its intent can't be written; nothing ran.
        """
        plan = await self._plan(active)
        directory = await self._parts.directory.current()
        begun = Begun(plan, Hold(self._parts.sandboxes, active.row.id, plan.profile))
        try:
            # What people agreed to runs in a container that is there and has been looked at before the intent is written.
            container = await (await begun.hold.lease()).observe() if active.approval else None

            def work(tx: Transaction) -> tuple[CallRow, list[CallEvent]]:
                return self.write_intent(tx, active, begun, directory, container)

            active.row, events = await self._parts.store.write(work)
        except BaseException:
            await begun.hold.release()
            raise
        active.feed.publish(events)
        active.clock.took(Step.BEGIN)
        return begun

    def write_intent(
        self,
        tx: Transaction,
        active: ActiveCall,
        begun: Begun,
        directory: Directory,
        container: ContainerFacts | None = None,
    ) -> tuple[CallRow, list[CallEvent]]:
        """Recomputes the envelope, decides again and writes the intent, as a part of a transaction.

        Args:
            tx: a writing transaction.
            active: the call.
            begun: what it runs.
            directory: the registry as it was a moment ago.
            container: what the engine reports of the very container; ``None`` where nobody had to agree to the call.

        Returns:
            The call as it is once the transaction is durable, and the events to tell then.

        Raises:
            BrokerError: the call may not begin.
        """
        parts, now, profile = self._parts, self._parts.clock(), begun.plan.profile
        envelope = self._check_envelope(active, begun.plan, container or parts.sandboxes.expected_facts(profile))
        decision = self._decide_again(tx, active, directory)
        requirement = call_requirement(parts, Tier(active.row.tier))
        if requirement is not None and not active.approval:
            raise FailedPreconditionError(
                "people have to agree to such a call now, and did not when it was admitted",
                reason="REQUIREMENT_STRICTER",
                hint="Call it again.",
            )
        if active.approval and container is None:
            raise InternalError("what people agreed to begins in a container that has been looked at")
        used: JsonObject = {}
        if active.approval:
            used = {"approvals": [self._use_approval(tx, active, envelope, requirement).body()]}
        move(active.row, CallState.RUNNING)
        sealed = parts.vault.open(tx, active.row.id)
        body = {
            **journal.request_body(active.row, active.request, profile.image, sealed, egress=profile.egress),
            **journal.decision_body(decision, active.row.agent),
            **used,
            "decision_seq": -1 if active.row.decision_seq is None else active.row.decision_seq,
        }
        seq = parts.ledger.append(tx, "intent", body, agent=active.row.agent)
        events = write_events(tx, sealed, active.row.last_event, now, [StateChanged(CallState.RUNNING)])
        row = replace(active.row, state=CallState.RUNNING, started=now, intent_seq=seq, last_event=events[-1].number)
        tx.calls.replace(row)
        begun.hold.begin_soon()
        return row, events

    def _use_approval(
        self, tx: Transaction, active: ActiveCall, envelope: bytes, requirement: Requirement | None
    ) -> Used:
        """Uses what people agreed to, once: counted again now, and compared with what is about to run."""
        barred = kept_out_now(tx, self._parts, active)
        check_rows(tx, self._parts.desk, active.request)
        if active.request.context.runbook:
            return self._use_runbook(tx, active, envelope, requirement, barred)
        return self._parts.desk.use(
            tx,
            active.approval,
            subject=active.row.id,
            barred=barred,
            needed=requirement,
            check=lambda shown: same_call(shown, envelope),
        )

    def _use_runbook(
        self,
        tx: Transaction,
        active: ActiveCall,
        envelope: bytes,
        requirement: Requirement | None,
        barred: frozenset[str],
    ) -> Used:
        """Uses what people agreed to beforehand, and asks for the look back at it."""
        approval = self._parts.desk.find(tx, active.approval)
        used = self._parts.desk.use(
            tx,
            active.approval,
            subject=active.approval,
            barred=barred,
            needed=lasting(requirement, approval),
            check=same_as_runbook(envelope),
        )
        identity, certificate = (
            tx.identities.get(active.row.agent),
            tx.identities.certificate(active.request.fingerprint),
        )
        if identity is None or certificate is None:
            raise UnauthenticatedError("the certificate of the call has been revoked", reason="CERTIFICATE_REVOKED")
        ask_review(tx, self._parts, active, Caller(identity, certificate))
        return used

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

    def _check_envelope(self, active: ActiveCall, plan: Plan, container: ContainerFacts) -> bytes:
        """Recomputes the envelope from what is about to run, and where: what was admitted is what runs."""
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
            container=container,
            tier=Tier(active.row.tier),
            decision=request.decision,
            expires=request.expires,
            salt=salt_of(request.envelope),
        )
        if digest(now) != active.row.envelope_digest:
            raise envelope_changed(request.envelope.encode(), now, active.row.envelope_digest)
        return now

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
        self._check_workflow(tx, active)
        check_frozen(
            tx,
            agent=active.row.agent,
            tool=active.row.tool,
            workspace=active.row.workspace,
            known=parts.desk.agreement.frozen(),
        )
        tier = Tier(active.row.tier)
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
        return decision

    def _check_workflow(self, tx: Transaction, active: ActiveCall) -> None:
        """The workflow is approved now, in the version under which the call was admitted."""
        request = active.request
        workflow = approved_workflow(tx, self._parts, request.context.workflow)
        tier = run_tier(active.tool.spec.risk, None if workflow is None else workflow.risk)
        if ("" if workflow is None else workflow.digest()) != request.workflow_digest or int(tier) != active.row.tier:
            raise FailedPreconditionError(
                f"workflow {request.context.workflow} or the tier of the call is not what it was when it was admitted",
                reason="WORKFLOW_CHANGED",
                hint="Call it again.",
            )
        check_named(workflow, tier)


def _blobs(tx: Transaction, request: StoredRequest) -> list[VaultRow]:
    rows = [tx.vault.get(item.blob) for item in request.files]
    found = [row for row in rows if row is not None]
    if len(found) != len(rows):
        raise NotFoundError("an input file of the call is no longer kept", reason="BLOB_NOT_FOUND")
    return found
