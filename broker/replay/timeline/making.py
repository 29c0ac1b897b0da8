"""Makes a timeline: selects, gathers what belongs to it, tells each entry, and names its causes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from broker.errors import DataLossError
from broker.replay.casebook import Casebook, Entry
from broker.replay.members import number, part, text
from broker.replay.timeline.causes import Causes
from broker.replay.timeline.gathering import CHANGES, CallEntries, Gathered, gather
from broker.replay.timeline.model import Event, Group, Left, Timeline, Tone
from broker.replay.timeline.selecting import Look, Selection, select
from broker.replay.timeline.summing import Summing
from broker.replay.timeline.telling import Teller, lane_of, tone_of
from broker.replay.timeline.texts import Texts

_AROUND = frozenset(CHANGES) | {"session.started", "frozen"}
"""Causes of these types are shown even where nothing else asks for them: they say what was in force."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is shown at most; what is left out is counted."""

    groups: int = 200
    """Calls; approvals of other things; single acts; refused requests: so many of each."""
    entries: int = 5_000
    """Of calls and approvals."""


def make_timeline(
    casebook: Casebook,
    wanted: Selection,
    *,
    name: Callable[[str], str],
    texts: Texts,
    look: Look | None = None,
    limits: Limits | None = None,
) -> Timeline:
    """Makes it.

    Args:
        casebook: what is read.
        wanted: what is asked for.
        name: how the person or agent with an id is called.
        texts: where the content of calls and votes is, if anywhere.
        look: looks for files among calls; needed where a file is asked for.
        limits: how much is shown at most.
    """
    most = limits or Limits()
    selected = select(casebook, wanted, most.groups, look)
    gathered = gather(casebook, selected, most.entries)
    return _Making(casebook, name, texts).make(wanted, gathered, selected.left_out)


class _Making:
    def __init__(self, casebook: Casebook, name: Callable[[str], str], texts: Texts) -> None:
        self._casebook = casebook
        self._name = name
        self._texts = texts
        self._causes = Causes(casebook)
        self._mark = casebook.mark
        self._notes: list[str] = []
        self._bodies: dict[int, Entry] = {}

    def make(self, wanted: Selection, gathered: Gathered, left: tuple[Left, ...]) -> Timeline:
        groups_of = _places(gathered, self._casebook)
        self._read((*groups_of, *gathered.around))
        causes = {seq: self._causes.of(entry) for seq, entry in self._bodies.items()}
        self._read(self._in_force(causes))
        causes |= {seq: self._causes.of(entry) for seq, entry in self._bodies.items() if seq not in causes}
        votes = {
            (text(part(entry.body, "approval"), "id"), number(part(entry.body, "vote"), "number"))
            for entry in self._bodies.values()
            if text(entry.body, "type") in ("vote", "vote.attested")
        }
        teller = Teller(self._name, self._texts.votes(sorted(votes)))
        events = [
            self._event(entry, groups_of.get(seq, ""), teller, *causes[seq])
            for seq, entry in sorted(self._bodies.items())
        ]
        return Timeline(
            mark=self._mark,
            selection=wanted.words(),
            groups=self._groups(gathered, events),
            events=tuple(events),
            left_out=(*left, *gathered.left_out),
            notes=tuple(self._notes),
        )

    def _read(self, numbers: Iterable[int]) -> None:
        for seq in sorted(set(numbers) - set(self._bodies)):
            try:
                self._bodies[seq] = self._casebook.entry(seq)
            except DataLossError as error:
                self._notes.append(error.message)
                # It verified when it was filed, and somebody has changed it since.
                if self._mark.sound:
                    self._mark = replace(self._mark, verdict="changed", why=error.message)

    def _in_force(self, causes: Mapping[int, tuple[tuple[int, ...], tuple[int, ...]]]) -> list[int]:
        """Causes that aren't shown yet and say what was in force."""
        missing = {seq for found, _ in causes.values() for seq in found} - set(causes)
        rows = (self._casebook.one("SELECT type FROM entry WHERE seq = ?", seq) for seq in sorted(missing))
        return [
            seq
            for seq, row in zip(sorted(missing), rows, strict=True)
            if row and self._casebook.text(row[0]) in _AROUND
        ]

    def _event(self, entry: Entry, group: str, teller: Teller, causes: tuple[int, ...], odd: tuple[int, ...]) -> Event:
        kind = text(entry.body, "type")
        told = teller.tell(entry.body)
        details, tone = told.details, told.tone
        if odd:
            details = (*details, ("names later entries as causes", ", ".join(map(str, odd))))
            tone = Tone.BAD
        row = self._casebook.one("SELECT ts FROM entry WHERE seq = ?", entry.seq)
        return Event(
            seq=entry.seq,
            ts=row[0] if row else 0,
            type=kind,
            lane=lane_of(kind, told.who),
            group=group,
            who=told.who,
            text=told.text,
            tone=tone,
            causes=causes,
            details=details,
            boot=text(entry.body, "boot_id"),
        )

    def _groups(self, gathered: Gathered, events: list[Event]) -> tuple[Group, ...]:
        by_group: dict[str, list[Event]] = {}
        for event in events:
            by_group.setdefault(event.group, []).append(event)
        summing = Summing(self._casebook, self._texts)
        stories = summing.stories(gathered.calls)
        found: list[Group] = []
        for item in gathered.calls:
            story = stories[item.call]
            own = by_group.get(story.call, [])
            # A call may have been left without an entry that can be read; its name is still known.
            numbers = tuple(event.seq for event in own)
            found.append(Group(story.call, story.tool, tone_of(story.state), story.began, numbers, story))
        for approval, _ in gathered.approvals:
            group = self._approval(approval, by_group)
            found += [group] if group else []
        for seq in gathered.single:
            own = by_group.get(f"entry {seq}", [])
            found += [Group(f"entry {seq}", event.text, event.tone, event.ts, (seq,)) for event in own]
        return tuple(sorted(found, key=lambda group: (group.events[:1] or (0,), group.name)))

    def _approval(self, approval: int, by_group: Mapping[str, list[Event]]) -> Group | None:
        row = self._casebook.one("SELECT name, kind, subject, object, state FROM approval WHERE id = ?", approval)
        own = by_group.get(row[0], []) if row else []
        if row is None or not own:
            return None
        kind, subject, what, state = map(self._casebook.text, row[1:])
        title = " ".join(filter(None, (kind, subject or what, state)))
        return Group(row[0], title, tone_of(state), own[0].ts, tuple(event.seq for event in own))


def _places(gathered: Gathered, casebook: Casebook) -> dict[int, str]:
    """Number of each entry -> name of its group."""
    found: dict[int, str] = {}
    for item in gathered.calls:
        found |= dict.fromkeys(item.entries, _call_name(casebook, item))
    for approval, entries in gathered.approvals:
        row = casebook.one("SELECT name FROM approval WHERE id = ?", approval)
        found |= dict.fromkeys(entries, row[0] if row else "")
    return found | {seq: f"entry {seq}" for seq in gathered.single}


def _call_name(casebook: Casebook, item: CallEntries) -> str:
    row = casebook.one("SELECT name FROM call WHERE id = ?", item.call)
    return str(row[0]) if row else ""
