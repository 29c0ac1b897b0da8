"""Makes the report of a what-if from a casebook, a policy and a table of tiers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from broker.policy.snapshot import Snapshot
from broker.policy.whatif_report import (
    FORMAT,
    LONGEST,
    ApproverPart,
    ControlPart,
    DayPart,
    DisagreementPart,
    FlipPart,
    ForecastPart,
    GroupPart,
    LackingPart,
    LackPart,
    LedgerPart,
    LoadPart,
    Report,
    SidePart,
    SpanPart,
    TextsPart,
    TotalsPart,
    UndecidedPart,
    grouped,
    limited,
)
from broker.replay.asking.answer import Span
from broker.replay.carrying import Lacking, lacking, unseen
from broker.replay.casebook import Casebook, Mark, moment, stamp
from broker.replay.control import Control, control
from broker.replay.forecast import Electors, Forecast, Load, forecast
from broker.replay.naming import Names
from broker.replay.questions_asked import DAY_US, Answered, Question, days_of, owners, read_answered, read_unasked
from broker.replay.redeciding import Redecider
from broker.replay.whatif import Flip, Requirements, Side, Whatif, compare
from broker.specs.tiers import Tiers


@dataclass(frozen=True, slots=True)
class Rules:
    """A policy and a table of tiers."""

    policy: Snapshot | None
    """``None`` where it isn't known: then nobody is known to be asked."""
    tiers: Tiers


@dataclass(frozen=True, slots=True)
class Tried:
    """A policy and a table of tiers that are to be tried."""

    policy: Snapshot
    tiers: Tiers


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked about, and what is known besides."""

    casebook: Casebook
    names: Names
    people: Mapping[str, str]
    """Id of a human -> name; empty where none is known."""
    texts: Callable[[str], str | None]
    """Digest of a policy -> its text, as far as it is kept."""


def make_report(case: Case, tried: Tried, present: Rules, span: Span, *, notes: Sequence[str] = ()) -> Report:
    """Decides all again and says what changes.

    Args:
        case: the casebook and the names.
        tried: what is to be tried.
        present: what is in force, which it is compared with.
        span: which decisions.
        notes: what a reader has to know of how it was made.
    """
    casebook, candidate, tiers = case.casebook, tried.policy, tried.tiers
    asked = read_answered(casebook, span)
    found = compare(
        asked,
        read_unasked(casebook, span),
        Redecider(candidate, case.names),
        before=Requirements(present.tiers),
        after=Requirements(tiers),
    )
    days = (min((item.since for item in asked), default=0), max((item.until for item in asked), default=0))
    owned = owners(casebook)
    load = forecast(
        found.outcomes,
        lambda item: days_of(casebook, item, span),
        before=Electors(present.policy, case.people, owned),
        after=Electors(candidate, case.people, owned),
        span=(days[0] // DAY_US, days[1] // DAY_US),
    )
    lacks = _still_allowed(found, lacking(casebook, span, present.tiers, tiers))
    report = Report(
        format=FORMAT,
        ledger=_ledger(casebook.mark),
        candidate=TextsPart(policy=candidate.digest, tiers=tiers.digest),
        present=TextsPart(policy="" if present.policy is None else present.policy.digest, tiers=present.tiers.digest),
        span=_span(span, asked),
        totals=_totals(found, lacks),
        undecided=[
            UndecidedPart(why=item.why, reason=item.reason, requests=item.requests, entries=item.entries)
            for item in found.undecided
        ],
        widened=_side(found.flips(Side.WIDENED), case.names),
        narrowed=_side(found.flips(Side.NARROWED), case.names),
        lacking=_lacking(lacks, {item.question.id: item.question for item in asked}, case.names),
        forecast=_forecast(load, case),
        control=_control(control(asked, case.texts, case.names)),
        notes=[*notes, *unseen(present.tiers, tiers)],
    )
    return report.sealed()


def _still_allowed(found: Whatif, lacks: Iterable[Lacking]) -> list[Lacking]:
    # Who is denied anyway isn't refused a second time.
    allowed = {item.asked.question.id for item in found.outcomes if item.before.allowed and item.after.allowed}
    return [item for item in lacks if item.question in allowed]


def _ledger(mark: Mark) -> LedgerPart:
    return LedgerPart(
        sound=mark.sound,
        verdict=mark.verdict,
        why=mark.why,
        origin=mark.origin,
        entries=mark.entries,
        head=mark.head,
        checkpoint_size=mark.checkpoint_size,
        checkpoint_root=mark.checkpoint_root,
        extract=mark.extract,
        complete=mark.complete,
    )


def _span(span: Span, asked: Sequence[Answered]) -> SpanPart:
    return SpanPart(
        since=stamp(span.since) if span.since else "",
        until=stamp(span.until) if span.until < Span().until else "",
        first=stamp(min(item.since for item in asked)) if asked else "",
        last=stamp(max(item.until for item in asked)) if asked else "",
    )


def _totals(found: Whatif, lacks: Iterable[Lacking]) -> TotalsPart:
    asked = [item.asked for item in found.outcomes]
    flipped = sum(item.asked.requests for item in found.outcomes if item.flip is not None)
    requests = sum(item.requests for item in asked)
    lost = sum(item.requests for item in lacks)
    return TotalsPart(
        requests=requests,
        entries=sum(item.entries for item in asked),
        inputs=len({item.question.id for item in asked}),
        unchanged=max(0, requests - flipped - lost),
    )


def _side(flips: Sequence[Flip], names: Names) -> SidePart:
    def agent(flip: Flip) -> str:
        subject = flip.asked.question.subject
        return names.name(subject) or subject

    by_rule, cut_rules = _groups(flips, lambda flip: f"{flip.before.words} -> {flip.after.words}")
    by_agent, cut_agents = _groups(flips, agent)
    by_tool, cut_tools = _groups(flips, lambda flip: flip.asked.question.obj)
    most = sorted(flips, key=lambda flip: (-flip.asked.requests, flip.asked.first))
    shown, cut_flips = limited(most)
    return SidePart(
        requests=sum(flip.asked.requests for flip in flips),
        entries=sum(flip.asked.entries for flip in flips),
        inputs=len({flip.asked.question.id for flip in flips}),
        by_rule=by_rule,
        by_agent=by_agent,
        by_tool=by_tool,
        flips=[_flip(flip, names) for flip in shown],
        cut=cut_rules + cut_agents + cut_tools + cut_flips,
    )


def _groups(flips: Sequence[Flip], key: Callable[[Flip], str]) -> tuple[list[GroupPart], int]:
    groups = [_group(of, [flip.asked for flip in items]) for of, items in grouped(flips, key).items()]
    groups.sort(key=lambda group: (-group.requests, group.of))
    return limited(groups)


def _group(of: str, asked: Sequence[Answered]) -> GroupPart:
    return GroupPart(
        of=of[:LONGEST],
        requests=sum(item.requests for item in asked),
        entries=sum(item.entries for item in asked),
        inputs=len({item.question.id for item in asked}),
        first=min(item.first for item in asked),
        last=max(item.last for item in asked),
        first_time=stamp(min(item.since for item in asked)),
        last_time=stamp(max(item.until for item in asked)),
    )


def _flip(flip: Flip, names: Names) -> FlipPart:
    asked, question = flip.asked, flip.asked.question
    return FlipPart(
        before=flip.before.words,
        after=flip.after.words,
        why=list(flip.why),
        agent=question.subject,
        name=names.name(question.subject),
        tool=question.obj,
        workspace=question.workspace,
        action=question.action,
        tier=question.tier,
        requests=asked.requests,
        entries=asked.entries,
        first=asked.first,
        last=asked.last,
        first_time=stamp(asked.since),
        last_time=stamp(asked.until),
    )


def _lacking(lacks: Sequence[Lacking], questions: Mapping[int, Question], names: Names) -> LackPart:
    shown, cut = limited(sorted(lacks, key=lambda item: (-item.requests, item.first)))
    calls = [
        LackingPart(
            tier=item.tier,
            tool=questions[item.question].obj,
            agent=questions[item.question].subject,
            name=names.name(questions[item.question].subject),
            why=item.why,
            requests=item.requests,
            entries=item.entries,
            first=item.first,
            last=item.last,
        )
        for item in shown
    ]
    return LackPart(requests=sum(item.requests for item in lacks), calls=calls, cut=cut)


def _forecast(found: Forecast, case: Case) -> ForecastPart:
    part = partial(_load, days=found.days)
    approvers, cut = limited(found.approvers)
    return ForecastPart(
        days=found.days,
        before=part(found.before),
        after=part(found.after),
        by_day=[DayPart(day=_day(day), before=before, after=after) for day, before, after in found.by_day],
        approvers=[
            ApproverPart(
                person=item.person,
                name=case.people.get(item.person, ""),
                before=part(item.before),
                after=part(item.after),
            )
            for item in approvers
        ],
        cut=cut,
        people_known=bool(case.people),
    )


def _load(load: Load, *, days: int) -> LoadPart:
    return LoadPart(
        total=load.total,
        mean_hundredths=round(100 * load.total / days),
        busiest=load.busiest,
        busiest_day=_day(load.busiest_day) if load.busiest else "",
    )


def _day(day: int) -> str:
    return moment(day * DAY_US).strftime("%Y-%m-%d")


def _control(found: Control) -> ControlPart:
    disagree, cut = limited(found.disagree)
    return ControlPart(
        reproduced=found.reproduced,
        without_text=found.without_text,
        unknown=found.unknown,
        policies=list(found.policies),
        disagree=[
            DisagreementPart(
                entry=item.asked.first,
                recorded=f"{'allow' if item.asked.allowed else 'deny'} {item.asked.rule}",
                policy_says=f"{'allow' if item.allowed else 'deny'} {item.rule}",
                policy=item.asked.policy,
                requests=item.asked.requests,
            )
            for item in disagree
        ],
        cut=cut,
    )
