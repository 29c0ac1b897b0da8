"""Which calls, approvals and single acts fit what was asked for: all of the given selectors have to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TypeAlias

from broker.replay.casebook import Casebook, stamp
from broker.replay.timeline.model import Left

MOST_LOOKED_INTO = 5_000
"""Calls whose content is looked into for a file's name, the newest."""

Look: TypeAlias = Callable[[Sequence[str], str], "Looked"]
"""Finds, among calls, those that had to do with a file."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is asked for; empty fields don't filter. People and agents by id, times in microseconds, both ends included."""

    call: str = ""
    agent: str = ""
    session: str = ""
    workflow: str = ""
    person: str = ""
    tool: str = ""
    data_class: str = ""
    host: str = ""
    file: str = ""
    workspace: str = ""
    since: int | None = None
    until: int | None = None

    def words(self) -> tuple[tuple[str, str], ...]:
        """What is given, by name."""
        given = ((item.name, getattr(self, item.name)) for item in fields(self))
        return tuple(
            (name, stamp(value) if isinstance(value, int) else value)
            for name, value in given
            if value not in ("", None)
        )

    @property
    def of_calls_only(self) -> bool:
        """Can nothing but a call fit?"""
        return bool(self.call or self.data_class or self.host or self.file)


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of looking for a file: ids of calls, and how many couldn't be looked into because they are erased."""

    calls: frozenset[str]
    erased: int


@dataclass(frozen=True, slots=True)
class Selected:
    """Numbers of calls and approvals in the casebook, ascending by their first entry; and numbers of entries."""

    calls: tuple[int, ...] = ()
    approvals: tuple[int, ...] = ()
    entries: tuple[int, ...] = ()
    left_out: tuple[Left, ...] = ()


@dataclass(slots=True)
class _Where:
    """Conditions that all have to hold, with their values."""

    casebook: Casebook
    conditions: list[str] = field(default_factory=list)
    values: list[object] = field(default_factory=list)
    nothing: bool = False

    def add(self, condition: str, *values: object) -> None:
        self.conditions.append(condition)
        self.values += values

    def word(self, condition: str, text: str) -> None:
        """A condition with a word in place of each question mark; nothing fits a word that no entry has."""
        if not text:
            return
        number = self.casebook.number(text)
        if number is None:
            self.nothing = True
        self.add(condition, *(number for _ in range(condition.count("?"))))

    @property
    def text(self) -> str:
        return " AND ".join(self.conditions) or "1"


def select(casebook: Casebook, wanted: Selection, most: int, look: Look | None = None) -> Selected:
    """What fits; of more than ``most`` calls, approvals or acts the newest, and it is said how many there are besides.

    Args:
        casebook: where to look.
        wanted: what is asked for.
        most: of each kind.
        look: looks for files; needed where one is asked for.
    """
    finding = _Finding(casebook, wanted, most)
    calls = finding.calls(look)
    if wanted.of_calls_only:
        return Selected(calls, left_out=tuple(finding.left))
    entries = tuple(sorted({*finding.acts(), *finding.refused()}))
    approvals = finding.approvals()
    return Selected(calls, approvals, entries, tuple(finding.left))


class _Finding:
    def __init__(self, casebook: Casebook, wanted: Selection, most: int) -> None:
        self._casebook = casebook
        self._wanted = wanted
        self._most = most
        self.left: list[Left] = []

    def calls(self, look: Look | None) -> tuple[int, ...]:
        casebook, wanted, most = self._casebook, self._wanted, self._most
        where = _Where(self._casebook)
        if wanted.call:
            where.add("c.name = ?", wanted.call)
        where.word("(c.session = ? AND c.session != 0)", wanted.session)
        path = _Where(self._casebook)
        for name, text in (
            ("agent", wanted.agent),
            ("workflow", wanted.workflow),
            ("tool", wanted.tool),
            ("workspace", wanted.workspace),
        ):
            path.word(f"{name} = ?", text)
        path.word("id IN (SELECT path FROM touches WHERE class = ?)", wanted.data_class)
        if path.conditions:
            where.add(f"c.path IN (SELECT id FROM path WHERE {path.text})", *path.values)  # noqa: S608 - ours
        where.word("c.id IN (SELECT call FROM egress WHERE host = ?)", wanted.host)
        where.word(
            "(c.path IN (SELECT id FROM path WHERE owner = ? OR starter = ? OR on_behalf = ?)"
            " OR c.id IN (SELECT a.call FROM vote v JOIN approval a ON a.id = v.approval WHERE v.person = ?)"
            " OR c.id IN (SELECT u.call FROM vote v JOIN used u ON u.approval = v.approval WHERE v.person = ?))",
            wanted.person,
        )
        if wanted.since is not None:
            where.add("(c.ended IS NULL OR c.ended >= ?)", wanted.since)
        if wanted.until is not None:
            where.add("c.ts <= ?", wanted.until)
        if where.nothing or path.nothing:
            return ()
        if wanted.file:
            return self._with_file(where, look)
        found = casebook.rows(
            f"SELECT c.id, c.first FROM call c WHERE {where.text} ORDER BY c.first DESC LIMIT ?",  # noqa: S608 - ours
            *where.values,
            most + 1,
        )
        if len(found) > most:
            row = casebook.one(f"SELECT count(*) FROM call c WHERE {where.text}", *where.values)  # noqa: S608 - ours
            self.left.append(Left("older calls that fit", (row[0] if row else 0) - most))
        return tuple(row[0] for row in reversed(found[:most]))

    def _with_file(self, where: _Where, look: Look | None) -> tuple[int, ...]:
        most = self._most
        rows = self._casebook.rows(
            f"SELECT c.id, c.name FROM call c WHERE {where.text} ORDER BY c.first DESC LIMIT ?",  # noqa: S608 - ours
            *where.values,
            MOST_LOOKED_INTO + 1,
        )
        if len(rows) > MOST_LOOKED_INTO:
            self.left.append(Left("older calls, which nobody looked into for the file", None))
        candidates = rows[:MOST_LOOKED_INTO]
        looked = Looked(frozenset(), 0) if look is None else look([row[1] for row in candidates], self._wanted.file)
        if looked.erased:
            self.left.append(
                Left("calls that couldn't be looked into for the file, as their content is erased", looked.erased)
            )
        found = [row[0] for row in candidates if row[1] in looked.calls]
        if len(found) > most:
            self.left.append(Left("older calls that fit", len(found) - most))
        return tuple(reversed(found[:most]))

    def acts(self) -> list[int]:
        """Acts that belong to no call and, but for those of a person, to no approval."""
        wanted = self._wanted
        where = _Where(self._casebook)
        where.add("e.call = 0")
        where.word("((e.agent = ? AND e.agent != 0) OR a.subject = ?)", wanted.agent)
        where.word("(a.by = ? OR a.subject = ?)", wanted.person)
        where.word("a.workspace = ?", wanted.workspace)
        for text in (wanted.session, wanted.workflow, wanted.tool):
            where.word("a.subject = ?", text)
        _times(where, wanted, "a.ts")
        drill = self._casebook.number("undo.drill")
        if drill is not None:
            where.add("a.type != ?", drill)
        if where.nothing:
            return []
        text = f"FROM act a JOIN entry e ON e.seq = a.seq WHERE {where.text}"
        return self._newest(text, "a.seq", where.values, "older acts that fit")

    def refused(self) -> list[int]:
        """Requests that were refused, so that no call came of them: the ledger says little of them."""
        wanted = self._wanted
        if wanted.session or wanted.workflow or wanted.person:
            return []
        where = _Where(self._casebook)
        where.add("d.call = 0")
        where.word("(e.agent = ? AND e.agent != 0)", wanted.agent)
        where.word("d.tool = ?", wanted.tool)
        where.word("(SELECT q.workspace FROM question q WHERE q.id = d.question) = ?", wanted.workspace)
        _times(where, wanted, "d.ts")
        if where.nothing:
            return []
        text = f"FROM decision d JOIN entry e ON e.seq = d.seq WHERE {where.text}"
        return self._newest(text, "d.seq", where.values, "older refused requests that fit")

    def approvals(self) -> tuple[int, ...]:
        """Approvals of what is no call."""
        wanted = self._wanted
        if wanted.session:
            return ()
        where = _Where(self._casebook)
        where.add("a.call = 0 AND a.requested IS NOT NULL")
        where.word("(a.requester = ? OR a.id IN (SELECT approval FROM vote WHERE person = ?))", wanted.person)
        where.word("a.requester = ?", wanted.agent)
        where.word("a.subject = ?", wanted.workflow)
        where.word("a.object = ?", wanted.tool)
        where.word("a.workspace = ?", wanted.workspace)
        if wanted.since is not None:
            where.add("(a.closed_ts IS NULL OR a.closed_ts >= ?)", wanted.since)
        if wanted.until is not None:
            where.add("a.ts <= ?", wanted.until)
        if where.nothing:
            return ()
        text = f"FROM approval a WHERE {where.text}"
        return tuple(self._newest(text, "a.id", where.values, "older approvals that fit"))

    def _newest(self, text: str, column: str, values: list[object], what: str) -> list[int]:
        found = self._casebook.rows(
            f"SELECT {column} {text} ORDER BY {column} DESC LIMIT ?",
            *values,
            self._most + 1,
        )
        if len(found) > self._most:
            row = self._casebook.one(f"SELECT count(*) {text}", *values)
            self.left.append(Left(what, (row[0] if row else 0) - self._most))
        return [row[0] for row in reversed(found[: self._most])]


def _times(where: _Where, wanted: Selection, column: str) -> None:
    if wanted.since is not None:
        where.add(f"{column} >= ?", wanted.since)
    if wanted.until is not None:
        where.add(f"{column} <= ?", wanted.until)
