"""One ledger entry in one line for a person: what happened, to which call, by which rule. Pure.

The whole entry is what ``--json`` prints; nothing is decided from these lines. An entry may come from a file that somebody
made up, so every value is taken only if it is what it should be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from broker.cli.effect_line import EFFECT_TELLERS, effect_words
from broker.cli.entry_parts import SHORT as _SHORT
from broker.cli.entry_parts import brief as _brief
from broker.cli.entry_parts import listed as _list
from broker.cli.entry_parts import part as _part
from broker.cli.entry_parts import text as _text
from broker.cli.people_line import PEOPLE_TELLERS
from broker.domain.canonical import JsonObject
from broker.domain.hosts import authority

_HOSTS = 3
"""Hosts that are named in a line."""


def line(entry: JsonObject) -> str:
    """What the entry says, in a line without its number, time and type."""
    tell = _TELLERS.get(_text(entry, "type"), _others)
    words = [tell(entry), _call(entry)]
    agent = _part(entry, "agent")
    if agent:
        words.append(f"({_text(agent, 'id')})")
    return "  ".join(word for word in words if word)


def tone(entry: JsonObject) -> str:
    """A style for the line: what went wrong stands out."""
    said = line(entry)
    if said.startswith(("deny", "UNKNOWN")):
        return "red"
    return "yellow" if said.startswith(("FAILED", "CANCELLED", "DENIED", "revoked")) else ""


def _decision(entry: JsonObject) -> str:
    refused = _part(entry, "refused")
    if refused:
        repeated = _part(entry, "repeated").get("count")
        times = f", {repeated} more times" if isinstance(repeated, int) else ""
        rule = _text(refused, "rule") or "no rule"
        return f"deny  {_tool(entry)}: {_text(refused, 'reason')} by {rule}{times}"
    policy = _part(entry, "policy")
    return f"{_text(policy, 'decision')}  {_tool(entry)} by {_text(policy, 'rule')}"


def _intent(entry: JsonObject) -> str:
    lineage = _part(entry, "lineage")
    hosts = [item for item in _list(entry, "egress_allowed") if isinstance(item, str)]
    shown = ", ".join(hosts[:_HOSTS]) + (f" and {len(hosts) - _HOSTS} more" if len(hosts) > _HOSTS else "")
    reach = f", may reach {shown}" if hosts else ""
    return f"{_tool(entry)}, started by {_text(lineage, 'starter') or 'nobody'}{reach}{effect_words(entry)}"


def _outcome(entry: JsonObject) -> str:
    outcome = _part(entry, "outcome")
    code = outcome.get("exit_code")
    end = f"exit code {code}" if isinstance(code, int) else f"ended by {_text(outcome, 'cause')}"
    cause = _text(outcome, "cause")
    struck = f" on the word of {_text(outcome, 'cause_source')}" if cause not in ("TOOL", "") else ""
    return f"{_text(outcome, 'state')}  {_tool(entry)}, {end}{struck}{effect_words(entry)}{_egress(entry)}{_recording(entry)}"


def _recording(entry: JsonObject) -> str:
    kept = _part(entry, "recording")
    if not kept:
        return ""
    how = "" if kept.get("whole") is True else ", in part"
    return f", kept {kept.get('exchanges', '?')} answers of hosts{how}"


def _egress(entry: JsonObject) -> str:
    items = [item for item in _list(entry, "egress") if isinstance(item, dict)]
    names = [_place(item) for item in items if _text(item, "verdict") == "ALLOWED"]
    shown = ", ".join(names[:_HOSTS]) + (f" and {len(names) - _HOSTS} more" if len(names) > _HOSTS else "")
    reached = f", reached {shown}" if names else ""
    refused = sorted({_text(item, "verdict") for item in items} - {"ALLOWED", ""})
    return reached + (f", egress refused or cut: {', '.join(refused)}" if refused else "")


def _place(item: JsonObject) -> str:
    host, port = _text(item, "host"), item.get("port")
    return authority(host, port) if isinstance(port, int) else host


def _identity(entry: JsonObject) -> str:
    revoked = "revoked  " if _text(entry, "type") == "identity.revoked" else ""
    return (
        f"{revoked}{_text(entry, 'kind')} {_text(entry, 'identity')}: {_text(entry, 'change')}, by {_text(entry, 'by')}"
    )


def _session(entry: JsonObject) -> str:
    what = _text(entry, "session") or _text(entry, "schedule")
    return f"{what} in {_text(entry, 'workspace')}, for {_text(_part(entry, 'lineage'), 'starter')}"


def _spec(entry: JsonObject) -> str:
    declared = entry.get("declared", entry.get("tier"))
    asks = "" if declared == entry.get("tier") else f", held: it asks for tier {declared}"
    return f"{_tool(entry)} {_brief(_part(entry, 'tool'), 'version')}, tier {entry.get('tier', '?')}{asks}"


def _policy(entry: JsonObject) -> str:
    return f"{_brief(entry, 'policy_digest')}, {entry.get('rules', '?')} rules"


def _heartbeat(entry: JsonObject) -> str:
    return f"{_text(entry, 'software')} starts with {entry.get('tools', '?')} tools, policy {_brief(entry, 'policy_digest')}"


def _genesis(entry: JsonObject) -> str:
    return f"{_text(entry, 'origin')}, operator {_text(entry, 'operator')}, CA {_brief(entry, 'ca_fingerprint')}"


def _rotated(entry: JsonObject) -> str:
    return f"{_key_id(entry, 'old')} hands over to {_key_id(entry, 'new')}, by {_text(entry, 'by')}"


def _key_revoked(entry: JsonObject) -> str:
    return f"revoked  {_key_id(entry, 'key')}, by {_text(entry, 'by')}"


def _recovered(entry: JsonObject) -> str:
    lost = _part(entry, "lost")
    fork = ", from a history that isn't this one" if entry.get("forked") is True else ""
    return f"entries {lost.get('from', '?')} to {lost.get('to', '?')} are lost{fork}, by {_text(entry, 'by')}"


def _heads(entry: JsonObject) -> str:
    heads = _part(entry, "heads")
    return f"the last entries of {heads.get('agents', '?')} agents, {_text(heads, 'root')[:_SHORT]}"


def _artifact(entry: JsonObject) -> str:
    return f"{_text(entry, 'kind')}, {entry.get('bytes', '?')} bytes, {_brief(entry, 'digest')}"


def _erased(entry: JsonObject) -> str:
    subject = _part(entry, "subject")
    whose = f" of {_text(subject, 'kind')} {_text(subject, 'id')}" if subject else f", {_text(entry, 'reason')}"
    return f"{entry.get('objects', '?')} objects, {entry.get('bytes', '?')} bytes{whose}"


def _key_id(entry: JsonObject, name: str) -> str:
    return f"key {_text(entry, name).partition('+')[2].partition('+')[0][:_SHORT] or '?'}"


def _others(entry: JsonObject) -> str:
    return f"{len(entry)} members; --json shows them"


_TELLERS: Mapping[str, Callable[[JsonObject], str]] = {
    "decision": _decision,
    "intent": _intent,
    "outcome": _outcome,
    "unknown": _outcome,
    "identity.issued": _identity,
    "identity.revoked": _identity,
    "session.started": _session,
    "session.ended": _session,
    "schedule.registered": _session,
    "spec.registered": _spec,
    "policy.changed": _policy,
    "heartbeat": _heartbeat,
    "genesis": _genesis,
    "signer.rotated": _rotated,
    "signer.revoked": _key_revoked,
    "recovered": _recovered,
    "heads": _heads,
    "artifact": _artifact,
    "erased": _erased,
    **EFFECT_TELLERS,
    **PEOPLE_TELLERS,
}


def _tool(entry: JsonObject) -> str:
    return _text(_part(entry, "tool"), "name") or "?"


def _call(entry: JsonObject) -> str:
    return _text(entry, "call_id")
