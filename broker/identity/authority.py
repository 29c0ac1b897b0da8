"""Who lets the registry be changed? Until the founding whoever may act; after it, two people who agreed to this very change."""

from __future__ import annotations

from typing import Protocol

from broker.domain.administration import approval_required
from broker.domain.canonical import JsonObject
from broker.domain.ports import Transaction


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
