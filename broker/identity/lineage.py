"""Lineage: who stands behind a call, from the registry and from proofs, never from the caller's word."""

from __future__ import annotations

from datetime import datetime

from broker.domain.call import CallContext, Lineage
from broker.domain.identity import Caller, Identity, IdentityKind, Session
from broker.domain.ports import Transaction
from broker.domain.tier import LINEAGE_REQUIRED_FROM, Tier
from broker.errors import PermissionDeniedError, UnauthenticatedError
from broker.identity import delegation
from broker.identity.directory import Directory


def prove(
    tx: Transaction,
    directory: Directory,
    *,
    caller: Caller,
    context: CallContext,
    tier: Tier,
    now: datetime,
    origin: str,
) -> Lineage:
    """Who stands behind a call. To be asked when it comes in, and again in the step that writes its intent.

    What the directory says of a delegation's signer is asked again in the transaction, like all else: a revocation
    that is committed before it counts.

    Args:
        tx: the transaction in which the answer counts.
        directory: the present registry.
        caller: who makes the call, by its certificate.
        context: the caller's claims; ``session`` is an id, ``delegation`` a token; empty where it names none.
        tier: the tier at which the call runs.
        now: the time, UTC.
        origin: this broker's origin id.

    Raises:
        UnauthenticatedError: the agent or its certificate has been revoked since (``IDENTITY_REVOKED``,
            ``CERTIFICATE_REVOKED``).
        PermissionDeniedError: ``NOT_AN_AGENT``, ``OWNER_REVOKED``, ``SESSION_INVALID``, ``DELEGATION_INVALID``, or
            ``LINEAGE_UNPROVEN`` where the tier demands a session.
    """
    agent = _agent(tx, caller)
    owner = tx.identities.get(agent.owner)
    if owner is None or owner.revoked is not None:
        raise PermissionDeniedError(
            f"the human who owns agent {agent.name} has been revoked",
            reason="OWNER_REVOKED",
            hint=f"Give it another owner: broker identity owner {agent.name} --owner HUMAN",
        )
    starter = on_behalf_of = ""
    proofs: list[str] = []
    if context.session:
        session = _session(tx, agent, context, now)
        starter = session.starter
        proofs.append(f"session:{session.id}")
        if session.schedule:
            proofs.append(f"schedule:{session.schedule}")
    if context.delegation:
        given = delegation.verify(
            context.delegation,
            directory=directory,
            now=now,
            agent=agent.name,
            workspace=context.workspace,
            origin=origin,
        )
        signer = tx.identities.certificate(given.certificate.fingerprint)
        if signer is None or signer.revoked is not None or not _valid_human(tx, given.human.id):
            raise PermissionDeniedError("the human who delegated has been revoked", reason="DELEGATION_INVALID")
        on_behalf_of = given.human.id
        proofs.append(f"delegation:{given.digest}")
    if not starter and tier >= LINEAGE_REQUIRED_FROM:
        raise PermissionDeniedError(
            f"nothing proves who started the work of agent {agent.name}, and tier {int(tier)} demands it",
            reason="LINEAGE_UNPROVEN",
            hint=f"A human starts a session, and the call names it: broker sessions start --agent {agent.name}",
            metadata={"tier": str(int(tier)), "required_from": str(int(LINEAGE_REQUIRED_FROM))},
        )
    return Lineage(
        agent=agent.id,
        owner=owner.id,
        registrar=agent.registrar,
        starter=starter,
        on_behalf_of=on_behalf_of,
        proofs=tuple(proofs),
    )


def prove_human(tx: Transaction, caller: Caller) -> Lineage:
    """The lineage of a person who takes a call back under their own certificate: they stand behind it alone, with whoever
    registered them. Asked when it comes in, and again in the step that writes its intent.

    Raises:
        UnauthenticatedError: they or their certificate have been revoked since (``IDENTITY_REVOKED``,
            ``CERTIFICATE_REVOKED``).
        PermissionDeniedError: it is an agent (``NOT_A_HUMAN``).
    """
    if caller.identity.kind is not IdentityKind.HUMAN:
        raise PermissionDeniedError("an agent's lineage has to be proved", reason="NOT_A_HUMAN")
    human = tx.identities.get(caller.identity.id)
    if human is None or human.revoked is not None:
        raise UnauthenticatedError(f"{caller.identity.name} has been revoked", reason="IDENTITY_REVOKED")
    certificate = tx.identities.certificate(caller.certificate.fingerprint)
    if certificate is None or certificate.revoked is not None or certificate.identity != human.id:
        raise UnauthenticatedError("the certificate of the call has been revoked", reason="CERTIFICATE_REVOKED")
    return Lineage(agent=human.id, owner=human.id, registrar=human.registrar, starter=human.id)


def _agent(tx: Transaction, caller: Caller) -> Identity:
    if caller.identity.kind is not IdentityKind.AGENT:
        raise PermissionDeniedError(
            "tools are called by agents; a human has no owner who answers for the call",
            reason="NOT_AN_AGENT",
            hint="Register an agent that you own: broker identity issue agent NAME --owner HUMAN",
        )
    agent = tx.identities.get(caller.identity.id)
    if agent is None or agent.revoked is not None:
        raise UnauthenticatedError(f"agent {caller.identity.name} has been revoked", reason="IDENTITY_REVOKED")
    certificate = tx.identities.certificate(caller.certificate.fingerprint)
    # Expiry isn't asked: a call that waits for votes may outlast the certificate under which it was made.
    if certificate is None or certificate.revoked is not None or certificate.identity != agent.id:
        raise UnauthenticatedError("the certificate of the call has been revoked", reason="CERTIFICATE_REVOKED")
    return agent


def _session(tx: Transaction, agent: Identity, context: CallContext, now: datetime) -> Session:
    """The session that the call names. One that is wrong is a refusal: ignoring it would turn a lie into a blank."""
    session = tx.identities.session(context.session)
    if session is None or session.agent != agent.id:
        # Another agent's session and none at all are told apart nowhere.
        why = "this agent has no such session"
    elif session.workspace != context.workspace:
        why = "the session is for another workspace"
    elif session.ended is not None:
        why = "the session has been ended"
    elif now >= session.expires:
        why = "the session has expired"
    elif not _valid_human(tx, session.starter):
        why = "the human who started the session has been revoked"
    elif session.starter not in {agent.owner, agent.registrar}:
        why = "the human who started the session no longer answers for the agent"
    else:
        return session
    raise PermissionDeniedError(
        f"the session is refused: {why}",
        reason="SESSION_INVALID",
        hint=f"Start another: broker sessions start --agent {agent.name}",
    )


def _valid_human(tx: Transaction, identity: str) -> bool:
    human = tx.identities.get(identity)
    return human is not None and human.kind is IdentityKind.HUMAN and human.revoked is None
