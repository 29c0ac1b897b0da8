"""What the policy was asked and what it answered, from a casebook: each question once, with how often and where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from broker.replay.asking.answer import Span
from broker.replay.casebook import Casebook

DAY_US = 86_400_000_000
"""Microseconds of a day."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a decision read, as it stands in entries; any of it may be malformed. ``subject`` is an id."""

    id: int
    subject: str
    workspace: str
    obj: str
    action: str
    tier: str


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with one answer that it got."""

    question: Question
    allowed: bool
    rule: str
    policy: str
    """Digest of the policy that answered."""
    entries: int
    requests: int
    """Repetitions that one entry counts are in it."""
    first: int
    """The first of the entries, by number."""
    last: int
    since: int
    """Time of the earliest."""
    until: int


@dataclass(frozen=True, slots=True)
class Unasked:
    """Requests whose entries don't have what the policy read."""

    reason: str
    """Why they were refused; empty where they were not."""
    entries: int
    requests: int


_QUESTIONS = """
SELECT q.id, s.text, w.text, o.text, a.text, t.text FROM question q
JOIN word s ON s.id = q.subject JOIN word w ON w.id = q.workspace JOIN word o ON o.id = q.object
JOIN word a ON a.id = q.action JOIN word t ON t.id = q.tier
"""
_ANSWERED = """
SELECT question, allowed, rule, policy, count(*), sum(times), min(seq), max(seq), min(ts), max(ts) FROM decision
WHERE question != 0 AND ts >= ? AND ts < ? GROUP BY question, allowed, rule, policy
"""
_UNASKED = """
SELECT reason, count(*), sum(times) FROM decision
WHERE question = 0 AND ts >= ? AND ts < ? GROUP BY reason
"""
_DAYS = """
SELECT ts / ?, sum(times) FROM decision WHERE question = ? AND allowed = ? AND rule = ? AND policy = ?
AND ts >= ? AND ts < ? GROUP BY 1
"""
_OWNERS = "SELECT DISTINCT agent, owner FROM path WHERE owner != 0"


def read_answered(casebook: Casebook, span: Span) -> list[Answered]:
    """Every question with each answer that it got, in the order in which they first stand in the ledger."""
    questions = {row[0]: Question(*row) for row in casebook.rows(_QUESTIONS)}
    found = [
        Answered(questions[row[0]], bool(row[1]), casebook.text(row[2]), casebook.text(row[3]), *row[4:])
        for row in casebook.rows(_ANSWERED, span.since, span.until)
        if row[0] in questions
    ]
    found.sort(key=lambda item: item.first)
    return found


def read_unasked(casebook: Casebook, span: Span) -> Sequence[Unasked]:
    """What can't be asked again, by the reason of its refusal."""
    found = [Unasked(casebook.text(row[0]), row[1], row[2]) for row in casebook.rows(_UNASKED, span.since, span.until)]
    return sorted(found, key=lambda item: (-item.requests, item.reason))


def days_of(casebook: Casebook, item: Answered, span: Span) -> dict[int, int]:
    """Requests of one answer by day, counted from 1970."""
    rule, policy = casebook.number(item.rule), casebook.number(item.policy)
    values = (DAY_US, item.question.id, int(item.allowed), rule, policy, span.since, span.until)
    return dict(casebook.rows(_DAYS, *values))


def owners(casebook: Casebook) -> dict[str, frozenset[str]]:
    """Id of an agent -> ids of whoever owned it when it called."""
    found: dict[str, set[str]] = {}
    for agent, owner in casebook.rows(_OWNERS):
        found.setdefault(casebook.text(agent), set()).add(casebook.text(owner))
    return {agent: frozenset(people) for agent, people in found.items()}
