"""Why does the policy say so? Every rule about what was asked for, and the conditions that it fails.

The conditions are those of the matcher, one by one, in plain code; a test holds them equal to casbin's answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.domain.call import Decision, PolicyRequest
from broker.domain.tier import Tier
from broker.policy.rows import ANY, DENY, Rule, objects_covering, star_allows
from broker.policy.snapshot import Snapshot, check_request

MAX_SHOWN = 50
"""Most rules in one explanation; it says how many more there are."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A condition of the matcher that a rule fails: ``action, workspace, object, tier`` or ``subject``, and how."""

    condition: str
    why: str


@dataclass(frozen=True, slots=True)
class Considered:
    """A rule, and the conditions that keep it from matching; with none it matches."""

    rule: Rule
    failures: tuple[Failure, ...]
    decided: bool

    @property
    def matches(self) -> bool:
        """Do all conditions hold?"""
        return not self.failures


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, the roles that the asker holds there, and the rules that match or nearly do."""

    decision: Decision
    roles: tuple[str, ...]
    considered: tuple[Considered, ...]
    """Every rule about this tool or method: those that match first, then by the number of conditions that they fail, and
    within that in the file's order."""
    omitted: int
    """Such rules that aren't listed, for length."""
    elsewhere: int
    """Rules about other tools and methods."""
    summary: str


def explain(snapshot: Snapshot, request: PolicyRequest) -> Explanation:
    """Explains what a policy says of a question.

    Raises:
        InvalidArgumentError: the question is malformed.
    """
    check_request(request)
    decision = snapshot.decide(request)
    roles = snapshot.roles_of(request.subject, request.workspace)
    holds = frozenset({request.subject, ANY, *roles})
    objects = frozenset(objects_covering(request.obj, request.action))
    near: list[tuple[int, Considered]] = []
    elsewhere = 0
    for rule in snapshot.table:
        found = failures(rule, request, holds, objects)
        if rule.action != request.action or rule.obj not in objects:
            elsewhere += 1
        else:
            near.append((len(found), Considered(rule, found, decided=rule.id == decision.rule)))
    near.sort(key=lambda item: item[0])
    return Explanation(
        decision=decision,
        roles=roles,
        considered=tuple(item for _, item in near[:MAX_SHOWN]),
        omitted=max(0, len(near) - MAX_SHOWN),
        elsewhere=elsewhere,
        summary=_summary(decision, [item for _, item in near]),
    )


def failures(rule: Rule, request: PolicyRequest, holds: frozenset[str], objects: frozenset[str]) -> tuple[Failure, ...]:
    """The conditions of the matcher that a rule fails for a question, in the matcher's order.

    Args:
        rule: the rule.
        request: the question.
        holds: the asker, all roles that it holds in the workspace, and ``*``.
        objects: what a rule's object may be to cover the question's.
    """
    found = []
    if rule.action != request.action:
        found.append(Failure("action", f"the rule is about {rule.action}, the request about {request.action}"))
    if rule.workspace not in (request.workspace, ANY):
        found.append(Failure("workspace", f"the rule holds in {rule.workspace}, the request is in {request.workspace}"))
    if rule.obj not in objects:
        found.append(Failure("object", f"{rule.obj} doesn't cover {request.obj}"))
    elif rule.effect != DENY and rule.obj == ANY and not star_allows(request.obj):
        found.append(Failure("object", f"an allow has to name {request.obj}; * covers tools only"))
    if rule.effect != DENY and request.tier > Tier.parse(rule.tier):
        found.append(
            Failure("tier", f"the rule allows up to tier {rule.tier}, the request is of tier {request.tier:d}")
        )
    if rule.subject not in holds:
        kind = "holds no" if rule.subject.startswith("role:") else "is not"
        found.append(Failure("subject", f"{request.subject} {kind} {rule.subject} in {request.workspace}"))
    return tuple(found)


def _summary(decision: Decision, near: list[Considered]) -> str:
    matching = [item.rule for item in near if item.matches]
    denies = [rule for rule in matching if rule.effect == DENY]
    if decision.allowed:
        return f"Allowed by {decision.rule}: {len(matching)} matching rule(s) allow it and none denies it."
    if denies:
        overruled = len(matching) - len(denies)
        allowed = f", and a deny always wins over the {overruled} rule(s) that allow it" if overruled else ""
        return f"Denied by {decision.rule}: it matches{allowed}."
    closest = next(iter(near), None)
    if closest is None:
        return "Denied: no rule is about it, and what no rule allows is denied."
    missing = ", ".join(failure.condition for failure in closest.failures)
    return f"Denied: no rule allows it. The nearest, {closest.rule.id}, fails on: {missing}."
