"""A timeline for a person at a terminal: calls folded into a line each, or with all their entries and what each came of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.text import Text

from broker.cli.output import console
from broker.cli.replay_case import mark_output, render_mark
from broker.replay.timeline.model import CallStory, Event, Group, Timeline, Tone
from broker.replay.timeline.page import effect_brief, kept_words
from broker.replay.timeline.shown import clock, day, seen, span

_STYLES = {Tone.PLAIN: "", Tone.GOOD: "green", Tone.WARN: "yellow", Tone.BAD: "red"}
_MOST_PATHS = 5
_SAID = {"approve": "approves", "deny": "denies", "withdraw": "withdrew"}
_NARROW = 40


def render_timeline(timeline: Timeline, name: Callable[[str], str], *, unfold: bool, html: str) -> None:
    """Prints it.

    Args:
        timeline: what to print.
        name: how the person or agent with an id is called.
        unfold: all entries, rather than a line for each call.
        html: the page that was written, if one was.
    """
    render_mark(mark_output(timeline.mark))
    if not timeline.groups:
        _print("nothing fits", "yellow")
    else:
        _print(_summary(timeline), "bold")
    by_seq = {event.seq: event for event in timeline.events}
    last = ""
    for group in timeline.groups:
        if day(group.ts) != last:
            last = day(group.ts)
            _print(last, "dim")
        if unfold:
            _unfolded(group, by_seq, name)
        else:
            _line(_folded(group, name), _STYLES[group.tone])
    _around(timeline, unfold=unfold)
    for item in timeline.left_out:
        _print(f"left out: {'some' if item.number is None else item.number} {item.what}", "yellow")
    for note in timeline.notes:
        _print(note, "red")
    if html:
        _print(f"written to {html}", "dim")


def _summary(timeline: Timeline) -> str:
    calls = sum(group.call is not None for group in timeline.groups)
    others = len(timeline.groups) - calls
    more = f", {others} other act{'' if others == 1 else 's'}" if others else ""
    numbers = [event.seq for event in timeline.events]
    lasted = timeline.events[-1].ts - timeline.events[0].ts if timeline.events else 0
    reach = f", entries {numbers[0]} to {numbers[-1]} in {span(lasted)}" if numbers else ""
    return f"{calls} call{'' if calls == 1 else 's'}{more}, {len(numbers)} entries{reach}"


def _folded(group: Group, name: Callable[[str], str]) -> str:
    story = group.call
    if story is None:
        return f"{clock(group.ts)[:8]}  {group.title}  [{group.name}]"
    return "  ".join(
        word
        for word in (
            clock(group.ts)[:8],
            f"{name(story.agent) or '?':<16}",
            f"{story.tool or '?':<18}",
            f"{story.state:<9}",
            effect_brief(story.effect) if story.effect else "",
            _votes(story, name),
            f"undone by {story.undone_by}" if story.undone_by else "",
            f"takes back {', '.join(story.undoes)}" if story.undoes else "",
            "NO END ON RECORD" if story.left_open else "",
            "content erased" if story.texts.kept == "erased" else "",
            story.call,
        )
        if word
    )


def _votes(story: CallStory, name: Callable[[str], str]) -> str:
    return ", ".join(f"{name(person)} {_SAID.get(decision, decision)}" for person, decision in story.votes)


def _unfolded(group: Group, by_seq: dict[int, Event], name: Callable[[str], str]) -> None:
    _line(_folded(group, name), f"bold {_STYLES[group.tone]}".strip())
    for label, value in _facts(group.call, name) if group.call else ():
        if value:
            _line(f"    {label:<13} {value}", "dim")
    for seq in group.events:
        _event(by_seq[seq], group.ts)


def _facts(story: CallStory, name: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    texts = story.texts
    yield "lineage", _lineage(story, name)
    yield "where", "  ".join(filter(None, (story.workspace, story.workflow, story.session)))
    yield "open", story.left_open
    yield "content", kept_words(story)
    yield "purpose", texts.purpose
    yield "arguments", texts.arguments
    yield "reason", texts.reason
    yield "ended so", texts.detail
    yield "files in", _paths(texts.files)
    yield "files out", _paths(texts.results)
    yield "changes", _paths(texts.changes)


def _lineage(story: CallStory, name: Callable[[str], str]) -> str:
    parts = (("owner", story.owner), ("started by", story.starter), ("on behalf of", story.on_behalf_of))
    return ", ".join(f"{label} {name(identity)}" for label, identity in parts if identity)


def _paths(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:_MOST_PATHS])
    return f"{shown} and {len(paths) - _MOST_PATHS} more" if len(paths) > _MOST_PATHS else shown


def _event(event: Event, start: int) -> None:
    sign = "+" if event.ts >= start else "-"
    causes = f"  <- {', '.join(map(str, event.causes))}" if event.causes else ""
    head = f"  {event.seq:>7}  {sign + span(event.ts - start):>12}  {event.type:<18} "
    _line(f"{head} {event.text}{causes}", _STYLES[event.tone])


def _around(timeline: Timeline, *, unfold: bool) -> None:
    events = timeline.around
    if not events:
        return
    if not unfold:
        _print(
            f"around it: {len(events)} entries (sessions, freezes, what was put into force); --all shows them", "dim"
        )
        return
    _print("around it", "bold")
    for event in events:
        _event(event, events[0].ts)


def _line(text: str, style: str) -> None:
    """A line that is cut at a terminal's width; whoever reads a pipe gets all of it."""
    shown = Text(seen(text), style=style)
    if console.is_terminal and console.width > _NARROW:
        shown.truncate(console.width, overflow="ellipsis")
    console.print(shown, soft_wrap=True)


def _print(text: str, style: str) -> None:
    console.print(Text(seen(text), style=style), soft_wrap=True)
