"""Proves the method: what was decided is decided again by the very policy that decided it, and has to come out the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from broker.errors import InvalidArgumentError
from broker.policy.snapshot import Snapshot
from broker.replay.naming import Names
from broker.replay.questions_asked import Answered
from broker.replay.redeciding import Redecider, Unknown


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A recorded decision that its own policy doesn't make."""

    asked: Answered
    allowed: bool
    """What the policy says."""
    rule: str


@dataclass(frozen=True, slots=True)
class Control:
    """What came of it, in requests."""

    reproduced: int
    without_text: int
    """Decided by policies whose text isn't kept, or is none to this version of the broker."""
    unknown: int
    """Their subject's name isn't known, or the inputs are malformed."""
    policies: tuple[str, ...]
    """Digests of the policies that were asked."""
    disagree: tuple[Disagreement, ...]


def control(asked: Iterable[Answered], texts: Callable[[str], str | None], names: Names) -> Control:
    """Decides all again under the recorded policies.

    Args:
        asked: the recorded questions and answers.
        texts: digest of a policy -> its text, as far as it is kept.
        names: whose id is whose.
    """
    deciders: dict[str, Redecider | None] = {}
    reproduced = without = unknown = 0
    disagree: list[Disagreement] = []
    for item in asked:
        if item.policy not in deciders:
            deciders[item.policy] = _decider(texts(item.policy), item.policy, names)
        decider = deciders[item.policy]
        if decider is None:
            without += item.requests
            continue
        answer = decider.answer(item.question)
        if isinstance(answer, Unknown):
            unknown += item.requests
        elif answer == (item.allowed, item.rule):
            reproduced += item.requests
        else:
            disagree.append(Disagreement(item, answer.allowed, answer.rule))
    had = tuple(sorted(name for name, decider in deciders.items() if decider is not None))
    return Control(reproduced, without, unknown, had, tuple(disagree))


def _decider(text: str | None, digest: str, names: Names) -> Redecider | None:
    if text is None:
        return None
    try:
        snapshot = Snapshot.load(text)
    except InvalidArgumentError:
        return None  # an older version let it pass
    return Redecider(snapshot, names) if snapshot.digest == digest else None
