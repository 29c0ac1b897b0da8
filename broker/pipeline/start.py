"""The moment in which a call begins: decided again, and its intent written, in one transaction.

Nothing comes between the two. While the intent is being made durable the call's container is looked for already, and a small
job that nobody has to agree to is made ready there; nothing of its tool runs before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from broker.approvals.freezing import check_frozen
from broker.domain.call import CallRequest, CallState, Decision, PolicyRequest
from broker.domain.canonical import JsonObject, digest, parse_object
from broker.domain.container_facts import ContainerFacts
from broker.domain.envelope import salt_of
from broker.domain.events import CallEvent, StateChanged, StoredRequest
from broker.domain.identity import Caller
from broker.domain.meter import Step
from broker.domain.ports import CallRow, SealedObject, Transaction, VaultRow
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
from broker.pipeline import journal
from broker.pipeline.active import ActiveCall, move, write_events
from broker.pipeline.approving import call_requirement, same_call
from broker.pipeline.blobs import Blobs
from broker.pipeline.checks import denied, with_hold
from broker.pipeline.envelope_check import envelope_changed
from broker.pipeline.hold import Hold
from broker.pipeline.parts import Parts
from broker.pipeline.plan import Plan, plan_job, seal_envelope
from broker.pipeline.taking_back import call_inputs, lineage_of
from broker.pipeline.using import use_approval
from broker.pipeline.workflows import approved_workflow, check_named
from broker.specs.catalogue import Tool


@dataclass(frozen=True, slots=True)
class Begun:
    """What a call runs, and where."""

    plan: Plan
    hold: Hold
    envelope: bytes = b""
    """Made of this very plan in the step that admits the call, where it begins in that step; empty where it has waited."""


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
        if active.tool.spec.workspace is not None:
            await self._parts.folders.look(active.row.workspace)
        plan = await self.plan(active)
        directory = await self._parts.directory.current()
        # What people agreed to goes out only when all is checked, and is compared once more then.
        ahead = None if active.approval else plan.job
        begun = Begun(plan, Hold(self._parts.sandboxes, active.row.id, plan.profile, ahead))
        try:
            # What people agreed to runs in a container that is there and has been looked at before the intent is written.
            container = await (await begun.hold.lease()).observe() if active.approval else None

            def work(tx: Transaction) -> tuple[CallRow, list[CallEvent]]:
                return self.write(tx, active, begun, directory, container)

            active.row, events = await self._parts.store.write(work)
        except BaseException:
            await begun.hold.release()
            raise
        active.feed.publish(events)
        active.clock.took(Step.BEGIN)
        return begun

    def write(
        self,
        tx: Transaction,
        active: ActiveCall,
        begun: Begun,
        directory: Directory,
        container: ContainerFacts | None = None,
        *,
        sealed: SealedObject | None = None,
    ) -> tuple[CallRow, list[CallEvent]]:
        """``write_plan_intent`` for a call whose tool runs on a copy first, and ``write_intent`` for any other.

        ``sealed`` is the call's own object where this very transaction has made it; else it is opened.
        """
        sealed = sealed or self._parts.vault.open(tx, active.row.id)
        if active.tool.spec.planned:
            return self.write_plan_intent(tx, active, begun, directory, sealed)
        return self.write_intent(tx, active, begun, directory, sealed, container=container)

    def write_plan_intent(
        self, tx: Transaction, active: ActiveCall, begun: Begun, directory: Directory, sealed: SealedObject
    ) -> tuple[CallRow, list[CallEvent]]:
        """The same for a run on a copy, which changes nothing: nobody has to agree to it, and it is on record all the same.

        Raises:
            BrokerError: the call may not begin.
        """
        parts, now, profile = self._parts, self._parts.clock(), begun.plan.profile
        self._check_envelope(active, begun, None)
        if begun.plan.tree is None or (profile.egress and begun.plan.tree.step is None):
            raise InternalError("a plan runs on a copy of a workspace, and reaches no host")
        decision = self.decide_again(tx, active, directory)
        tx.meanwhile(begun.hold.begin_soon)
        move(active.row, CallState.PLANNING)
        body = {
            **journal.request_body(active.row, active.request, profile.image, sealed, egress=profile.egress),
            **journal.decision_body(decision, active.row.agent),
            "decision_seq": -1 if active.row.decision_seq is None else active.row.decision_seq,
            "base": begun.plan.tree.base,
        }
        parts.ledger.append(tx, "plan.intent", body, agent=active.row.agent)
        events = write_events(tx, sealed, active.row.last_event, now, [StateChanged(CallState.PLANNING)])
        row = replace(active.row, state=CallState.PLANNING, last_event=events[-1].number)
        tx.calls.replace(row)
        return row, events

    def write_intent(
        self,
        tx: Transaction,
        active: ActiveCall,
        begun: Begun,
        directory: Directory,
        sealed: SealedObject,
        *,
        container: ContainerFacts | None = None,
    ) -> tuple[CallRow, list[CallEvent]]:
        """Compares the envelope, decides again and writes the intent, as a part of a transaction.

        Args:
            tx: a writing transaction.
            active: the call.
            begun: what it runs.
            directory: the registry as it was a moment ago.
            sealed: what its texts are sealed with.
            container: what the engine reports of the very container; ``None`` where nobody had to agree to the call.

        Returns:
            The call as it is once the transaction is durable, and the events to tell then.

        Raises:
            BrokerError: the call may not begin.
        """
        parts, now, profile = self._parts, self._parts.clock(), begun.plan.profile
        envelope = self._check_envelope(active, begun, container)
        decision = self.decide_again(tx, active, directory)
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
            self._check_tree(tx, active, begun.plan)
            same = partial(same_call, now=envelope)
            use = use_approval(tx, parts, active, requirement=requirement, check=same, envelope=envelope)
            used = {"approvals": [use.body()]}
        tx.meanwhile(begun.hold.begin_soon)  # nothing speaks against it any more; what follows only writes
        move(active.row, CallState.RUNNING)
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
        return row, events

    def _check_tree(self, tx: Transaction, active: ActiveCall, plan: Plan) -> None:
        """What people agreed to reads the files as they are: those that it was given are from the present state."""
        if plan.tree is not None and tx.trees.state(active.row.workspace) != plan.tree.base:
            raise FailedPreconditionError(
                "the workspace's files are not as they were when the call was admitted",
                reason="BASE_MOVED",
                hint="Nothing ran. Call it again.",
            )

    async def plan(self, active: ActiveCall) -> Plan:
        """What a call runs: from its kept request, and from the tool as it is now.

        Raises:
            FailedPreconditionError: the tool is another now (``TOOL_VERSION_CHANGED``).
            BrokerError: what it needs is no longer there.
        """
        parts, row, request = self._parts, active.row, active.request
        tool_as_admitted(parts, row)
        blobs = await parts.store.read(lambda tx: input_blobs(tx, request)) if request.files else []
        tree = await call_inputs(
            parts,
            active.tool,
            workspace=row.workspace,
            base=request.base,
            arguments=arguments_of(request),
            undoes=request.undoes,
        )
        return plan_job(
            parts,
            self._blobs,
            tool=active.tool,
            arguments_bytes=request.arguments_json.encode(),
            files=request.files,
            rows=blobs,
            tree=tree,
        )

    def _check_envelope(self, active: ActiveCall, begun: Begun, container: ContainerFacts | None) -> bytes:
        """The envelope of what is about to run, and where: what was admitted is what runs.

        It is made again wherever anything can have come between, and always where people have agreed or a container was looked at.
        """
        now = begun.envelope
        if not now or container is not None or active.approval:
            expected = container or self._parts.sandboxes.expected_facts(begun.plan.profile)
            now = self._seal_again(active, begun.plan, expected)
        if digest(now) != active.row.envelope_digest:
            raise envelope_changed(active.request.envelope.encode(), now, active.row.envelope_digest)
        return now

    @staticmethod
    def _seal_again(active: ActiveCall, plan: Plan, container: ContainerFacts) -> bytes:
        """The envelope made again, from the kept request and what is about to run now."""
        request = active.request
        return seal_envelope(
            active.row.id,
            request=wire_request(request),
            lineage=request.lineage,
            tool=active.tool,
            plan=plan,
            container=container,
            tier=Tier(active.row.tier),
            decision=request.decision,
            expires=request.expires,
            salt=salt_of(request.envelope),
        )

    def decide_again(self, tx: Transaction, active: ActiveCall, directory: Directory) -> Decision:
        """What the policy in force says of a call now, with its workflow, its lineage and what is frozen looked at again.

        Raises:
            BrokerError: the call may not begin.
        """
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
        lineage = lineage_of(
            tx, parts, directory, caller=caller, tool=active.tool, context=request.context, tier=tier, now=now
        )
        if lineage != request.lineage:
            raise PermissionDeniedError(
                "the call's lineage has changed since it was admitted", reason="LINEAGE_CHANGED"
            )
        asked = PolicyRequest(caller.subject, request.context.workspace, active.row.tool, "call", tier)
        decision = with_hold(parts.policy.snapshot.decide(asked), active.tool)
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
        if not request.lineage.of_human:
            check_named(workflow, tier)


def tool_as_admitted(parts: Parts, row: CallRow) -> Tool:
    """The tool of a call, which is what it was when the call was admitted.

    Raises:
        FailedPreconditionError: it isn't (``TOOL_VERSION_CHANGED``).
    """
    tool = parts.catalogue.get(row.tool)
    if tool is None or tool.digest != row.tool_version or tool.spec.image not in parts.images:
        raise FailedPreconditionError(
            f"{row.tool} is not what it was when the call was admitted",
            reason="TOOL_VERSION_CHANGED",
            hint="Call it again.",
        )
    return tool


def arguments_of(request: StoredRequest) -> JsonObject:
    """The arguments of a kept request."""
    data = request.arguments_json.encode()
    return parse_object(data, field="arguments", max_bytes=len(data))


def wire_request(request: StoredRequest) -> CallRequest:
    """A kept request as it came in."""
    return CallRequest(
        tool=request.tool,
        tool_version=request.tool_version,
        arguments=arguments_of(request),
        arguments_bytes=request.arguments_json.encode(),
        files=request.files,
        context=request.context,
        request_id=request.request_id,
    )


def input_blobs(tx: Transaction, request: StoredRequest) -> list[VaultRow]:
    """The input files of a kept request.

    Raises:
        NotFoundError: one is no longer kept.
    """
    rows = [tx.vault.get(item.blob) for item in request.files]
    found = [row for row in rows if row is not None]
    if len(found) != len(rows):
        raise NotFoundError("an input file of the call is no longer kept", reason="BLOB_NOT_FOUND")
    return found
