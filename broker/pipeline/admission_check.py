"""Checks of a request that ask the policy, the registry, the workflow and the freezes: what a call may do, or why not.

The policy is asked before the arguments are looked at, so that a caller who may not use a tool learns nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.approvals.freezing import check_frozen
from broker.domain.call import CallRequest, Decision, Lineage, PolicyRequest
from broker.domain.identity import Caller, IdentityKind
from broker.domain.ids import NAME_PATTERN
from broker.domain.ports import CallRow, Transaction, VaultRow
from broker.domain.requirement import Requirement
from broker.domain.tier import Tier
from broker.domain.workflow import WorkflowSpec, run_tier
from broker.errors import (
    ConflictError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from broker.identity.directory import Directory
from broker.pipeline.approving import call_requirement
from broker.pipeline.blobs import Blobs
from broker.pipeline.checks import (
    check_carried,
    check_classes,
    check_paths,
    check_sizes,
    denied,
    request_digest,
    tool_tier,
    with_hold,
)
from broker.pipeline.parts import Parts
from broker.pipeline.taking_back import as_it_runs, find_chain, lineage_of, takes_back
from broker.pipeline.undoing_outside import check_accepted
from broker.pipeline.workflows import approved_workflow, check_inside
from broker.specs.catalogue import Tool
from broker.specs.tiers import TierRow


@dataclass(frozen=True, slots=True)
class Checked:
    """A request that may be put on record."""

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


def check_reversible(row: TierRow, tool: Tool) -> None:
    """Lets a tool pass that can be taken back, or may do what can't be at this tier; taking something back always may.

    Raises:
        FailedPreconditionError: ``IRREVERSIBLE_REFUSED``.
    """
    if tool.spec.reversibility == "irreversible" and not row.irreversible and not takes_back(tool.spec.name):
        raise FailedPreconditionError(
            f"nothing takes back what {tool.spec.name} does, and the table of tiers allows no such tool at tier {row.tier}",
            reason="IRREVERSIBLE_REFUSED",
            hint=f"Give it programs in `outside` that take it back, or `irreversible: true` to tier {row.tier} in tiers.yaml.",
        )


class RequestChecks:
    """Looks at requests before anything is written.

    Args:
        parts: the broker's.
        blobs: the files that a request names.
    """

    def __init__(self, parts: Parts, blobs: Blobs) -> None:
        self._parts = parts
        self._blobs = blobs

    async def check(self, caller: Caller, request: CallRequest) -> Checked | CallRow:
        """What a call may do; or the call that the same request has become before.

        Raises:
            BrokerError: as ``Admission.admit``.
        """
        # People use no tools, but for taking back what a call did: who answers an incident needs no agent for it.
        if caller.identity.kind is not IdentityKind.AGENT and not takes_back(request.tool):
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
        asked = PolicyRequest(caller.subject, workspace, request.tool, "call", tier)
        decision = with_hold(self._parts.policy.snapshot.decide(asked), tool)
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
        if takes_back(tool.spec.name):
            chain = await self._parts.store.read(lambda tx: find_chain(tx, self._parts, workspace, request.arguments))
            tool = as_it_runs(self._parts, tool, chain.tier, chain.named)
        check_accepted(tool)
        check_paths(tool, request.files)
        return await self._prove(caller, request, tool, decision)

    async def _prove(self, caller: Caller, request: CallRequest, tool: Tool, decision: Decision) -> Checked | CallRow:
        directory = await self._parts.directory.current()
        now = self._parts.clock()

        def work(tx: Transaction) -> Checked | CallRow:
            known = self.known(tx, caller, request)
            if known is not None:
                return known
            workflow = approved_workflow(tx, self._parts, request.context.workflow)
            tier = run_tier(tool.spec.risk, None if workflow is None else workflow.risk)
            lineage = lineage_of(
                tx, self._parts, directory, caller=caller, tool=tool, context=request.context, tier=tier, now=now
            )
            check_reversible(self._parts.tiers.row(tier), tool)
            blobs = tuple(self._blobs.visible(tx, caller, item.blob) for item in request.files)
            labels = {label for blob in blobs for label in blob.data_classes}
            workspace = self._parts.workspace_classes.get(request.context.workspace, ())
            classes = {*tool.spec.data_classes, *workspace, *request.context.data_classes, *labels}
            if workflow is not None:
                check_inside(workflow, context=request.context, tool=request.tool, data_classes=classes)
            missing = self._parts.tiers.row(tier).missing(request.context)
            if caller.identity.kind is not IdentityKind.AGENT:
                # A person needs no session, and no workflow, which says what agents do.
                missing = [name for name in missing if name not in {"session", "workflow"}]
            check_carried(missing, tier)
            agent = caller.identity.id
            check_frozen(
                tx,
                agent=agent,
                tool=request.tool,
                workspace=request.context.workspace,
                known=self._parts.desk.agreement.frozen(),
            )
            return Checked(
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
        asked = PolicyRequest(caller.subject, workspace, request.tool, "call", tier)
        lifted = with_hold(self._parts.policy.snapshot.decide(asked), self._parts.catalogue.get(request.tool))
        if not lifted.allowed:
            raise denied(caller, request.tool, workspace, lifted)
        return lifted

    @staticmethod
    def known(tx: Transaction, caller: Caller, request: CallRequest) -> CallRow | None:
        """The call that a request of the same id and content has become before; ``None`` for none.

        Raises:
            ConflictError: the id stands for another request (``REQUEST_ID_REUSED``).
        """
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
