"""Approvals in memory, served over real gRPC, with a broker's honest answers and ways to make them lies.

Votes are read and verified as a broker does; who may vote is everybody with a key. Two people decide.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import grpc

from broker.domain.approval import FreezeScope, VoteDecision
from broker.domain.canonical import JsonObject, canonical, digest
from broker.domain.founding import FoundingContent, FoundingKey
from broker.domain.ids import new_id
from broker.domain.rendering import render
from broker.domain.statement import (
    VoteStatement,
    commitment,
    key_id,
    parse_acceptance,
    parse_vote,
)
from broker.signing import verify
from broker.v1 import approvals_pb2 as pb
from broker.v1 import tool_pb2
from broker.v1.approvals_pb2_grpc import ApprovalsServicer
from tests.fake_broker import Refuse, abort

NEEDED = 2
_OPEN = {pb.APPROVAL_STATE_PENDING, pb.APPROVAL_STATE_APPROVED}


def action_envelope(approval: str, parameters: JsonObject | None = None) -> JsonObject:
    """An envelope of an administrative action, as a broker writes it."""
    return {
        "format": "broker.approval-envelope.v1",
        "salt": "0f" * 32,
        "approval": approval,
        "kind": "ADMINISTRATION",
        "workspace": "-",
        "object": "broker.admin",
        "tier": 4,
        "requester": {"id": "hum_00000000000000000000000001", "name": "human:olivia"},
        "people": {"hum_00000000000000000000000001": "olivia"},
        "reason": "the old laptop is lost",
        "purpose": "",
        "requirement": {
            "people": NEEDED,
            "roles": [{"role": "approver", "people": NEEDED}],
            "channels": ["cli"],
            "min_signed": NEEDED,
            "expiry_s": 3600,
            "cooldown_s": 0,
            "max_pending": 10,
            "exclude_tool_owner": True,
        },
        "expires": "2026-12-31T08:00:00.000000Z",
        "reversibility": "exact",
        "on_failure": "none",
        "decision": None,
        "workflow": None,
        "call": None,
        "files": [],
        "action": {"name": "key.enroll", "parameters": parameters or {"person": "ada", "kind": "approver"}},
        "workflow_text": None,
        "difference": [],
    }


class FakeApprovals(ApprovalsServicer):
    """The service. ``change`` makes lies of answers, by method."""

    def __init__(self, origin: str = "broker-1", genesis_leaf: bytes = bytes(32)) -> None:
        self.origin, self.genesis_leaf = origin, genesis_leaf
        self.approvals: dict[str, pb.Approval] = {}
        self.keys: dict[str, pb.VoterKey] = {}
        self.accepted: set[str] = set()
        self.completed = ""
        self.completed_content = b""
        self.texts = {
            "policy": "p, one, role:approver, *, *, approve, 4, allow, approvers decide\n",
            "settings": '{"table":{"tiers":[{"name":"autonomous","tier":4}]},"unsafe":{"unsafe_chat_only_quorum":false}}',
            "tools": '{"tools":{"python.run":1}}',
        }
        """What the founding names by digest."""
        self.accounts: dict[str, pb.ChatAccount] = {}
        self.freezes: list[pb.Freeze] = []
        self.votes: list[tuple[VoteStatement, pb.CastVoteRequest | pb.CastAttestedVoteRequest]] = []
        self.acceptances: list[pb.AcceptFoundingRequest] = []
        self.requests: list[tuple[str, object]] = []
        self.change: dict[str, Callable] = {}
        self.breaks = 0
        """How many watches break after their first approvals."""

    # What tests prepare

    def enroll(self, name: str, public_key: bytes, *, bot: bool = False) -> str:
        """Enrols a key, and returns its holder's id."""
        holder = f"{'agt' if bot else 'hum'}_{name.encode().hex()[:20].ljust(26, '0')}"
        message = pb.VoterKey(
            name=f"voterKeys/{key_id(public_key)}",
            holder=holder,
            holder_name=f"{'agent' if bot else 'human'}:{name}",
            bot=bot,
            public_key=public_key,
        )
        message.enroll_time.FromDatetime(datetime(2026, 1, 1, 8, tzinfo=UTC))
        self.keys[message.name] = message
        return holder

    def ask(self, *, approval: str = "", parameters: JsonObject | None = None) -> str:
        """A request that waits, by id."""
        which = approval or new_id("apv")
        body = action_envelope(which, parameters)
        data, text = canonical(body), render(body)
        message = pb.Approval(
            name=f"approvals/{which}",
            kind=pb.APPROVAL_KIND_ADMINISTRATION,
            state=pb.APPROVAL_STATE_PENDING,
            subject="key.enroll",
            workspace="-",
            object="broker.admin",
            tier=tool_pb2.TIER_AUTONOMOUS,
            requester="hum_00000000000000000000000001",
            requester_name="human:olivia",
            envelope_digest=digest(data),
            rendering_digest=digest(text.encode()),
            envelope=data,
            rendering=text,
            may_vote=True,
            missing=["two people who approve it"],
            summary="ADMINISTRATION, key.enroll, tier 4, asked by human:olivia",
        )
        needed = message.requirement
        needed.people = needed.min_signed = NEEDED
        needed.channels.append(pb.VOTE_CHANNEL_CLI)
        needed.roles.add(role="approver", people=NEEDED)
        message.create_time.FromDatetime(datetime.now(UTC))
        message.expire_time.FromDatetime(datetime.now(UTC) + timedelta(hours=1, minutes=2, seconds=30))
        self.approvals[message.name] = message
        return which

    def founding(self) -> pb.Founding:
        keys = [key for key in self.keys.values() if not key.bot]
        genesis, texts = self.genesis_leaf.hex(), self.texts
        content = FoundingContent(
            genesis=genesis,
            last_seq=0,
            last_leaf=genesis,
            approvers=tuple(FoundingKey(key.holder, key.name.removeprefix("voterKeys/")) for key in keys),
            identities=(),
            policy=digest(texts["policy"].encode()),
            settings=digest(texts["settings"].encode()),
            tools=digest(texts["tools"].encode()),
        )
        present = self.completed or content.digest
        return pb.Founding(
            origin=self.origin,
            genesis_leaf=self.genesis_leaf,
            digest=present,
            founders=[pb.Founder(key=key, accepted=f"{key.holder} {present}" in self.accepted) for key in keys],
            accepted=len([item for item in self.accepted if item.endswith(present)]),
            needed=3,
            complete=bool(self.completed),
            content=self.completed_content if self.completed else content.encode(),
            texts=texts,
            names={key.holder: key.holder_name for key in keys},
        )

    # The service

    async def _answer(self, method: str, request: object, context: grpc.aio.ServicerContext, answer: object) -> object:
        self.requests.append((method, request))
        found = self.change[method](answer) if method in self.change else answer
        if isinstance(found, Refuse):
            await abort(context, found)
        return found

    def _find(self, name: str) -> pb.Approval | Refuse:
        found = self.approvals.get(name)
        return Refuse(grpc.StatusCode.NOT_FOUND, reason="APPROVAL_NOT_FOUND") if found is None else found

    async def GetApproval(self, request, context):  # noqa: ANN001, ANN201, N802
        return await self._answer("GetApproval", request, context, _copy(self._find(request.name)))

    async def ListApprovals(self, request, context):  # noqa: ANN001, ANN201, N802
        wanted = request.filter
        found = [
            _bare(item)
            for item in reversed(self.approvals.values())
            if (not wanted.states or item.state in wanted.states) and (not wanted.kinds or item.kind in wanted.kinds)
        ]
        return await self._answer("ListApprovals", request, context, pb.ListApprovalsResponse(approvals=found))

    async def WatchApprovals(self, request, context) -> AsyncIterator[pb.Approval]:  # noqa: ANN001, N802
        self.requests.append(("WatchApprovals", request))
        for item in list(self.approvals.values()):
            if item.state in _OPEN:
                yield _bare(item)
        if self.breaks:
            self.breaks -= 1
            if "WatchBreaks" in self.change:
                self.change["WatchBreaks"](None)
            await abort(context, Refuse(grpc.StatusCode.UNAVAILABLE, "Socket closed"))
        if "WatchApprovals" in self.change:
            for item in self.change["WatchApprovals"](None):
                yield item

    async def CastVote(self, request, context):  # noqa: ANN001, ANN201, N802
        return await self._answer("CastVote", request, context, self._cast(request))

    async def CastAttestedVote(self, request, context):  # noqa: ANN001, ANN201, N802
        return await self._answer("CastAttestedVote", request, context, self._cast(request))

    def _cast(self, request: pb.CastVoteRequest | pb.CastAttestedVoteRequest) -> pb.Approval | Refuse:
        approval, said = self._find(request.name), parse_vote(request.statement)
        if isinstance(approval, Refuse):
            return approval
        key = self.keys[f"voterKeys/{said.key}"]
        problems = {
            "signature": not verify(key.public_key, request.signature, request.statement),
            "reason": commitment(request.commit_salt, "reason", request.reason) != said.reason_commit,
            "approval": f"approvals/{said.approval}" != request.name or said.origin != self.origin,
            "digests": (said.envelope_digest, said.rendering_digest)
            != (approval.envelope_digest, approval.rendering_digest),
            "person": not said.attested and said.approver != key.holder,
        }
        if said.attested:
            account = request.account
            text = f"{account.service}\n{account.team}\n{account.user}"
            problems["account"] = commitment(request.commit_salt, "account", text) != said.account_commit
        if any(problems.values()):
            return Refuse(grpc.StatusCode.INVALID_ARGUMENT, f"wrong: {problems}", reason="STATEMENT_INVALID")
        self.votes.append((said, request))
        for vote in approval.votes:
            if vote.person == said.approver:
                vote.counts, vote.why_not = False, "a later vote takes its place"
        vote = approval.votes.add(
            number=len(approval.votes) + 1,
            person=said.approver,
            person_name=key.holder_name,
            decision=pb.VoteDecision.Value(f"VOTE_DECISION_{said.decision.name}"),
            channel=pb.VoteChannel.Value(f"VOTE_CHANNEL_{said.channel.name}"),
            key=said.key,
            reason=request.reason,
            counts=said.decision is not VoteDecision.WITHDRAW,
        )
        vote.cast_time.FromDatetime(said.time)
        agree = len([item for item in approval.votes if item.counts and item.decision == pb.VOTE_DECISION_APPROVE])
        state = pb.APPROVAL_STATE_APPROVED if agree >= NEEDED else pb.APPROVAL_STATE_PENDING
        approval.state = pb.APPROVAL_STATE_DENIED if said.decision is VoteDecision.DENY else state
        del approval.missing[:]
        if state == pb.APPROVAL_STATE_PENDING:
            approval.missing.append(f"{NEEDED - agree} more who approve it")
        return _bare(approval)

    async def CancelApproval(self, request, context):  # noqa: ANN001, ANN201, N802
        found = self._find(request.name)
        if isinstance(found, pb.Approval):
            found.state = pb.APPROVAL_STATE_CANCELLED
            found = _bare(found)
        return await self._answer("CancelApproval", request, context, found)

    async def RequestAdministration(self, request, context):  # noqa: ANN001, ANN201, N802
        which = self.ask(parameters=json.loads(request.parameters_json))
        made = self.approvals[f"approvals/{which}"]
        made.subject = request.action
        if not self.completed:
            made.state, made.result_json = pb.APPROVAL_STATE_USED, '{"done": true}'
        return await self._answer("RequestAdministration", request, context, _bare(made))

    async def SubmitWorkflow(self, request, context):  # noqa: ANN001, ANN201, N802
        made = self.approvals[f"approvals/{self.ask()}"]
        return await self._answer("SubmitWorkflow", request, context, _bare(made))

    async def CreateRunbook(self, request, context):  # noqa: ANN001, ANN201, N802
        made = self.approvals[f"approvals/{self.ask()}"]
        return await self._answer("CreateRunbook", request, context, _bare(made))

    async def ListWorkflows(self, request, context):  # noqa: ANN001, ANN201, N802
        one = pb.Workflow(
            name="workflows/report",
            digest="sha256:" + "a" * 64,
            tier=tool_pb2.TIER_REGULATED,
            text_json='{"owner": "ada"}',
        )
        return await self._answer("ListWorkflows", request, context, pb.ListWorkflowsResponse(workflows=[one]))

    async def GetFounding(self, request, context):  # noqa: ANN001, ANN201, N802
        found = self.founding()
        if not request.content:
            for part in ("content", "texts"):
                found.ClearField(part)
        return await self._answer("GetFounding", request, context, found)

    async def AcceptFounding(self, request, context):  # noqa: ANN001, ANN201, N802
        said, present = parse_acceptance(request.statement), self.founding()
        key = self.keys[f"voterKeys/{said.key}"]
        if said.founding_digest != present.digest or not verify(key.public_key, request.signature, request.statement):
            refusal = Refuse(grpc.StatusCode.INVALID_ARGUMENT, reason="SIGNATURE_INVALID")
            return await self._answer("AcceptFounding", request, context, refusal)
        self.acceptances.append(request)
        self.accepted.add(f"{said.approver} {present.digest}")
        if len([item for item in self.accepted if item.endswith(present.digest)]) >= 3:
            self.completed, self.completed_content = present.digest, present.content
        return await self._answer("AcceptFounding", request, context, self.founding())

    async def ListVoterKeys(self, request, context):  # noqa: ANN001, ANN201, N802
        answer = pb.ListVoterKeysResponse(keys=self.keys.values())
        return await self._answer("ListVoterKeys", request, context, answer)

    async def RevokeVoterKey(self, request, context):  # noqa: ANN001, ANN201, N802
        key = self.keys[request.name]
        key.revoke_time.FromDatetime(datetime.now(UTC))
        return await self._answer("RevokeVoterKey", request, context, key)

    async def CreateFreeze(self, request, context):  # noqa: ANN001, ANN201, N802
        made = pb.Freeze(scope=request.scope, target=request.target, by="hum_1", cancelled_calls=2)
        self.freezes.append(made)
        return await self._answer("CreateFreeze", request, context, made)

    async def ListFreezes(self, request, context):  # noqa: ANN001, ANN201, N802
        return await self._answer("ListFreezes", request, context, pb.ListFreezesResponse(freezes=self.freezes))

    async def GetChatAccount(self, request, context):  # noqa: ANN001, ANN201, N802
        known = self.accounts.get(request.user)
        answer = known or Refuse(grpc.StatusCode.NOT_FOUND, reason="ACCOUNT_UNKNOWN")
        return await self._answer("GetChatAccount", request, context, answer)


def scope(message: pb.CreateFreezeRequest) -> FreezeScope:
    """What a request freezes."""
    return FreezeScope[pb.FreezeScope.Name(message.scope).removeprefix("FREEZE_SCOPE_")]


def _copy(message: pb.Approval | Refuse) -> pb.Approval | Refuse:
    if isinstance(message, Refuse):
        return message
    copied = pb.Approval()
    copied.CopyFrom(message)
    return copied


def _bare(message: pb.Approval) -> pb.Approval:
    """Without content, as lists give it."""
    copied = pb.Approval()
    copied.CopyFrom(message)
    copied.ClearField("envelope")
    copied.ClearField("rendering")
    return copied
