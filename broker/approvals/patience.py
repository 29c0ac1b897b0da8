"""How often and how much one caller asks: whoever asks again and again tires those who decide."""

from __future__ import annotations

from datetime import datetime, timedelta

from broker.domain.ports import Transaction
from broker.domain.requirement import Requirement
from broker.errors import ResourceExhaustedError

_WINDOW = timedelta(hours=1)


def check_patience(
    tx: Transaction, requester: str, requirement: Requirement, *, asks_call: bool, now: datetime
) -> None:
    """Lets a request pass of who hasn't asked too much.

    Args:
        tx: a transaction.
        requester: id of who asks.
        requirement: says how much is too much.
        asks_call: whether it is about a call: only such a request cools down after a denial.
        now: the time, UTC.

    Raises:
        ResourceExhaustedError: ``TOO_MANY_PENDING``, ``ASKING_TOO_OFTEN``, ``COOLING_DOWN``.
    """
    most = requirement.max_pending
    if tx.approvals.pending(requester) >= most:
        raise ResourceExhaustedError(
            f"{most} requests of this caller wait for people already",
            reason="TOO_MANY_PENDING",
            hint="Wait until some are decided, or cancel those that are no longer wanted.",
            metadata={"limit": str(most)},
        )
    if tx.approvals.cancelled(requester, now - _WINDOW) >= 2 * most:
        # Each has told people that something waits: who asks and withdraws again and again tires those who decide.
        raise ResourceExhaustedError(
            f"{2 * most} requests of this caller were withdrawn within the last hour",
            reason="ASKING_TOO_OFTEN",
            hint="Ask for what is really wanted, and leave it until people have decided.",
            metadata={"limit": str(2 * most)},
            retry_after_s=60.0,
        )
    denied = tx.approvals.last_denied(requester)
    if denied is None or not asks_call:
        return
    left = (denied + timedelta(seconds=requirement.cooldown_s) - now).total_seconds()
    if left > 0:
        raise ResourceExhaustedError(
            f"a request of this caller was denied a moment ago; it may ask again in {left:.0f} s",
            reason="COOLING_DOWN",
            hint="Find out why it was denied before you ask again: GetApproval shows the reason to who answers for you.",
            retry_after_s=left,
        )
