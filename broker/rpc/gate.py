"""The gate before every method: the certificate's holder, checked now, and the policy's word on the method."""

from __future__ import annotations

from broker.domain.call import PolicyRequest
from broker.domain.identity import Caller, IdentityKind
from broker.domain.tier import Tier
from broker.errors import BrokerError, PermissionDeniedError, UnauthenticatedError, UnavailableError
from broker.identity.directory import Directory, parse_peer
from broker.pipeline import journal
from broker.pipeline.parts import Parts
from broker.pipeline.refusals import Refusals
from broker.rpc.dispatch import Context

NO_WORKSPACE = "-"
"""The workspace under which the policy is asked whether somebody may use a method at all."""


class CertificateGate:
    """Authenticates by the connection's client certificate.

    Args:
        parts: directory, policy and clock.
        refusals: where refused methods are put on the record.
        unsafe_plaintext_agent: name of the agent that callers of the plaintext listener are; empty where there is none.
    """

    def __init__(self, parts: Parts, refusals: Refusals, *, unsafe_plaintext_agent: str = "") -> None:
        self._parts = parts
        self._refusals = refusals
        self._plaintext_agent = unsafe_plaintext_agent
        self._open = False
        self._unfit: BrokerError | None = None

    @property
    def open(self) -> bool:
        """Are requests taken?"""
        return self._open and self._unfit is None and not self._parts.store.failed

    @property
    def unfit(self) -> BrokerError | None:
        """Why it was shut for good, if it was."""
        return self._unfit

    @property
    def why_closed(self) -> BrokerError:
        """What to answer while it isn't open."""
        return self._unfit or UnavailableError(
            "the broker takes no requests now: it is starting or shutting down",
            reason="NOT_SERVING",
            hint="Try again in a moment; `broker doctor` on its host says how it stands.",
            retry_after_s=1.0,
        )

    def shut(self, why: BrokerError) -> None:
        """Closes the gate for good: what was found wrong is the answer to every request from now on."""
        self._unfit = why

    def set_open(self, *, to: bool) -> None:
        """Opens or closes the gate for all methods but health."""
        self._open = to

    async def authenticate(self, context: Context) -> Caller:
        """The caller of a connection; revocation and expiry count on open connections too.

        Raises:
            UnauthenticatedError: no certificate, or one that doesn't count now.
        """
        directory = await self._parts.directory.current()
        now = self._parts.clock()
        for pem in context.auth_context().get("x509_pem_cert", ()):
            peer = parse_peer(bytes(pem))
            return directory.authenticate(peer.fingerprint, peer.spiffe_uri, now)
        return self._plaintext(directory)

    def _plaintext(self, directory: Directory) -> Caller:
        agent = directory.by_name(IdentityKind.AGENT, self._plaintext_agent) if self._plaintext_agent else None
        if agent is not None and agent.revoked is None:
            for fingerprint in directory.valid_fingerprints(agent.id, self._parts.clock()):
                return Caller(agent, directory.certificates[fingerprint])
        raise UnauthenticatedError(
            "the connection carries no client certificate",
            reason="CERTIFICATE_MISSING",
            hint="Connect with mutual TLS: broker identity issue agent NAME --owner HUMAN",
        )

    async def authorise(self, caller: Caller, method: str, workspace: str | None = None) -> None:
        """Asks the policy about a method: whether the caller may use it at all, or in a workspace.

        Raises:
            PermissionDeniedError: names the rule.
        """
        where = NO_WORKSPACE if workspace is None else workspace
        request = PolicyRequest(caller.subject, where, method, "rpc", Tier.INTERNAL)
        decision = self._parts.policy.snapshot.decide(request)
        if decision.allowed:
            return
        body = journal.refusal_body(
            reason="POLICY_DENIED",
            rule=decision.rule,
            obj=method,
            workspace=where,
            tier=Tier.INTERNAL,
            owner=caller.identity.owner,
            policy=journal.decision_body(decision, caller.identity.id),
        )
        await self._refusals.record(caller.identity.id, body)
        raise PermissionDeniedError(
            f"{caller.subject} may not use {method}{'' if workspace is None else f' in {workspace}'}: {decision.reason}",
            reason="POLICY_DENIED",
            hint="Ask an operator for a rule that allows it.",
            metadata={
                "rule": decision.rule,
                "policy_digest": decision.policy_digest,
                "method": method,
                "workspace": where,
            },
        )
