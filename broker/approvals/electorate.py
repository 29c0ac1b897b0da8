"""Who may vote, now: the person, their key, their roles, and what keeps them out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from broker.approvals.quorum import Ballot, standing
from broker.domain.approval import Approval, KeyKind, Vote, VoterKey
from broker.domain.call import Decision
from broker.domain.identity import Identity, IdentityKind
from broker.domain.ports import Transaction
from broker.domain.requirement import Channel
from broker.domain.tier import Tier

NO_WORKSPACE = "-"
"""The workspace of what belongs to none."""


class Electorate(Protocol):
    """The policy in force, as approvals ask it."""

    def may_approve(self, person: str, workspace: str, obj: str, tier: Tier) -> Decision:
        """May ``human:<person>`` approve this object of this tier there?"""

    def roles(self, person: str, workspace: str) -> frozenset[str]:
        """The roles that a human holds in a workspace, without ``role:``."""


def why_not_person(electorate: Electorate, approval: Approval, person: Identity | None, barred: frozenset[str]) -> str:
    """Why a person may not vote on an approval; empty where they may.

    Args:
        electorate: the policy in force.
        approval: the approval.
        person: the identity; ``None`` where there is none any more.
        barred: ids of people who are kept out besides those that the approval names.
    """
    if person is None or person.kind is not IdentityKind.HUMAN:
        return "only people vote"
    if person.revoked is not None:
        return f"human {person.name} has been revoked"
    if person.id in approval.excluded or person.id in barred:
        return f"human {person.name} stands in the request's own lineage, or is concerned by it"
    for workspace in approval.workspaces:
        decision = electorate.may_approve(person.name, workspace, approval.obj, Tier(approval.tier))
        if not decision.allowed:
            return f"the policy doesn't let human {person.name} approve this: {decision.reason}"
    named = {item.role for item in approval.requirement.roles}
    if not named & roles_for(electorate, approval, person.name):
        return f"human {person.name} holds none of the roles {', '.join(sorted(named))} there"
    return ""


def roles_for(electorate: Electorate, approval: Approval, person: str) -> frozenset[str]:
    """The roles that a human holds in every workspace that an approval is about."""
    held = [electorate.roles(person, workspace) for workspace in approval.workspaces]
    return frozenset.intersection(*held)


def why_not_key(key: VoterKey | None, holder: str, kind: KeyKind) -> str:
    """Why a key doesn't count for its holder; empty where it does."""
    if key is None or key.kind is not kind:
        return "its key isn't enrolled"
    if key.revoked is not None:
        return "its key has been revoked"
    return "" if key.holder == holder else "its key belongs to somebody else"


def ballots(
    tx: Transaction, electorate: Electorate, approval: Approval, votes: Iterable[Vote], barred: frozenset[str]
) -> list[Ballot]:
    """The votes that stand, each with whether it counts now: today's roles, keys and revocations."""
    found = []
    for vote in standing(votes):
        person = tx.identities.get(vote.person)
        key = tx.voters.key(vote.key)
        why = why_not_person(electorate, approval, person, barred)
        if not why and vote.channel is Channel.CLI:
            why = why_not_key(key, vote.person, KeyKind.APPROVER)
        elif not why:
            bot = None if key is None else tx.identities.get(key.holder)
            gone = bot is None or bot.revoked is not None
            why = why_not_key(key, "" if bot is None else bot.id, KeyKind.BOT) or ("its bot is gone" if gone else "")
        roles = frozenset() if person is None else roles_for(electorate, approval, person.name)
        found.append(Ballot(vote, roles, why))
    return found


def voters(
    tx: Transaction, electorate: Electorate, approval: Approval, barred: frozenset[str] = frozenset()
) -> list[tuple[str, frozenset[str]]]:
    """Everybody who may vote on an approval with a key that counts now: (id, roles)."""
    holders = {key.holder for key in tx.voters.all_keys() if key.kind is KeyKind.APPROVER and key.revoked is None}
    found = []
    for holder in sorted(holders):
        person = tx.identities.get(holder)
        if person is not None and not why_not_person(electorate, approval, person, barred):
            found.append((holder, roles_for(electorate, approval, person.name)))
    return found
