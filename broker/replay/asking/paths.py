"""Which model touched which data when, by which workflow, and who approved that path; what an agent did; what ran under a
policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from broker.replay.asking.answer import (
    Agreed,
    Answer,
    Column,
    Kind,
    Line,
    Span,
    agreed_at,
    agreed_to,
    evidence,
)
from broker.replay.casebook import Casebook

_RAN = "(c.intent IS NOT NULL OR c.plan IS NOT NULL)"
"""Before that nothing of a call has touched anything."""
_GROUPS = f"""
    SELECT p.id, p.workspace, p.workflow, p.version, p.model, p.prompt, p.tool, p.tool_version, p.tier, p.agent, p.owner,
           p.classes, count(*), min(c.ts), max(c.ts), min(c.decision), max(c.decision), sum(c.approval != 0)
    FROM call AS c JOIN path AS p ON p.id = c.path
    WHERE c.ts >= ? AND c.ts < ? AND {_RAN} GROUP BY c.path ORDER BY min(c.ts), c.path
"""  # noqa: S608 - ours
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
    agreed = _Agreements(casebook)
    lines = []
    for row in casebook.rows(_GROUPS, span.since, span.until):
        if not _fits(casebook, wanted, row):
            continue
        path, workspace, workflow, version, model, prompt, tool, tool_version, tier, agent, owner, classes, *facts = row
        count, first_ts, last_ts, first, last, asked = facts
        workflow_by = agreed.to("workflow.approved", workflow, version)
        tool_by = agreed.to("spec.registered", tool, tool_version)
        calls_by, shown = agreed.calls(path, span) if asked else (Agreed((), ()), ())
        proof = evidence([first, last], workflow_by.entries, tool_by.entries, shown)
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

    def __init__(self, casebook: Casebook) -> None:
        self._casebook = casebook
        self.to = lru_cache(maxsize=4096)(self._to)

    def _to(self, kind: str, subject: int, version: int) -> Agreed:
        return agreed_to(self._casebook, kind, subject, version)

    def calls(self, path: int, span: Span) -> tuple[Agreed, tuple[int, ...]]:
        """Who agreed to single calls of a path, and the entries of some of them."""
        rows = self._casebook.rows(
            "SELECT coalesce(intent, plan) FROM call WHERE path = ? AND ts >= ? AND ts < ? AND approval != 0"
            " AND intent IS NOT NULL ORDER BY ts",
            path,
            span.since,
            span.until,
        )
        numbers = [row[0] for row in rows]
        return agreed_at(self._casebook, numbers), agreed_at(self._casebook, numbers[:_MOST_ACTIONS]).entries


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
        " WHERE agent = ? AND call = 0 AND ts >= ? AND ts < ? GROUP BY tool, reason, rule ORDER BY min(ts)",
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
    """What was decided under this policy, and what came of it?

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
        Column("ended"),
        Column("times", Kind.NUMBER),
        Column("first", Kind.TIME),
        Column("last", Kind.TIME),
    )
    rows = casebook.rows(
        "SELECT d.rule, d.allowed, d.tool, d.agent, coalesce(c.state, 0), sum(d.times), min(d.ts), max(d.ts),"
        " min(d.seq), max(d.seq) FROM decision AS d LEFT JOIN call AS c ON c.id = d.call"
        " WHERE d.policy = ? AND d.ts >= ? AND d.ts < ? GROUP BY 1, 2, 3, 4, 5 ORDER BY min(d.ts)",
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
                casebook.text(state),
                times,
                first_ts,
                last_ts,
            ),
            evidence([first, last], [seq for seq, _ in put], agreed.entries),
        )
        for rule, allowed, tool, agent, state, times, first_ts, last_ts, first, last in rows
    )
    notes = () if put else ("no entry says since when it was in force: it may be from before this extract",)
    return Answer(f"What ran under policy {digest}?", columns, lines, notes)
