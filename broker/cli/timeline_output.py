"""What ``broker replay timeline`` answers: the models behind ``--json``."""

from __future__ import annotations

from datetime import datetime

from broker.cli.output import OutputModel
from broker.cli.replay_case import MarkOutput, mark_output
from broker.replay.casebook import moment
from broker.replay.timeline.model import CallStory, Event, Group, Timeline


class TimelineEventOutput(OutputModel):
    """One entry of the ledger, told. ``causes`` are the numbers of the entries that it came of, each smaller than ``seq``.

    ``group`` is the call, approval or single act that it belongs to; empty for what happened around them. ``who`` is an id.
    """

    seq: int
    time: datetime
    type: str
    lane: str
    group: str
    who: str
    text: str
    tone: str
    causes: tuple[int, ...]
    details: dict[str, str]
    boot: str


class TimelineEffectOutput(OutputModel):
    """What a call did: how many paths or rows."""

    added: int
    changed: int
    removed: int


class TimelineVoteOutput(OutputModel):
    """The last vote of a person, by id."""

    person: str
    decision: str


class TimelineCallOutput(OutputModel):
    """One call. ``content`` is ``kept``, ``erased`` (by the entry ``erased_by``, where one says so), ``damaged``, or ``away``: not
    at hand, as in a bundle. ``left_open`` says why nothing says how it ended; empty where something does.

    ``selected`` is false where it is here only because it took a selected call back, or was taken back by one.
    """

    call: str
    selected: bool
    state: str
    exit_code: int | None
    cause: str
    left_open: str
    began: datetime
    ended: datetime | None
    agent: str
    owner: str
    starter: str
    on_behalf_of: str
    tool: str
    tool_version: str
    tier: int
    workspace: str
    workflow: str
    session: str
    data_classes: tuple[str, ...]
    votes: tuple[TimelineVoteOutput, ...]
    effect: TimelineEffectOutput | None
    undoes: tuple[str, ...]
    undone_by: str
    hosts: tuple[str, ...]
    content: str
    erased_by: int | None
    purpose: str
    arguments: str
    reason: str
    detail: str
    files: tuple[str, ...]
    results: tuple[str, ...]
    changes: tuple[str, ...]
    events: tuple[int, ...]


class TimelineGroupOutput(OutputModel):
    """An approval of what is no call, or a single act."""

    name: str
    title: str
    tone: str
    time: datetime
    events: tuple[int, ...]


class TimelineLeftOutput(OutputModel):
    """What was left out, and how many of it; ``null`` where nobody counted."""

    what: str
    number: int | None


class TimelineOutput(OutputModel):
    """What happened. ``events`` are in causal order; ``names`` has the names of people and agents by id, where they are known.

    ``html`` is the page that was written; empty without ``--html``.
    """

    mark: MarkOutput
    selection: dict[str, str]
    calls: tuple[TimelineCallOutput, ...]
    others: tuple[TimelineGroupOutput, ...]
    events: tuple[TimelineEventOutput, ...]
    names: dict[str, str]
    left_out: tuple[TimelineLeftOutput, ...]
    notes: tuple[str, ...]
    html: str


def timeline_output(timeline: Timeline, names: dict[str, str], html: str) -> TimelineOutput:
    """A timeline as it is printed."""
    return TimelineOutput(
        mark=mark_output(timeline.mark),
        selection=dict(timeline.selection),
        calls=tuple(_call(group.call, group.events) for group in timeline.groups if group.call is not None),
        others=tuple(_group(group) for group in timeline.groups if group.call is None),
        events=tuple(map(_event, timeline.events)),
        names=names,
        left_out=tuple(TimelineLeftOutput(what=item.what, number=item.number) for item in timeline.left_out),
        notes=timeline.notes,
        html=html,
    )


def _event(event: Event) -> TimelineEventOutput:
    return TimelineEventOutput(
        seq=event.seq,
        time=moment(event.ts),
        type=event.type,
        lane=event.lane.value,
        group=event.group,
        who=event.who,
        text=event.text,
        tone=event.tone.value,
        causes=event.causes,
        details=dict(event.details),
        boot=event.boot,
    )


def _group(group: Group) -> TimelineGroupOutput:
    return TimelineGroupOutput(
        name=group.name, title=group.title, tone=group.tone.value, time=moment(group.ts), events=group.events
    )


def _call(story: CallStory, events: tuple[int, ...]) -> TimelineCallOutput:
    effect = story.effect
    texts = story.texts
    return TimelineCallOutput(
        call=story.call,
        selected=story.selected,
        state=story.state,
        exit_code=story.exit_code,
        cause=story.cause,
        left_open=story.left_open,
        began=moment(story.began),
        ended=None if story.ended is None else moment(story.ended),
        agent=story.agent,
        owner=story.owner,
        starter=story.starter,
        on_behalf_of=story.on_behalf_of,
        tool=story.tool,
        tool_version=story.tool_version,
        tier=story.tier,
        workspace=story.workspace,
        workflow=story.workflow,
        session=story.session,
        data_classes=story.data_classes,
        votes=tuple(TimelineVoteOutput(person=person, decision=decision) for person, decision in story.votes),
        effect=None if effect is None else TimelineEffectOutput(added=effect[0], changed=effect[1], removed=effect[2]),
        undoes=story.undoes,
        undone_by=story.undone_by,
        hosts=story.hosts,
        content=texts.kept.value,
        erased_by=story.erased,
        purpose=texts.purpose,
        arguments=texts.arguments,
        reason=texts.reason,
        detail=texts.detail,
        files=texts.files,
        results=texts.results,
        changes=texts.changes,
        events=events,
    )
