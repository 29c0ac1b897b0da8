"""What administration can do, action by action: parameters, whom each concerns, and its effect."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from broker.approvals.authority import Agreed
from broker.approvals.desk import Desk
from broker.approvals.founding import check_after_founding, enrol_key, parse_vkey
from broker.approvals.freezing import target_id, unfreeze
from broker.approvals.revoking import end_key
from broker.domain.administration import (
    ENROL,
    ISSUE,
    MAP,
    OWNER,
    POLICY,
    REVOKE,
    REVOKE_KEY,
    SETTINGS,
    TOOL,
    UNFREEZE,
    UNMAP,
)
from broker.domain.approval import ChatAccount, FreezeScope, KeyKind, VoterKey
from broker.domain.canonical import JsonObject, canonical
from broker.domain.identity import Identity, IdentityKind
from broker.domain.ports import Recorder, Transaction, Vault
from broker.domain.requirement import Channel
from broker.errors import FieldViolation, InvalidArgumentError, NotFoundError
from broker.identity.names import check_name
from broker.identity.registry import Registry, next_chunk

_CHAT_ID = re.compile(r"[A-Z0-9]{2,32}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


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


@dataclass(frozen=True, slots=True)
class Shown:
    """What people are shown of an action: its parameters, and what it changes, a sentence each."""

    parameters: JsonObject
    difference: tuple[str, ...] = ()
    concerned: frozenset[str] = frozenset()
    """Names of humans whom it is about, besides those whom its parameters name."""


Effect = Callable[[Transaction, Context, JsonObject, Done], JsonObject]

PARAMETERS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        ENROL: frozenset({"person", "vkey", "kind"}),
        ISSUE: frozenset({"kind", "name", "owner", "key_digest"}),
        OWNER: frozenset({"agent", "owner"}),
        REVOKE: frozenset({"kind", "name", "fingerprint"}),
        REVOKE_KEY: frozenset({"key"}),
        MAP: frozenset({"service", "team", "user", "person"}),
        UNMAP: frozenset({"service", "team", "user"}),
        UNFREEZE: frozenset({"scope", "target"}),
        POLICY: frozenset({"text"}),
        TOOL: frozenset({"digest"}),
        SETTINGS: frozenset({"digest"}),
    }
)
"""Action -> the parameters that it is asked for with, all of them needed. People may be shown others: see ``Shown``."""

WHATIF = "whatif"
"""Parameter of a change of the policy: the text of a what-if report that is attached to it."""
_OPTIONAL: Mapping[str, frozenset[str]] = MappingProxyType({POLICY: frozenset({WHATIF})})


def check_parameters(action: str, parameters: JsonObject) -> None:
    """Lets an action pass with exactly its parameters, and what may be attached to it.

    Raises:
        InvalidArgumentError: ``ACTION_UNKNOWN``, ``PARAMETERS_INVALID``; names the field.
    """
    wanted = PARAMETERS.get(action)
    if wanted is None:
        raise _invalid("action", f"is none of {', '.join(sorted(PARAMETERS))}", "ACTION_UNKNOWN")
    optional = _OPTIONAL.get(action, frozenset())
    for name in sorted(wanted | parameters.keys()):
        if name not in wanted | optional:
            raise _invalid(f"parameters.{name}", f"is none of {action}'s", "PARAMETERS_INVALID")
        if not isinstance(parameters.get(name), str):
            raise _invalid(f"parameters.{name}", "is missing, or no text", "PARAMETERS_INVALID")


def concerned(tx: Transaction, action: str, shown: Shown) -> frozenset[str]:
    """Ids of the people whom an action is about: they don't vote on it. What is wrong is refused before anybody is asked."""
    named = [tx.identities.by_name(IdentityKind.HUMAN, name) for name in shown.concerned]
    return _concerned(tx, action, shown.parameters) | {human.id for human in named if human is not None}


def _concerned(tx: Transaction, action: str, parameters: JsonObject) -> frozenset[str]:
    found = _CONCERNED.get(action)
    return frozenset() if found is None else found(tx, parameters) - {""}


def _enrolled(tx: Transaction, parameters: JsonObject) -> frozenset[str]:
    holder = _holder(tx, parameters)
    parse_vkey(_text(parameters, "vkey"), holder.name)
    return frozenset({holder.id, holder.owner})


def _mapped(tx: Transaction, parameters: JsonObject) -> frozenset[str]:
    return frozenset({_human(tx, _text(parameters, "person")).id})


def _owning(tx: Transaction, parameters: JsonObject) -> frozenset[str]:
    agent = _agent(tx, _text(parameters, "agent"))
    return frozenset({_human(tx, _text(parameters, "owner")).id, agent.id, agent.owner})


def _losing(tx: Transaction, parameters: JsonObject) -> frozenset[str]:
    return frozenset({_key(tx, parameters).holder})


def _unfreezing(tx: Transaction, parameters: JsonObject) -> frozenset[str]:
    scope, target = _scope(parameters), _text(parameters, "target")
    which = target_id(tx, scope, target)
    found = next((item for item in tx.freezes.all() if (item.scope, item.target) == (scope, which)), None)
    if found is None:
        raise NotFoundError(f"{scope.value} {target} is not frozen", reason="NOT_FROZEN")
    return _behind_frozen(tx, scope, which)


def _revoked(tx: Transaction, parameters: JsonObject) -> frozenset[str]:
    if parameters["kind"] != IdentityKind.HUMAN.value:
        raise _invalid("parameters.kind", "must be human: one person revokes an agent", "PARAMETERS_INVALID")
    person, fingerprint = _human(tx, _text(parameters, "name")), _text(parameters, "fingerprint")
    certificate = tx.identities.certificate(fingerprint) if fingerprint else None
    if fingerprint and (certificate is None or certificate.identity != person.id):
        raise _invalid("parameters.fingerprint", f"is none of {person.name}'s certificates", "PARAMETERS_INVALID")
    return frozenset({person.id})


def _behind_frozen(tx: Transaction, scope: FreezeScope, which: str) -> frozenset[str]:
    """Who answers for a frozen agent doesn't let it go on; a tool's owner is told by its specification, see ``Shown``."""
    agent = tx.identities.get(which) if scope is FreezeScope.AGENT else None
    return frozenset() if agent is None else frozenset({agent.id, agent.owner, agent.registrar})


def _issued_to(tx: Transaction, parameters: JsonObject) -> frozenset[str]:
    kind, name, owner = (_text(parameters, field) for field in ("kind", "name", "owner"))
    if kind not in set(IdentityKind):
        raise _invalid("parameters.kind", "must be agent or human", "PARAMETERS_INVALID")
    check_name(name, field="parameters.name")
    if not _DIGEST.fullmatch(_text(parameters, "key_digest")):
        raise _invalid("parameters.key_digest", "must be sha256: and 64 hexadecimal digits", "PARAMETERS_INVALID")
    known = tx.identities.by_name(IdentityKind(kind), name)
    if known is not None and known.revoked is not None:
        raise NotFoundError(f"{kind} {name} has been revoked", reason="IDENTITY_UNKNOWN")
    if kind == IdentityKind.HUMAN.value:
        if owner:
            raise _invalid("parameters.owner", "must be empty: a human has no owner", "PARAMETERS_INVALID")
        return frozenset() if known is None else frozenset({known.id})
    human = tx.identities.by_name(IdentityKind.HUMAN, owner)
    if human is None or human.revoked is not None:
        raise _invalid("parameters.owner", "names no human, or one who has been revoked", "PARAMETERS_INVALID")
    if known is not None and known.owner != human.id:
        raise _invalid("parameters.owner", f"must be the present owner of {name}", "PARAMETERS_INVALID")
    return frozenset({human.id} if known is None else {known.id, human.id})


_CONCERNED: Mapping[str, Callable[[Transaction, JsonObject], frozenset[str]]] = MappingProxyType(
    {
        ENROL: _enrolled,
        MAP: _mapped,
        OWNER: _owning,
        ISSUE: _issued_to,
        REVOKE: _revoked,
        REVOKE_KEY: _losing,
        UNFREEZE: _unfreezing,
    }
)
"""Action -> ids of whom it is about, and of nobody where there is no such member."""


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
    agreed = Agreed(OWNER, {"agent": agent.name, "owner": owner.name}, done.approval)
    registry = Registry(context.recorder, context.vault, agreed)
    changed = registry.change_owner(tx, agent=agent.id, owner=owner.id, by=done.by, now=context.desk.clock())
    return {"agent": changed.id, "owner": changed.owner}


def _end_key(tx: Transaction, context: Context, parameters: JsonObject, done: Done) -> JsonObject:
    now, which = context.desk.clock(), _key(tx, parameters).id
    key = end_key(tx, context.recorder, which=which, by=done.by, approval=done.approval, reason="agreed", now=now)
    return {"key": key.id, "holder": key.holder}


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
    check_after_founding("no chat account is mapped, or taken away,", founded=bool(done.approval))
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
        ENROL: _enrol,
        OWNER: _change_owner,
        REVOKE_KEY: _end_key,
        MAP: _map,
        UNMAP: _unmap,
        UNFREEZE: _unfreeze,
    }
)
"""What the broker does itself. Each looks at everything before it writes anything."""


def _holder(tx: Transaction, parameters: JsonObject) -> Identity:
    kind = parameters["kind"]
    if kind not in set(KeyKind):
        raise _invalid("parameters.kind", "must be approver or bot", "PARAMETERS_INVALID")
    name = _text(parameters, "person")
    return _human(tx, name) if kind == KeyKind.APPROVER.value else _agent(tx, name)


def _key(tx: Transaction, parameters: JsonObject) -> VoterKey:
    which = _text(parameters, "key")
    key = tx.voters.key(which)
    if key is None or key.revoked is not None:
        raise NotFoundError(f"there is no key {which[:80]!a}, or it has been revoked", reason="KEY_UNKNOWN")
    return key


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
