"""What an entry says, in a line for a person, and further facts of it. Pure.

An entry may come from a ledger that doesn't verify, so each member is taken only if it is what it should be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from broker.domain.canonical import JsonObject
from broker.domain.hosts import authority
from broker.replay.members import as_json, items, listed, number, part, text
from broker.replay.timeline.model import Lane, Tone

_SHORT = 12
_NAMED = 3

_PEOPLE = frozenset(
    {"vote", "vote.attested", "frozen", "unfrozen", "session.started", "session.ended", "schedule.registered"}
    | {"key.enrolled", "key.revoked", "approver.accepted", "founding.completed", "account.mapped", "account.unmapped"}
    | {"identity.issued", "identity.revoked", "workspace.imported"}
)
_CALLS = frozenset(
    {"decision", "plan.intent", "plan.outcome", "approval.requested", "approval.closed", "intent", "outcome", "unknown"}
    | {"artifact", "undo.intent", "undo.outcome"}
)
_TONES: Mapping[str, Tone] = {
    "SUCCEEDED": Tone.GOOD,
    "USED": Tone.GOOD,
    "FAILED": Tone.BAD,
    "DENIED": Tone.BAD,
    "UNKNOWN": Tone.BAD,
    "CANCELLED": Tone.WARN,
    "EXPIRED": Tone.WARN,
    "UNDONE": Tone.WARN,
}
_EFFECT = ("before", "after", "base", "selection", "digest", "artifact")


def tone_of(state: str) -> Tone:
    """What the state of a call or an approval means."""
    return _TONES.get(state, Tone.PLAIN)


def lane_of(kind: str, who: str) -> Lane:
    """Where an entry of a type is drawn; what nobody is named for is the broker's."""
    if kind in _PEOPLE and who:
        return Lane.PEOPLE
    return Lane.CALLS if kind in _CALLS else Lane.BROKER


@dataclass(frozen=True, slots=True)
class Told:
    """What an entry says."""

    text: str
    who: str = ""
    tone: Tone = Tone.PLAIN
    details: tuple[tuple[str, str], ...] = ()


class Teller:
    """Tells entries.

    Args:
        name: how the person or agent with an id is called.
        reasons: why people voted so, by approval and the vote's number.
    """

    def __init__(self, name: Callable[[str], str], reasons: Mapping[tuple[str, int], str]) -> None:
        self._name = name
        self._reasons = reasons
        self._by_type: Mapping[str, Callable[[JsonObject], Told]] = {
            "decision": self._decision,
            "plan.intent": self._begins,
            "plan.outcome": self._plan,
            "approval.requested": self._asked,
            "vote": self._vote,
            "vote.attested": self._vote,
            "approval.closed": self._closed,
            "intent": self._begins,
            "outcome": self._outcome,
            "unknown": self._outcome,
            "undo.intent": self._undo,
            "undo.outcome": self._undo,
            "artifact": _artifact,
            "session.started": self._session,
            "session.ended": self._session,
            "frozen": self._freeze,
            "unfrozen": self._freeze,
            "policy.changed": _policy,
            "settings.changed": _settings,
            "spec.registered": _spec,
            "workflow.approved": _workflow,
            "heartbeat": _start,
            "erased": self._erased,
        }

    def tell(self, entry: JsonObject) -> Told:
        """What the entry says."""
        told = self._by_type.get(text(entry, "type"), self._other)(entry)
        facts = (*told.details, *_agreed(entry))
        return Told(told.text, told.who, told.tone, tuple((name, value) for name, value in facts if value))

    def _decision(self, entry: JsonObject) -> Told:
        agent = text(part(entry, "agent"), "id")
        policy, refused, tool = part(entry, "policy"), part(entry, "refused"), text(part(entry, "tool"), "name")
        facts = (
            ("rule", text(refused, "rule") or text(policy, "rule")),
            ("policy", text(policy, "digest")),
            ("inputs", as_json(policy.get("inputs"))),
            ("tool version", text(part(entry, "tool"), "version")),
            ("envelope", text(entry, "envelope_digest")),
            ("may reach", _some(listed(entry, "egress_allowed"), 32)),
        )
        if refused:
            count = number(part(entry, "repeated"), "count")
            again = f", {count} more times" if count else ""
            rule = text(refused, "rule") or "no rule"
            return Told(f"refuses {tool}: {text(refused, 'reason')} by {rule}{again}", agent, Tone.BAD, facts)
        allowed = text(policy, "decision") == "allow"
        word = "allows" if allowed else "denies"
        rule = text(policy, "rule") or "no rule"
        return Told(f"policy {word} {tool} by {rule}", agent, Tone.PLAIN if allowed else Tone.BAD, facts)

    def _begins(self, entry: JsonObject) -> Told:
        tool = text(part(entry, "tool"), "name")
        what = "runs on a copy" if text(entry, "type") == "plan.intent" else "begins"
        hosts = listed(entry, "egress_allowed")
        reach = f", may reach {_some(hosts)}" if hosts else ""
        facts = (("image", text(part(entry, "tool"), "image_digest")), *_effect_facts(entry))
        return Told(f"{what}: {tool}{reach}", text(part(entry, "agent"), "id"), Tone.PLAIN, facts)

    def _plan(self, entry: JsonObject) -> Told:
        outcome = part(entry, "outcome")
        tried = "tried" if entry.get("rehearsed") is True else "not tried"
        words = f"plan ready, {text(entry, 'reversibility') or 'reversibility not said'}; taking it back was {tried}"
        bad = outcome.get("exit_code") not in (0, None)
        return Told(words, text(part(entry, "agent"), "id"), Tone.BAD if bad else Tone.PLAIN, _effect_facts(entry))

    def _asked(self, entry: JsonObject) -> Told:
        approval = part(entry, "approval")
        people = number(part(approval, "requirement"), "people")
        who = text(approval, "requester")
        asked = f"{self._name(who)} asks {people or '?'} people: {text(approval, 'kind')} {text(approval, 'obj')}"
        about = text(approval, "subject") if text(approval, "kind") not in ("CALL", "REVIEW") else ""
        out = ", ".join(self._name(item) for item in listed(approval, "excluded") if isinstance(item, str))
        facts = (
            ("approval", text(approval, "id")),
            ("kept out", out),
            ("envelope", text(approval, "envelope_digest")),
            ("shown text", text(approval, "rendering_digest")),
            ("expires", text(approval, "expires")),
        )
        return Told(f"{asked} {about}".rstrip(), who, Tone.PLAIN, facts)

    def _vote(self, entry: JsonObject) -> Told:
        approval, vote, person = part(entry, "approval"), part(entry, "vote"), text(entry, "person")
        said = _statement(text(vote, "statement"))
        decision = text(said, "decision") or "?"
        bot = text(entry, "type") == "vote.attested"
        how = f"attested by a bot's key in {text(entry, 'channel')}" if bot else f"signed, {text(entry, 'channel')}"
        reason = self._reasons.get((text(approval, "id"), number(vote, "number")), "")
        words = f"{self._name(person)}: {decision} ({how})" + (f": {reason}" if reason else "")
        tone = {"approve": Tone.GOOD, "deny": Tone.BAD}.get(decision, Tone.WARN)
        facts = (
            ("approval", text(approval, "id")),
            ("key", text(said, "key")),
            ("state after", text(approval, "state")),
            ("reason", reason),
        )
        return Told(words, person, tone, facts)

    def _closed(self, entry: JsonObject) -> Told:
        approval = part(entry, "approval")
        votes, state = len(listed(approval, "votes")), text(approval, "state")
        by = f" by {self._name(text(entry, 'by'))}" if text(entry, "by") else ""
        on = f" on {votes} vote{'' if votes == 1 else 's'}" if votes else ""
        facts = (("approval", text(approval, "id")), ("why", text(entry, "why")))
        return Told(f"approval {state}{on}{by}", text(entry, "by"), tone_of(state), facts)

    def _outcome(self, entry: JsonObject) -> Told:
        outcome = part(entry, "outcome")
        state = text(outcome, "state") or ("UNKNOWN" if text(entry, "type") == "unknown" else "?")
        code = outcome.get("exit_code")
        end = f"exit code {code}" if type(code) is int else f"ended by {text(outcome, 'cause') or '?'}"
        spent = number(outcome, "wall_us")
        facts = (
            ("cause", f"{text(outcome, 'cause')}, on the word of {text(outcome, 'cause_source')}".strip(", ")),
            ("time", f"{spent / 1e6:.3f} s" if spent else ""),
            ("egress", "; ".join(map(_egress, items(entry, "egress")))),
            *_effect_facts(entry),
        )
        words = f"{state}, {end}{effect_words(part(entry, 'effect'))}{_hosts(entry)}"
        return Told(words, text(part(entry, "agent"), "id"), tone_of(state), facts)

    def _undo(self, entry: JsonObject) -> Told:
        undo = part(entry, "undo")
        state = text(undo, "state")
        done = text(entry, "type") == "undo.outcome"
        words = f"taken back by itself: {state}" if done else "is taken back by itself, as people agreed beforehand"
        facts = (("digest", text(undo, "digest")), ("egress", "; ".join(map(_egress, items(entry, "egress")))))
        return Told(words, text(part(entry, "agent"), "id"), tone_of(state) if done else Tone.WARN, facts)

    def _session(self, entry: JsonObject) -> Told:
        starter = text(part(entry, "lineage"), "starter") or text(entry, "by")
        agent = self._name(text(part(entry, "agent"), "id"))
        word = "ends" if text(entry, "type") == "session.ended" else "starts"
        by = text(entry, "by") or starter
        facts = (("session", text(entry, "session")), ("schedule", text(entry, "schedule")))
        where = f" in {text(entry, 'workspace')}" if text(entry, "workspace") else ""
        return Told(f"{self._name(by)} {word} a session of {agent}{where}", by, Tone.PLAIN, facts)

    def _freeze(self, entry: JsonObject) -> Told:
        by, frozen = text(entry, "by"), text(entry, "type") == "frozen"
        what = f"{text(entry, 'scope')} {self._name(text(entry, 'target'))}".strip()
        words = (
            f"{self._name(by)} freezes {what}"
            if frozen
            else f"{what} isn't frozen any more, asked for by {self._name(by)}"
        )
        return Told(words, by, Tone.BAD if frozen else Tone.WARN)

    def _erased(self, entry: JsonObject) -> Told:
        subject, by = part(entry, "subject"), text(entry, "by")
        whose = f" of {text(subject, 'kind')} {self._name(text(subject, 'id'))}" if subject else ""
        asked = f", by {self._name(by)}" if by else ""
        words = f"{number(entry, 'objects')} kept things{whose} are erased: {text(entry, 'reason')}{asked}"
        return Told(words, by, Tone.WARN)

    def _other(self, entry: JsonObject) -> Told:
        kind, by = text(entry, "type") or "?", text(entry, "by") or text(entry, "person")
        named = next(filter(None, (text(entry, name) for name in ("identity", "person", "workspace", "schedule"))), "")
        words = [kind.replace(".", " "), self._name(named), text(entry, "change")]
        said = " ".join(word for word in words if word)
        bad = kind.endswith(".revoked") or kind == "recovered"
        return Told(
            said + (f", by {self._name(by)}" if by and by != named else ""), by, Tone.WARN if bad else Tone.PLAIN
        )


def effect_words(effect: JsonObject) -> str:
    """What an effect comes to, behind other words; empty where there is none."""
    counts = [f"{effect[name]} {name}" for name in ("added", "changed", "removed") if number(effect, name)]
    back = [item for item in listed(effect, "undoes") if isinstance(item, str)]
    undoes = f", takes back {_some(back)}" if back else ""
    return (f", {', '.join(counts)}" if counts else "") + undoes


def _effect_facts(entry: JsonObject) -> tuple[tuple[str, str], ...]:
    effect = part(entry, "effect")
    return tuple((f"effect {name}", text(effect, name)) for name in _EFFECT)


def _hosts(entry: JsonObject) -> str:
    found = items(entry, "egress")
    reached = [_place(item) for item in found if text(item, "verdict") == "ALLOWED"]
    refused = sorted({text(item, "verdict") for item in found} - {"ALLOWED", ""})
    words = f", reached {_some(reached)}" if reached else ""
    return words + (f", egress refused or cut: {', '.join(refused)}" if refused else "")


def _egress(item: JsonObject) -> str:
    traffic = f"{number(item, 'count')} times, {number(item, 'sent')} bytes out, {number(item, 'received')} in"
    return f"{_place(item)} {text(item, 'verdict')} {traffic}"


def _place(item: JsonObject) -> str:
    host, port = text(item, "host"), item.get("port")
    if host == "?":
        return f"{number(item, 'hosts')} hosts that no rule lists"
    return authority(host, port) if type(port) is int else host


def _agreed(entry: JsonObject) -> tuple[tuple[str, str], ...]:
    named = [text(item, "id") for item in items(entry, "approvals")]
    return (("agreed to by", ", ".join(named)),)


def _artifact(entry: JsonObject) -> Told:
    words = (
        f"keeps what takes it back: {number(entry, 'bytes')} bytes" if text(entry, "kind") == "rollback" else "keeps"
    )
    facts = (
        ("kind", text(entry, "kind")),
        ("digest", text(entry, "digest")),
        ("kept until", text(entry, "kept_until")),
    )
    return Told(words, text(part(entry, "agent"), "id"), Tone.PLAIN, facts)


def _policy(entry: JsonObject) -> Told:
    digest = text(entry, "policy_digest")
    alone = ", by one person, on the broker's word" if entry.get("sensitive") is False else ""
    facts = (("policy", digest), ("before", text(entry, "before")))
    return Told(f"policy {_brief(digest)} is in force, {number(entry, 'rules')} rules{alone}", details=facts)


def _settings(entry: JsonObject) -> Told:
    parts = part(entry, "in_force")
    facts = tuple((name, text(parts, name)) for name in sorted(parts))
    return Told(f"other {' and '.join(sorted(parts)) or 'settings'} are in force", details=facts)


def _spec(entry: JsonObject) -> Told:
    tool = part(entry, "tool")
    words = f"tool {text(tool, 'name')} {_brief(text(tool, 'version'))} runs at tier {number(entry, 'tier')}"
    return Told(words, details=(("tool version", text(tool, "version")), ("surface", text(entry, "surface"))))


def _workflow(entry: JsonObject) -> Told:
    workflow = part(entry, "workflow")
    words = (
        f"workflow {text(workflow, 'id')} {_brief(text(workflow, 'version'))} is approved, tier {number(entry, 'tier')}"
    )
    return Told(words, details=(("workflow version", text(workflow, "version")),))


def _start(entry: JsonObject) -> Told:
    digest = text(entry, "policy_digest")
    words = f"broker starts: {text(entry, 'software') or '?'}, policy {_brief(digest)}"
    return Told(words, details=(("policy", digest), ("settings", text(entry, "settings_digest"))))


def _statement(statement: str) -> JsonObject:
    try:
        said = json.loads(statement)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _some(values: Iterable[object], most: int = _NAMED) -> str:
    found = [item for item in values if isinstance(item, str)]
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def _brief(digest: str) -> str:
    return digest.removeprefix("sha256:")[:_SHORT]
