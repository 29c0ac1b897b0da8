"""Who holds which role where: the grants of one policy as a graph, and the same graph as casbin's role manager.

A role that is granted in ``*`` holds in every workspace; chains may mix the two. Every agent holds ``role:agent`` and
every human ``role:human``, everywhere.

casbin's own ``DomainManager`` gives the same answers (the tests compare them), but it copies every ``*`` grant into each
workspace on first use, in time quadratic in their number (2,000 grants: 3 s), and keeps a manager for every workspace
and a node for every name that anybody has ever asked about: memory that callers would own. This one stores grants only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from broker.errors import InternalError
from broker.policy.rows import AGENT_ROLE, ANY, HUMAN_ROLE, Grant

MAX_LEVELS = 8
"""Longest chain from role to role. casbin's role manager stops looking, without a word, one step further on."""

_BUILT_IN: Mapping[str, tuple[str, ...]] = MappingProxyType({"agent": (AGENT_ROLE,), "human": (HUMAN_ROLE,)})


class RoleGraph:
    """The grants of one policy. It never changes, so any thread may ask it."""

    def __init__(self, grants: Iterable[Grant]) -> None:
        links: dict[str, dict[str, tuple[str, ...]]] = {}
        for grant in grants:
            members = links.setdefault(grant.workspace, {})
            members[grant.member] = (*members.get(grant.member, ()), grant.role)
        self._links = links

    def closure(self, subject: str, workspace: str) -> frozenset[str]:
        """The subject and all roles that it holds in a workspace, directly or through other roles."""
        everywhere = self._links.get(ANY, {})
        here = self._links.get(workspace, {}) if workspace != ANY else {}
        seen = {subject}
        waiting = [subject]
        following = _BUILT_IN.get(subject.partition(":")[0], ())
        while waiting:
            member = waiting.pop()
            for role in (*following, *everywhere.get(member, ()), *here.get(member, ())):
                if role not in seen:
                    seen.add(role)
                    waiting.append(role)
            following = ()
        return frozenset(seen)


class CasbinRoles:
    """casbin's view of a ``RoleGraph``: the part of its ``RoleManager`` interface that a matcher's ``g()`` uses."""

    def __init__(self, graph: RoleGraph) -> None:
        self._graph = graph

    def has_link(self, member: str, role: str, *domain: str) -> bool:
        """Does the member hold the role in the domain, or is it the role itself?"""
        if len(domain) != 1:
            raise InternalError("g() takes a member, a role and one workspace", reason="POLICY_MODEL")
        return role in self._graph.closure(member, domain[0])


def find_cycle(grants: Iterable[Grant]) -> Grant | None:
    """A grant that closes a circle of roles in some workspace, or ``None``."""
    return _in_some_workspace(list(grants), _cycle)


def find_deep_chain(grants: Iterable[Grant]) -> Grant | None:
    """A grant that starts a chain of more than ``MAX_LEVELS`` grants from role to role; the grants have no cycle."""
    return _in_some_workspace(list(grants), _deep)


def _in_some_workspace(grants: list[Grant], find: Callable[[list[Grant]], Grant | None]) -> Grant | None:
    between_roles = [grant for grant in grants if grant.member.startswith("role:")]
    # Nothing in all workspaces taken together is nothing in each: the costly look at each is for odd policies only.
    if find(between_roles) is None:
        return None
    everywhere = [grant for grant in between_roles if grant.workspace == ANY]
    by_workspace: dict[str, list[Grant]] = {ANY: []}
    for grant in between_roles:
        if grant.workspace != ANY:
            by_workspace.setdefault(grant.workspace, []).append(grant)
    for here in by_workspace.values():
        if (found := find([*everywhere, *here])) is not None:
            return found
    return None


def _cycle(grants: list[Grant]) -> Grant | None:
    # Takes away, again and again, the roles that lead nowhere (Kahn). What is left leads round in circles.
    return _levels(grants)[1]


def _deep(grants: list[Grant]) -> Grant | None:
    levels, _ = _levels(grants)
    return next((grant for grant in grants if levels.get(grant.member, 0) > MAX_LEVELS), None)


def _levels(grants: list[Grant]) -> tuple[dict[str, int], Grant | None]:
    above: dict[str, int] = {}
    members: dict[str, list[str]] = {}
    for grant in grants:
        above[grant.member] = above.get(grant.member, 0) + 1
        members.setdefault(grant.role, []).append(grant.member)
    levels = {role: 0 for role in members if role not in above}
    waiting = list(levels)
    while waiting:
        role = waiting.pop()
        for member in members.get(role, ()):
            levels[member] = max(levels.get(member, 0), levels[role] + 1)
            above[member] -= 1
            if above[member] == 0:
                waiting.append(member)
    left = next((grant for grant in grants if above[grant.member] > 0 and above.get(grant.role, 0) > 0), None)
    return levels, left
