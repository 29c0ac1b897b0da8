"""Entries of the two-person rule in one line for a person: who was asked about what, who said what, and what came of it.

Pure. People and accounts appear as the entries have them: as ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType

from broker.cli.entry_parts import brief, listed, part, text
from broker.domain.canonical import JsonObject, JsonValue


def _requested(entry: JsonObject) -> str:
    approval = part(entry, "approval")
    people = part(approval, "requirement").get("people")
    needed = f"{people} people" if isinstance(people, int) else "people"
    about = text(approval, "obj") or "?"
    return f"{text(approval, 'id')}  {text(approval, 'kind')} {about}, asked by {text(approval, 'requester')}: {needed} needed"


def _vote(entry: JsonObject) -> str:
    approval, said = part(entry, "approval"), _statement(part(entry, "vote"))
    attested = f" in {text(entry, 'channel')}, on a bot's word" if text(entry, "type") == "vote.attested" else ""
    after = f", then {text(approval, 'state')}" if text(approval, "state") else ""
    return f"{text(approval, 'id')}  {text(entry, 'person')} says {text(said, 'decision') or '?'}{attested}{after}"


def _closed(entry: JsonObject) -> str:
    approval = part(entry, "approval")
    votes = len(listed(approval, "votes"))
    by = f" by {text(entry, 'by')}" if text(entry, "by") else ""
    counted = f", on {votes} vote{'' if votes == 1 else 's'}" if votes else ""
    return f"{text(approval, 'state')}  {text(approval, 'id')}, {text(approval, 'kind')}{counted}{by}"


def _enrolled(entry: JsonObject) -> str:
    key = part(entry, "key")
    return f"key {brief(key, 'id')} of {text(entry, 'person')}, {text(key, 'kind')}, {_by(entry)}"


def _key_revoked(entry: JsonObject) -> str:
    return f"revoked  key {brief(part(entry, 'key'), 'id')} of {text(entry, 'person')}, {_by(entry)}"


def _accepted(entry: JsonObject) -> str:
    return f"{text(entry, 'person')} accepts the founding {brief(entry, 'founding_digest')}"


def _completed(entry: JsonObject) -> str:
    return f"the founding {brief(entry, 'founding_digest')} is accepted by {len(listed(entry, 'people'))} people"


def _freeze(entry: JsonObject) -> str:
    return f"{text(entry, 'scope')} {text(entry, 'target')}".rstrip() + f", {_by(entry)}"


def _account(entry: JsonObject) -> str:
    return f"a chat account of {text(entry, 'person')}, {_by(entry)}"


def _workflow(entry: JsonObject) -> str:
    workflow = part(entry, "workflow")
    named = f"{text(workflow, 'id')} {brief(workflow, 'version')}, tier {entry.get('tier', '?')}"
    return f"{named}, by {_approvals(entry)}" if listed(entry, "approvals") else named


def _settings(entry: JsonObject) -> str:
    parts = ", ".join(f"{name} {brief(part(entry, 'in_force'), name)}" for name in sorted(part(entry, "in_force")))
    agreed = f", by {_approvals(entry)}" if listed(entry, "approvals") else ""
    return f"{parts or '?'}{agreed}"


def _by(entry: JsonObject) -> str:
    approval = text(entry, "approval")
    return f"by {text(entry, 'by')}" + (f" under {approval}" if approval else "")


def _approvals(entry: JsonObject) -> str:
    return ", ".join(text(item, "id") for item in listed(entry, "approvals") if isinstance(item, dict))


def _statement(vote: JsonObject) -> JsonObject:
    try:
        said: JsonValue = json.loads(text(vote, "statement"))
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


PEOPLE_TELLERS: Mapping[str, Callable[[JsonObject], str]] = MappingProxyType(
    {
        "approval.requested": _requested,
        "vote": _vote,
        "vote.attested": _vote,
        "approval.closed": _closed,
        "key.enrolled": _enrolled,
        "key.revoked": _key_revoked,
        "approver.accepted": _accepted,
        "founding.completed": _completed,
        "frozen": _freeze,
        "unfrozen": _freeze,
        "account.mapped": _account,
        "account.unmapped": _account,
        "workflow.approved": _workflow,
        "settings.changed": _settings,
    }
)
"""Type of an entry -> what it says."""
