"""What a timeline consists of. Numbers are those of ledger entries; times are microseconds since 1970 in UTC."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from broker.replay.casebook import Mark


class Lane(enum.StrEnum):
    """Where an event is drawn."""

    CALLS = "calls"
    """What agents wanted and what came of it."""
    PEOPLE = "people"
    """What people did by themselves: votes, freezes, sessions, keys."""
    BROKER = "policy & broker"
    """What was in force, and the broker's own acts."""


class Tone(enum.StrEnum):
    """What an event means for who reads it; always told by a shape or a word too, not by the colour alone."""

    PLAIN = "plain"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Event:
    """One entry, told."""

    seq: int
    ts: int
    type: str
    lane: Lane
    group: str
    """Name of the group that it belongs to; empty for what is around."""
    who: str
    """Id of the agent or person who did it; empty for the broker itself."""
    text: str
    """What happened, in a line, with names where they are known."""
    tone: Tone
    causes: tuple[int, ...]
    """Numbers of the entries that it came of, ascending; each is smaller than its own. Not each need be shown."""
    details: tuple[tuple[str, str], ...] = ()
    """Further facts: name and value."""
    boot: str = ""
    """Which start of the broker wrote it."""


class Kept(enum.StrEnum):
    """What became of a call's content, which lies encrypted beside the ledger."""

    KEPT = "kept"
    ERASED = "erased"
    DAMAGED = "damaged"
    AWAY = "away"
    """It isn't at hand: in a bundle or at a running broker there are ids and digests only."""


@dataclass(frozen=True, slots=True)
class CallTexts:
    """What is kept of a call; empty where it isn't."""

    kept: Kept = Kept.AWAY
    purpose: str = ""
    arguments: str = ""
    """RFC 8785 text."""
    reason: str = ""
    """Why the policy decided as it did, in the policy's own words."""
    detail: str = ""
    """Why it ended as it did."""
    files: tuple[str, ...] = ()
    """Paths of the files that went in."""
    results: tuple[str, ...] = ()
    """Paths of the files that came out."""
    changes: tuple[str, ...] = ()
    """What its plan does to each path, such as ``removed a.txt``."""


@dataclass(frozen=True, slots=True)
class CallStory:
    """One call, summed up."""

    call: str
    selected: bool
    """Was it asked for? Else it is here because it took such a call back, or was taken back by one."""
    agent: str
    tool: str
    tool_version: str
    workspace: str
    workflow: str
    session: str
    owner: str
    starter: str
    on_behalf_of: str
    tier: int
    data_classes: tuple[str, ...]
    state: str
    exit_code: int | None
    cause: str
    began: int
    ended: int | None
    effect: tuple[int, int, int] | None
    """Paths or rows added, changed and removed; ``None`` where it changed nothing that is kept track of."""
    votes: tuple[tuple[str, str], ...]
    """Who voted what, the last vote of each."""
    hosts: tuple[str, ...]
    undoes: tuple[str, ...]
    undone_by: str
    left_open: str
    """Why nothing says how it ended; empty where something does."""
    texts: CallTexts
    erased: int | None
    """The entry by which its content was erased."""


@dataclass(frozen=True, slots=True)
class Group:
    """Events that belong together: those of a call, of an approval of something else, or a single act."""

    name: str
    """The call's or approval's id; ``entry N`` for a single act."""
    title: str
    tone: Tone
    ts: int
    events: tuple[int, ...]
    call: CallStory | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """What was left out, and how many of it; ``None`` where nobody counted."""

    what: str
    number: int | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """All of it. ``events`` are in causal order: none stands before one that it came of."""

    mark: Mark
    selection: tuple[tuple[str, str], ...]
    groups: tuple[Group, ...]
    events: tuple[Event, ...]
    left_out: tuple[Left, ...]
    notes: tuple[str, ...] = ()
    """What who reads it should know, such as entries that can't be read."""

    @property
    def around(self) -> tuple[Event, ...]:
        """What happened around the groups: sessions, freezes, and what was put into force."""
        return tuple(event for event in self.events if not event.group)
