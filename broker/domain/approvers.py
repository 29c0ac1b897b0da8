"""How many people are left who can agree to anything: where they are too few, nothing runs, and nobody can be enrolled."""

from __future__ import annotations

from broker.domain.approval import KeyKind
from broker.domain.identity import IdentityKind
from broker.domain.ports import Transaction

FEWEST = 3
"""With three people any two of them can change who may do what, whichever one of them won't."""


def able(tx: Transaction, without: str = "") -> frozenset[str]:
    """Ids of the people who can vote: not revoked, with a key and a certificate that aren't.

    Roles aren't asked, as they are the policy's; nor is a certificate's expiry, as whoever has one may renew it.

    Args:
        tx: a transaction.
        without: an id of an identity or a key, or a fingerprint, that is taken as revoked.
    """
    holders = {
        key.holder
        for key in tx.voters.all_keys()
        if key.kind is KeyKind.APPROVER and key.revoked is None and key.id != without
    }
    certified = {
        item.identity
        for item in tx.identities.certificates()
        if item.revoked is None and item.fingerprint != without and item.identity in holders
    }
    people = (tx.identities.get(which) for which in certified - {without})
    return frozenset(
        item.id for item in people if item is not None and item.kind is IdentityKind.HUMAN and item.revoked is None
    )


def takes_two(tx: Transaction, which: str) -> bool:
    """Would it leave too few people to revoke this: an identity, a key, a certificate? Then no one person does it alone.

    Else whoever has one key could take everybody else's away, for good. Who wants to stop things at once freezes them.
    """
    after = able(tx, which)
    return len(after) < FEWEST and after != able(tx)
