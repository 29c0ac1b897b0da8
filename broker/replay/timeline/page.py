"""A timeline as one HTML page: nothing outside is needed, no script runs, and every value is escaped.

It is read as it is: folding is ``details``, the picture is inline SVG, and the policy in its head lets nothing else in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape

from broker.replay.timeline.lanes import lay_out
from broker.replay.timeline.model import CallStory, Event, Group, Kept, Timeline
from broker.replay.timeline.page_style import POLICY, STYLE
from broker.replay.timeline.picture import draw
from broker.replay.timeline.shown import clock, day, seen, span

_MOST_SUMMARY = 160
_OPEN_GROUPS = 3


def write_page(timeline: Timeline, name: Callable[[str], str]) -> str:
    """The page.

    Args:
        timeline: what it shows.
        name: how the person or agent with an id is called.
    """
    shown = {event.seq for event in timeline.events}
    by_seq = {event.seq: event for event in timeline.events}
    unfolded = len(timeline.groups) <= _OPEN_GROUPS
    groups = "".join(_group(group, by_seq, shown, name, unfolded=unfolded) for group in timeline.groups)
    picture = f'<div class="scroll">{draw(lay_out(timeline), name)}</div>' if timeline.events else ""
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{_(_title(timeline, name))}</title>",
            f"<style>{STYLE}</style></head><body>",
            f"<header><h1>{_(_title(timeline, name))}</h1>{_mark(timeline)}{_facts(timeline)}</header>",
            f'<main><section aria-label="Picture">{picture}</section>',
            f"<section><h2>What happened</h2>{groups or '<p>Nothing fits.</p>'}</section>",
            _around(timeline, shown),
            "</main></body></html>",
            "",
        )
    )


def _(text: str, most: int = 2_000) -> str:
    """A value as it may stand in a page."""
    return escape(seen(text, most))


def _title(timeline: Timeline, name: Callable[[str], str]) -> str:
    chosen = ", ".join(f"{what.replace('_', ' ')} {name(value)}" for what, value in timeline.selection)
    return f"Timeline: {chosen or 'everything'}"


def _mark(timeline: Timeline) -> str:
    mark = timeline.mark
    if not mark.sound:
        return (
            f'<p class="mark unsound" role="alert"><strong>DOESN\'T VERIFY: {_(mark.verdict)}</strong> {_(mark.why)}<br>'
            "What is shown may be wrong: run <code>broker ledger verify</code>.</p>"
        )
    part = f", an extract ({_(mark.extract)}): {_(mark.complete)}" if mark.extract else ""
    note = f" {_(mark.why)}" if mark.why else ""
    return (
        f'<p class="mark sound"><strong>Verified: {_(mark.verdict)}</strong>, {mark.entries} entries{part}.{note}</p>'
    )


def _facts(timeline: Timeline) -> str:
    mark = timeline.mark
    checkpoint = f"{mark.checkpoint_size} entries, root {mark.checkpoint_root}" if mark.checkpoint_size else "none"
    facts = [("ledger", mark.origin), ("last entry read", mark.head), ("signed checkpoint", checkpoint)]
    if timeline.events:
        first, last = timeline.events[0], timeline.events[-1]
        when = f"{day(first.ts)} {clock(first.ts)} to {day(last.ts)} {clock(last.ts)} UTC"
        facts.append(("shown", f"{len(timeline.events)} entries, {first.seq} to {last.seq}, {when}"))
    facts += [
        ("left out", f"{'some' if item.number is None else item.number} {item.what}") for item in timeline.left_out
    ]
    facts += [("note", note) for note in timeline.notes]
    return _list(facts)


def _list(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{_(label)}</dt><dd>{_(value)}</dd>" for label, value in facts if value)
    return f"<dl>{rows}</dl>" if rows else ""


def _group(
    group: Group, by_seq: dict[int, Event], shown: set[int], name: Callable[[str], str], *, unfolded: bool
) -> str:
    story = group.call
    state = story.state if story else ""
    badge = f'<span class="badge {group.tone.value}">{_(state or "entry")}</span> ' if story else ""
    head = f'<span class="time">{clock(group.ts)}</span> {badge}<strong>{_(_headline(group, name), _MOST_SUMMARY)}</strong>'
    facts = _list(_story(story, name)) if story else ""
    events = [by_seq[seq] for seq in group.events]
    opened = " open" if unfolded else ""
    return f"<details{opened}><summary>{head}</summary>{facts}{_table(events, group.ts, shown)}</details>"


def _headline(group: Group, name: Callable[[str], str]) -> str:
    story = group.call
    if story is None:
        return group.title
    effect = ", " + effect_brief(story.effect) if story.effect else ""
    undone = f", undone by {story.undone_by}" if story.undone_by else ""
    opened = ", no end on record" if story.left_open else ""
    other = "" if story.selected else " (it took one of these back, or was taken back by one)"
    return f"{name(story.agent) or 'somebody'}: {story.tool or 'a call'}{effect}{undone}{opened}{other}"


def effect_brief(effect: tuple[int, int, int]) -> str:
    """``+added ~changed -removed``."""
    added, changed, removed = effect
    return f"+{added} ~{changed} -{removed}"


def _story(story: CallStory, name: Callable[[str], str]) -> list[tuple[str, str]]:
    votes = ", ".join(f"{name(person)}: {decision}" for person, decision in story.votes)
    exact = "" if story.exit_code is None else f", exit code {story.exit_code}"
    texts = story.texts
    return [
        ("call", story.call),
        ("state", f"{story.state}{exact}"),
        ("no end on record", story.left_open),
        ("agent", f"{name(story.agent)} of {name(story.owner)}" if story.owner else name(story.agent)),
        ("started by", name(story.starter)),
        ("on behalf of", name(story.on_behalf_of)),
        ("workspace", story.workspace),
        ("workflow", story.workflow),
        ("session", story.session),
        ("tool version", story.tool_version),
        ("tier", str(story.tier)),
        ("data classes", ", ".join(story.data_classes)),
        ("votes", votes),
        ("hosts", ", ".join(story.hosts)),
        ("takes back", ", ".join(story.undoes)),
        ("undone by", story.undone_by),
        ("content", kept_words(story)),
        ("purpose", texts.purpose),
        ("arguments", texts.arguments),
        ("reason of the decision", texts.reason),
        ("why it ended so", texts.detail),
        ("files in", ", ".join(texts.files)),
        ("files out", ", ".join(texts.results)),
        ("changes", "; ".join(texts.changes)),
    ]


def kept_words(story: CallStory) -> str:
    """What became of a call's content, where it isn't at hand."""
    by = "" if story.erased is None else f", by entry {story.erased}"
    words = {
        Kept.KEPT: "",
        Kept.ERASED: f"erased{by}: the ledger still says what happened, by digests",
        Kept.DAMAGED: "can't be read: it is damaged",
        Kept.AWAY: "not at hand: here are ids and digests only",
    }
    return words[story.texts.kept]


def _table(events: Sequence[Event], start: int, shown: set[int]) -> str:
    rows = "".join(_row(event, start, shown) for event in events)
    head = "<tr><th>entry</th><th>time</th><th>what</th><th>came of</th></tr>"
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>' if rows else ""


def _row(event: Event, start: int, shown: set[int]) -> str:
    causes = " ".join(f'<a href="#e{seq}">{seq}</a>' if seq in shown else str(seq) for seq in event.causes)
    sign = "+" if event.ts >= start else "-"
    more = _list(event.details)
    what = f'<span class="kind">{_(event.type)}</span> {_(event.text)}'
    folded = f"<details><summary>{what}</summary>{more}</details>" if more else what
    return (
        f'<tr id="e{event.seq}" class="{event.tone.value}"><td>{event.seq}</td>'
        f'<td class="time" title="{day(event.ts)} {clock(event.ts)} UTC">{sign}{span(event.ts - start)}</td>'
        f"<td>{folded}</td><td>{causes}</td></tr>"
    )


def _around(timeline: Timeline, shown: set[int]) -> str:
    events = timeline.around
    if not events:
        return ""
    table = _table(events, events[0].ts, shown)
    summary = f"{len(events)} entries around it: sessions, freezes, and what was put into force"
    return f"<section><h2>Around it</h2><details><summary>{summary}</summary>{table}</details></section>"
