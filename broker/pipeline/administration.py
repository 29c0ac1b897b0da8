"""Administration: changes of who may do what. Before the founding an operator's word does it; after it, two people's.

Some actions the broker does itself, in the transaction of the vote that decides: those of ``EFFECTS``. The others wait,
approved, until whoever asked does them: a command that issues a certificate, a start with another table of tiers.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from broker.approvals import content
from broker.approvals.content import Texts
from broker.approvals.desk import Request
from broker.approvals.envelopes import Matter, envelope
from broker.domain.approval import Approval, ApprovalKind, ApprovalState
from broker.domain.canonical import JsonObject
from broker.domain.identity import Caller, IdentityKind
from broker.domain.ids import new_id
from broker.domain.ports import Transaction
from broker.domain.requirement import ADMINISTRATIVE
from broker.domain.reserved import ADMINISTRATION
from broker.domain.tier import Tier
from broker.errors import BrokerError, FailedPreconditionError, InvalidArgumentError, PermissionDeniedError
from broker.pipeline.admin_actions import EFFECTS, Context, Done, Shown, concerned
from broker.pipeline.admin_acts import act_of

NO_WORKSPACE = "-"
OPERATOR = "operator"
"""Role whose holders administrate until the founding is complete."""


def request(
    tx: Transaction, context: Context, caller: Caller, *, action: str, shown: Shown, reason: str
) -> tuple[Approval, JsonObject | None]:
    """Asks for an administrative action, or does it at once before the founding.

    Args:
        tx: the transaction.
        context: what actions are done with.
        caller: who asks.
        action: name of the action; ``check_parameters`` has let it pass.
        shown: what people are shown of it.
        reason: why, in the caller's words.

    Returns:
        The approval, and the result where it has been done already.

    Raises:
        InvalidArgumentError: a parameter is wrong; names the field.
        PermissionDeniedError: not a human, or before the founding no operator (``NOT_AN_OPERATOR``); ``NOBODY_ELIGIBLE``.
        BrokerError: what the action itself refuses.
    """
    if caller.identity.kind is not IdentityKind.HUMAN:
        raise PermissionDeniedError("only people ask for administration", reason="NOT_A_HUMAN")
    if context.desk.founded(tx):
        context.desk.rows(tx).caller(caller.identity.id, caller.certificate.fingerprint)
    parameters = shown.parameters
    people = concerned(tx, action, shown)
    approval_id = new_id("apv")
    now = context.desk.clock()
    if not context.desk.founded(tx):
        _check_operator(context, caller)
        effect = EFFECTS.get(action)
        if effect is None:
            raise FailedPreconditionError(
                f"nobody has to agree to {action} before the founding is complete",
                reason="APPROVAL_NOT_NEEDED",
                hint="Do it: it needs no approval yet.",
            )
        return _done_at_once(caller, approval_id, action, now), effect(
            tx, context, parameters, Done(caller.identity.id, "")
        )
    expires = now + timedelta(seconds=ADMINISTRATIVE.expiry_s)
    act = act_of(tx, context.vault, action, parameters)
    text = envelope(
        tx,
        Matter(
            reason=reason,
            action={"name": action, "parameters": parameters, "act": act},
            difference=shown.difference,
            people={caller.identity.id, *people},
        ),
        approval=approval_id,
        kind=ApprovalKind.ADMINISTRATION,
        caller=caller,
        requirement=ADMINISTRATIVE,
        expires=expires,
        tier=int(Tier.AUTONOMOUS),
        workspace=NO_WORKSPACE,
        obj=ADMINISTRATION,
    )
    approval = context.desk.request(
        tx,
        Request(
            id=approval_id,
            kind=ApprovalKind.ADMINISTRATION,
            subject=action,
            workspace=NO_WORKSPACE,
            obj=ADMINISTRATION,
            tier=int(Tier.AUTONOMOUS),
            requester=caller.identity.id,
            excluded=frozenset({caller.identity.id, *people}),
            requirement=ADMINISTRATIVE,
            texts=Texts.of(text),
            expires=expires,
            act=act,
        ),
    )
    return approval, None


def settle(tx: Transaction, context: Context, approval: Approval) -> Approval:
    """Does what an approval is for, once enough people agree and where the broker does it itself.

    What can't be done any more ends the approval as CANCELLED, with the reason as its result; the vote stands.
    """
    effect = EFFECTS.get(approval.subject)
    if (
        approval.kind is not ApprovalKind.ADMINISTRATION
        or approval.state is not ApprovalState.APPROVED
        or effect is None
    ):
        return approval
    shown = content.read_envelope(tx, context.vault, approval)
    parameters = parameters_of(shown, approval.subject)
    try:
        # Whom it concerns by now has no vote either, whoever that was when it was asked for.
        barred = concerned(tx, approval.subject, Shown(parameters))
        if not context.desk.count(tx, approval, barred).met:
            return approval
        result = effect(tx, context, parameters, Done(approval.requester, approval.id))
    except BrokerError as error:
        content.keep_result(tx, context.vault, approval.id, {"failed": error.reason, "message": error.message})
        return context.desk.close(tx, approval, ApprovalState.CANCELLED, why=error.reason)
    content.keep_result(tx, context.vault, approval.id, result)
    used = context.desk.use(
        tx, approval.id, subject=approval.subject, barred=barred, needed=ADMINISTRATIVE, check=lambda _: None
    )
    return used.approval


def parameters_of(shown: JsonObject, action: str) -> JsonObject:
    """The parameters of the action that an envelope is about.

    Raises:
        InvalidArgumentError: it is about another.
    """
    said = shown.get("action")
    parameters = said.get("parameters") if isinstance(said, dict) and said.get("name") == action else None
    if not isinstance(parameters, dict):
        raise InvalidArgumentError(f"the envelope is not about {action}", reason="ENVELOPE_MALFORMED")
    return parameters


def _done_at_once(caller: Caller, approval_id: str, action: str, now: datetime) -> Approval:
    return Approval(
        id=approval_id,
        kind=ApprovalKind.ADMINISTRATION,
        subject=action,
        workspace=NO_WORKSPACE,
        obj=ADMINISTRATION,
        tier=int(Tier.AUTONOMOUS),
        requester=caller.identity.id,
        excluded=(),
        state=ApprovalState.USED,
        requirement=ADMINISTRATIVE,
        envelope_digest="",
        rendering_digest="",
        created=now,
        expires=now,
        requested_seq=-1,
        closed=now,
    )


def _check_operator(context: Context, caller: Caller) -> None:
    if OPERATOR not in context.desk.electorate().roles(caller.identity.name, NO_WORKSPACE):
        raise PermissionDeniedError(
            f"until the founding is complete only operators administrate; {caller.subject} is none",
            reason="NOT_AN_OPERATOR",
            hint="Ask an operator, or complete the founding: broker approvers founding",
        )
