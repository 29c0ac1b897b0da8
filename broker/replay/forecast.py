"""How often people would be asked to agree: by day, and by each person who may."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from broker.domain.requirement import Requirement
from broker.domain.tier import Tier
from broker.policy.electorate import electorate, roles_held
from broker.policy.snapshot import Snapshot
from broker.replay.questions_asked import Answered
from broker.replay.whatif import Outcome, Standing


@dataclass(frozen=True, slots=True)
class Load:
    """How much somebody is asked, over all days of a forecast."""

    total: int
    busiest: int
    busiest_day: int
    """Counted from 1970; 0 where nothing is asked."""


@dataclass(frozen=True, slots=True)
class Approver:
    """One person, with what they may be asked before and after."""

    person: str
    before: Load
    after: Load


@dataclass(frozen=True, slots=True)
class Forecast:
    """Requests for approval, had all that was asked been decided so."""

    days: int
    """From the first day of which something is on record to the last, both included."""
    by_day: tuple[tuple[int, int, int], ...]
    """Day, requests before, requests after; days of which both are 0 are left out."""
    before: Load
    after: Load
    approvers: tuple[Approver, ...]


class Electors:
    """Who may be asked to agree to something, by one policy.

    Args:
        snapshot: the policy; ``None`` where it isn't known, and so nobody.
        people: id of a human -> name.
        owners: id of an agent -> ids of its owners, who are never asked about it.
    """

    def __init__(
        self, snapshot: Snapshot | None, people: Mapping[str, str], owners: Mapping[str, frozenset[str]]
    ) -> None:
        self._snapshot = snapshot
        self._people = people
        self._owners = owners
        self._known: dict[tuple[str, str, str, Requirement], frozenset[str]] = {}

    def of(self, asked: Answered, requirement: Requirement) -> frozenset[str]:
        """Ids of those who may vote on it and whose vote would count."""
        question, snapshot = asked.question, self._snapshot
        if snapshot is None:
            return frozenset()
        key = (question.workspace, question.obj, question.tier, requirement)
        found = self._known.get(key)
        if found is None:
            tier, wanted = Tier.parse(question.tier), {item.role for item in requirement.roles}
            may = electorate(snapshot, self._people, workspace=question.workspace, obj=question.obj, tier=tier)
            found = self._known[key] = frozenset(
                person for person in may if wanted & roles_held(snapshot, self._people[person], question.workspace)
            )
        return found - self._owners.get(question.subject, frozenset())


class _Tally:
    def __init__(self, side: Callable[[Outcome], Standing], electors: Electors) -> None:
        self._side = side
        self._electors = electors
        self.days: dict[int, int] = {}
        self.people: dict[str, dict[int, int]] = {}

    def take(self, outcome: Outcome, days: Mapping[int, int]) -> None:
        requirement = self._side(outcome).requirement
        if requirement is None:
            return
        _add(self.days, days)
        for person in self._electors.of(outcome.asked, requirement):
            _add(self.people.setdefault(person, {}), days)


def forecast(
    outcomes: Iterable[Outcome],
    days_of: Callable[[Answered], Mapping[int, int]],
    *,
    before: Electors,
    after: Electors,
    span: tuple[int, int],
) -> Forecast:
    """Counts them.

    Args:
        outcomes: what each question got and would get.
        days_of: requests of one by day; asked for only where people have to agree.
        before: who may be asked now.
        after: who might be then.
        span: first and last day on record.
    """
    was, will = _Tally(lambda item: item.before, before), _Tally(lambda item: item.after, after)
    for item in outcomes:
        if item.before.requirement is not None or item.after.requirement is not None:
            days = days_of(item.asked)
            was.take(item, days)
            will.take(item, days)
    people = sorted(was.people.keys() | will.people.keys())
    approvers = [Approver(one, _load(was.people.get(one, {})), _load(will.people.get(one, {}))) for one in people]
    approvers.sort(key=lambda item: (-item.after.total, -item.before.total, item.person))
    return Forecast(
        days=span[1] - span[0] + 1,
        by_day=tuple(
            (day, was.days.get(day, 0), will.days.get(day, 0)) for day in sorted(was.days.keys() | will.days.keys())
        ),
        before=_load(was.days),
        after=_load(will.days),
        approvers=tuple(approvers),
    )


def _add(to: dict[int, int], days: Mapping[int, int]) -> None:
    for day, count in days.items():
        to[day] = to.get(day, 0) + count


def _load(days: Mapping[int, int]) -> Load:
    if not days:
        return Load(0, 0, 0)
    busiest = max(days, key=lambda day: (days[day], -day))
    return Load(sum(days.values()), days[busiest], busiest)
