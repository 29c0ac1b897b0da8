"""Where each event stands in the picture: rows by lane, time from left to right with long pauses shortened. Pure.

Up to so many events each has its own mark, and arrows show which came of which. Beyond that a call is one bar with its end,
calls share the row of their agent, and marks that would lie on one another are one, with their number.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from broker.replay.timeline.model import Event, Group, Lane, Timeline, Tone
from broker.replay.timeline.shown import span

MOST_EVENTS = 160
"""Events that have marks and arrows of their own."""
MOST_ROWS = 40
"""Rows of calls; with more of them, those of an agent share one."""
MOST_STANDING = 8
"""Groups up to which arrows say what was in force; more of those would hide all others."""
MOST_PEOPLE = 16
"""Rows of people; who did least shares the last."""

LEFT, RIGHT, TOP, ROW = 210, 44, 34, 26
_NARROW, _WIDE = 1100, 2200
_STEP, _PAUSE = 11.0, 16.0
_LONG_PAUSE = 60_000_000
_TICKS = 9
_PAUSES = 8
_APART = 70.0


class Shape(enum.StrEnum):
    """What a mark looks like; the legend says what it stands for."""

    DIAMOND = "diamond"
    HOLLOW = "hollow"
    TRIANGLE = "triangle"
    SQUARE = "square"
    EMPTY = "empty"
    CROSS = "cross"
    CIRCLE = "circle"
    RING = "ring"
    HEXAGON = "hexagon"
    PLUS = "plus"
    DOT = "dot"


LEGEND: tuple[tuple[Shape, Tone, str], ...] = (
    (Shape.DIAMOND, Tone.PLAIN, "decision"),
    (Shape.HOLLOW, Tone.PLAIN, "people are asked"),
    (Shape.TRIANGLE, Tone.PLAIN, "begins"),
    (Shape.SQUARE, Tone.GOOD, "ended well"),
    (Shape.CROSS, Tone.BAD, "failed, denied, refused, not known"),
    (Shape.EMPTY, Tone.WARN, "cancelled, expired, undone"),
    (Shape.CIRCLE, Tone.GOOD, "approves"),
    (Shape.RING, Tone.WARN, "withdraws"),
    (Shape.HEXAGON, Tone.BAD, "freeze"),
    (Shape.PLUS, Tone.PLAIN, "put into force, start"),
    (Shape.DOT, Tone.PLAIN, "other"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the picture with its label; ``y`` is its middle."""

    lane: Lane
    label: str
    y: float


@dataclass(frozen=True, slots=True)
class Dot:
    """A mark: one event, or several that lie on one another."""

    x: float
    y: float
    shape: Shape
    tone: Tone
    title: str
    seq: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class Bar:
    """From the first to the last event of a call; an open one ends in the dark."""

    x: float
    end: float
    y: float
    tone: Tone
    title: str
    open: bool


@dataclass(frozen=True, slots=True)
class Arrow:
    """From a cause to what came of it; a faint one says what was in force."""

    x: float
    y: float
    end_x: float
    end_y: float
    faint: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """All of it, in pixels."""

    width: float
    height: float
    rows: tuple[Row, ...]
    bars: tuple[Bar, ...]
    dots: tuple[Dot, ...]
    arrows: tuple[Arrow, ...]
    ticks: tuple[tuple[float, int], ...]
    """Place and time, microseconds."""
    pauses: tuple[tuple[float, str], ...]
    """Place and length of what was shortened."""
    folded: bool


def lay_out(timeline: Timeline) -> Picture:
    """Where all of a timeline stands."""
    events = timeline.events
    folded = len(events) > MOST_EVENTS or len(timeline.groups) > MOST_ROWS
    place, width, pauses = _axis([event.ts for event in events], folded=folded)
    rows, row_of, of_group = _rows(timeline, folded=folded)
    groups = {group.name: group for group in timeline.groups}
    dots: list[Dot] = []
    at: dict[int, tuple[float, float]] = {}
    for number, event in enumerate(events):
        y = of_group[event.group] if event.lane is Lane.CALLS and event.group in of_group else row_of(event)
        at[event.seq] = (place(number), y)
        group = groups.get(event.group)
        inner = folded and group is not None and group.call is not None and event.lane is Lane.CALLS
        if not inner or event.seq == group.events[-1]:  # type: ignore[union-attr]  # inner says that it is one
            dots.append(Dot(*at[event.seq], shape_of(event), event.tone, f"{event.seq}: {event.text}", event.seq))
    bars = tuple(bar for group in timeline.groups if (bar := _bar(group, at, of_group)) is not None)
    arrows = () if folded else tuple(_arrows(events, at, standing=len(timeline.groups) <= MOST_STANDING))
    height = max((row.y for row in rows), default=TOP) + ROW / 2
    return Picture(
        width,
        height,
        rows,
        bars,
        tuple(_merged(dots, 14 if folded else 7)),
        arrows,
        _ticks(events, place),
        pauses,
        folded,
    )


def shape_of(event: Event) -> Shape:
    """What an event looks like."""
    kind = event.type
    if kind in ("frozen", "unfrozen"):
        return Shape.HEXAGON
    if event.tone is Tone.BAD:
        return Shape.CROSS
    if kind in ("outcome", "unknown", "undo.outcome", "approval.closed"):
        return Shape.SQUARE if event.tone is Tone.GOOD else Shape.EMPTY
    if kind in ("vote", "vote.attested"):
        return Shape.CIRCLE if event.tone is Tone.GOOD else Shape.RING
    shapes = {
        "decision": Shape.DIAMOND,
        "approval.requested": Shape.HOLLOW,
        "plan.intent": Shape.TRIANGLE,
        "intent": Shape.TRIANGLE,
        "undo.intent": Shape.TRIANGLE,
    }
    if event.lane is Lane.BROKER and kind != "erased":
        return Shape.PLUS
    return shapes.get(kind, Shape.DOT)


def _axis(times: Sequence[int], *, folded: bool) -> tuple[Callable[[int], float], float, tuple[tuple[float, str], ...]]:
    """Place of each event by its number, the picture's width, and the pauses that were shortened."""
    places, gaps = [0.0], []
    for before, now in pairwise(times):
        # A clock may have gone back: the order is that of the entries all the same.
        seconds = max(now - before, 0) / 1e6
        places.append(places[-1] + (0 if folded else _STEP) + _PAUSE * math.log10(1 + 10 * seconds))
        gaps.append((now - before, (places[-1] + places[-2]) / 2))
    whole = places[-1] or 1.0
    inner = min(max(whole, _NARROW - LEFT - RIGHT), (_NARROW if folded else _WIDE) - LEFT - RIGHT)
    scale = inner / whole
    longest = sorted((gap for gap in gaps if gap[0] >= _LONG_PAUSE), reverse=True)[:_PAUSES]
    pauses: list[tuple[float, str]] = []
    for length, middle in sorted(longest, key=lambda gap: gap[1]):
        x = LEFT + middle * scale
        if not pauses or x - pauses[-1][0] >= _APART:
            pauses.append((x, span(length)))
    return lambda number: LEFT + places[number] * scale, LEFT + inner + RIGHT, tuple(pauses)


def _rows(timeline: Timeline, *, folded: bool) -> tuple[tuple[Row, ...], Callable[[Event], float], dict[str, float]]:
    rows: list[Row] = []
    of_group: dict[str, float] = {}
    by_label: dict[tuple[Lane, str], float] = {}
    by_seq = {event.seq: event for event in timeline.events}

    def row(lane: Lane, label: str) -> float:
        if (lane, label) not in by_label:
            by_label[lane, label] = TOP + ROW * len(rows) + ROW / 2
            rows.append(Row(lane, label, by_label[lane, label]))
        return by_label[lane, label]

    for group in timeline.groups:
        if not any(by_seq[seq].lane is Lane.CALLS for seq in group.events):
            continue
        of_group[group.name] = row(Lane.CALLS, _shared(group, by_seq) if folded else _own(group))
    people = _people(timeline.events)
    for person in dict.fromkeys(people.values()):
        row(Lane.PEOPLE, person)
    if any(event.lane is Lane.BROKER for event in timeline.events):
        row(Lane.BROKER, "broker")

    def row_of(event: Event) -> float:
        if event.lane is Lane.PEOPLE:
            return row(Lane.PEOPLE, people[event.who])
        return row(event.lane, "broker" if event.lane is Lane.BROKER else "others")

    return tuple(rows), row_of, of_group


def _own(group: Group) -> str:
    if group.call is None:
        return group.title
    return f"{group.title} ...{group.name[-6:]}"


def _shared(group: Group, by_seq: dict[int, Event]) -> str:
    """The agent, or whoever did it."""
    if group.call is not None:
        return group.call.agent or "calls"
    return by_seq[group.events[0]].who or "others"


def _people(events: Sequence[Event]) -> dict[str, str]:
    """Id of each person -> label of their row."""
    counts: dict[str, int] = {}
    for event in events:
        if event.lane is Lane.PEOPLE:
            counts[event.who] = counts.get(event.who, 0) + 1
    most = sorted(counts, key=lambda who: -counts[who])[:MOST_PEOPLE]
    return {who: (who or "nobody named") if who in most else "others" for who in counts}


def _bar(group: Group, at: dict[int, tuple[float, float]], of_group: dict[str, float]) -> Bar | None:
    y = of_group.get(group.name)
    own = [at[seq][0] for seq in group.events if at[seq][1] == y]
    if y is None or not own:
        return None
    story = group.call
    opened = story is not None and bool(story.left_open)
    title = group.title if story is None else f"{group.name}: {group.title}, {story.state}"
    end = max(x for x, _ in at.values()) if opened else own[-1]
    return Bar(own[0], end, y, group.tone, title, opened)


def _arrows(events: Sequence[Event], at: dict[int, tuple[float, float]], *, standing: bool) -> list[Arrow]:
    by_seq = {event.seq: event for event in events}
    found = []
    for event in events:
        for cause in event.causes:
            # Within a row the bar shows it.
            if cause in at and at[cause][1] != at[event.seq][1]:
                faint = by_seq[cause].lane is Lane.BROKER or by_seq[cause].type in ("session.started", "key.enrolled")
                if standing or not faint:
                    found.append(Arrow(*at[cause], *at[event.seq], faint))
    return found


def _merged(dots: Sequence[Dot], apart: int) -> list[Dot]:
    """Marks that would hide one another as one: what is worst of them shows, and lies on top."""
    rank = [Tone.PLAIN, Tone.GOOD, Tone.WARN, Tone.BAD]
    found: dict[tuple[int, float], Dot] = {}
    for dot in dots:
        key = (round(dot.x / apart), dot.y)
        old = found.get(key)
        if old is None:
            found[key] = dot
            continue
        first = old if rank.index(old.tone) >= rank.index(dot.tone) else dot
        count = old.count + 1
        title = (
            first.title
            if count == 1
            else f"{count} events, such as {first.title.removeprefix(f'{old.count} events, such as ')}"
        )
        found[key] = Dot(old.x, old.y, first.shape, first.tone, title, first.seq, count)
    return sorted(found.values(), key=lambda dot: rank.index(dot.tone))


def _ticks(events: Sequence[Event], place: Callable[[int], float]) -> tuple[tuple[float, int], ...]:
    found: list[tuple[float, int]] = []
    apart = _APART * 1.4
    for number, event in enumerate(events):
        x = place(number)
        if not found or x - found[-1][0] >= apart:
            found.append((x, event.ts))
    step = max(1, math.ceil(len(found) / _TICKS)) if len(found) > 2 * _TICKS else 1
    return tuple(found[::step])
