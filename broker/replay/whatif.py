"""What would have been decided otherwise, had another policy or another table of tiers been in force.

Every recorded decision is decided again from what it read. A request is compared by what it got: refused, let through, or
let through once so many people agreed. Pure: the casebook has been read, and nothing is written.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from broker.domain.requirement import Requirement, weaker
from broker.domain.tier import Tier
from broker.policy.many import Answer
from broker.policy.rows import CALL
from broker.replay.questions_asked import Answered, Unasked
from broker.replay.redeciding import Redecider, Unknown
from broker.specs.tiers import Tiers

ANOTHER_CHECK = "another check than the policy refused it"
"""Why no policy answers a request."""
_NO_INPUTS = "its entry doesn't say what the policy read"
_BY_POLICY = frozenset({"", "POLICY_DENIED", "MANY_REFUSALS"})


class Side(enum.StrEnum):
    """Which way something flips."""

    WIDENED = "widened"
    """Allowed where it was denied, or with fewer people's agreement."""
    NARROWED = "narrowed"
    """Denied where it was allowed, or with more people's agreement."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a request gets: the policy's word, and who has to agree where that is yes."""

    allowed: bool
    rule: str
    requirement: Requirement | None = None

    @property
    def people(self) -> int:
        """How many people have to agree."""
        return 0 if self.requirement is None else self.requirement.people

    @property
    def words(self) -> str:
        """In a few words."""
        if not self.allowed:
            return f"deny {self.rule}"
        return f"allow {self.rule}" + (f", {self.people} agree" if self.people else "")


@dataclass(frozen=True, slots=True)
class Flip:
    """One question that gets something else."""

    side: Side
    asked: Answered
    before: Standing
    after: Standing
    why: tuple[str, ...] = ()
    """Sentences, where both let it through."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """Requests that can't be decided again, and why."""

    why: str
    reason: str
    """The reason of the refusal on record, where there was one."""
    entries: int
    requests: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question with what it got and would get; ``flip`` is ``None`` where nothing changes."""

    asked: Answered
    before: Standing
    after: Standing
    flip: Flip | None


@dataclass(frozen=True, slots=True)
class Whatif:
    """All of it."""

    outcomes: tuple[Outcome, ...]
    undecided: tuple[Undecided, ...]

    def flips(self, side: Side) -> list[Flip]:
        """Those of one side."""
        return [item.flip for item in self.outcomes if item.flip is not None and item.flip.side is side]


class Requirements:
    """Who has to agree to a call of a tier, by one table."""

    def __init__(self, tiers: Tiers) -> None:
        self._of: Mapping[str, Requirement | None] = {
            str(int(tier)): tiers.row(tier).call_requirement() for tier in Tier
        }

    def of(self, action: str, tier: str) -> Requirement | None:
        """``None`` where nobody has to."""
        return self._of.get(tier) if action == CALL else None


def compare(
    asked: Iterable[Answered],
    unasked: Iterable[Unasked],
    candidate: Redecider,
    *,
    before: Requirements,
    after: Requirements,
) -> Whatif:
    """Decides all again.

    Args:
        asked: the recorded questions and answers.
        unasked: what has no recorded question.
        candidate: the policy that is to be tried.
        before: who has to agree by the present table of tiers.
        after: who has to by the one that is to be tried.
    """
    outcomes: list[Outcome] = []
    unknown: dict[Unknown, list[Answered]] = {}
    answers: dict[int, Answer | Unknown] = {}
    for item in asked:
        question = item.question
        answer = answers.get(question.id)
        if answer is None:
            answer = answers[question.id] = candidate.answer(question)
        if isinstance(answer, Unknown):
            unknown.setdefault(answer, []).append(item)
            continue
        had, gets = before.of(question.action, question.tier), after.of(question.action, question.tier)
        was = Standing(item.allowed, item.rule, had if item.allowed else None)
        now = Standing(answer.allowed, answer.rule, gets if answer.allowed else None)
        outcomes.append(Outcome(item, was, now, judge(item, was, now)))
    undecided = [
        Undecided(why, "", sum(item.entries for item in items), sum(item.requests for item in items))
        for why, items in sorted(unknown.items())
    ]
    undecided += [
        Undecided(_NO_INPUTS if item.reason in _BY_POLICY else ANOTHER_CHECK, item.reason, item.entries, item.requests)
        for item in unasked
    ]
    return Whatif(tuple(outcomes), tuple(undecided))


def judge(asked: Answered, before: Standing, after: Standing) -> Flip | None:
    """Which way it flips, if it does. What is less strict in any respect counts as widened, whatever else is stricter."""
    if before.allowed != after.allowed:
        return Flip(Side.WIDENED if after.allowed else Side.NARROWED, asked, before, after)
    if not after.allowed or before.requirement == after.requirement:
        return None
    if before.requirement is None or after.requirement is None:
        side = Side.WIDENED if after.requirement is None else Side.NARROWED
        why = "nobody has to agree any more" if after.requirement is None else f"{after.people} people have to agree"
        return Flip(side, asked, before, after, (why,))
    less, more = weaker(before.requirement, after.requirement), weaker(after.requirement, before.requirement)
    if less:
        return Flip(Side.WIDENED, asked, before, after, less)
    return Flip(Side.NARROWED, asked, before, after, tuple(f"before: {why}" for why in more)) if more else None
