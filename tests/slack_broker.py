"""The Approvals service as a bot meets it, over real gRPC and mutual TLS: approvals with real envelopes and renderings,
people with chat accounts, and votes that are verified as a broker verifies them.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import grpc

from broker.client.approval_models import ChatAccount
from broker.client.ballot import ACCOUNT, REASON, account_text
from broker.domain.approval import VoteDecision
from broker.domain.canonical import canonical, digest
from broker.domain.ids import new_id
from broker.domain.rendering import render
from broker.domain.statement import VoteStatement, commitment, key_id, parse_vote
from broker.errors import InvalidArgumentError
from broker.signing import verify
from broker.v1 import approvals_pb2 as pb
from broker.v1 import tool_pb2
from broker.v1.approvals_pb2_grpc import ApprovalsServicer, add_ApprovalsServicer_to_server
from broker.v1.ledger_pb2_grpc import add_LedgerServicer_to_server
from tests.approval_envelopes import approval_envelope
from tests.fake_broker import Authority, Refuse, abort
from tests.fake_log import Log, LogServicer, leaf

TEAM = "T0000ONE"
ADA, BO, CY = (f"hum_0000000000000000000000000{number}" for number in (1, 2, 3))
NAMES = {ADA: "human:ada", BO: "human:bo", CY: "human:cy"}
_DECISIONS = {
    VoteDecision.APPROVE: pb.VOTE_DECISION_APPROVE,
    VoteDecision.DENY: pb.VOTE_DECISION_DENY,
    VoteDecision.WITHDRAW: pb.VOTE_DECISION_WITHDRAW,
}
_OPEN = {pb.APPROVAL_STATE_PENDING, pb.APPROVAL_STATE_APPROVED}


def envelope(approval: str, content: str, *, workspace: str = "ops", obj: str = "broker.admin", tier: int = 3) -> bytes:
    """The envelope of an administrative action that has a text in its parameters."""
    made = approval_envelope("ADMINISTRATION")
    made |= {"approval": approval, "workspace": workspace, "object": obj, "tier": tier}
    made["action"] = {"name": "settings.change", "parameters": {"text": content}}
    return canonical(made)


@dataclass
class Approvals(ApprovalsServicer):
    """The service, and what a test changes of it."""

    origin: str = field(default_factory=lambda: new_id("brk"))
    """A ledger of its own: a client would notice another one under the same name."""
    genesis_leaf: bytes = b""
    bot_key: bytes = b""
    accounts: dict[tuple[str, str], str] = field(default_factory=lambda: {(TEAM, "UADA"): ADA, (TEAM, "UBO"): BO})
    eligible: set[str] = field(default_factory=lambda: {ADA, BO})
    kept: dict[str, pb.Approval] = field(default_factory=dict)
    statements: list[VoteStatement] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    casts: int = 0
    """How often a vote was tried."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(approval, voter) of each GetApproval."""
    refuse: dict[str, Refuse] = field(default_factory=dict)
    hold: dict[str, asyncio.Event] = field(default_factory=dict)
    """Methods that answer when their event is set."""
    watchers: set[asyncio.Queue[str]] = field(default_factory=set)
    watched: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when somebody watches."""

    def add(self, content: str = "limit = 3", *, tier: int = 3, slack: bool = True, **values: object) -> str:
        """Opens an approval, and gives its id."""
        identifier = new_id("apv")
        place = {
            name: str(values[key]) for name, key in (("workspace", "workspace"), ("obj", "object")) if key in values
        }
        data = envelope(identifier, content, tier=tier, **place)
        text = render(json.loads(data))
        now = datetime.now(UTC)
        channels = [pb.VOTE_CHANNEL_CLI, *([pb.VOTE_CHANNEL_SLACK] if slack else [])]
        message = pb.Approval(
            name=f"approvals/{identifier}",
            kind=pb.APPROVAL_KIND_ADMINISTRATION,
            state=pb.APPROVAL_STATE_PENDING,
            subject="settings.change",
            workspace="ops",
            object="broker.admin",
            tier=tool_pb2.Tier.Name(tier + 1),
            requester=CY,
            requester_name=NAMES[CY],
            requirement=pb.ApprovalRequirement(people=2, channels=channels),
            envelope_digest=digest(data),
            rendering_digest=digest(text.encode()),
            envelope=data,
            rendering=text,
            missing=["2 more people"],
            summary="ADMINISTRATION, settings.change, tier 3, asked by human:cy",
        )
        message.create_time.FromDatetime(now.replace(tzinfo=None))
        message.expire_time.FromDatetime((now + timedelta(hours=1)).replace(tzinfo=None))
        message.MergeFrom(pb.Approval(**values))
        self.kept[identifier] = message
        self.tell(identifier)
        return identifier

    def set(self, identifier: str, **values: object) -> None:
        """Changes an approval, and tells who watches."""
        for name in values:
            self.kept[identifier].ClearField(name)
        self.kept[identifier].MergeFrom(pb.Approval(**values))
        self.tell(identifier)

    def tell(self, identifier: str) -> None:
        for watcher in self.watchers:
            watcher.put_nowait(identifier)

    async def _begin(self, method: str, context: grpc.aio.ServicerContext) -> None:
        if method in self.hold:
            await self.hold[method].wait()
        if method in self.refuse:
            await abort(context, self.refuse[method])

    async def GetApproval(self, request, context) -> pb.Approval:  # noqa: ANN001, N802
        await self._begin("GetApproval", context)
        identifier = request.name.removeprefix("approvals/")
        self.asked.append((identifier, request.voter))
        if identifier not in self.kept:
            await abort(context, Refuse(grpc.StatusCode.NOT_FOUND, "no such approval", reason="APPROVAL_NOT_FOUND"))
        answer = self._without_content(identifier)
        if request.voter in self.eligible and answer.state in _OPEN:
            answer.CopyFrom(self.kept[identifier])
            answer.may_vote = True
        elif request.voter:
            answer.why_not = "you hold none of the roles that may approve this"
        return answer

    async def WatchApprovals(self, request, context) -> AsyncIterator[pb.Approval]:  # noqa: ANN001, ARG002, N802
        await self._begin("WatchApprovals", context)
        queue: asyncio.Queue[str] = asyncio.Queue()
        self.watchers.add(queue)
        self.watched.set()
        try:
            for identifier, message in list(self.kept.items()):
                if message.state in _OPEN:
                    yield self._without_content(identifier)
            while True:
                yield self._without_content(await queue.get())
        finally:
            self.watchers.discard(queue)

    async def GetChatAccount(self, request, context) -> pb.ChatAccount:  # noqa: ANN001, N802
        await self._begin("GetChatAccount", context)
        person = self.accounts.get((request.team, request.user))
        if request.service != "slack" or person is None:
            await abort(context, Refuse(grpc.StatusCode.NOT_FOUND, "no such account", reason="ACCOUNT_NOT_FOUND"))
        return pb.ChatAccount(
            service="slack", team=request.team, user=request.user, person=person, person_name=NAMES[person]
        )

    async def GetFounding(self, request, context) -> pb.Founding:  # noqa: ANN001, ARG002, N802
        await self._begin("GetFounding", context)
        return pb.Founding(origin=self.origin, genesis_leaf=self.genesis_leaf, needed=3)

    async def ListVoterKeys(self, request, context) -> pb.ListVoterKeysResponse:  # noqa: ANN001, ARG002, N802
        await self._begin("ListVoterKeys", context)
        key = pb.VoterKey(
            name=f"voterKeys/{key_id(self.bot_key)}",
            holder="agt_00000000000000000000000001",
            holder_name="agent:slack-bot",
            bot=True,
            public_key=self.bot_key,
        )
        return pb.ListVoterKeysResponse(keys=[key])

    async def CastAttestedVote(self, request, context) -> pb.Approval:  # noqa: ANN001, N802
        self.casts += 1
        await self._begin("CastAttestedVote", context)
        try:
            statement = self._verified(request)
            self._take(statement, request.reason)
        except Refuse as refusal:
            await abort(context, refusal)
        return self._without_content(statement.approval)

    def _verified(self, request: pb.CastAttestedVoteRequest) -> VoteStatement:
        try:
            statement = parse_vote(request.statement)
        except InvalidArgumentError as error:
            raise _no("STATEMENT_INVALID") from error
        account = ChatAccount(request.account.service, request.account.team, request.account.user)
        kept = self.kept.get(statement.approval)
        if not verify(self.bot_key, request.signature, request.statement) or statement.key != key_id(self.bot_key):
            raise _no("SIGNATURE_INVALID")
        if not statement.attested or statement.origin != self.origin:
            raise _no("STATEMENT_INVALID")
        if kept is None or request.name != f"approvals/{statement.approval}":
            raise _no("APPROVAL_NOT_FOUND")
        if self.accounts.get((account.team, account.user)) != statement.approver:
            raise _no("NOT_ELIGIBLE")
        if statement.account_commit != commitment(request.commit_salt, ACCOUNT, account_text(account)):
            raise _no("STATEMENT_INVALID")
        if statement.reason_commit != commitment(request.commit_salt, REASON, request.reason):
            raise _no("STATEMENT_INVALID")
        if (statement.envelope_digest, statement.rendering_digest) != (kept.envelope_digest, kept.rendering_digest):
            raise _no("DIGEST_DIFFERS")
        return statement

    def _take(self, statement: VoteStatement, reason: str) -> None:
        kept = self.kept[statement.approval]
        approves = statement.decision is VoteDecision.APPROVE
        if kept.state not in _OPEN:
            raise _no("APPROVAL_CLOSED")
        if statement.approver not in self.eligible:
            raise _no("VOTER_IN_LINEAGE")
        if approves and pb.VOTE_CHANNEL_SLACK not in kept.requirement.channels:
            raise _no("CHANNEL_REFUSED")
        own = [vote for vote in kept.votes if vote.person == statement.approver]
        if own and own[-1].decision == _DECISIONS[statement.decision]:
            raise Refuse(grpc.StatusCode.ALREADY_EXISTS, "that vote stands already", reason="ALREADY_VOTED")
        self.statements.append(statement)
        self.reasons.append(reason)
        for vote in own:
            vote.counts = False
        vote = kept.votes.add(
            number=len(kept.votes) + 1,
            person=statement.approver,
            person_name=NAMES[statement.approver],
            decision=_DECISIONS[statement.decision],
            channel=pb.VOTE_CHANNEL_SLACK,
            key=statement.key,
            reason=reason,
            counts=approves,
        )
        vote.cast_time.FromDatetime(statement.time.replace(tzinfo=None))
        agree = sum(item.counts for item in kept.votes)
        del kept.missing[:]
        if statement.decision is VoteDecision.DENY:
            kept.state = pb.APPROVAL_STATE_DENIED
            kept.close_time.FromDatetime(datetime.now(UTC).replace(tzinfo=None))
        elif agree >= kept.requirement.people:
            kept.state = pb.APPROVAL_STATE_APPROVED
        else:
            kept.missing.append(f"{kept.requirement.people - agree} more people")
        self.tell(statement.approval)

    def _without_content(self, identifier: str) -> pb.Approval:
        answer = copy.deepcopy(self.kept[identifier])
        answer.ClearField("envelope")
        answer.ClearField("rendering")
        return answer


@dataclass
class ApprovalsBroker:
    """A broker that can be stopped and started again at one address."""

    service: Approvals
    authority: Authority
    log: Log
    port: int = 0
    server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_ApprovalsServicer_to_server(self.service, server)
        add_LedgerServicer_to_server(LogServicer(self.log), server)
        certificate, key = self.authority.issue("server", server=True)
        credentials = grpc.ssl_server_credentials(
            [(key, certificate)], root_certificates=self.authority.pem, require_client_auth=True
        )
        self.port = server.add_secure_port(self.address, credentials)
        await server.start()
        self.server = server

    async def stop(self) -> None:
        server, self.server = self.server, None
        if server is not None:
            await server.stop(None)


@asynccontextmanager
async def approvals_broker(service: Approvals) -> AsyncIterator[ApprovalsBroker]:
    """A broker that runs."""
    log = Log.make(service.origin)
    service.genesis_leaf = leaf(log.entries[0])
    broker = ApprovalsBroker(service, Authority.make("ca"), log)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()


def _no(reason: str) -> Refuse:
    return Refuse(grpc.StatusCode.FAILED_PRECONDITION, f"the broker says {reason}", reason=reason)
