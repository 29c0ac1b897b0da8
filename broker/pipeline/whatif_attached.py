"""A what-if report that somebody attaches to the request for a policy: it has to be about this policy and this ledger.

What it says flips is its maker's word: the broker looks at what binds it, and doesn't decide all again. Approvers can: the
same ledger and policy give the same report.
"""

from __future__ import annotations

from broker.domain.ports import Transaction
from broker.errors import FailedPreconditionError
from broker.ledger.tree import Tree
from broker.policy.snapshot import Snapshot
from broker.policy.whatif_report import LedgerPart, Report
from broker.tlog.merkle import leaf_hash

_SAID = "Attached by the requester, and not checked by the broker:"


def attached(tx: Transaction, report: Report, *, old: Snapshot, new: Snapshot, origin: str) -> tuple[str, ...]:
    """What approvers are shown of a report, a sentence each.

    Args:
        tx: a transaction.
        report: its digest has been checked.
        old: the policy in force.
        new: the policy that is asked for.
        origin: of this ledger.

    Raises:
        FailedPreconditionError: ``WHATIF_OF_ANOTHER``: it is about another policy or ledger; names which.
    """
    ledger = report.ledger
    check_candidate(report, new.digest)
    if report.present.policy != old.digest:
        raise _another(f"it compares with the policy {report.present.policy}, and {old.digest} is in force")
    if ledger.origin != origin:
        raise _another(f"it is about the ledger {ledger.origin[:80]!a}, and this is {origin}")
    if not ledger.sound or ledger.extract:
        raise _another("it was made from a part of a ledger, or from one that doesn't verify")
    if not _goes_on(tx, ledger):
        raise _another(f"this ledger doesn't go on from the {ledger.entries} entries that it was made from")
    return tuple(f"{_SAID} {sentence}" for sentence in report.summary())


def check_candidate(report: Report, digest: str) -> None:
    """Lets a report pass that is about a policy.

    Raises:
        FailedPreconditionError: ``WHATIF_OF_ANOTHER``.
    """
    if report.candidate.policy != digest:
        raise _another(f"it is about the policy {report.candidate.policy}, and {digest} is asked for")


def _goes_on(tx: Transaction, ledger: LedgerPart) -> bool:
    last = tx.ledger.entries(ledger.entries - 1, 1) if ledger.entries > 0 else ()
    if not last or leaf_hash(last[0].data).hex() != ledger.head or not 0 <= ledger.checkpoint_size <= ledger.entries:
        return False
    return not ledger.checkpoint_size or Tree(tx.ledger, ledger.checkpoint_size).root().hex() == ledger.checkpoint_root


def _another(why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"the what-if report can't be attached: {why}",
        reason="WHATIF_OF_ANOTHER",
        hint="Make it again with `broker replay whatif --policy FILE --report REPORT`, for the very file that you apply.",
    )
