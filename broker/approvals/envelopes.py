"""The envelope that people approve: one JSON object that says all that decides what will happen, and for whom.

It is salted: its digest stands in the ledger for good, and must not let anybody test guesses of what it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from broker.domain.approval import ApprovalKind
from broker.domain.canonical import JsonObject, JsonValue
from broker.domain.envelope import fresh_salt
from broker.domain.identity import Caller
from broker.domain.ports import Transaction
from broker.domain.requirement import Requirement
from broker.domain.statement import moment_text

FORMAT = "broker.approval-envelope.v1"


@dataclass(frozen=True, slots=True)
class Matter:
    """What is asked about; members that a kind doesn't have are empty."""

    reason: str = ""
    """Why, in the requester's words."""
    purpose: str = ""
    reversibility: str = "no_effect"
    on_failure: str = "none"
    decision: JsonObject | None = None
    """The policy's: rule, reason, tier, and the text of the row that matched."""
    workflow: JsonObject | None = None
    call: JsonObject | None = None
    """The call's own envelope."""
    files: Sequence[JsonObject] = ()
    action: JsonObject | None = None
    """Name and parameters of an administrative action, and what its entry in the ledger will say."""
    workflow_text: JsonObject | None = None
    difference: Sequence[str] = ()
    """What a change changes, a sentence each."""
    effect: JsonObject | None = None
    """What a run on a copy changed there, and will change when it is applied; ``None`` for a call that isn't planned."""
    people: Iterable[str] = field(default_factory=tuple)
    """Ids whose names shall stand beside them."""


def envelope(
    tx: Transaction,
    matter: Matter,
    *,
    approval: str,
    kind: ApprovalKind,
    caller: Caller,
    requirement: Requirement,
    expires: datetime,
    tier: int,
    workspace: str,
    obj: str,
) -> JsonObject:
    """The object that is rendered, hashed and signed."""
    files: list[JsonValue] = list(matter.files)
    # A call's own envelope has these three.
    place: JsonObject = {} if matter.call else {"workspace": workspace, "object": obj, "tier": tier}
    return {
        **place,
        **({} if matter.effect is None else {"effect": matter.effect}),
        "format": FORMAT,
        "salt": fresh_salt(),
        "approval": approval,
        "kind": kind.value,
        "requester": {"id": caller.identity.id, "name": caller.subject},
        "people": names(tx, {caller.identity.id, *matter.people}),
        "reason": matter.reason,
        "requirement": requirement.json(),
        "expires": moment_text(expires),
        "reversibility": matter.reversibility,
        "on_failure": matter.on_failure,
        "decision": matter.decision,
        "purpose": matter.purpose,
        "workflow": matter.workflow,
        "call": matter.call,
        "files": files,
        "action": matter.action,
        "workflow_text": matter.workflow_text,
        "difference": list(matter.difference),
    }


def names(tx: Transaction, ids: Iterable[str]) -> JsonObject:
    """Names of identities by their ids; an id that nobody has stands for itself."""
    found: JsonObject = {}
    for which in sorted(item for item in set(ids) if item):
        identity = tx.identities.get(which)
        found[which] = which if identity is None else identity.name
    return found
