"""Runbooks: one exact call that people agree on beforehand, for an emergency; used once, and looked back at after it.

There is no way through for one person. Two have signed the very tool, specification, arguments and container before
anything burns; whoever uses it tells every approver by that, and a review waits for a vote afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from broker.approvals.content import Texts, read_envelope
from broker.approvals.desk import Request, check_open
from broker.approvals.envelopes import Matter, envelope
from broker.domain.approval import Approval, ApprovalKind, ApprovalState
from broker.domain.call import CallContext, CallRequest, Decision, Lineage, PolicyRequest
from broker.domain.canonical import JsonObject, canonical, digest, parse_object
from broker.domain.envelope import fresh_salt
from broker.domain.identity import Caller, IdentityKind
from broker.domain.ids import new_id
from broker.domain.ports import Transaction
from broker.domain.requirement import MAX_EXPIRY_S, Channel, Requirement, RoleCount
from broker.domain.reserved import RUNBOOKS
from broker.domain.tier import Tier
from broker.domain.workflow import run_tier
from broker.errors import (
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from broker.pipeline.active import ActiveCall
from broker.pipeline.approving import kept_out
from broker.pipeline.blobs import Blobs
from broker.pipeline.checks import denied, with_hold
from broker.pipeline.envelope_check import envelope_changed
from broker.pipeline.parts import Parts
from broker.pipeline.plan import plan_job, seal_envelope
from broker.pipeline.workflows import approved_workflow, check_named
from broker.specs.catalogue import Tool

REVIEW = Requirement(
    people=1,
    roles=(RoleCount("approver", 1),),
    channels=frozenset({Channel.CLI, Channel.SLACK}),
    min_signed=0,
    expiry_s=MAX_EXPIRY_S,
    cooldown_s=0.0,
    max_pending=100,
    exclude_tool_owner=False,
)
"""Who looks back at the use of a runbook. Nothing comes of it but the record."""

_OF_ONE_CALL = frozenset({"call_id", "lineage", "salt", "expires", "decision"})
"""Members of a call's envelope that a runbook can't know beforehand."""


@dataclass(frozen=True, slots=True)
class RunbookRequest:
    """The call that is to be agreed on; ``agent`` by name, the version empty for the present one."""

    workspace: str
    tool: str
    tool_version: str
    arguments: JsonObject
    agent: str
    workflow: str
    reason: str
    expires: datetime


def create(tx: Transaction, parts: Parts, blobs: Blobs, caller: Caller, asked: RunbookRequest) -> Approval:
    """Asks for a runbook.

    Raises:
        PermissionDeniedError: not a human; the policy doesn't let the agent call the tool; ``NOBODY_ELIGIBLE``.
        InvalidArgumentError: arguments, tool, version, agent or expiry; names the field.
    """
    if caller.identity.kind is not IdentityKind.HUMAN:
        raise PermissionDeniedError("only people ask for a runbook", reason="NOT_A_HUMAN")
    tool = parts.catalogue.get(asked.tool)
    if tool is None or asked.tool_version not in {"", tool.digest}:
        raise NotFoundError(f"there is no tool {asked.tool!r} in that version", reason="TOOL_NOT_FOUND")
    tool.validate_arguments(asked.arguments)
    agent = tx.identities.by_name(IdentityKind.AGENT, asked.agent)
    if agent is None or agent.revoked is not None:
        raise NotFoundError(f"there is no agent {asked.agent[:64]!a}", reason="IDENTITY_UNKNOWN")
    parts.desk.rows(tx).identity(agent.id)
    workflow = approved_workflow(tx, parts, asked.workflow)
    tier = run_tier(tool.spec.risk, None if workflow is None else workflow.risk)
    check_named(workflow, tier, field="workflow")
    requirement = _requirement(parts, tier, asked.expires)
    decision = with_hold(
        parts.policy.snapshot.decide(PolicyRequest(f"agent:{agent.name}", asked.workspace, asked.tool, "call", tier)),
        tool,
    )
    if not decision.allowed:
        raise denied(caller, asked.tool, asked.workspace, decision)
    lineage = Lineage(agent.id, agent.owner, agent.registrar)
    approval_id = new_id("apv")
    excluded = kept_out(tx, lineage, tool, requirement) | {caller.identity.id}
    shown = envelope(
        tx,
        Matter(
            reason=asked.reason,
            reversibility=tool.spec.reversibility,
            decision={
                "rule": decision.rule,
                "reason": decision.reason,
                "tier": int(tier),
                "policy_row": parts.policy.snapshot.row_text(decision.rule),
            },
            workflow=None if workflow is None else {"name": workflow.name, "digest": workflow.digest()},
            call=_call(parts, blobs, tool, asked=asked, tier=tier, decision=decision),
            people={caller.identity.id, agent.id, *excluded},
            action={"name": "runbook", "parameters": {"agent": agent.name}},
        ),
        approval=approval_id,
        kind=ApprovalKind.RUNBOOK,
        caller=caller,
        requirement=requirement,
        expires=asked.expires,
        tier=int(tier),
        workspace=asked.workspace,
        obj=RUNBOOKS,
    )
    return parts.desk.request(
        tx,
        Request(
            id=approval_id,
            kind=ApprovalKind.RUNBOOK,
            subject=approval_id,
            workspace=asked.workspace,
            obj=RUNBOOKS,
            tier=int(tier),
            requester=caller.identity.id,
            excluded=excluded,
            requirement=requirement,
            texts=Texts.of(shown),
            expires=asked.expires,
            tool={"name": asked.tool, "version": tool.digest},
        ),
    )


def check_usable(tx: Transaction, parts: Parts, runbook: str, *, agent: str, tool: Tool, arguments: bytes) -> Approval:
    """Lets a call pass that names a runbook of its own: agreed on, and about this very tool and these arguments.

    What is compared here is compared again, whole, when the call begins.

    Raises:
        FailedPreconditionError: ``RUNBOOK_UNUSABLE``, ``APPROVAL_CLOSED``.
    """
    approval = tx.approvals.get(runbook)
    if approval is None or approval.kind is not ApprovalKind.RUNBOOK:
        raise _unusable("there is no such runbook")
    check_open(approval, parts.clock())
    if approval.state is not ApprovalState.APPROVED:
        raise _unusable("people have not agreed to it yet")
    shown, named = _shown(tx, parts, approval)
    wanted = tx.identities.get(agent)
    call = shown.get("call")
    fits = isinstance(call, dict) and call.get("arguments_digest") == digest(arguments)
    spec = call.get("tool") if isinstance(call, dict) else None
    if not fits or spec != {"name": tool.spec.name, "spec_digest": tool.digest}:
        raise _unusable("it is about another tool, another version of it, or other arguments")
    if wanted is None or wanted.name != named:
        raise _unusable("it is another agent's")
    return approval


def same_as_runbook(call: bytes) -> Callable[[JsonObject], None]:
    """A check that lets a runbook pass which is about a call, given by its envelope."""

    def check(shown: JsonObject) -> None:
        then = shown.get("call")
        before = canonical(_comparable(then if isinstance(then, dict) else {}))
        now = canonical(_comparable(parse_object(call, field="envelope", max_bytes=len(call))))
        if before != now:
            raise envelope_changed(before, now, digest(before))

    return check


def ask_review(tx: Transaction, parts: Parts, active: ActiveCall, caller: Caller) -> Approval:
    """Asks for the look back at a runbook's use, in the transaction that uses it."""
    approval_id = new_id("apv")
    runbook = parts.desk.find(tx, active.approval)
    expires = parts.clock() + timedelta(seconds=REVIEW.expiry_s)
    lineage = active.request.lineage
    excluded = frozenset(
        {lineage.owner, lineage.registrar, lineage.starter, lineage.on_behalf_of, runbook.requester} - {""}
    )
    shown = envelope(
        tx,
        Matter(
            action={
                "name": "runbook.used",
                "parameters": {
                    "runbook": f"approvals/{runbook.id}",
                    "call": f"calls/{active.row.id}",
                    "tool": active.row.tool,
                },
            },
            people={caller.identity.id, *excluded},
        ),
        approval=approval_id,
        kind=ApprovalKind.REVIEW,
        caller=caller,
        requirement=REVIEW,
        expires=expires,
        tier=active.row.tier,
        workspace=active.row.workspace,
        obj=RUNBOOKS,
    )
    return parts.desk.request(
        tx,
        Request(
            id=approval_id,
            kind=ApprovalKind.REVIEW,
            subject=runbook.id,
            workspace=active.row.workspace,
            obj=RUNBOOKS,
            tier=active.row.tier,
            requester=active.row.agent,
            excluded=excluded,
            requirement=REVIEW,
            texts=Texts.of(shown),
            expires=expires,
            agent=active.row.agent,
        ),
        patient=False,
    )


def _requirement(parts: Parts, tier: Tier, expires: datetime) -> Requirement:
    found = parts.tiers.row(Tier.AUTONOMOUS).call_requirement()
    own = parts.tiers.row(tier).call_requirement() or found
    left = (expires - parts.clock()).total_seconds()
    if own is None or not 0 < left <= MAX_EXPIRY_S:
        why = f"must be within the next {MAX_EXPIRY_S / 86400:.0f} days"
        raise InvalidArgumentError(
            f"expire_time {why}", reason="EXPIRY_INVALID", violations=(FieldViolation("expire_time", why),)
        )
    # Whole seconds: the ledger knows no fractions. It ends at ``expires`` all the same.
    return replace(own, expiry_s=float(min(math.ceil(left), MAX_EXPIRY_S)))


def lasting(needed: Requirement | None, approval: Approval) -> Requirement | None:
    """What would be asked for now, with the expiry that the runbook was asked for with: that it lasts is its purpose."""
    return None if needed is None else replace(needed, expiry_s=approval.requirement.expiry_s)


def _call(
    parts: Parts, blobs: Blobs, tool: Tool, *, asked: RunbookRequest, tier: Tier, decision: Decision
) -> JsonObject:
    arguments = canonical(asked.arguments)
    request = CallRequest(
        tool=asked.tool,
        tool_version=tool.digest,
        arguments=asked.arguments,
        arguments_bytes=arguments,
        files=(),
        context=CallContext(workspace=asked.workspace, workflow=asked.workflow),
    )
    plan = plan_job(parts, blobs, tool=tool, arguments_bytes=arguments, files=(), rows=())
    sealed = seal_envelope(
        "",
        request=request,
        lineage=Lineage("", "", ""),
        tool=tool,
        plan=plan,
        container=parts.sandboxes.expected_facts(plan.profile),
        tier=tier,
        decision=decision,
        expires=asked.expires,
        salt=fresh_salt(),
    )
    call = parse_object(sealed, field="envelope", max_bytes=len(sealed))
    return {name: value for name, value in call.items() if name != "call_id"} | {"lineage": None}


def _comparable(call: JsonObject) -> JsonObject:
    return {name: value for name, value in call.items() if name not in _OF_ONE_CALL}


def _shown(tx: Transaction, parts: Parts, approval: Approval) -> tuple[JsonObject, str]:
    shown = read_envelope(tx, parts.vault, approval)
    action = shown.get("action")
    parameters = action.get("parameters") if isinstance(action, dict) else None
    return shown, str(parameters.get("agent", "")) if isinstance(parameters, dict) else ""


def _unusable(why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"the runbook can't be used: {why}",
        reason="RUNBOOK_UNUSABLE",
        violations=(FieldViolation("tool_call.context.runbook", why),),
        hint="See it with: broker approvals show",
    )
