"""What a person approved, and who could approve what on a date."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.domain.reserved import ADMINISTRATION, RUNBOOKS, WORKFLOWS
from broker.domain.tier import Tier
from broker.policy.rows import APPROVE, NO_WORKSPACE
from broker.replay.asking.answer import Answer, Column, Kind, Line, Span, evidence, people
from broker.replay.casebook import Casebook
from broker.replay.members import part, text

if TYPE_CHECKING:
    from broker.policy.snapshot import Snapshot

_HUMAN = "human:"


def decided_by(casebook: Casebook, person: str, span: Span) -> Answer:
    """What did this person approve, deny or withdraw?

    Args:
        casebook: what was filed.
        person: by id.
        span: from when to when.
    """
    columns = (
        Column("time", Kind.TIME),
        Column("decision"),
        Column("what"),
        Column("subject"),
        Column("object"),
        Column("workspace"),
        Column("tier", Kind.NUMBER),
        Column("asked by", Kind.PEOPLE),
        Column("how"),
        Column("approval"),
        Column("came to"),
    )
    rows = casebook.rows(
        "SELECT v.seq, v.ts, v.decision, v.channel, v.key, a.name, a.kind, a.subject, a.object, a.workspace, a.tier,"
        " a.requester, a.requested, a.closed, a.state FROM vote AS v JOIN approval AS a ON a.id = v.approval"
        " WHERE v.person = ? AND v.ts >= ? AND v.ts < ? ORDER BY v.seq",
        casebook.number(person),
        span.since,
        span.until,
    )
    lines = []
    for seq, ts, decision, channel, key, name, kind, subject, obj, workspace, tier, requester, *ends, state in rows:
        signed = "signed" if casebook.text(channel) == "cli" else f"attested by bot {casebook.text(key)}, not signed"
        cells = (
            ts,
            casebook.text(decision),
            casebook.text(kind),
            casebook.text(subject),
            casebook.text(obj),
            casebook.text(workspace),
            tier,
            people(casebook.text(requester)),
            signed,
            name,
            casebook.text(state),
        )
        lines.append(Line(cells, evidence([seq], ends)))
    return Answer(f"What did {person} approve?", columns, tuple(lines))


@dataclass(frozen=True, slots=True)
class InForce:
    """What the entries before a moment had put in force."""

    policy: str
    """Digest; empty for none."""
    policy_seq: int
    keys: Mapping[str, tuple[str, int]]
    """Key -> who holds it and the entry that enrolled it: of people, not revoked."""
    revoked: frozenset[str]
    """People whose identity had been revoked."""
    tools: Mapping[str, tuple[int, int]]
    """Tool -> the tier at which it ran, and the entry that says so."""


def in_force_at(casebook: Casebook, moment: int) -> InForce:
    """What was in force at a moment, by the entries before it."""
    policy, policy_seq = "", -1
    keys: dict[str, tuple[str, int]] = {}
    revoked: set[str] = set()
    tools: dict[str, tuple[int, int]] = {}
    for kind, entry, seq in _before(casebook, moment):
        if kind in {"genesis", "policy.changed", "heartbeat"} and text(entry, "policy_digest"):
            if text(entry, "policy_digest") != policy:
                policy, policy_seq = text(entry, "policy_digest"), seq
        elif kind == "key.enrolled":
            key = part(entry, "key")
            if text(key, "kind") != "bot":
                keys[text(key, "id")] = (text(entry, "person"), seq)
        elif kind == "key.revoked":
            keys.pop(text(part(entry, "key"), "id"), None)
        elif kind == "identity.revoked":
            if text(entry, "change") == "revoked":
                revoked.add(text(entry, "identity"))
        elif kind == "spec.registered":
            tier = entry.get("tier")
            tools[text(part(entry, "tool"), "name")] = (tier if type(tier) is int else 4, seq)
    return InForce(policy, policy_seq, keys, frozenset(revoked), tools)


_STANDING = (
    "genesis",
    "policy.changed",
    "heartbeat",
    "key.enrolled",
    "key.revoked",
    "identity.revoked",
    "spec.registered",
)


def _before(casebook: Casebook, moment: int) -> Iterator[tuple[str, dict[str, object], int]]:
    numbers = [casebook.number(kind) for kind in _STANDING]
    marks = ", ".join("?" * len(numbers))
    rows = casebook.rows(
        f"SELECT seq, type FROM act WHERE type IN ({marks}) AND ts < ? ORDER BY seq",  # noqa: S608 - question marks
        *(-1 if number is None else number for number in numbers),
        moment,
    )
    for seq, kind in rows:
        yield casebook.text(kind), dict(casebook.entry(seq).body), seq


def could_approve(
    casebook: Casebook,
    moment: int,
    policy_text: Callable[[str], str | None],
    name_of: Callable[[str], str],
    workspaces: Iterable[str] = (),
) -> Answer:
    """Who could approve what at a moment: by the policy, the keys and the identities that were in force then.

    Args:
        casebook: what was filed.
        moment: microseconds since 1970.
        policy_text: digest -> text of a policy; ``None`` where it isn't kept.
        name_of: id -> ``human:<name>``; empty where it isn't known.
        workspaces: only these; none takes all that the policy names.
    """
    columns = (
        Column("person", Kind.PEOPLE),
        Column("workspace"),
        Column("roles"),
        Column("may approve"),
        Column("key"),
    )
    found = in_force_at(casebook, moment)
    question = "Who could approve what?"
    kept = policy_text(found.policy) if found.policy else None
    if kept is None:
        why = f"the policy in force then, {found.policy or 'none'}, is not kept here: nothing can be said"
        return Answer(question, columns, (), (why,))
    from broker.policy.snapshot import Snapshot  # noqa: PLC0415 - no other question needs a policy engine

    snapshot = Snapshot.load(kept)
    notes = [f"policy {found.policy}, by entry {found.policy_seq}"]
    lines: list[Line] = []
    for key, (person, enrolled) in sorted(found.keys.items(), key=lambda item: item[1][1]):
        name = name_of(person)
        if person in found.revoked:
            continue
        if not name.startswith(_HUMAN):
            notes.append(f"{person} held a key, but the name is not known here, by which the policy speaks of people")
            continue
        for workspace in (NO_WORKSPACE, *(sorted(workspaces) or ("*", *sorted(snapshot.workspaces)))):
            may, proof = _may(snapshot, name, workspace, found)
            if may:
                roles = tuple(role.removeprefix("role:") for role in snapshot.roles_of(name, workspace))
                where = "-" if workspace == NO_WORKSPACE else "any other" if workspace == "*" else workspace
                cells = (people(person), where, roles, may, key)
                lines.append(Line(cells, evidence([enrolled, found.policy_seq], proof)))
    return Answer(question, columns, tuple(lines), tuple(notes))


_ELSEWHERE = "any-other-workspace"
"""Stands for each workspace that no row names."""


def _may(snapshot: Snapshot, name: str, workspace: str, found: InForce) -> tuple[tuple[str, ...], list[int]]:
    """What somebody may approve in a workspace, by tier, and the entries that say at which tier the tools ran."""
    place = _ELSEWHERE if workspace == "*" else workspace
    holds = snapshot.holds(name, place)
    if workspace == NO_WORKSPACE:
        highest = snapshot.highest_tier(holds, place, ADMINISTRATION, APPROVE)
        return ((f"{ADMINISTRATION}",) if highest >= Tier.AUTONOMOUS else ()), []
    may: list[str] = []
    proof: list[int] = []
    for obj in (WORKFLOWS, RUNBOOKS):
        highest = snapshot.highest_tier(holds, place, obj, APPROVE)
        if highest >= 0:
            may.append(f"{obj} up to tier {highest}")
    for tool, (tier, seq) in sorted(found.tools.items()):
        if tier >= Tier.AUTONOMOUS and snapshot.highest_tier(holds, place, tool, APPROVE) >= tier:
            may.append(tool)
            proof.append(seq)
    return tuple(may), proof
