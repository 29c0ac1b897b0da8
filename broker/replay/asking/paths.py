"""Which model touched which data when, by which workflow, and who approved that path; what an agent did; what ran under a
policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from broker.replay.asking.answer import (
    NOBODY,
    Agreed,
    Answer,
    Column,
    Kind,
    Line,
    Span,
    agreed_at,
    agreed_to,
    evidence,
    people,
)
from broker.replay.casebook import Casebook

_RAN = "(c.intent IS NOT NULL OR c.plan IS NOT NULL)"
"""Before that nothing of a call has touched anything."""
_GROUPS = f"""
    SELECT p.id, p.workspace, p.workflow, p.version, p.model, p.prompt, p.tool, p.tool_version, p.tier, p.agent, p.owner,
           p.classes, g.calls, g.first_ts, g.last_ts, g.first, g.last, g.asked
    FROM (SELECT c.path, count(*) AS calls, min(c.ts) AS first_ts, max(c.ts) AS last_ts, min(c.decision) AS first,
                 max(c.decision) AS last, sum(c.approval != 0) AS asked
          FROM call AS c INDEXED BY call_path WHERE c.ts >= ? AND c.ts < ? AND {_RAN} GROUP BY c.path) AS g
    JOIN path AS p ON p.id = g.path ORDER BY g.first_ts, g.path
"""  # noqa: S608 - ours
"""By an index that has all of it, in its order: a million entries take a fraction of a second."""
_VOTERS = """
    SELECT c.path, v.person FROM counted AS k JOIN call AS c ON c.id = k.call LEFT JOIN vote AS v ON v.seq = k.vote
    WHERE c.ts >= ? AND c.ts < ? GROUP BY c.path, v.person ORDER BY c.path, min(k.vote)
"""
_MOST_ACTIONS = 3
"""Most calls of a path whose votes stand beside it as evidence; all their voters are named."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which paths: each field that isn't empty must be met. A data class ends in ``*`` to name all that begin so."""

    data_class: str = ""
    model: str = ""
    workflow: str = ""
    agent: str = ""
    """By id."""
    tool: str = ""
    workspace: str = ""


_COLUMNS = (
    Column("data class"),
    Column("model"),
    Column("prompt"),
    Column("workflow"),
    Column("workspace"),
    Column("tool"),
    Column("tier", Kind.NUMBER),
    Column("agent", Kind.PEOPLE),
    Column("owner", Kind.PEOPLE),
    Column("calls", Kind.NUMBER),
    Column("first", Kind.TIME),
    Column("last", Kind.TIME),
    Column("workflow approved by", Kind.PEOPLE),
    Column("tool accepted by", Kind.PEOPLE),
    Column("calls approved by", Kind.PEOPLE),
)


def touched(casebook: Casebook, wanted: Wanted, span: Span) -> Answer:
    """Which model touched which data class when, by which workflow, and who approved that path."""
    agreed = _Agreements(casebook, span)
    lines = []
    for row in casebook.rows(_GROUPS, span.since, span.until):
        if not _fits(casebook, wanted, row):
            continue
        path, workspace, workflow, version, model, prompt, tool, tool_version, tier, agent, owner, classes, *facts = row
        count, first_ts, last_ts, first, last, asked = facts
        workflow_by = agreed.to("workflow.approved", workflow, version)
        tool_by = agreed.to("spec.registered", tool, tool_version)
        calls_by = agreed.calls(path) if asked else NOBODY
        proof = evidence([first, last], workflow_by.entries, tool_by.entries, calls_by.entries)
        for name in _classes(casebook, classes, wanted):
            cells = (
                name,
                casebook.text(model) or "not said",
                casebook.text(prompt),
                casebook.text(workflow) or "none",
                casebook.text(workspace),
                casebook.text(tool),
                tier,
                (casebook.text(agent),),
                (casebook.text(owner),),
                count,
                first_ts,
                last_ts,
                workflow_by.people,
                tool_by.people,
                calls_by.people,
            )
            lines.append(Line(cells, proof))
    lines.sort(key=lambda line: (str(line.cells[0]), str(line.cells[1])))
    question = "Which model touched which data class when, by which workflow, and who approved that path?"
    return Answer(question, _COLUMNS, tuple(lines), _notes(wanted))


def _notes(wanted: Wanted) -> tuple[str, ...]:
    said = ("data classes and models are what the tool's specification, the workflow and the caller said of a call",)
    return (*said, "calls that never ran touched nothing and are left out") if not wanted.agent else said


def _fits(casebook: Casebook, wanted: Wanted, row: tuple[Any, ...]) -> bool:
    _, workspace, workflow, _, model, _, tool, _, _, agent, _, classes, *_ = row
    pairs = (
        (wanted.model, model),
        (wanted.workflow, workflow),
        (wanted.agent, agent),
        (wanted.tool, tool),
        (wanted.workspace, workspace),
    )
    if any(name and casebook.text(number) != name for name, number in pairs):
        return False
    return not wanted.data_class or bool(_classes(casebook, classes, wanted))


def _classes(casebook: Casebook, classes: int, wanted: Wanted) -> list[str]:
    found = casebook.text(classes).split() or ["none said"]
    if not wanted.data_class:
        return found
    stem = wanted.data_class.removesuffix("*")
    exact = stem == wanted.data_class
    return [name for name in found if (name == stem if exact else name.startswith(stem))]


class _Agreements:
    """Who agreed to workflows, tools and calls; each looked up once."""

    def __init__(self, casebook: Casebook, span: Span) -> None:
        self._casebook = casebook
        self._span = span
        self.to = lru_cache(maxsize=4096)(self._to)
        self._people: dict[int, list[str]] = {}
        for path, person in casebook.rows(_VOTERS, span.since, span.until):
            name = "a vote that is not here" if person is None else casebook.text(person)
            self._people.setdefault(path, []).append(name)

    def _to(self, kind: str, subject: int, version: int) -> Agreed:
        return agreed_to(self._casebook, kind, subject, version)

    def calls(self, path: int) -> Agreed:
        """Who agreed to single calls of a path, and the entries of the first of them."""
        rows = self._casebook.rows(
            "SELECT intent FROM call WHERE path = ? AND ts >= ? AND ts < ? AND approval != 0 AND intent IS NOT NULL"
            " ORDER BY ts LIMIT ?",
            path,
            self._span.since,
            self._span.until,
            _MOST_ACTIONS,
        )
        shown = agreed_at(self._casebook, [row[0] for row in rows])
        return Agreed(people(*self._people.get(path, ())), shown.entries)


def done_by(casebook: Casebook, agent: str, span: Span) -> Answer:
    """What did this agent do? Refused requests too."""
    columns = (
        Column("tool"),
        Column("workspace"),
        Column("workflow"),
        Column("tier", Kind.NUMBER),
        Column("ended"),
        Column("calls", Kind.NUMBER),
        Column("changed files", Kind.NUMBER),
        Column("first", Kind.TIME),
        Column("last", Kind.TIME),
    )
    number = casebook.number(agent)
    lines = [
        Line(
            (
                casebook.text(tool),
                casebook.text(workspace),
                casebook.text(workflow) or "none",
                tier,
                casebook.text(state) or "waits, or was never begun",
                count,
                changed,
                first_ts,
                last_ts,
            ),
            evidence([first, last]),
        )
        for tool, workspace, workflow, tier, state, count, changed, first_ts, last_ts, first, last in casebook.rows(
            "SELECT p.tool, p.workspace, p.workflow, p.tier, c.state, count(*), sum(c.added + c.changed + c.removed),"
            " min(c.ts), max(c.ts), min(c.first), max(c.first) FROM call AS c JOIN path AS p ON p.id = c.path"
            " WHERE p.agent = ? AND c.ts >= ? AND c.ts < ?"
            " GROUP BY p.tool, p.workspace, p.workflow, p.tier, c.state ORDER BY min(c.ts)",
            number,
            span.since,
            span.until,
        )
    ]
    lines += _refused(casebook, number, span)
    return Answer(f"What did {agent} do?", columns, tuple(lines))


def _refused(casebook: Casebook, agent: int | None, span: Span) -> list[Line]:
    rows = casebook.rows(
        "SELECT tool, reason, rule, sum(times), min(ts), max(ts), min(seq), max(seq) FROM decision"
        " WHERE allowed = 0 AND agent = ? AND ts >= ? AND ts < ? GROUP BY tool, reason, rule",
        agent,
        span.since,
        span.until,
    )
    return [
        Line(
            (
                casebook.text(tool),
                "",
                "",
                "",
                f"refused: {casebook.text(reason)}" + (f" by {casebook.text(rule)}" if rule else ""),
                times,
                0,
                first_ts,
                last_ts,
            ),
            evidence([first, last]),
        )
        for tool, reason, rule, times, first_ts, last_ts, first, last in rows
    ]


def ran_under(casebook: Casebook, digest: str, span: Span) -> Answer:
    """What was decided under this policy, by which rule?

    Args:
        casebook: what was filed.
        digest: the policy's, ``sha256:...``.
        span: from when to when.
    """
    columns = (
        Column("rule"),
        Column("decided"),
        Column("tool"),
        Column("agent", Kind.PEOPLE),
        Column("times", Kind.NUMBER),
        Column("first", Kind.TIME),
        Column("last", Kind.TIME),
    )
    rows = casebook.rows(
        "SELECT rule, allowed, tool, agent, sum(times), min(ts), max(ts), min(seq), max(seq) FROM decision"
        " WHERE policy = ? AND ts >= ? AND ts < ? GROUP BY rule, allowed, tool, agent",
        casebook.number(digest),
        span.since,
        span.until,
    )
    put = casebook.rows(
        "SELECT seq, ts FROM act WHERE type = ? AND object = ? ORDER BY seq",
        casebook.number("policy.changed") or -1,
        casebook.number(digest),
    )
    agreed = agreed_at(casebook, [seq for seq, _ in put])
    lines = tuple(
        Line(
            (
                casebook.text(rule) or "none",
                "allow" if allowed else "deny",
                casebook.text(tool),
                (casebook.text(agent),),
                times,
                first_ts,
                last_ts,
            ),
            evidence([first, last], [seq for seq, _ in put], agreed.entries),
        )
        for rule, allowed, tool, agent, times, first_ts, last_ts, first, last in rows
    )
    notes = () if put else ("no entry says since when it was in force: it may be from before this extract",)
    return Answer(f"What ran under policy {digest}?", columns, lines, notes)
