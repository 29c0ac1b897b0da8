"""The Approvals service: thin, from wire to the pipeline's approvals and back."""

# ruff: noqa: N802 - methods have the wire's names

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from broker.domain.canonical import parse_object
from broker.domain.identity import Caller
from broker.pipeline.approval_sight import ApprovalSight
from broker.pipeline.approvals import Approvals
from broker.pipeline.runbooks import RunbookRequest
from broker.pipeline.safeguards import Safeguards
from broker.rpc import approval_wire as convert
from broker.rpc import wire
from broker.rpc.dispatch import Context
from broker.v1 import approvals_pb2 as pb
from broker.v1 import tool_pb2


class ApprovalsService:
    """Answers the methods of ``broker.v1.Approvals`` for callers that the gate let in."""

    def __init__(
        self,
        sight: ApprovalSight,
        approvals: Approvals,
        safeguards: Safeguards,
        *,
        origin: str,
        max_arguments_bytes: int,
    ) -> None:
        self._sight = sight
        self._approvals = approvals
        self._safeguards = safeguards
        self._origin = origin
        self._max_arguments_bytes = max_arguments_bytes

    async def GetApproval(self, caller: Caller, request: pb.GetApprovalRequest, _: Context) -> pb.Approval:
        """One approval with its content."""
        which = wire.resource_id(request.name, "approvals")
        return convert.approval_message(await self._sight.get(caller, which, request.voter))

    async def ListApprovals(
        self, caller: Caller, request: pb.ListApprovalsRequest, _: Context
    ) -> pb.ListApprovalsResponse:
        """A page of approvals."""
        size = wire.page_size(request.page_size)
        wanted = convert.wanted(request.filter, before=request.page_token, limit=size + 1)
        views = await self._sight.search(caller, wanted)
        page = views[:size]
        return pb.ListApprovalsResponse(
            approvals=[convert.approval_message(view) for view in page],
            next_page_token=page[-1].approval.id if len(views) > size else "",
        )

    async def WatchApprovals(
        self, caller: Caller, request: pb.WatchApprovalsRequest, _: Context
    ) -> AsyncGenerator[pb.Approval, None]:
        """Approvals as they change."""
        async with aclosing(self._sight.watch(caller, convert.wanted(request.filter))) as views:
            async for view in views:
                yield convert.approval_message(view)

    async def CastVote(self, caller: Caller, request: pb.CastVoteRequest, _: Context) -> pb.Approval:
        """Takes a signed vote."""
        return convert.approval_message(await self._approvals.cast(caller, convert.cast_of(request)))

    async def CastAttestedVote(self, caller: Caller, request: pb.CastAttestedVoteRequest, _: Context) -> pb.Approval:
        """Takes a vote that a bot attests."""
        return convert.approval_message(await self._approvals.cast(caller, convert.cast_of(request)))

    async def CancelApproval(self, caller: Caller, request: pb.CancelApprovalRequest, _: Context) -> pb.Approval:
        """Withdraws a request."""
        which = wire.resource_id(request.name, "approvals")
        return convert.approval_message(await self._approvals.cancel(caller, which))

    async def RequestAdministration(
        self, caller: Caller, request: pb.RequestAdministrationRequest, _: Context
    ) -> pb.Approval:
        """Asks for an administrative action."""
        parameters = parse_object(request.parameters_json, field="parameters_json", max_bytes=self._max_arguments_bytes)
        reason = convert.text(request.reason, "reason")
        view = await self._approvals.administrate(caller, request.action, parameters, reason)
        return convert.approval_message(view)

    async def SubmitWorkflow(self, caller: Caller, request: pb.SubmitWorkflowRequest, _: Context) -> pb.Approval:
        """Asks for a workflow's approval."""
        name = wire.resource_id(request.name, "workflows")
        reason = convert.text(request.reason, "reason")
        return convert.approval_message(await self._approvals.submit_workflow(caller, name, request.digest, reason))

    async def ListWorkflows(self, _: Caller, __: pb.ListWorkflowsRequest, ___: Context) -> pb.ListWorkflowsResponse:
        """The workflows that the operator's folder holds."""
        return pb.ListWorkflowsResponse(
            workflows=[
                pb.Workflow(
                    name=f"workflows/{name}",
                    digest=digest,
                    tier=tool_pb2.Tier.ValueType(tier + 1),
                    approved=approved is not None,
                    approval="" if approved is None else f"approvals/{approved.approval}",
                    text_json=json.dumps(text, ensure_ascii=False, sort_keys=True),
                )
                for name, digest, tier, approved, text in await self._approvals.workflows()
            ]
        )

    async def CreateRunbook(self, caller: Caller, request: pb.CreateRunbookRequest, _: Context) -> pb.Approval:
        """Asks for a runbook."""
        asked = RunbookRequest(
            workspace=request.workspace,
            tool=wire.resource_id(request.tool, "tools", "tool"),
            tool_version=request.tool_version,
            arguments=parse_object(request.arguments_json, field="arguments_json", max_bytes=self._max_arguments_bytes),
            agent=request.agent,
            workflow=request.workflow,
            reason=convert.text(request.reason, "reason"),
            expires=wire.moment(request.expire_time, "expire_time"),
        )
        return convert.approval_message(await self._approvals.create_runbook(caller, asked))

    async def GetFounding(self, _: Caller, request: pb.GetFoundingRequest, __: Context) -> pb.Founding:
        """How far the founding is, and what it covers where that is asked for."""
        return convert.founding_message(await self._safeguards.founding(content=request.content), self._origin)

    async def AcceptFounding(self, caller: Caller, request: pb.AcceptFoundingRequest, _: Context) -> pb.Founding:
        """Takes a founder's acceptance."""
        found = await self._safeguards.accept(caller, request.statement, request.signature)
        return convert.founding_message(found, self._origin)

    async def ListVoterKeys(self, _: Caller, __: pb.ListVoterKeysRequest, ___: Context) -> pb.ListVoterKeysResponse:
        """All keys."""
        keys = await self._safeguards.keys()
        return pb.ListVoterKeysResponse(keys=[convert.key_message(key, holder) for key, holder in keys])

    async def RevokeVoterKey(self, caller: Caller, request: pb.RevokeVoterKeyRequest, _: Context) -> pb.VoterKey:
        """Revokes a key at once."""
        which = wire.resource_id(request.name, "voterKeys")
        reason = convert.text(request.reason, "reason")
        return convert.key_message(*await self._safeguards.revoke(caller, which, reason))

    async def CreateFreeze(self, caller: Caller, request: pb.CreateFreezeRequest, _: Context) -> pb.Freeze:
        """Freezes at once."""
        convert.text(request.reason, "reason")
        made, ended = await self._safeguards.freeze(caller, convert.scope_of(request.scope), request.target)
        return convert.freeze_message(made, request.target, ended)

    async def ListFreezes(self, _: Caller, __: pb.ListFreezesRequest, ___: Context) -> pb.ListFreezesResponse:
        """What is frozen."""
        return pb.ListFreezesResponse(
            freezes=[convert.freeze_message(item, target) for item, target in await self._safeguards.freezes()]
        )

    async def GetChatAccount(self, caller: Caller, request: pb.GetChatAccountRequest, _: Context) -> pb.ChatAccount:
        """Whom a bot knows by a chat account."""
        found = await self._safeguards.account(caller, request.service, request.team, request.user, request.person)
        return convert.account_message(*found)
