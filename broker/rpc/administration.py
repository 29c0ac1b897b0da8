"""The Administration service: thin, from wire to the rooms and back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from broker.approvals.authority import ApprovedActions
from broker.domain.identity import Caller, Identity, IdentityKind
from broker.domain.ports import Transaction
from broker.errors import NotFoundError
from broker.identity.directory import Directory
from broker.identity.registry import Registry
from broker.pipeline import policy_changes
from broker.pipeline.parts import Parts
from broker.pipeline.pipeline import Pipeline
from broker.rpc import wire
from broker.rpc.dispatch import Context
from broker.rpc.sandbox_status import sandbox_status
from broker.v1 import administration_pb2 as pb


@dataclass(frozen=True, slots=True)
class Boot:
    """This start of the broker."""

    version: str
    boot_id: str
    started: datetime


class AdministrationService:
    """Answers the methods of ``broker.v1.Administration`` for callers that the gate let in."""

    def __init__(self, parts: Parts, pipeline: Pipeline, boot: Boot) -> None:
        self._parts = parts
        self._pipeline = pipeline
        self._boot = boot
        self._registry = Registry(parts.ledger, parts.vault, ApprovedActions(parts.desk))

    async def GetBrokerStatus(self, _: Caller, __: pb.GetBrokerStatusRequest, ___: Context) -> pb.BrokerStatus:  # noqa: N802 - the wire's name
        """What the broker runs with."""
        head = await self._parts.store.read(lambda tx: tx.ledger.head())
        turns = self._pipeline.turns
        return pb.BrokerStatus(
            version=self._boot.version,
            origin=self._parts.origin,
            boot_id=self._boot.boot_id,
            start_time=wire.timestamp(self._boot.started),
            policy_digest=self._parts.policy.snapshot.digest,
            tools=len(self._parts.catalogue.names),
            running=turns.running,
            queued=turns.queued,
            ledger_seq=-1 if head is None else head.seq,
            held=self._held(),
        )

    def _held(self) -> list[pb.HeldChange]:
        held = [
            pb.HeldChange(action=item.action, digest=str(item.parameters["digest"]), weaker=item.weaker, tool=item.tool)
            for item in self._parts.held
        ]
        refused = self._parts.policy.last_error
        if refused is not None and refused.reason == "APPROVAL_REQUIRED":
            which = refused.metadata.get("digest", "")
            held.append(pb.HeldChange(action=policy_changes.ACTION, digest=which, weaker=[refused.message]))
        return held

    async def GetSandboxStatus(self, _: Caller, __: pb.GetSandboxStatusRequest, ___: Context) -> pb.SandboxStatus:  # noqa: N802 - the wire's name
        """What the pool holds, and what was counted since the start."""
        return sandbox_status(self._parts.sandboxes.status(), self._parts.meter)

    async def ReloadPolicy(self, _: Caller, __: pb.ReloadPolicyRequest, ___: Context) -> pb.ReloadPolicyResponse:  # noqa: N802 - the wire's name
        """Reads the policy again."""
        changed = await self._parts.policy.reload()
        return pb.ReloadPolicyResponse(policy_digest=self._parts.policy.snapshot.digest, changed=changed)

    async def ListIdentities(  # noqa: N802 - the wire's name
        self, _: Caller, request: pb.ListIdentitiesRequest, __: Context
    ) -> pb.ListIdentitiesResponse:
        """All identities, oldest first."""
        size = wire.page_size(request.page_size)
        directory = await self._parts.directory.current()
        now = self._parts.clock()
        rest = list(directory.identities.values())
        if request.page_token:
            # Identities are never removed, so the one that a page ended with is still there, at the same place.
            ids = [item.id for item in rest]
            if request.page_token not in ids:
                raise wire.refuse("page_token", "is not one that ListIdentities gave", "INVALID_PAGE_TOKEN")
            rest = rest[ids.index(request.page_token) + 1 :]
        page = rest[:size]
        return pb.ListIdentitiesResponse(
            identities=[_message(directory, item, now) for item in page],
            next_page_token=page[-1].id if len(rest) > size else "",
        )

    async def RevokeIdentity(  # noqa: N802 - the wire's name
        self, caller: Caller, request: pb.RevokeIdentityRequest, _: Context
    ) -> pb.Identity:
        """Revokes an identity, open connections included."""
        identity_id = wire.resource_id(request.name, "identities")

        def work(tx: Transaction) -> Identity:
            if tx.identities.get(identity_id) is None:
                raise NotFoundError(f"there is no identity {identity_id[:80]!r}", reason="IDENTITY_UNKNOWN")
            return self._registry.revoke_identity(
                tx, identity=identity_id, by=caller.identity.id, reason=request.reason, now=self._parts.clock()
            )

        revoked = await self._parts.store.write(work)
        return _message(await self._parts.directory.current(), revoked, self._parts.clock())


def _message(directory: Directory, identity: Identity, now: datetime) -> pb.Identity:
    kind = pb.IDENTITY_KIND_AGENT if identity.kind is IdentityKind.AGENT else pb.IDENTITY_KIND_HUMAN
    return pb.Identity(
        name=f"identities/{identity.id}",
        kind=kind,
        display_name=identity.name,
        owner=identity.owner,
        registrar=identity.registrar,
        fingerprints=directory.valid_fingerprints(identity.id, now),
        create_time=wire.timestamp(identity.created),
        revoke_time=wire.timestamp(identity.revoked),
    )
