"""Approvals as callers decide on them and ask for them: each is one transaction, then the bell."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

from broker.approvals import content
from broker.approvals.content import Texts
from broker.approvals.desk import Request, check_open, not_found
from broker.approvals.envelopes import Matter, envelope
from broker.approvals.voting import Cast, cast
from broker.domain.administration import SETTINGS, TOOL
from broker.domain.approval import (
    Approval,
    ApprovalKind,
    ApprovalState,
    ApprovedWorkflow,
    FreezeScope,
)
from broker.domain.call import RESTING_STATES
from broker.domain.canonical import JsonObject, canonical
from broker.domain.identity import Caller, IdentityKind
from broker.domain.ids import new_id
from broker.domain.ports import Transaction
from broker.domain.reserved import WORKFLOWS
from broker.domain.tier import Tier
from broker.errors import FailedPreconditionError, NotFoundError, PermissionDeniedError
from broker.pipeline import administration, policy_changes, standing
from broker.pipeline.admin_actions import WHATIF, Context, Shown, check_parameters
from broker.pipeline.approval_sight import ApprovalSight
from broker.pipeline.approval_views import ApprovalView
from broker.pipeline.blobs import Blobs
from broker.pipeline.parts import Parts
from broker.pipeline.runbooks import RunbookRequest, create
from broker.pipeline.whatif_attached import attached
from broker.policy.snapshot import Snapshot
from broker.policy.whatif_report import parse_report

_SWEPT = 100


class Approvals:
    """Decides on, and asks for, a broker's approvals.

    Args:
        parts: the broker's.
        sight: who may see which.
        blobs: for planning what a runbook runs.
    """

    def __init__(self, parts: Parts, sight: ApprovalSight, blobs: Blobs) -> None:
        self._parts = parts
        self._blobs = blobs
        self._desk = parts.desk
        self._sight = sight
        self._views = sight.views
        self._context = Context(parts.ledger, parts.vault, parts.desk)

    async def cast(self, caller: Caller, given: Cast) -> ApprovalView:
        """Takes a vote, and does what it decides.

        Raises:
            BrokerError: as ``broker.approvals.voting.cast``.
        """
        method = "CastVote" if given.account is None else "CastAttestedVote"

        def work(tx: Transaction) -> ApprovalView:
            known = tx.approvals.get(given.approval)
            # Whoever may look at it is told why they may not vote, and not that there is nothing.
            if known is None or not any(self._sight.sees(tx, caller, known, by) for by in (method, "GetApproval")):
                raise not_found(given.approval)
            voted = cast(tx, self._desk, caller, given)
            done = self._settle(tx, voted)
            return self._views.view(tx, done, caller.identity, with_content=False, reader=caller.identity)

        view = await self._parts.store.write(work)
        # What it changed may be a freeze, or a workflow: everybody looks again.
        await self._parts.store.read(self._desk.agreement.read_on)
        self._parts.bell.ring()
        return view

    def _settle(self, tx: Transaction, approval: Approval) -> Approval:
        if approval.state is not ApprovalState.APPROVED:
            return approval
        if approval.kind is ApprovalKind.REVIEW:
            return self._desk.use(tx, approval.id, subject=approval.subject, check=lambda _: None).approval
        if approval.kind is ApprovalKind.WORKFLOW:
            return self._approve_workflow(tx, approval)
        return administration.settle(tx, self._context, approval)

    async def cancel(self, caller: Caller, approval_id: str) -> ApprovalView:
        """Withdraws a request: by who asked, or the human who answers for that.

        Raises:
            NotFoundError: as ``get``; also where it is somebody else's.
            FailedPreconditionError: ``APPROVAL_CLOSED``.
        """

        def work(tx: Transaction) -> ApprovalView:
            approval = self._desk.find(tx, approval_id)
            asked = tx.identities.get(approval.requester)
            own = caller.identity.id in {approval.requester, "" if asked is None else asked.owner}
            if (
                not own or approval.kind is ApprovalKind.REVIEW
            ):  # who used a runbook doesn't wave the look back at it away
                raise not_found(approval_id)
            check_open(approval, self._parts.clock())
            closed = self._desk.close(tx, approval, ApprovalState.CANCELLED, why="withdrawn", by=caller.identity.id)
            return self._views.view(tx, closed, caller.identity, with_content=False)

        view = await self._parts.store.write(work)
        self._parts.bell.ring(approval_id)
        return view

    async def sweep(self) -> int:
        """Ends what nobody decided in time; a call's own task does that for calls. Returns how many."""

        def work(tx: Transaction) -> int:
            due = [item for item in tx.approvals.due(self._parts.clock(), _SWEPT) if not _goes_on(tx, item)]
            for item in due:
                self._desk.expire(tx, item)
            return len(due)

        # What it has read it needn't read again in the step in which something is used.
        await self._parts.store.read(self._desk.agreement.read_on)
        ended = await self._parts.store.write(work)
        if ended:
            self._parts.bell.ring()
        return ended

    async def administrate(self, caller: Caller, action: str, parameters: JsonObject, reason: str) -> ApprovalView:
        """Asks for an administrative action; before the founding it is done at once.

        Raises:
            BrokerError: as ``administration.request``.
        """
        check_parameters(action, parameters)
        shown = await self._shown(action, parameters)

        def work(tx: Transaction) -> ApprovalView:
            approval, result = administration.request(
                tx, self._context, caller, action=action, shown=shown, reason=reason
            )
            if result is None:
                return self._views.view(tx, approval, caller.identity, with_content=False)
            return ApprovalView(
                approval=approval,
                requester_name=caller.subject,
                votes=(),
                missing=(),
                why_not="it has been done: until the founding is complete an operator's word does",
                held="",
                summary=f"ADMINISTRATION {action}",
                result_json=canonical(result).decode(),
            )

        view = await self._parts.store.write(work)
        self._parts.bell.ring()
        return view

    async def _shown(self, action: str, parameters: JsonObject) -> Shown:
        """What people are shown: of a change, what the broker itself finds that it changes, and never the requester's word for it."""
        if action in {TOOL, SETTINGS}:
            return standing.held_change(self._parts.held, action, str(parameters["digest"])).shown()
        if action == "unfreeze":
            return Shown(parameters, concerned=self._owner_of_frozen(parameters))
        if action != policy_changes.ACTION:
            return Shown(parameters)
        old, new = self._parts.policy.snapshot, await self._parts.policy.check(str(parameters["text"]))
        tools = {tool.spec.name: tool.spec.risk for tool in self._parts.catalogue.all()}
        counted = self._parts.counted_roles
        change = await asyncio.to_thread(policy_changes.examine, old, new, tools=tools, counted=counted)
        if not change.sensitive:
            raise FailedPreconditionError(
                "nobody has to agree to this policy: it doesn't touch the two-person rule",
                reason="APPROVAL_NOT_NEEDED",
                hint="Put it into force: broker policy apply FILE",
            )
        whatif = await self._whatif(parameters, old, new)
        change = policy_changes.check_length(replace(change, sentences=(*change.sentences, *whatif)))
        return Shown(change.parameters, change.sentences, change.concerned)

    async def _whatif(self, parameters: JsonObject, old: Snapshot, new: Snapshot) -> tuple[str, ...]:
        """What people are shown of an attached what-if report: marked as what it is, the requester's word."""
        text = str(parameters.get(WHATIF, ""))
        if not text:
            return ()
        report = await asyncio.to_thread(parse_report, text.encode())
        origin = self._parts.origin
        return await self._parts.store.read(lambda tx: attached(tx, report, old=old, new=new, origin=origin))

    def _owner_of_frozen(self, parameters: JsonObject) -> frozenset[str]:
        """Name of the owner of a frozen tool; whoever answers for a frozen agent is found in the registry."""
        tool = self._parts.catalogue.get(str(parameters["target"]))
        is_tool = parameters["scope"] == FreezeScope.TOOL.value
        return frozenset({tool.spec.owner}) if is_tool and tool is not None else frozenset()

    async def submit_workflow(self, caller: Caller, name: str, digest: str, reason: str) -> ApprovalView:
        """Asks the people of its tier to approve a workflow's present version.

        Raises:
            NotFoundError: ``WORKFLOW_UNKNOWN``.
            FailedPreconditionError: another version was meant (``WORKFLOW_CHANGED``), or it is approved already.
            PermissionDeniedError: not a human, or ``NOBODY_ELIGIBLE``.
        """
        workflow = self._parts.workflows.get(name)
        if caller.identity.kind is not IdentityKind.HUMAN:
            raise PermissionDeniedError("only people ask for a workflow's approval", reason="NOT_A_HUMAN")
        if workflow is None:
            raise NotFoundError(f"there is no workflow {name[:64]!r}", reason="WORKFLOW_UNKNOWN")
        version = workflow.digest()
        if digest not in {"", version}:
            raise FailedPreconditionError(
                f"workflow {name} is at version {version}, and {digest} was meant", reason="WORKFLOW_CHANGED"
            )
        requirement = self._parts.tiers.row(workflow.risk).workflow_requirement()
        approval_id = new_id("apv")

        def work(tx: Transaction) -> ApprovalView:
            self._check_caller(tx, caller)
            if tx.workflows.get(name, version) is not None:
                raise FailedPreconditionError(f"workflow {name} {version} is approved", reason="WORKFLOW_APPROVED")
            owner = tx.identities.by_name(IdentityKind.HUMAN, workflow.owner)
            workspace = " ".join(sorted(workflow.workspaces))
            expires = self._parts.clock() + timedelta(seconds=requirement.expiry_s)
            shown = envelope(
                tx,
                Matter(
                    reason=reason,
                    workflow={"name": name, "digest": version},
                    workflow_text=workflow.normalised(),
                    people={caller.identity.id, "" if owner is None else owner.id},
                ),
                approval=approval_id,
                kind=ApprovalKind.WORKFLOW,
                caller=caller,
                requirement=requirement,
                expires=expires,
                tier=workflow.tier,
                workspace=workspace,
                obj=WORKFLOWS,
            )
            approval = self._desk.request(
                tx,
                Request(
                    id=approval_id,
                    kind=ApprovalKind.WORKFLOW,
                    subject=name,
                    workspace=workspace,
                    obj=WORKFLOWS,
                    tier=workflow.tier,
                    requester=caller.identity.id,
                    excluded=frozenset({caller.identity.id, *(() if owner is None else (owner.id,))}),
                    requirement=requirement,
                    texts=Texts.of(shown),
                    expires=expires,
                    # So whoever has the ledger alone sees which version it was.
                    act={"type": "workflow.approved", "workflow.version": version},
                ),
            )
            return self._views.view(tx, approval, caller.identity, with_content=False)

        view = await self._parts.store.write(work)
        self._parts.bell.ring(approval_id)
        return view

    async def create_runbook(self, caller: Caller, asked: RunbookRequest) -> ApprovalView:
        """Asks for a runbook.

        Raises:
            BrokerError: as ``runbooks.create``.
        """

        def work(tx: Transaction) -> ApprovalView:
            self._check_caller(tx, caller)
            approval = create(tx, self._parts, self._blobs, caller, asked)
            return self._views.view(tx, approval, caller.identity, with_content=False)

        view = await self._parts.store.write(work)
        self._parts.bell.ring(view.approval.id)
        return view

    def _check_caller(self, tx: Transaction, caller: Caller) -> None:
        """Who asks has no vote: it must be known who that is."""
        self._desk.check_founded(tx)
        self._desk.rows(tx).caller(caller.identity.id, caller.certificate.fingerprint)

    def _approve_workflow(self, tx: Transaction, approval: Approval) -> Approval:
        shown = content.read_envelope(tx, self._parts.vault, approval)
        named = shown.get("workflow")
        version = str(named.get("digest", "")) if isinstance(named, dict) else ""
        needed = self._parts.tiers.row(Tier(approval.tier)).workflow_requirement()
        used = self._desk.use(tx, approval.id, subject=approval.subject, needed=needed, check=lambda _: None)
        if tx.workflows.get(approval.subject, version) is None:
            now = self._parts.clock()
            body: JsonObject = {
                "workflow": {"id": approval.subject, "version": version},
                "tier": approval.tier,
                "workspace": approval.workspace,
                "approvals": [used.body()],
                "at": now.isoformat(),
            }
            seq = self._parts.ledger.append(tx, "workflow.approved", body)
            tx.workflows.approve(ApprovedWorkflow(approval.subject, version, approval.tier, approval.id, now, seq))
        return used.approval

    async def workflows(self) -> list[tuple[str, str, int, ApprovedWorkflow | None, JsonObject]]:
        """Name, digest, tier, approval and text of each workflow that the operator's folder holds."""

        def work(tx: Transaction) -> list[tuple[str, str, int, ApprovedWorkflow | None, JsonObject]]:
            return [
                (name, item.digest(), item.tier, tx.workflows.get(name, item.digest()), item.normalised())
                for name, item in sorted(self._parts.workflows.items())
            ]

        return await self._parts.store.read(work)


def _goes_on(tx: Transaction, approval: Approval) -> bool:
    """Does a call wait for it? Its own task ends both."""
    call = tx.calls.get(approval.subject) if approval.kind is ApprovalKind.CALL else None
    return call is not None and call.state not in RESTING_STATES
