"""Which entries an incident's bundle needs beside those that were selected, so that it can be understood from itself alone.

Decided from a casebook, in one place. Selected are the entries of an agent, a call, a session or a range
(``broker.ledger.bundle_format.Selection``). The story is what they rest on: the requests and votes by which their calls were
agreed to, the keys of who voted, the policy and the tools that were in force, the workflows, what was frozen meanwhile, what
undid them, and whom all of it is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from broker.errors import FailedPreconditionError, NotFoundError
from broker.ledger.bundle_evidence import Span
from broker.ledger.bundle_format import Selection
from broker.replay.casebook import Casebook
from broker.replay.members import part, text

_AT_ONCE = 500
"""Values in one query."""
_APPROVALS = ("approval.requested", "vote", "vote.attested", "approval.closed")
_FREEZES = ("frozen", "unfrozen")
_CHANGES = ("policy.changed", "settings.changed")
_IDENTITIES = ("identity.issued", "identity.revoked")
_KEYS = ("key.enrolled", "key.revoked")
_SESSIONS = ("session.started", "session.ended")
_OVER = frozenset({"outcome", "undo.outcome"})
"""Types of the entries that end a call."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be in the bundle. ``people`` are ids whose registration is in it; ``approvals`` are ids, too."""

    selected: frozenset[int]
    span: Span | None
    stretch: frozenset[int]
    story: dict[str, tuple[int, ...]]
    people: frozenset[str]
    approvals: tuple[str, ...]


@dataclass(slots=True)
class _Found:
    """What the selected entries are about; numbers are the casebook's."""

    seqs: list[int] = field(default_factory=list)
    calls: set[int] = field(default_factory=set)
    agents: set[int] = field(default_factory=set)

    @property
    def last(self) -> int:
        """The last selected entry."""
        return self.seqs[-1]


def plan_evidence(casebook: Casebook, selection: Selection, size: int, *, also: Iterable[str] = ()) -> Plan:
    """What belongs into the bundle of an incident.

    Args:
        casebook: of a whole ledger, which has at least ``size`` entries.
        selection: of an agent, a call, a session or a range.
        size: entries of the checkpoint by which the bundle is proved; later ones are in no bundle.
        also: ids of others whose registration is to be there, such as who makes the bundle.

    Raises:
        NotFoundError: ``NOTHING_SELECTED``: nothing before the checkpoint is about that.
        FailedPreconditionError: ``NO_HEADS``: what was selected goes on, and no entry commits yet how far.
    """
    return _Planner(casebook, size).plan(selection, also)


class _Planner:
    def __init__(self, casebook: Casebook, size: int) -> None:
        self._book = casebook
        self._size = size

    def plan(self, selection: Selection, also: Iterable[str]) -> Plan:
        found = self._selected(selection)
        span = self._span(selection, found)
        stretch = frozenset[int]()
        if span is not None:
            stretch = frozenset(self._chain(span))
            if span.heads:
                found.seqs = [seq for seq in found.seqs if seq < span.last]
        approvals = self._approvals(found.calls, found.seqs)
        undoing = self._undoing(found.calls)
        approvals |= self._approvals(undoing, ())
        story = {
            "approvals": self._asking(approvals),
            "undo": self._in("SELECT seq FROM entry WHERE approval = 0 AND call IN ({})", undoing),
            "specs": self._specs(found),
            "workflows": self._workflows(found),
            "sessions": self._sessions(found),
            "policy": self._policies(found),
            "freezes": self._freezes(found),
            "keys": self._acts(_KEYS, self._column("SELECT DISTINCT key FROM vote WHERE approval IN ({})", approvals)),
        }
        people = self._people(found, approvals) | {number for number in map(self._book.number, also) if number}
        story["identities"] = self._acts(_IDENTITIES, people)
        return Plan(
            selected=frozenset(found.seqs),
            span=span,
            stretch=stretch,
            story=self._told_once(story, found, span),
            people=frozenset(self._registered(people)),
            approvals=tuple(self._names_of(approvals)),
        )

    # what was selected

    def _selected(self, selection: Selection) -> _Found:
        book, found = self._book, _Found()
        if selection.agent:
            seqs = self._column("SELECT seq FROM entry WHERE agent = ?", None, book.number(selection.agent) or -1)
        elif selection.call:
            call = book.one("SELECT id FROM call WHERE name = ?", selection.call)
            seqs = self._column("SELECT seq FROM entry WHERE call = ?", None, -1 if call is None else call[0])
        elif selection.session:
            session = book.number(selection.session) or -1
            seqs = self._column("SELECT seq FROM act WHERE subject = ?", None, session)
            calls = self._column("SELECT id FROM call WHERE session = ?", None, session)
            seqs += self._in("SELECT seq FROM entry WHERE call IN ({})", calls)
        else:
            first, last = selection.first or 0, selection.last or 0
            seqs = self._column("SELECT seq FROM entry WHERE seq BETWEEN ? AND ?", None, first, last)
        found.seqs = sorted({seq for seq in seqs if seq < self._size})
        if not found.seqs:
            raise NotFoundError(
                "no entry that a checkpoint proves is about that",
                reason="NOTHING_SELECTED",
                hint="Look for it with: broker ledger show; the newest entries are proved by the next checkpoint.",
            )
        for seq, agent, call in self._in_rows("SELECT seq, agent, call FROM entry WHERE seq IN ({})", found.seqs):
            del seq
            found.calls |= {call} if call else set()
            found.agents |= {agent} if agent else set()
        return found

    def _span(self, selection: Selection, found: _Found) -> Span | None:
        """The stretch of the agent's chain by which a call or session is shown to be all there."""
        if not (selection.call or selection.session):
            return None
        book = self._book
        begin = "session.started" if selection.session else "decision"
        on_chain = [
            (seq, kind, agent)
            for seq, kind, agent in self._in_rows("SELECT seq, type, agent FROM entry WHERE seq IN ({})", found.seqs)
            if agent
        ]
        on_chain.sort()
        start = next(((seq, agent) for seq, kind, agent in on_chain if book.text(kind) == begin), None)
        if start is None:
            raise NotFoundError(
                f"no {begin} entry says where that begins",
                reason="NOTHING_SELECTED",
                hint="Take its agent's entries, or a range, with --agent, or --from and --to.",
            )
        agent = start[1]
        last = max(seq for seq, _, whose in on_chain if whose == agent)
        ended = bool(selection.call) or any(book.text(kind) == "session.ended" for _, kind, _ in on_chain)
        if ended and self._over(found):
            return Span(book.text(agent), start[0], last, heads=False)
        heads = book.one(
            "SELECT max(seq) FROM entry WHERE type = ? AND seq < ?", book.number("heads") or -1, self._size
        )
        if heads is None or heads[0] is None or heads[0] <= start[0]:
            raise FailedPreconditionError(
                "it goes on, and no entry commits yet how far its agent's chain has come",
                reason="NO_HEADS",
                hint="Wait for the broker's next checkpoint: it writes such an entry before each.",
            )
        return Span(book.text(agent), start[0], int(heads[0]), heads=True)

    def _over(self, found: _Found) -> bool:
        """Has each call in it come to its end before the checkpoint?"""
        book = self._book
        done, begun = set[int](), set[int]()
        rows = self._in_rows("SELECT call, type, seq FROM entry WHERE call IN ({})", found.calls)
        for call, kind, seq in rows:
            if seq < self._size:
                (done if book.text(kind) in _OVER else begun).add(call)
        refused = set(self._in("SELECT call FROM decision WHERE allowed = 0 AND call IN ({})", found.calls))
        return not begun - done - refused

    def _chain(self, span: Span) -> list[int]:
        number = self._book.number(span.agent) or -1
        statement = "SELECT seq FROM entry WHERE agent = ? AND seq BETWEEN ? AND ?"
        return [seq for seq in self._column(statement, None, number, span.first, span.last) if seq < self._size]

    # the story

    def _approvals(self, calls: set[int], seqs: Sequence[int]) -> set[int]:
        found = self._in("SELECT id FROM approval WHERE call IN ({})", calls)
        found += self._in("SELECT approval FROM used WHERE call IN ({})", calls)
        found += self._in("SELECT approval FROM used WHERE seq IN ({})", seqs)
        found += self._in("SELECT approval FROM entry WHERE seq IN ({})", seqs)
        return {approval for approval in found if approval}

    def _asking(self, approvals: set[int]) -> list[int]:
        kinds = self._kinds(_APPROVALS)
        rows = self._in_rows("SELECT seq, type FROM entry WHERE approval IN ({})", approvals)
        return [seq for seq, kind in rows if kind in kinds]

    def _undoing(self, calls: set[int]) -> set[int]:
        """Calls that took something of these back, and those of which these did."""
        found = self._in("SELECT call FROM undo WHERE target IN ({})", calls)
        found += self._in("SELECT target FROM undo WHERE call IN ({})", calls)
        return set(found) - calls

    def _specs(self, found: _Found) -> list[int]:
        versions = self._paths("tool_version", found)
        return self._in_force(("spec.registered",), versions, found.last)

    def _policies(self, found: _Found) -> list[int]:
        """What put each policy into force by which something was decided, and every change meanwhile."""
        digests = set(self._in("SELECT policy FROM decision WHERE seq IN ({})", found.seqs)) - {0}
        rows = self._in_force(("policy.changed", "heartbeat"), digests, found.last)
        return rows + self._meanwhile(_CHANGES, found)

    def _workflows(self, found: _Found) -> list[int]:
        wanted = {
            (self._book.text(which), self._book.text(version))
            for which, version in self._in_rows(
                "SELECT DISTINCT path.workflow, path.version FROM call JOIN path ON path.id = call.path"
                " WHERE call.id IN ({})",
                found.calls,
            )
            if which
        }
        newest: dict[tuple[str, str], int] = {}
        approved = self._acts(("workflow.approved",), {self._book.number(which) or -1 for which, _ in wanted})
        for entry in self._book.entries(seq for seq in approved if seq < found.last):
            said = part(entry.body, "workflow")
            key = text(said, "id"), text(said, "version")
            if key in wanted:
                newest[key] = entry.seq
        return sorted(newest.values())

    def _sessions(self, found: _Found) -> list[int]:
        return self._acts(_SESSIONS, set(self._in("SELECT session FROM call WHERE id IN ({})", found.calls)) - {0})

    def _freezes(self, found: _Found) -> list[int]:
        """All that were made or ended meanwhile, and all of the agents, tools and workspaces that it is about."""
        targets = found.agents | self._paths("tool", found) | self._paths("workspace", found)
        before = [seq for seq in self._acts(_FREEZES, targets) if seq < found.last]
        return before + self._meanwhile(_FREEZES, found)

    def _people(self, found: _Found, approvals: set[int]) -> set[int]:
        people = set(found.agents)
        for column in ("owner", "starter", "on_behalf", "agent"):
            people |= self._paths(column, found)
        people |= set(self._in("SELECT person FROM vote WHERE approval IN ({})", approvals))
        people |= set(self._in("SELECT requester FROM approval WHERE id IN ({})", approvals))
        people |= set(self._in("SELECT by FROM act WHERE seq IN ({})", found.seqs))
        return people - {0}

    def _registered(self, people: set[int]) -> list[str]:
        issued = self._book.number("identity.issued")
        rows = self._in_rows("SELECT subject, type, seq FROM act WHERE subject IN ({})", people)
        return [self._book.text(who) for who, kind, seq in rows if kind == issued and seq < self._size]

    def _told_once(self, story: dict[str, list[int]], found: _Found, span: Span | None) -> dict[str, tuple[int, ...]]:
        """Each entry in one part only, and none that is selected, proved later or beyond the agent's committed end."""
        taken = set(found.seqs)
        chain: set[int] = set()
        if span is not None and span.heads:
            number = self._book.number(span.agent) or -1
            chain = set(self._column("SELECT seq FROM entry WHERE agent = ? AND seq > ?", None, number, span.last))
        told: dict[str, tuple[int, ...]] = {}
        for name, seqs in story.items():
            fit = sorted({seq for seq in seqs if seq < self._size and seq not in taken and seq not in chain})
            taken |= set(fit)
            if fit:
                told[name] = tuple(fit)
        return told

    # queries

    def _paths(self, column: str, found: _Found) -> set[int]:
        statement = f"SELECT DISTINCT path.{column} FROM call JOIN path ON path.id = call.path WHERE call.id IN ({{}})"  # noqa: S608 - ours
        return set(self._in(statement, found.calls)) - {0}

    def _acts(self, types: Sequence[str], subjects: Iterable[int]) -> list[int]:
        kinds = self._kinds(types)
        rows = self._in_rows("SELECT seq, type FROM act WHERE subject IN ({})", subjects)
        return sorted(seq for seq, kind in rows if kind in kinds)

    def _in_force(self, types: Sequence[str], digests: set[int], last: int) -> list[int]:
        """The newest act, before the last selected entry, that put each of these into force."""
        kinds, newest = self._kinds(types), dict[int, int]()
        for name in types:
            kind = self._book.number(name) or -1
            for seq, what in self._book.rows("SELECT seq, object FROM act WHERE type = ? AND seq < ?", kind, last):
                if what in digests and kind in kinds:
                    newest[what] = max(seq, newest.get(what, -1))
        return sorted(newest.values())

    def _meanwhile(self, types: Sequence[str], found: _Found) -> list[int]:
        kinds = self._kinds(types)
        rows = self._book.rows("SELECT seq, type FROM act WHERE seq BETWEEN ? AND ?", found.seqs[0], found.last)
        return [seq for seq, kind in rows if kind in kinds]

    def _kinds(self, types: Sequence[str]) -> set[int]:
        return {number for number in map(self._book.number, types) if number}

    def _names_of(self, approvals: set[int]) -> list[str]:
        return sorted(self._in("SELECT name FROM approval WHERE id IN ({})", approvals))

    def _column(self, statement: str, numbers: Iterable[int] | None = None, *values: object) -> list[Any]:
        if numbers is not None:
            return self._in(statement, numbers)
        return [row[0] for row in self._book.rows(statement, *values)]

    def _in(self, statement: str, numbers: Iterable[int]) -> list[Any]:
        return [row[0] for row in self._in_rows(statement, numbers)]

    def _in_rows(self, statement: str, numbers: Iterable[int]) -> Iterator[tuple[Any, ...]]:
        """The rows of a query for all of these numbers, some hundred at a time."""
        wanted = sorted(set(numbers))
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            yield from self._book.rows(statement.format(",".join("?" * len(some))), *some)
