"""Who may approve what, by one policy."""

from __future__ import annotations

from collections.abc import Mapping

from broker.domain.call import Decision, PolicyRequest
from broker.domain.tier import Tier
from broker.policy.rows import APPROVE
from broker.policy.snapshot import Snapshot

_ROLE = "role:"


def electorate(
    snapshot: Snapshot, people: Mapping[str, str], *, workspace: str, obj: str, tier: Tier
) -> frozenset[str]:
    """The humans whom a policy lets approve something.

    Args:
        snapshot: the policy.
        people: id of a human -> name, as in ``human:<name>``.
        workspace: where it is to happen; ``-`` for ``broker.admin``.
        obj: the tool whose call waits, or one of ``domain.reserved``.
        tier: that of what waits.

    Returns:
        Their ids. A malformed question gives nobody.
    """
    return frozenset(
        person
        for person, name in people.items()
        if snapshot.decide(PolicyRequest(f"human:{name}", workspace, obj, APPROVE, tier)).allowed
    )


def roles_held(snapshot: Snapshot, name: str, workspace: str) -> frozenset[str]:
    """The roles that a human holds in a workspace (or in ``-``), ``human`` included, without the prefix ``role:``."""
    return frozenset(role.removeprefix(_ROLE) for role in snapshot.roles_of(f"human:{name}", workspace))


class PolicyElectorate:
    """One policy, as those ask it who count votes.

    Args:
        snapshot: the policy in force.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def may_approve(self, person: str, workspace: str, obj: str, tier: Tier) -> Decision:
        """May ``human:<person>`` approve this object of this tier there?"""
        return self._snapshot.decide(PolicyRequest(f"human:{person}", workspace, obj, APPROVE, tier))

    def roles(self, person: str, workspace: str) -> frozenset[str]:
        """The roles that a human holds in a workspace, without ``role:``."""
        return roles_held(self._snapshot, person, workspace)
