"""The part of the asynchronous client that asks for what people decide on, freezes, and knows chat accounts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from broker.client import approval_models as models
from broker.client import convert_approval as convert
from broker.client.approval_models import Approval, ChatAccount
from broker.client.base import Client
from broker.client.wire import arguments_json, resource, timestamp
from broker.domain.approval import FreezeScope
from broker.v1 import approvals_pb2 as pb


class RequestMethods(Client):
    """Administration, workflows, runbooks, freezes and chat accounts."""

    async def request_administration(
        self, action: str, parameters: Mapping[str, object], reason: str = "", *, timeout_s: float | None = None
    ) -> Approval:
        """Asks for an administrative action. Until the founding it is done at once, later when enough people agree."""
        request = pb.RequestAdministrationRequest(
            action=action, parameters_json=arguments_json(parameters), reason=reason
        )
        method = self._rpc.approvals.RequestAdministration
        return convert.approval(await self._rpc.ask(method, request, timeout_s=timeout_s, repeatable=False))

    async def request_tool_approval(
        self, version: str, reason: str = "", *, timeout_s: float | None = None
    ) -> Approval:
        """Asks for a tool that is held to be accepted; ``version`` is the digest that ``status`` names of it."""
        return await self.request_administration("tool.approve", {"digest": version}, reason, timeout_s=timeout_s)

    async def submit_workflow(
        self, name: str, digest: str = "", reason: str = "", *, timeout_s: float | None = None
    ) -> Approval:
        """Asks for a version of a workflow to be approved; without a digest, for the one that the broker has read."""
        request = pb.SubmitWorkflowRequest(name=resource("workflows", name), digest=digest, reason=reason)
        method = self._rpc.approvals.SubmitWorkflow
        return convert.approval(await self._rpc.ask(method, request, timeout_s=timeout_s, repeatable=False))

    async def list_workflows(self, *, timeout_s: float | None = None) -> tuple[models.Workflow, ...]:
        """The workflows that the broker has read, by name."""
        method = self._rpc.approvals.ListWorkflows
        reply = await self._rpc.ask(method, pb.ListWorkflowsRequest(), timeout_s=timeout_s)
        return tuple(convert.workflow(item) for item in reply.workflows)

    async def create_runbook(
        self,
        tool: str,
        arguments: Mapping[str, object],
        *,
        agent: str,
        expires: datetime,
        workspace: str = "",
        tool_version: str = "",
        workflow: str = "",
        reason: str = "",
        timeout_s: float | None = None,
    ) -> Approval:
        """Asks for a runbook: one exact call that an agent may make once, until ``expires``."""
        request = pb.CreateRunbookRequest(
            workspace=self._workspace(workspace),
            tool=resource("tools", tool),
            tool_version=tool_version,
            arguments_json=arguments_json(arguments),
            agent=agent,
            workflow=workflow,
            reason=reason,
            expire_time=timestamp(expires),
        )
        method = self._rpc.approvals.CreateRunbook
        return convert.approval(await self._rpc.ask(method, request, timeout_s=timeout_s, repeatable=False))

    # Freezes and chat accounts

    async def create_freeze(
        self, scope: FreezeScope, target: str = "", reason: str = "", *, timeout_s: float | None = None
    ) -> models.Freeze:
        """Freezes at once; freezing again what is frozen changes nothing. Two people end it, by administration."""
        request = pb.CreateFreezeRequest(scope=convert.scope_number(scope), target=target, reason=reason)
        method = self._rpc.approvals.CreateFreeze
        return convert.freeze(await self._rpc.ask(method, request, timeout_s=timeout_s, always=True))

    async def list_freezes(self, *, timeout_s: float | None = None) -> tuple[models.Freeze, ...]:
        """What is frozen, oldest first."""
        method = self._rpc.approvals.ListFreezes
        reply = await self._rpc.ask(method, pb.ListFreezesRequest(), timeout_s=timeout_s)
        return tuple(convert.freeze(item) for item in reply.freezes)

    async def get_chat_account(
        self, service: str, team: str, user: str = "", person: str = "", *, timeout_s: float | None = None
    ) -> ChatAccount:
        """Whom a bot knows by a chat account, or a person's account. Only a bot may ask."""
        request = pb.GetChatAccountRequest(service=service, team=team, user=user, person=person)
        method = self._rpc.approvals.GetChatAccount
        return convert.chat_account(await self._rpc.ask(method, request, timeout_s=timeout_s))
