"""What the entry of an administrative action will say, told beforehand: with its request, and in what people sign.

So whoever has the ledger alone sees that an approval is of just this act, though names lie sealed: ids, digests and
commitments say it.
"""

from __future__ import annotations

from broker.approvals.founding import parse_vkey
from broker.approvals.freezing import target_id
from broker.domain import administration
from broker.domain.approval import FreezeScope, KeyKind
from broker.domain.canonical import JsonObject, JsonValue, canonical
from broker.domain.identity import IdentityKind
from broker.domain.ports import Transaction, Vault
from broker.domain.statement import key_id
from broker.errors import NotFoundError


def act_of(tx: Transaction, vault: Vault, action: str, parameters: JsonObject) -> JsonObject:
    """The members of the entry that are bound, by their dotted names; ``type`` is the entry's.

    Args:
        tx: a transaction.
        vault: has the people's commitments.
        action: name of the action.
        parameters: as people are shown them; ``admin_actions.concerned`` has let them pass.

    Raises:
        NotFoundError: ``IDENTITY_UNKNOWN``.
    """
    said = {name: value for name, value in parameters.items() if isinstance(value, str)}
    act: JsonObject = {}
    match action:
        case administration.ENROL:
            act = _enrol(tx, said)
        case administration.MAP:
            act = _account(vault, tx, "account.mapped", said, _id(tx, IdentityKind.HUMAN, said["person"]))
        case administration.UNMAP:
            found = tx.voters.account(said["service"], said["team"], said["user"])
            act = _account(vault, tx, "account.unmapped", said, "" if found is None else found.person)
        case administration.UNFREEZE:
            target = target_id(tx, FreezeScope(said["scope"]), said["target"])
            act = _act("unfrozen", {"scope": said["scope"], "target": target})
        case administration.ISSUE:
            act = _issue(tx, said)
        case administration.OWNER:
            agent, owner = _id(tx, IdentityKind.AGENT, said["agent"]), _id(tx, IdentityKind.HUMAN, said["owner"])
            act = _act("identity.issued", {"identity": agent, "lineage.owner": owner})
        case administration.POLICY:
            act = _act("policy.changed", {"policy_digest": said["digest"], "before": said["before"]})
        case administration.SETTINGS:
            act = _act("settings.changed", {"in_force.settings": said["digest"], "before": said["before"]})
        case administration.TOOL:
            named: dict[str, JsonValue] = {"tool.name": said["tool"], "tool.version": said["digest"]}
            act = _act("spec.registered", {**named, "tier": parameters["tier"], "surface": said["surface"]})
    return act


def _act(entry_type: str, members: JsonObject) -> JsonObject:
    return {"type": entry_type, **members}


def _enrol(tx: Transaction, said: dict[str, str]) -> JsonObject:
    kind = IdentityKind.AGENT if said["kind"] == KeyKind.BOT.value else IdentityKind.HUMAN
    holder, name = _found(tx, kind, said["person"])
    key = key_id(parse_vkey(said["vkey"], name))
    return _act("key.enrolled", {"key.id": key, "key.kind": said["kind"], "person": holder})


def _issue(tx: Transaction, said: dict[str, str]) -> JsonObject:
    known = tx.identities.by_name(IdentityKind(said["kind"]), said["name"])
    owner = _id(tx, IdentityKind.HUMAN, said["owner"]) if said["owner"] else ""
    return _act(
        "identity.issued",
        {
            "identity": "" if known is None else known.id,
            "kind": said["kind"],
            "lineage.owner": owner,
            "key_digest": said["key_digest"],
        },
    )


def _account(vault: Vault, tx: Transaction, entry_type: str, said: dict[str, str], person: str) -> JsonObject:
    commit = ""
    if person:
        text = canonical([said["service"], said["team"], said["user"]])
        commit = vault.open(tx, person).commit(entry_type, text)
    return _act(entry_type, {"person": person, "sealed.commit": commit})


def _id(tx: Transaction, kind: IdentityKind, name: str) -> str:
    return _found(tx, kind, name)[0]


def _found(tx: Transaction, kind: IdentityKind, name: str) -> tuple[str, str]:
    found = tx.identities.by_name(kind, name) or tx.identities.get(name)
    if found is None:
        raise NotFoundError(f"there is no {kind} {name[:64]!a}", reason="IDENTITY_UNKNOWN")
    return found.id, found.name
