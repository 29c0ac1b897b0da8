"""A finite set of questions that stands for all that can be asked of two policies: what rows name, and stand-ins.

Whatever no row names is decided as everything else that no row names: an agent without a row as any other such agent, a
tool as any other that the same wildcards cover. So one stand-in for each such class is enough, and how many people, tools
and workspaces there are doesn't matter. A stand-in's name has a ``?``, which no name may have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from broker.domain.reserved import ADMINISTRATION, RESERVED_OBJECTS
from broker.policy.rows import (
    ACTIONS,
    AGENT_ROLE,
    ANY,
    APPROVE,
    HUMAN_ROLE,
    NO_WORKSPACE,
    RPC,
    Grant,
    is_person,
    objects_covering,
)
from broker.policy.snapshot import Snapshot

OTHER = "?"
"""The stand-in for every workspace that no row names; in other stand-ins, the part that no row names."""

_STRANGERS = {AGENT_ROLE: f"agent:{OTHER}", HUMAN_ROLE: f"human:{OTHER}"}


@dataclass(frozen=True, slots=True)
class Asker:
    """Somebody who asks: a person whom a row names, a stranger, or a stranger who holds one role and nothing else."""

    subject: str
    role: str = ""

    def holds(self, snapshot: Snapshot, workspace: str) -> frozenset[str]:
        """The asker and all its roles in a workspace."""
        own = snapshot.holds(self.subject, workspace)
        return own | snapshot.holds(self.role, workspace) if self.role else own


def stand_in(pattern: str, action: str) -> str:
    """An object that a row's object field covers, and no narrower one: itself where it is no wildcard."""
    if pattern != ANY:
        return pattern.replace(ANY, OTHER)
    return f"{OTHER}/{OTHER}" if action == RPC else f"{OTHER}.{OTHER}"


def narrower(one: str, other: str, action: str) -> str | None:
    """What both of two object fields cover: one of the two, or ``None`` for nothing."""
    if other in objects_covering(stand_in(one, action), action) or one == other:
        return one
    return other if one in objects_covering(stand_in(other, action), action) else None


def common_workspace(one: str, other: str) -> str | None:
    """What two workspace fields have in common: a name, ``*``, ``-``, or ``None`` for nothing."""
    if other in (one, ANY):
        return one
    return other if one == ANY else None


class Objects:
    """The tools, methods and other subjects that stand for all, by the wildcards that cover them."""

    def __init__(self, snapshots: Sequence[Snapshot]) -> None:
        named: dict[str, set[str]] = {action: {ANY} for action in ACTIONS}
        for snapshot in snapshots:
            for rule in snapshot.table:
                named[rule.action].add(rule.obj)
        named[APPROVE] |= RESERVED_OBJECTS
        self._covered: dict[tuple[str, str], list[str]] = {}
        self._all: dict[str, frozenset[str]] = {}
        for action, patterns in named.items():
            found = sorted((stand_in(pattern, action) for pattern in patterns), key=_stand_ins_first)
            self._all[action] = frozenset(found)
            for obj in found:
                for pattern in objects_covering(obj, action):
                    self._covered.setdefault((action, pattern), []).append(obj)

    def covered_by(self, pattern: str, action: str) -> Sequence[str]:
        """All that an object field covers, stand-ins first."""
        return self._covered.get((action, pattern), ())

    def representing(self, obj: str, action: str) -> str:
        """Which one a tool or method is decided like."""
        covering = (stand_in(pattern, action) for pattern in objects_covering(obj, action))
        return next(found for found in covering if found in self._all[action])


class Places:
    """The workspaces that stand for all."""

    def __init__(self, snapshots: Sequence[Snapshot]) -> None:
        self.named = frozenset[str]().union(*(snapshot.workspaces for snapshot in snapshots))
        self._all = (OTHER, *sorted(self.named))

    def covered_by(self, workspace: str, obj: str, action: str) -> Iterator[str]:
        """The workspaces that a workspace field covers, and in which this may be asked about."""
        if action == APPROVE and obj == ADMINISTRATION:
            if workspace in (ANY, NO_WORKSPACE):
                yield NO_WORKSPACE
            return
        if workspace != ANY:
            if workspace != NO_WORKSPACE or action == RPC:
                yield workspace
            return
        yield from self._all
        if action == RPC:
            yield NO_WORKSPACE


class Members:
    """Who may hold a role by one policy, in some workspace or other."""

    def __init__(self, grants: Iterable[Grant]) -> None:
        self._members: dict[str, list[str]] = {}
        self._persons: dict[str, dict[str, None]] = {AGENT_ROLE: {}, HUMAN_ROLE: {}}
        self._roles: dict[str, list[str]] = {}
        self._found: dict[str, dict[Asker, None]] = {}
        for grant in grants:
            self._members.setdefault(grant.role, []).append(grant.member)
            self._roles.setdefault(grant.member, []).append(grant.role)

    def know(self, person: str) -> None:
        """Adds a person whom a row names to the holders of what all of its kind hold."""
        self._persons[AGENT_ROLE if person.startswith("agent:") else HUMAN_ROLE][person] = None

    def above(self, role: str) -> frozenset[str]:
        """The role, and each that its holders may hold through it."""
        return _closure(role, self._roles)

    def askers(self, subject: str) -> Mapping[Asker, None]:
        """Whoever may be or hold a rule's subject or a grant's member: stand-ins first, at most two of which hold a role."""
        found = self._found.get(subject)
        if found is None:
            found = self._found[subject] = dict.fromkeys(self._askers(subject))
        return found

    def _askers(self, subject: str) -> Iterator[Asker]:
        if is_person(subject):
            yield Asker(subject)
            return
        if subject == ANY:
            roles = frozenset({AGENT_ROLE, HUMAN_ROLE})
        else:
            roles = _closure(subject, self._members)
            if subject not in _STRANGERS:
                yield from (Asker(stranger, subject) for stranger in _STRANGERS.values())
        yield from (Asker(stranger) for role, stranger in _STRANGERS.items() if role in roles)
        for role in sorted(roles):
            yield from (Asker(person) for person in ((role,) if is_person(role) else self._persons.get(role, ())))


def _closure(start: str, links: dict[str, list[str]]) -> frozenset[str]:
    seen = {start}
    waiting = [start]
    while waiting:
        for found in links.get(waiting.pop(), ()):
            if found not in seen:
                seen.add(found)
                waiting.append(found)
    return frozenset(seen)


def _stand_ins_first(obj: str) -> tuple[bool, int, str]:
    return (OTHER not in obj, len(obj), obj)
