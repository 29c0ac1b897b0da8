"""What people agreed to, used by whoever does it: an approval of exactly this action, found and used in its transaction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from broker.approvals import content
from broker.approvals.desk import Desk, Used
from broker.domain.administration import approval_required
from broker.domain.approval import Approval, ApprovalKind, ApprovalState
from broker.domain.approval_ports import ApprovalQuery
from broker.domain.canonical import JsonObject, JsonValue, canonical
from broker.domain.ports import Transaction, Vault
from broker.domain.requirement import ADMINISTRATIVE
from broker.errors import FailedPreconditionError, NotFoundError

_PAGE = 100


@dataclass(frozen=True, slots=True)
class ApprovedActions:
    """Lets pass what two people agreed to; implements the registry's ``Authority``."""

    desk: Desk

    def founded(self, tx: Transaction) -> bool:
        """As ledger and tables say together."""
        return self.desk.founded(tx)

    def permit(self, tx: Transaction, action: str, parameters: JsonObject, *, by: str) -> JsonObject | None:
        """As the registry's ``Authority``: uses the approval, and gives it as an entry names it.

        It may be used by whoever could not vote on it: who asked, and whom it concerns.
        """
        if not self.desk.founded(tx):
            return None
        found = find_approved(tx, self.desk, action, parameters, by=by)
        if found is None:
            human = tx.identities.get(by)
            name = "" if human is None else human.name
            raise approval_required("the registry is not changed", action, parameters, who=name)
        return use_approved(tx, self.desk, found, parameters).body()


@dataclass(frozen=True, slots=True)
class Agreed:
    """Lets pass the one change that is done as people agree to it; before the founding any, as nobody has to."""

    action: str
    parameters: JsonObject
    approval: str
    """Its id; empty before the founding."""

    def founded(self, tx: Transaction) -> bool:
        """It is, where there is an approval."""
        return bool(self.approval or tx.voters.founding())

    def permit(self, tx: Transaction, action: str, parameters: JsonObject, *, by: str) -> JsonObject | None:
        """As the registry's ``Authority``."""
        if not self.founded(tx):
            return None
        if not self.approval or action != self.action or canonical(parameters) != canonical(self.parameters):
            human = tx.identities.get(by)
            name = "" if human is None else human.name
            raise approval_required("the registry is not changed", action, parameters, who=name)
        return {"id": self.approval}


def find_approved(tx: Transaction, desk: Desk, action: str, parameters: JsonObject, *, by: str = "") -> Approval | None:
    """The newest approval that people agreed to, for exactly this action, and whose time isn't over.

    Args:
        tx: a transaction.
        desk: takes requests and ends them.
        action: name of the administrative action.
        parameters: exactly those that the envelope must have.
        by: id of who will use it: it must be kept out of the vote on it. Empty where the broker itself uses it.
    """
    state = ApprovalState.APPROVED
    return find_by_action(tx, desk.vault, action, parameters, state=state, now=desk.clock(), by=by)


def find_by_action(
    tx: Transaction,
    vault: Vault,
    action: str,
    parameters: JsonObject,
    *,
    state: ApprovalState,
    now: datetime,
    by: str = "",
) -> Approval | None:
    """The newest approval in a state for exactly this action, whose time isn't over; the arguments as above."""
    query = ApprovalQuery(
        states=frozenset({state}), kinds=frozenset({ApprovalKind.ADMINISTRATION}), subject=action, limit=_PAGE
    )
    wanted = canonical(parameters)
    while page := tx.approvals.list(query):
        for approval in page:
            usable = approval.expires > now and (not by or by in approval.excluded)
            if usable and _parameters(tx, vault, approval) == wanted:
                return approval
        query = replace(query, before=page[-1].id)
    return None


def use_approved(tx: Transaction, desk: Desk, approval: Approval, parameters: JsonObject) -> Used:
    """Uses it, once: votes, roles and keys are counted again.

    Raises:
        BrokerError: as ``Desk.use``; ``ENVELOPE_CHANGED`` where it is of other parameters.
    """
    wanted = canonical(parameters)

    def check(shown: JsonObject) -> None:
        if _said(shown, approval.subject) != wanted:
            raise FailedPreconditionError(
                f"approvals/{approval.id} is of other parameters", reason="ENVELOPE_CHANGED", hint="Ask anew."
            )

    return desk.use(tx, approval.id, subject=approval.subject, needed=ADMINISTRATIVE, check=check)


def _parameters(tx: Transaction, vault: Vault, approval: Approval) -> bytes | None:
    try:
        shown = content.read_envelope(tx, vault, approval)
    except NotFoundError:
        return None  # erased: nobody can tell any more what it was
    return _said(shown, approval.subject)


def _said(shown: JsonObject, action: str) -> bytes | None:
    said: JsonValue = shown.get("action")
    if not isinstance(said, dict) or said.get("name") != action:
        return None
    return canonical(said.get("parameters"))
