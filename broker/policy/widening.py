"""What a new policy lets happen that the old one didn't: found by asking both about whatever a changed row touches.

A question flips from deny to allow only where a new allow matches it, a deny that matched it is gone, somebody got a role
that an allow is about, or lost one that a deny is about. So each changed row is followed to the rules through which it
could widen anything, and the questions that both touch are put to both policies. The number of questions has a bound;
where it is reached, the answer is that the row may widen.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from broker.domain.tier import APPROVAL_REQUIRED_FROM
from broker.policy.questions import OTHER, Asker, Members, Objects, Places, common_workspace, narrower, stand_in
from broker.policy.rows import ALLOW, ANY, APPROVE, CALL, DENY, RPC, Grant, Rule, objects_covering, star_allows
from broker.policy.snapshot import Snapshot

MAX_QUESTIONS = 50_000
"""Most questions put to both policies in one comparison, of each kind of widening."""

MAX_LOOKS = 200_000
"""Most rules looked at in one comparison to find the questions."""

_MAX_HOLDERS = 50


class Kind(enum.StrEnum):
    """What a widening is about."""

    APPROVER = "approver"
    """Somebody may approve what they could not."""
    TIER4_CALL = "tier4-call"
    """Somebody may call at tier 4 what they could not."""
    OTHER = "other"
    """Somebody may do anything else that they could not."""


@dataclass(frozen=True, slots=True)
class Cause:
    """A row that changed: its name, what changed in words, and whether it is new in the new policy or gone from it."""

    row: str
    why: str
    change: Rule | Grant
    gained: bool


@dataclass(frozen=True, slots=True)
class Flip:
    """A question that the old policy denied and the new one allows. ``tier`` is the highest at which it does."""

    asker: Asker
    workspace: str
    obj: str
    action: str
    tier: int


@dataclass(frozen=True, slots=True)
class Found:
    """That a row widens something. Without a ``flip`` it couldn't be worked out: then it may."""

    kind: Kind
    cause: Cause
    flip: Flip | None


@dataclass(frozen=True, slots=True)
class _Region:
    """Where a cause may let an allow of the new policy reach what it didn't."""

    allow: Rule
    workspace: str
    obj: str
    askers: Collection[Asker]
    side: Snapshot
    """The policy by which the asker holds ``member`` there: what a cause doesn't touch isn't its doing."""
    member: str

    @property
    def kind(self) -> Kind:
        return _kind(self.allow.action, int(self.allow.tier))

    @property
    def tier(self) -> int:
        return 0 if self.allow.action == RPC else int(self.allow.tier)


class _Budget:
    def __init__(self, questions: int) -> None:
        self._left = questions

    def spend(self) -> bool:
        self._left -= 1
        return self._left >= 0


def changed_rules(before: Iterable[Rule], after: Iterable[Rule], effect: str) -> Iterator[Rule]:
    """The rules of this effect in ``after`` that say what no rule in ``before`` says, whatever they are called."""
    said = {_meaning(rule) for rule in before}
    for rule in after:
        if rule.effect == effect and _meaning(rule) not in said:
            yield rule


def _meaning(rule: Rule) -> tuple[str, ...]:
    tier = rule.tier if rule.effect == ALLOW else ""
    return (rule.subject, rule.workspace, rule.obj, rule.action, rule.effect, tier)


class Search:
    """Finds what the changed rows of two policies widen. Each ``Search`` is used once.

    Args:
        old: the policy in force.
        new: the policy that is to replace it.
        questions: most questions put to both, of each kind of widening.
        looks: most rules looked at to find the questions.
    """

    def __init__(self, old: Snapshot, new: Snapshot, *, questions: int = MAX_QUESTIONS, looks: int = MAX_LOOKS) -> None:
        self._old, self._new = old, new
        self._shown: dict[tuple[str, str], tuple[str, ...]] = {}
        self._objects = Objects((old, new))
        self.places = Places((old, new))
        self._old_members, self.members = Members(old.grants), Members(new.grants)
        for person in _persons(old, new):
            self._old_members.know(person)
            self.members.know(person)
        self._budgets = {kind: _Budget(questions) for kind in Kind}
        self._looks = _Budget(looks)
        self._allows = _by(new.table, ALLOW, lambda rule: rule.subject)
        self._allows_on = _by(new.table, ALLOW, lambda rule: (rule.action, rule.obj))
        self._allowed_under = _under(new.table)
        self._old_denies = _by(old.table, DENY, lambda rule: rule.subject)

    def run(self, causes: Iterable[Cause]) -> Iterator[Found]:
        """What each cause widens: of each kind at most one find, with one question that shows it."""
        for cause in causes:
            yield from self._of_cause(cause)

    def stands_for(self, obj: str, action: str) -> str:
        """The object by which a tool or method is represented in a ``Flip``."""
        return self._objects.representing(obj, action)

    def holders(self, role: str, workspace: str) -> tuple[str, ...]:
        """Persons whom rows name and who hold a role in a workspace by the new policy: some, where there are many."""
        found = self._shown.get((role, workspace))
        if found is None:
            few = itertools.islice(self.members.askers(role), _MAX_HOLDERS)
            named = (asker.subject for asker in few if OTHER not in asker.subject)
            found = tuple(name for name in named if role in self._new.holds(name, workspace))
            self._shown[role, workspace] = found
        return found

    def _of_cause(self, cause: Cause) -> Iterator[Found]:
        found: dict[Kind, Flip | None] = {}
        for region in self._regions(cause):
            if not self._looks.spend():
                found.setdefault(_worst(cause), None)
                break
            if region is None or found.get(region.kind) is not None:
                continue
            for flip in self._flips(region, self._budgets[region.kind]):
                found[region.kind] = flip
                break
        yield from (Found(kind, cause, flip) for kind, flip in found.items())

    def _flips(self, region: _Region, budget: _Budget) -> Iterator[Flip | None]:
        action = region.allow.action
        for obj in self._objects.covered_by(region.obj, action):
            for workspace in self.places.covered_by(region.workspace, obj, action):
                for asker in region.askers:
                    if action == APPROVE and not asker.subject.startswith("human:"):
                        continue
                    if not budget.spend():
                        yield None
                        return
                    if self._flipped(region, asker, workspace, obj):
                        yield Flip(asker, workspace, obj, action, region.tier)

    def _flipped(self, region: _Region, asker: Asker, workspace: str, obj: str) -> bool:
        allow, old, new = region.allow, self._old, self._new
        before, after = asker.holds(old, workspace), asker.holds(new, workspace)
        held = before if region.side is old else after
        if allow.subject not in after or not (region.member == ANY or region.member in held):
            return False
        if allow.obj == ANY and not star_allows(obj):
            return False
        return (
            new.highest_tier(after, workspace, obj, allow.action) >= region.tier
            and old.highest_tier(before, workspace, obj, allow.action) < region.tier
        )

    def _regions(self, cause: Cause) -> Iterator[_Region | None]:
        # None is a rule that was looked at for nothing.
        change = cause.change
        if isinstance(change, Rule) and cause.gained:
            askers = self.members.askers(change.subject)
            yield _Region(change, change.workspace, change.obj, askers, self._new, change.subject)
        elif isinstance(change, Rule):
            holders = self._old_members.askers(change.subject)
            yield from self._opened(change, change.workspace, holders, change.subject)
        elif cause.gained:
            holders = self.members.askers(change.member)
            for role in sorted(self.members.above(change.role)):
                for allow in self._allows.get(role, ()):
                    workspace = common_workspace(change.workspace, allow.workspace)
                    yield (
                        None
                        if workspace is None
                        else _Region(allow, workspace, allow.obj, holders, self._new, change.member)
                    )
        else:
            holders = self._old_members.askers(change.member)
            for role in sorted(self._old_members.above(change.role)):
                for deny in self._old_denies.get(role, ()):
                    workspace = common_workspace(change.workspace, deny.workspace)
                    if workspace is None:
                        yield None
                    else:
                        yield from self._opened(deny, workspace, holders, change.member)

    def _opened(
        self, deny: Rule, workspace: str, holders: Mapping[Asker, None], member: str
    ) -> Iterator[_Region | None]:
        # A deny that holds no longer opens what the allows of the new policy reach.
        yield None
        above = objects_covering(stand_in(deny.obj, deny.action), deny.action)
        under = self._allowed_under.get((deny.action, deny.obj), {})
        for pattern in dict.fromkeys((deny.obj, *above, *under)):
            obj = narrower(deny.obj, pattern, deny.action)
            for allow in self._allows_on.get((deny.action, pattern), ()):
                where = common_workspace(workspace, allow.workspace)
                if where is None or obj is None:
                    yield None
                else:
                    askers = _both(holders, self.members.askers(allow.subject))
                    yield _Region(allow, where, obj, askers, self._old, member)


def _kind(action: str, tier: int) -> Kind:
    if action == APPROVE:
        return Kind.APPROVER
    return Kind.TIER4_CALL if action == CALL and tier >= APPROVAL_REQUIRED_FROM else Kind.OTHER


def _worst(cause: Cause) -> Kind:
    # What a cause could widen at worst, where there is no time left to find out.
    change = cause.change
    if isinstance(change, Grant):
        return Kind.APPROVER
    return _kind(change.action, int(change.tier) if cause.gained else APPROVAL_REQUIRED_FROM)


def _both(denied: Mapping[Asker, None], allowed: Mapping[Asker, None]) -> tuple[Asker, ...]:
    # A stand-in for the holders of one role is asked about wherever it comes from; a person only where in both.
    first = dict.fromkeys((*itertools.islice(denied, 2), *itertools.islice(allowed, 2)))
    few, many = (denied, allowed) if len(denied) < len(allowed) else (allowed, denied)
    return (*(asker for asker in first if asker.role), *(asker for asker in few if not asker.role and asker in many))


def _persons(*snapshots: Snapshot) -> Iterator[str]:
    for snapshot in snapshots:
        names = {rule.subject for rule in snapshot.table} | {grant.member for grant in snapshot.grants}
        yield from sorted(name for name in names if name != ANY and not name.startswith("role:"))


def _by(rules: Iterable[Rule], effect: str, key: Callable[[Rule], object]) -> dict[object, list[Rule]]:
    found: dict[object, list[Rule]] = {}
    for rule in rules:
        if rule.effect == effect:
            found.setdefault(key(rule), []).append(rule)
    return found


def _under(rules: Iterable[Rule]) -> dict[tuple[str, str], dict[str, None]]:
    # Action and wildcard -> the objects of allows that lie below it.
    found: dict[tuple[str, str], dict[str, None]] = {}
    for action, obj in dict.fromkeys((rule.action, rule.obj) for rule in rules if rule.effect == ALLOW):
        for pattern in objects_covering(stand_in(obj, action), action):
            found.setdefault((action, pattern), {})[obj] = None
    return found
