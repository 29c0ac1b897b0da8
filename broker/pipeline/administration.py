"""Administration: changes of who may do what. Before the founding an operator's word does it; after it, two people's.

Some actions the broker does itself, in the transaction of the vote that decides: those of ``EFFECTS``. The others wait,
approved, until whoever asked does them: a command that issues a certificate, a start with another table of tiers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from broker.approvals import content
from broker.approvals.content import Texts
from broker.approvals.desk import Desk, Request
from broker.approvals.envelopes import Matter, envelope
from broker.approvals.founding import enrol_key, parse_vkey
from broker.approvals.freezing import target_id, unfreeze
from broker.domain.approval import Approval, ApprovalKind, ApprovalState, ChatAccount, FreezeScope, KeyKind
from broker.domain.canonical import JsonObject, canonical
from broker.domain.identity import Caller, Identity, IdentityKind
from broker.domain.ids import new_id
from broker.domain.ports import Recorder, Transaction, Vault
from broker.domain.requirement import Channel, Requirement, RoleCount
from broker.domain.reserved import ADMINISTRATION
from broker.domain.tier import Tier
from broker.errors import BrokerError, FieldViolation, InvalidArgumentError, NotFoundError, PermissionDeniedError
from broker.identity.registry import Registry, next_chunk

NO_WORKSPACE = "-"
OPERATOR = "operator"
"""Role whose holders administrate until the founding is complete."""

REQUIREMENT = Requirement(
    people=2,
    roles=(RoleCount("approver", 2),),
    channels=frozenset({Channel.CLI}),
    min_signed=2,
    expiry_s=86400.0,
    cooldown_s=0.0,
    max_pending=20,
    exclude_tool_owner=False,
)
"""Who has to agree to administration. Code, and no data: nobody weakens it by an edit."""


_CHAT_ID = re.compile(r"[A-Z0-9]{2,32}")


@dataclass(frozen=True, slots=True)
class Context:
    """What an action is done with."""

    recorder: Recorder
    vault: Vault
    desk: Desk


@dataclass(frozen=True, slots=True)
class Done:
    """Who asked for an action, under which approval; the approval is empty before the founding."""

    by: str
    approval: str


Effect = Callable[[Transaction, Context, JsonObject, Done], JsonObject]

PARAMETERS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "key.enroll": frozenset({"person", "vkey", "kind"}),
        "identity.issue": frozenset({"kind", "name", "owner", "key_digest"}),
        "identity.owner": frozenset({"agent", "owner"}),
        "account.map": frozenset({"service", "team", "user", "person"}),
        "account.unmap": frozenset({"service", "team", "user"}),
        "unfreeze": frozenset({"scope", "target"}),
    }
)
"""Action -> its parameters, all of them needed."""


def request(
    tx: Transaction, context: Context, caller: Caller, *, action: str, parameters: JsonObject, reason: str
) -> tuple[Approval, JsonObject | None]:
    """Asks for an administrative action, or does it at once before the founding.

    Returns:
        The approval, and the result where it has been done already.

    Raises:
        InvalidArgumentError: no such action, or its parameters are wrong; names the field.
        PermissionDeniedError: not a human, or before the founding no operator (``NOT_AN_OPERATOR``); ``NOBODY_ELIGIBLE``.
        BrokerError: what the action itself refuses.
    """
    if caller.identity.kind is not IdentityKind.HUMAN:
        raise PermissionDeniedError("only people ask for administration", reason="NOT_A_HUMAN")
    check_parameters(action, parameters)
    concerned = _concerned(tx, action, parameters)
    approval_id = new_id("apv")
    now = context.desk.clock()
    if not tx.voters.founding():
        _check_operator(context, caller)
        effect = EFFECTS.get(action)
        result = {} if effect is None else effect(tx, context, parameters, Done(caller.identity.id, ""))
        return _done_at_once(caller, approval_id, action, now), result
    expires = now + timedelta(seconds=REQUIREMENT.expiry_s)
    shown = envelope(
        tx,
        Matter(
            reason=reason,
            action={"name": action, "parameters": parameters},
            people={caller.identity.id, *concerned},
        ),
        approval=approval_id,
        kind=ApprovalKind.ADMINISTRATION,
        caller=caller,
        requirement=REQUIREMENT,
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
            excluded=frozenset({caller.identity.id, *concerned}),
            requirement=REQUIREMENT,
            texts=Texts.of(shown),
            expires=expires,
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
        result = effect(tx, context, parameters, Done(approval.requester, approval.id))
    except BrokerError as error:
        content.keep_result(tx, context.vault, approval.id, {"failed": error.reason, "message": error.message})
        return context.desk.close(tx, approval, ApprovalState.CANCELLED, why=error.reason)
    content.keep_result(tx, context.vault, approval.id, result)
    return context.desk.use(tx, approval.id, subject=approval.subject, check=lambda _: None).approval


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


def check_parameters(action: str, parameters: JsonObject) -> None:
    """Lets an action pass with exactly its parameters.

    Raises:
        InvalidArgumentError: ``ACTION_UNKNOWN``, ``PARAMETERS_INVALID``; names the field.
    """
    wanted = PARAMETERS.get(action)
    if wanted is None:
        raise _invalid("action", f"is none of {', '.join(sorted(PARAMETERS))}", "ACTION_UNKNOWN")
    for name in sorted(wanted | parameters.keys()):
        if name not in wanted:
            raise _invalid(f"parameters.{name}", f"is none of {action}'s", "PARAMETERS_INVALID")
        if not isinstance(parameters.get(name), str):
            raise _invalid(f"parameters.{name}", "is missing, or no text", "PARAMETERS_INVALID")


def _concerned(tx: Transaction, action: str, parameters: JsonObject) -> frozenset[str]:
    """Ids of the people whom an action is about: they don't vote on it. What is wrong is refused before anybody is asked."""
    match action:
        case "key.enroll":
            holder = _holder(tx, parameters)
            parse_vkey(_text(parameters, "vkey"), holder.name)
            return frozenset({holder.id, holder.owner} - {""})
        case "account.map":
            return frozenset({_human(tx, _text(parameters, "person")).id})
        case "identity.owner":
            agent = _agent(tx, _text(parameters, "agent"))
            return frozenset({_human(tx, _text(parameters, "owner")).id, agent.owner})
        case "identity.issue":
            if parameters["kind"] not in set(IdentityKind):
                raise _invalid("parameters.kind", "must be agent or human", "PARAMETERS_INVALID")
            known = tx.identities.by_name(IdentityKind(str(parameters["kind"])), _text(parameters, "name"))
            owner = _text(parameters, "owner")
            people = {"" if known is None else known.id, "" if not owner else _human(tx, owner).id}
            return frozenset(people - {""})
        case "unfreeze":
            scope, target = _scope(parameters), _text(parameters, "target")
            which = target_id(tx, scope, target)
            found = next((item for item in tx.freezes.all() if (item.scope, item.target) == (scope, which)), None)
            if found is None:
                raise NotFoundError(f"{scope.value} {target} is not frozen", reason="NOT_FROZEN")
    return frozenset()


def _enrol(tx: Transaction, context: Context, parameters: JsonObject, done: Done) -> JsonObject:
    holder = _holder(tx, parameters)
    key = enrol_key(
        tx,
        context.recorder,
        holder=holder,
        vkey=_text(parameters, "vkey"),
        kind=KeyKind(_text(parameters, "kind")),
        by=done.by,
        approval=done.approval,
        now=context.desk.clock(),
    )
    return {"key": key.id, "holder": key.holder}


def _change_owner(tx: Transaction, context: Context, parameters: JsonObject, done: Done) -> JsonObject:
    agent, owner = _agent(tx, _text(parameters, "agent")), _human(tx, _text(parameters, "owner"))
    registry = Registry(context.recorder, context.vault)
    changed = registry.change_owner(tx, agent=agent.id, owner=owner.id, by=done.by, now=context.desk.clock())
    return {"agent": changed.id, "owner": changed.owner}


def _map(tx: Transaction, context: Context, parameters: JsonObject, done: Done) -> JsonObject:
    person = _human(tx, _text(parameters, "person"))
    account = ChatAccount(_service(parameters), _id(parameters, "team"), _id(parameters, "user"), person.id)
    if tx.voters.account(account.service, account.team, account.user) is not None:
        raise InvalidArgumentError("the account is mapped already", reason="ACCOUNT_IN_USE")
    if any(tx.voters.accounts(account.service, account.team, person.id)):
        raise InvalidArgumentError(f"human {person.name} has an account in that team already", reason="ACCOUNT_IN_USE")
    seq = _record(tx, context, "account.mapped", account, done)
    tx.voters.map_account(account, seq)
    return {"person": person.id}


def _unmap(tx: Transaction, context: Context, parameters: JsonObject, done: Done) -> JsonObject:
    found = tx.voters.account(_service(parameters), _id(parameters, "team"), _id(parameters, "user"))
    if found is None:
        raise NotFoundError("there is no such account", reason="ACCOUNT_UNKNOWN")
    _record(tx, context, "account.unmapped", found, done)
    tx.voters.unmap_account(found.service, found.team, found.user)
    return {"person": found.person}


def _record(tx: Transaction, context: Context, entry_type: str, account: ChatAccount, done: Done) -> int:
    # Team and user are sealed: an account says more of a person than an id does.
    sealed = context.vault.open(tx, account.person)
    index = next_chunk(tx, account.person)
    text = canonical([account.service, account.team, account.user])
    sealed.put(tx, {index: text})
    body: JsonObject = {
        "person": account.person,
        "sealed": {"index": index, "commit": sealed.commit(entry_type, text)},
        "by": done.by,
        "approval": done.approval,
    }
    return context.recorder.append(tx, entry_type, body)


def _unfreeze(tx: Transaction, context: Context, parameters: JsonObject, done: Done) -> JsonObject:
    scope, target = _scope(parameters), _text(parameters, "target")
    unfreeze(tx, context.recorder, scope=scope, target=target, by=done.by, approval=done.approval)
    return {"scope": scope.value, "target": target}


EFFECTS: Mapping[str, Effect] = MappingProxyType(
    {
        "key.enroll": _enrol,
        "identity.owner": _change_owner,
        "account.map": _map,
        "account.unmap": _unmap,
        "unfreeze": _unfreeze,
    }
)
"""What the broker does itself. Each looks at everything before it writes anything."""


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
        requirement=REQUIREMENT,
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


def _holder(tx: Transaction, parameters: JsonObject) -> Identity:
    kind = parameters["kind"]
    if kind not in set(KeyKind):
        raise _invalid("parameters.kind", "must be approver or bot", "PARAMETERS_INVALID")
    name = _text(parameters, "person")
    return _human(tx, name) if kind == KeyKind.APPROVER.value else _agent(tx, name)


def _human(tx: Transaction, name: str) -> Identity:
    return _identity(tx, IdentityKind.HUMAN, name)


def _agent(tx: Transaction, name: str) -> Identity:
    return _identity(tx, IdentityKind.AGENT, name)


def _identity(tx: Transaction, kind: IdentityKind, name: str) -> Identity:
    found = tx.identities.by_name(kind, name) or tx.identities.get(name)
    if found is None or found.kind is not kind or found.revoked is not None:
        raise NotFoundError(f"there is no {kind} {name[:64]!a}, or it has been revoked", reason="IDENTITY_UNKNOWN")
    return found


def _scope(parameters: JsonObject) -> FreezeScope:
    try:
        return FreezeScope(_text(parameters, "scope"))
    except ValueError as error:
        raise _invalid("parameters.scope", "is none of agent, tool, workspace and all", "PARAMETERS_INVALID") from error


def _service(parameters: JsonObject) -> str:
    if parameters.get("service") != Channel.SLACK.value:
        raise _invalid("parameters.service", "must be slack", "PARAMETERS_INVALID")
    return Channel.SLACK.value


def _id(parameters: JsonObject, name: str) -> str:
    value = _text(parameters, name)
    if not _CHAT_ID.fullmatch(value):
        raise _invalid(f"parameters.{name}", "is no id of the service, such as U0123ABC", "PARAMETERS_INVALID")
    return value


def _text(parameters: JsonObject, name: str) -> str:
    value = parameters.get(name)
    if not isinstance(value, str):
        raise _invalid(f"parameters.{name}", "must be a text", "PARAMETERS_INVALID")
    return value


def _invalid(field: str, why: str, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} {why}", reason=reason, violations=(FieldViolation(field, why),))
