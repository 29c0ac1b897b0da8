"""Who lets the registry be changed? Until the founding whoever may act; after it, two people who agreed to this very change."""

from __future__ import annotations

from typing import Protocol

from broker.domain.administration import REVOKE, approval_required
from broker.domain.approvers import FEWEST, takes_two
from broker.domain.canonical import JsonObject
from broker.domain.identity import Identity
from broker.domain.ports import Transaction
from broker.errors import FailedPreconditionError


class Authority(Protocol):
    """Lets changes of the registry pass."""

    def founded(self, tx: Transaction) -> bool:
        """Is the two-person rule in force?"""

    def permit(self, tx: Transaction, action: str, parameters: JsonObject, *, by: str) -> JsonObject | None:
        """Lets one change pass, once, in the transaction that makes it.

        Args:
            tx: the transaction.
            action: name of the administrative action.
            parameters: exactly those of this change.
            by: id of the human who makes it.

        Returns:
            The approval as an entry names it; ``None`` before the founding, when there is none.

        Raises:
            FailedPreconditionError: nobody has agreed to exactly this (``APPROVAL_REQUIRED``).
            BrokerError: what was agreed to can't be used now, and why.
        """


class NoApproval:
    """The authority of whoever was given none: after the founding nothing passes."""

    def founded(self, tx: Transaction) -> bool:
        """As the tables say."""
        return bool(tx.voters.founding())

    def permit(self, tx: Transaction, action: str, parameters: JsonObject, *, by: str) -> JsonObject | None:
        """As ``Authority``: refuses everything after the founding."""
        if not self.founded(tx):
            return None
        human = tx.identities.get(by)
        raise approval_required(
            "the registry is not changed", action, parameters, who="" if human is None else human.name
        )


def permit_revoke(
    tx: Transaction, authority: Authority, target: Identity, fingerprint: str, by: str
) -> JsonObject | None:
    """Lets it pass that an identity, or one of its certificates, is revoked.

    One person does that, unless it is somebody else and too few people would be left who can vote.

    Raises:
        FailedPreconditionError: nobody has agreed to it (``APPROVAL_REQUIRED``).
        BrokerError: as ``Authority.permit``.
    """
    if by == target.id or not authority.founded(tx) or not takes_two(tx, fingerprint or target.id):
        return None
    parameters: JsonObject = {"kind": str(target.kind), "name": target.name, "fingerprint": fingerprint}
    try:
        return authority.permit(tx, REVOKE, parameters, by=by)
    except FailedPreconditionError as error:
        if error.reason != "APPROVAL_REQUIRED":
            raise
        who = tx.identities.get(by)
        why = f"human {target.name} is not revoked, as fewer than {FEWEST} people would be left who can vote"
        raise approval_required(why, REVOKE, parameters, who="" if who is None else who.name) from error
