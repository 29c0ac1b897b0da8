"""What left the house, what was changed, what can't be taken back, and what was refused."""

from __future__ import annotations

import json

from broker.replay.asking.answer import (
    NOBODY,
    Answer,
    Column,
    Kind,
    Line,
    Span,
    agreed_at,
    agreed_each,
    evidence,
    people,
)
from broker.replay.casebook import Casebook

_MOST = 10_000
"""Most lines of an answer that has one for each call."""
_TAKEN_BACK_BY = """
    SELECT u.target, c.name, u.seq FROM undo AS u JOIN call AS c ON c.id = u.call
    WHERE u.target IN (SELECT value FROM json_each(?)) ORDER BY u.target, u.call
"""
_TAKES_BACK = """
    SELECT u.call, c.name, u.seq FROM undo AS u JOIN call AS c ON c.id = u.target
    WHERE u.call IN (SELECT value FROM json_each(?)) ORDER BY u.call, u.target
"""


def left(casebook: Casebook, host: str, span: Span) -> Answer:
    """What left the house: by host, how much, by whom."""
    columns = (
        Column("host"),
        Column("port", Kind.NUMBER),
        Column("kind"),
        Column("verdict"),
        Column("tool"),
        Column("agent", Kind.PEOPLE),
        Column("calls", Kind.NUMBER),
        Column("requests", Kind.NUMBER),
        Column("bytes sent", Kind.NUMBER),
        Column("bytes received", Kind.NUMBER),
        Column("first", Kind.TIME),
        Column("last", Kind.TIME),
    )
    rows = casebook.rows(
        "SELECT e.host, e.port, e.kind, e.verdict, p.tool, p.agent, count(DISTINCT e.call), sum(e.times), sum(e.sent),"
        " sum(e.received), min(e.ts), max(e.ts), min(e.seq), max(e.seq) FROM egress AS e"
        " LEFT JOIN call AS c ON c.id = e.call LEFT JOIN path AS p ON p.id = c.path"
        " WHERE e.ts >= ? AND e.ts < ? GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY min(e.ts)",
        span.since,
        span.until,
    )
    lines = tuple(
        Line(
            (
                casebook.text(where),
                port,
                casebook.text(kind),
                casebook.text(verdict),
                casebook.text(tool or 0),
                people(casebook.text(agent or 0)),
                *numbers,
            ),
            evidence([first, last]),
        )
        for where, port, kind, verdict, tool, agent, *numbers, first, last in rows
        if not host or casebook.text(where) == host
    )
    notes = ("host ? stands for hosts that no specification lists: their names are the tool's words, and sealed",)
    return Answer("What left the house?", columns, lines, notes)


def changed(casebook: Casebook, workspace: str, span: Span, *, removed: bool) -> Answer:
    """What was changed, by which call, who agreed, and what became of it.

    Args:
        casebook: what was filed.
        workspace: where; empty for everywhere.
        span: from when to when.
        removed: only what removed something.
    """
    columns = (
        Column("call"),
        Column("time", Kind.TIME),
        Column("agent", Kind.PEOPLE),
        Column("tool"),
        Column("workspace"),
        Column("added", Kind.NUMBER),
        Column("changed", Kind.NUMBER),
        Column("removed", Kind.NUMBER),
        Column("reversibility"),
        Column("approved by", Kind.PEOPLE),
        Column("takes back"),
        Column("taken back by"),
    )
    rows = casebook.rows(
        "SELECT c.id, c.name, coalesce(c.ended, c.ts), p.agent, p.tool, p.workspace, c.added, c.changed, c.removed,"
        " c.reversibility, c.intent, c.outcome FROM call AS c JOIN path AS p ON p.id = c.path"
        " WHERE c.effect = 1 AND c.ts >= ? AND c.ts < ? ORDER BY c.outcome LIMIT ?",
        span.since,
        span.until,
        _MOST,
    )
    lines = []
    shown = [row for row in rows if (not workspace or casebook.text(row[5]) == workspace) and (row[8] or not removed)]
    calls = [row[0] for row in shown]
    agreements = agreed_each(casebook, [row[10] for row in shown if row[10] is not None])
    taken_back, takes_back = (_undone(casebook, statement, calls) for statement in (_TAKEN_BACK_BY, _TAKES_BACK))
    for number, name, ts, agent, tool, where, added, altered, gone, reversibility, intent, outcome in shown:
        agreed = agreements.get(intent, NOBODY)
        back, of = taken_back.get(number, ()), takes_back.get(number, ())
        cells = (
            name,
            ts,
            people(casebook.text(agent)),
            casebook.text(tool),
            casebook.text(where),
            added,
            altered,
            gone,
            casebook.text(reversibility),
            agreed.people,
            tuple(call for call, _ in of),
            tuple(call for call, _ in back),
        )
        lines.append(Line(cells, evidence([intent, outcome], agreed.entries, [seq for _, seq in back])))
    notes = (f"only the first {_MOST} are here: narrow it by --since",) if len(rows) == _MOST else ()
    what = "removed" if removed else "changed"
    return Answer(f"What was {what}, who agreed, and was it taken back?", columns, tuple(lines), notes)


def irreversible(casebook: Casebook, span: Span) -> Answer:
    """What ran that can't be taken back, or only be compensated."""
    columns = (
        Column("reversibility"),
        Column("tool"),
        Column("tier", Kind.NUMBER),
        Column("agent", Kind.PEOPLE),
        Column("workspace"),
        Column("calls", Kind.NUMBER),
        Column("approved by", Kind.PEOPLE),
        Column("first", Kind.TIME),
        Column("last", Kind.TIME),
    )
    groups: dict[tuple[int, ...], list[tuple[int, int, int | None]]] = {}
    for *key, ts, intent, outcome in casebook.rows(
        "SELECT c.reversibility, p.tool, p.tier, p.agent, p.workspace, c.ts, c.intent, c.outcome FROM call AS c"
        " JOIN path AS p ON p.id = c.path WHERE c.intent IS NOT NULL AND c.reversibility IN (?, ?)"
        " AND c.ts >= ? AND c.ts < ? ORDER BY c.ts",
        casebook.number("irreversible") or -1,
        casebook.number("compensable") or -1,
        span.since,
        span.until,
    ):
        groups.setdefault(tuple(key), []).append((ts, intent, outcome))
    lines = []
    for (kind, tool, tier, agent, workspace), calls in groups.items():
        agreed = agreed_at(casebook, [intent for _, intent, _ in calls])
        cells = (
            casebook.text(kind),
            casebook.text(tool),
            tier,
            people(casebook.text(agent)),
            casebook.text(workspace),
            len(calls),
            agreed.people,
            calls[0][0],
            calls[-1][0],
        )
        ends = evidence([calls[0][1], calls[0][2], calls[-1][1], calls[-1][2]])
        lines.append(Line(cells, evidence(ends, agreed.entries)))
    note = (
        "only tools whose effect is planned say how far it can be taken back; what others do lies in their container alone,"
        " but for the hosts that they reach: see `broker ask egress`"
    )
    return Answer("What was irreversible, or could only be compensated?", columns, tuple(lines), (note,))


def refused(casebook: Casebook, span: Span) -> Answer:
    """What was refused, by which rule, how often."""
    columns = (
        Column("reason"),
        Column("rule"),
        Column("tool"),
        Column("agent", Kind.PEOPLE),
        Column("times", Kind.NUMBER),
        Column("first", Kind.TIME),
        Column("last", Kind.TIME),
    )
    rows = casebook.rows(
        "SELECT reason, rule, tool, agent, sum(times), min(ts), max(ts), min(seq), max(seq)"
        " FROM decision INDEXED BY decision_refused WHERE allowed = 0 AND ts >= ? AND ts < ?"
        " GROUP BY agent, tool, reason, rule ORDER BY sum(times) DESC, min(ts)",
        span.since,
        span.until,
    )
    lines = tuple(
        Line(
            (
                casebook.text(reason) or "DENIED",
                casebook.text(rule),
                casebook.text(tool),
                people(casebook.text(agent)),
                times,
                first_ts,
                last_ts,
            ),
            evidence([first, last]),
        )
        for reason, rule, tool, agent, times, first_ts, last_ts, first, last in rows
    )
    notes = ("tool ? stands for names that no tool has: what an agent makes up is not written down",)
    return Answer("What was refused?", columns, lines, notes)


def _undone(casebook: Casebook, statement: str, calls: list[int]) -> dict[int, list[tuple[str, int]]]:
    """The other calls by call: names, and the entries that say it."""
    found: dict[int, list[tuple[str, int]]] = {}
    for call, name, seq in casebook.rows(statement, json.dumps(calls)):
        found.setdefault(call, []).append((name, seq))
    return found
