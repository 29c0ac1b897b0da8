"""The end of a key: at once and by one person, unless too few people would be left; then two agree to it."""

from __future__ import annotations

from datetime import datetime

from broker.approvals.founding import check_approver
from broker.domain.administration import REVOKE_KEY, approval_required
from broker.domain.approval import VoterKey
from broker.domain.approvers import FEWEST, takes_two
from broker.domain.canonical import JsonObject
from broker.domain.identity import Caller
from broker.domain.ports import Recorder, Transaction
from broker.errors import NotFoundError


def revoke_key(
    tx: Transaction, recorder: Recorder, caller: Caller, *, which: str, reason: str, founded: bool, now: datetime
) -> VoterKey:
    """Revokes a key at once: by its holder, or by anybody with an approver's key that counts. Twice changes nothing.

    Args:
        tx: a writing transaction.
        recorder: the ledger.
        caller: who does it.
        which: id of the key.
        reason: why; that there is one goes on record.
        founded: whether the two-person rule is in force.
        now: the time, UTC.

    Raises:
        NotFoundError: there is no such key (``KEY_UNKNOWN``).
        PermissionDeniedError: the caller may not (``NOT_AN_APPROVER``).
        FailedPreconditionError: it is somebody else's, and fewer than three people would be left who can vote
            (``APPROVAL_REQUIRED``).
    """
    key = _key(tx, which)
    if key.holder != caller.identity.id:
        check_approver(tx, caller)
    if key.revoked is not None:
        return key
    if founded and key.holder != caller.identity.id and takes_two(tx, key.id):
        raise approval_required(
            f"the key is not revoked, as fewer than {FEWEST} people would be left who can vote (a freeze stops things at once)",
            REVOKE_KEY,
            {"key": key.id},
            who=caller.identity.name,
        )
    return end_key(tx, recorder, which=key.id, by=caller.identity.id, approval="", reason=reason, now=now)


def end_key(
    tx: Transaction, recorder: Recorder, *, which: str, by: str, approval: str, reason: str, now: datetime
) -> VoterKey:
    """Revokes a key. Whether that may be is the caller's question; ``approval`` is the one by which two people agreed to it.

    Raises:
        NotFoundError: there is no such key (``KEY_UNKNOWN``).
    """
    key = _key(tx, which)
    if key.revoked is not None:
        return key
    body: JsonObject = {
        "key": {"id": key.id},
        "person": key.holder,
        "by": by,
        "at": now.isoformat(),
        "reason_given": bool(reason),
    }
    if approval:
        body["approval"] = approval
    recorder.append(tx, "key.revoked", body)
    tx.voters.revoke_key(key.id, now)
    return _key(tx, which)


def _key(tx: Transaction, which: str) -> VoterKey:
    key = tx.voters.key(which)
    if key is None:
        raise NotFoundError(f"there is no key {which[:80]!a}", reason="KEY_UNKNOWN")
    return key
