"""The part of the asynchronous client that looks after a running broker."""

from __future__ import annotations

from collections.abc import AsyncIterator

from broker.client import convert_service as convert
from broker.client import models, sandbox
from broker.client.base import Client
from broker.client.wire import resource
from broker.v1 import administration_pb2


class AdministrationMethods(Client):
    """Status, policy and identities."""

    async def status(self, *, timeout_s: float | None = None) -> models.BrokerStatus:
        """What the broker runs with."""
        request = administration_pb2.GetBrokerStatusRequest()
        return convert.status(
            await self._rpc.ask(self._rpc.administration.GetBrokerStatus, request, timeout_s=timeout_s)
        )

    async def sandbox_status(self, *, timeout_s: float | None = None) -> sandbox.SandboxStatus:
        """What the sandboxes do: the warm pool, the calls that hold a container, how calls ended, how long steps take."""
        request = administration_pb2.GetSandboxStatusRequest()
        return sandbox.sandbox_status(
            await self._rpc.ask(self._rpc.administration.GetSandboxStatus, request, timeout_s=timeout_s)
        )

    async def reload_policy(self, *, timeout_s: float | None = None) -> models.PolicyReload:
        """Has the policy read again.

        Raises:
            InvalidArgumentError: the policy doesn't pass its checks; the old one stays in force.
        """
        request = administration_pb2.ReloadPolicyRequest()
        reply = await self._rpc.ask(self._rpc.administration.ReloadPolicy, request, timeout_s=timeout_s)
        return models.PolicyReload(reply.policy_digest, reply.changed)

    async def list_identities(
        self, *, page_size: int = 0, timeout_s: float | None = None
    ) -> AsyncIterator[models.IdentityInfo]:
        """The identities that the broker knows, oldest first; pages by itself."""

        async def ask(token: str) -> administration_pb2.ListIdentitiesResponse:
            request = administration_pb2.ListIdentitiesRequest(page_size=page_size, page_token=token)
            return await self._rpc.ask(self._rpc.administration.ListIdentities, request, timeout_s=timeout_s)

        async for identity in self._rpc.pages(ask, lambda page: page.identities):
            yield convert.identity(identity)

    async def revoke_identity(self, name: str, reason: str, *, timeout_s: float | None = None) -> models.IdentityInfo:
        """Revokes an identity (``identities/...``) at once, open connections included."""
        request = administration_pb2.RevokeIdentityRequest(name=resource("identities", name), reason=reason)
        reply = await self._rpc.ask(
            self._rpc.administration.RevokeIdentity, request, timeout_s=timeout_s, repeatable=False
        )
        return convert.identity(reply)
