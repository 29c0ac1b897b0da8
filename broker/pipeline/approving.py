"""What people are asked about a call: the requirement of its tier, and the envelope with everything that they see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from broker.approvals.content import Texts
from broker.approvals.desk import Desk, Request
from broker.approvals.envelopes import Matter, envelope
from broker.domain.approval import Approval, ApprovalKind
from broker.domain.call import CallRequest, Decision, InputFile, Lineage
from broker.domain.canonical import JsonObject, JsonValue, canonical, digest, parse_object
from broker.domain.events import StoredRequest
from broker.domain.identity import Caller, IdentityKind
from broker.domain.ids import new_id
from broker.domain.ports import CallRow, Transaction, VaultRow
from broker.domain.requirement import Requirement
from broker.domain.tier import APPROVAL_REQUIRED_FROM, Tier
from broker.domain.workflow import WorkflowSpec
from broker.errors import FailedPreconditionError, FieldViolation, InternalError, InvalidArgumentError
from broker.pipeline.active import ActiveCall
from broker.pipeline.blobs import Blobs
from broker.pipeline.envelope_check import envelope_changed
from broker.pipeline.parts import Parts
from broker.specs.catalogue import Tool

MAX_SHOWN_FILE = 64 * 1024
"""Bytes of the longest input file of a call that people have to agree to: its text stands in the envelope."""
MAX_SHOWN = 1 << 20
"""Bytes of all shown files together."""


def call_requirement(parts: Parts, tier: Tier) -> Requirement | None:
    """Who has to agree to a call of a tier; ``None`` where nobody has to.

    Raises:
        InternalError: nobody has to at Tier 4: code holds that floor, whatever data says.
    """
    found = parts.tiers.row(tier).call_requirement()
    if found is None and tier >= APPROVAL_REQUIRED_FROM:
        raise InternalError("Tier 4 needs two people's approval, and the table of tiers asks for none")
    return found


def kept_out(tx: Transaction, lineage: Lineage, tool: Tool, requirement: Requirement) -> frozenset[str]:
    """Ids of the people who may not vote on a call: its whole lineage, and the tool's owner where the tier says so."""
    people = {lineage.owner, lineage.registrar, lineage.starter, lineage.on_behalf_of}
    if requirement.exclude_tool_owner:
        owner = tx.identities.by_name(IdentityKind.HUMAN, tool.spec.owner)
        people.add("" if owner is None else owner.id)
    return frozenset(people - {""})


def kept_out_now(tx: Transaction, parts: Parts, active: ActiveCall) -> frozenset[str]:
    """Ids of the people whose votes don't count for a call as it stands now, whatever was so when it was asked for."""
    requirement = call_requirement(parts, Tier(active.row.tier))
    if requirement is None:
        lineage = active.request.lineage
        return frozenset({lineage.owner, lineage.registrar, lineage.starter, lineage.on_behalf_of} - {""})
    return kept_out(tx, active.request.lineage, active.tool, requirement)


async def shown_files(blobs: Blobs, files: Sequence[InputFile], rows: Sequence[VaultRow]) -> list[JsonObject]:
    """The input files as approvers see them: each in full.

    Raises:
        InvalidArgumentError: one can't be shown whole (``FILE_NOT_SHOWN``): nobody approves what they can't see.
    """
    shown: list[JsonObject] = []
    room = MAX_SHOWN
    for item, row in zip(files, rows, strict=True):
        entry: JsonObject = {
            "path": item.path,
            "size": row.size,
            "digest": row.digest,
            "executable": item.executable,
        }
        text = None
        if row.size <= min(MAX_SHOWN_FILE, room):
            data = b"".join([piece async for piece in blobs.content(row)])
            text = _text(data)
        if text is None:
            raise _cannot_be_shown(len(shown), item)
        room -= row.size
        shown.append({**entry, "shown": "text", "text": text})
    return shown


def _cannot_be_shown(index: int, item: InputFile) -> InvalidArgumentError:
    field = f"tool_call.files[{index}]"
    why = (
        f"{item.path!r} can't be shown whole to those who decide: it is no UTF-8 text, or longer than "
        f"{MAX_SHOWN_FILE // 1024} KiB, or all of them are longer than {MAX_SHOWN // 1024} KiB together"
    )
    return InvalidArgumentError(
        f"{field}: {why}",
        reason="FILE_NOT_SHOWN",
        violations=(FieldViolation(field, why),),
        hint="Nobody approves what they can't see. Give smaller text files, or let the tool fetch the rest by its digest.",
    )


def _text(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call's approval is asked for with; made before the transaction that asks."""

    id: str
    requirement: Requirement
    excluded: frozenset[str]
    expires: datetime
    texts: Texts


def ask(
    tx: Transaction,
    parts: Parts,
    *,
    caller: Caller,
    request: CallRequest,
    tool: Tool,
    tier: Tier,
    lineage: Lineage,
    decision: Decision,
    call: bytes,
    files: Sequence[JsonObject],
    workflow: WorkflowSpec | None,
    requirement: Requirement,
    effect: JsonObject | None = None,
) -> Asked:
    """Puts together what approvers are shown; reads names only.

    Args:
        tx: a transaction.
        parts: the broker's.
        caller: the agent.
        request: what it asks for.
        tool: the tool.
        tier: at which the call runs.
        lineage: who stands behind it.
        decision: the policy's.
        call: the call's own envelope.
        files: as ``shown_files`` gives them.
        workflow: the version under which it runs.
        requirement: who has to agree.
        effect: what its run on a copy changed there; ``None`` where it hasn't run.
    """
    approval_id = new_id("apv")
    expires = parts.clock() + timedelta(seconds=requirement.expiry_s)
    excluded = kept_out(tx, lineage, tool, requirement)
    matter = Matter(
        purpose=request.context.purpose,
        reversibility=tool.spec.reversibility,
        on_failure=_on_failure(effect),
        decision={
            "rule": decision.rule,
            "reason": decision.reason,
            "tier": int(tier),
            "policy_row": parts.policy.snapshot.row_text(decision.rule),
        },
        workflow=None if workflow is None else {"name": workflow.name, "digest": workflow.digest()},
        call=parse_object(call, field="envelope", max_bytes=len(call)),
        files=files,
        effect=effect,
        people={lineage.agent, *excluded, lineage.owner, lineage.registrar, lineage.starter, lineage.on_behalf_of},
    )
    shown = envelope(
        tx,
        matter,
        approval=approval_id,
        kind=ApprovalKind.CALL,
        caller=caller,
        requirement=requirement,
        expires=expires,
        tier=int(tier),
        workspace=request.context.workspace,
        obj=request.tool,
    )
    return Asked(approval_id, requirement, excluded, expires, Texts.of(shown))


def _on_failure(effect: JsonObject | None) -> str:
    bound = None if effect is None else effect.get("bound")
    outside = bound.get("outside") if isinstance(bound, dict) else None
    return str(outside.get("on_failure")) if isinstance(outside, dict) else "none"


def check_rows(tx: Transaction, desk: Desk, request: StoredRequest) -> None:
    """Lets a call pass whose lineage and certificate are those that the ledger names, whatever the tables say.

    Raises:
        DataLossError: ``IDENTITY_CHANGED``, ``CERTIFICATE_CHANGED``.
    """
    rows = desk.rows(tx)
    rows.caller(request.lineage.agent, request.fingerprint)
    rows.lineage(request.lineage)


def file_request(tx: Transaction, desk: Desk, asked: Asked, row: CallRow, request: StoredRequest) -> Approval:
    """Puts a call's request for approval on record, with the call.

    Raises:
        BrokerError: as ``Desk.request`` and ``check_rows``.
    """
    check_rows(tx, desk, request)
    return desk.request(tx, _request(asked, row))


def check_askable(
    tx: Transaction, desk: Desk, row: CallRow, *, lineage: Lineage, tool: Tool, requirement: Requirement
) -> None:
    """Lets a call pass of which people will be asked once its effect is known: who can't be asked, or won't be now, is told
    so before anything runs.

    Raises:
        BrokerError: as ``Desk.check``.
    """
    excluded = kept_out(tx, lineage, tool, requirement)
    desk.check(tx, _request(Asked("", requirement, excluded, row.created, Texts(b"", "")), row))


def _request(asked: Asked, row: CallRow) -> Request:
    return Request(
        id=asked.id,
        kind=ApprovalKind.CALL,
        subject=row.id,
        workspace=row.workspace,
        obj=row.tool,
        tier=row.tier,
        requester=row.agent,
        excluded=asked.excluded,
        requirement=asked.requirement,
        texts=asked.texts,
        expires=asked.expires,
        call_id=row.id,
        tool={"name": row.tool, "version": row.tool_version},
        agent=row.agent,
        kept_until=row.expires,
    )


def same_call(shown: JsonObject, now: bytes) -> None:
    """Lets pass what was shown, if it is what is about to run.

    Raises:
        FailedPreconditionError: ``ENVELOPE_CHANGED``, with both digests and the fields that differ.
    """
    call: JsonValue = shown.get("call")
    if not isinstance(call, dict):
        raise FailedPreconditionError("what was approved is no call", reason="ENVELOPE_CHANGED")
    then = canonical(call)
    if then != now:
        raise envelope_changed(then, now, digest(then))


def same_effect(shown: JsonObject, call: bytes, bound: JsonObject) -> None:
    """Lets pass what was shown, if it is the effect that is about to be applied, of that very call.

    Args:
        shown: the approval's envelope.
        call: the call's own, as it was planned.
        bound: by what the effect is known, made of what is about to be applied.

    Raises:
        FailedPreconditionError: ``ENVELOPE_CHANGED``, with both digests and the fields that differ.
    """
    same_call(shown, call)
    effect = shown.get("effect")
    then = canonical(effect.get("bound") if isinstance(effect, dict) else None)
    now = canonical(bound)
    if then != now:
        raise envelope_changed(then, now, digest(then))
