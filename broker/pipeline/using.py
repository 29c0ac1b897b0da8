"""The use of what people agreed to: once, counted again in the transaction in which it happens."""

from __future__ import annotations

from collections.abc import Callable

from broker.approvals.desk import Used
from broker.domain.canonical import JsonObject
from broker.domain.identity import Caller
from broker.domain.ports import Transaction
from broker.domain.requirement import Requirement
from broker.errors import UnauthenticatedError
from broker.pipeline.active import ActiveCall
from broker.pipeline.approving import check_rows, kept_out_now
from broker.pipeline.parts import Parts
from broker.pipeline.runbooks import ask_review, lasting, same_as_runbook


def use_approval(
    tx: Transaction,
    parts: Parts,
    active: ActiveCall,
    *,
    requirement: Requirement | None,
    check: Callable[[JsonObject], None],
    envelope: bytes = b"",
) -> Used:
    """Uses what people agreed to, once: counted again now, and compared with what is about to happen.

    Args:
        tx: the writing transaction in which it happens.
        parts: the broker's.
        active: the call.
        requirement: who has to agree today.
        check: lets what was shown pass, if it is what is about to happen.
        envelope: the call's own, as it is about to run; for one that uses a runbook.

    Raises:
        BrokerError: it may not be used now.
    """
    barred = kept_out_now(tx, parts, active)
    check_rows(tx, parts.desk, active.request)
    if active.request.context.runbook:
        return _use_runbook(tx, parts, active, envelope, requirement=requirement, barred=barred)
    return parts.desk.use(tx, active.approval, subject=active.row.id, barred=barred, needed=requirement, check=check)


def _use_runbook(
    tx: Transaction,
    parts: Parts,
    active: ActiveCall,
    envelope: bytes,
    *,
    requirement: Requirement | None,
    barred: frozenset[str],
) -> Used:
    """Uses what people agreed to beforehand, and asks for the look back at it."""
    approval = parts.desk.find(tx, active.approval)
    used = parts.desk.use(
        tx,
        active.approval,
        subject=active.approval,
        barred=barred,
        needed=lasting(requirement, approval),
        check=same_as_runbook(envelope),
    )
    identity = tx.identities.get(active.row.agent)
    certificate = tx.identities.certificate(active.request.fingerprint)
    if identity is None or certificate is None:
        raise UnauthenticatedError("the certificate of the call has been revoked", reason="CERTIFICATE_REVOKED")
    ask_review(tx, parts, active, Caller(identity, certificate))
    return used
