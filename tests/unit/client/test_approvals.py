"""Voting by the client: what it signs, and above all what it doesn't."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from grpc import StatusCode

from broker.client import (
    Approval,
    ApprovalFilter,
    ApprovalState,
    AsyncBroker,
    Broker,
    ChatAccount,
    CheckpointMemory,
    HistoryRewrittenError,
    RetryPolicy,
    UnsafeNoCheckpointMemory,
    VoteDecision,
)
from broker.domain.approval import FreezeScope
from broker.domain.canonical import canonical, digest
from broker.domain.rendering import render
from broker.domain.statement import SeenCheckpoint, commitment, key_id, parse_acceptance
from broker.errors import BrokerError, DataLossError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from broker.signing import Ed25519Signer, verify
from broker.tlog.note import encode_base64
from broker.v1 import approvals_pb2 as pb
from tests.fake_approvals import FakeApprovals, action_envelope, scope
from tests.fake_broker import Authority, FakeBroker, Refuse, fake_broker, fake_broker_in_thread
from tests.fake_log import Log, LogServicer, leaf, root

ORIGIN = "broker-1"


@pytest.fixture
def log() -> LogServicer:
    return LogServicer(Log.make(ORIGIN))


@pytest.fixture
def service(log: LogServicer) -> FakeApprovals:
    return FakeApprovals(ORIGIN, leaf(log.log.entries[0]))


@pytest.fixture
def signer(service: FakeApprovals) -> Ed25519Signer:
    made = Ed25519Signer.generate()
    service.enroll("ada", made.public_key)
    return made


@pytest.fixture
async def server(authority: Authority, log: LogServicer, service: FakeApprovals) -> AsyncIterator[FakeBroker]:
    async with fake_broker(authority, ledger=log, approvals=service) as fake:
        yield fake


@pytest.fixture
def connect(server: FakeBroker, identity: Path, quick: RetryPolicy, tmp_path: Path) -> Callable[[], AsyncBroker]:
    def connect() -> AsyncBroker:
        memory = CheckpointMemory(folder=tmp_path / "memory")
        ca = server.authority.pem
        return AsyncBroker.connect(server.address, identity=identity, ca=ca, retry=quick, checkpoints=memory)

    return connect


@pytest.fixture
async def client(connect: Callable[[], AsyncBroker]) -> AsyncIterator[AsyncBroker]:
    async with connect() as broker:
        yield broker


async def test_a_vote_names_all_that_it_is_about(
    client: AsyncBroker, service: FakeApprovals, signer: Ed25519Signer, log: LogServicer
) -> None:
    approval = await client.get_approval(service.ask())
    done = await client.cast_vote(approval, VoteDecision.APPROVE, signer=signer, reason="it is hers")
    assert (done.state, done.missing) == (ApprovalState.PENDING, ("1 more who approve it",))
    [(said, request)] = service.votes
    assert (said.origin, said.approval, said.decision) == (ORIGIN, approval.id, VoteDecision.APPROVE)
    assert (said.envelope_digest, said.rendering_digest) == (approval.envelope_digest, approval.rendering_digest)
    assert said.rendering_digest == digest(render(action_envelope(approval.id)).encode())
    assert (said.key, said.approver) == (signer.id, next(iter(service.keys.values())).holder)
    assert said.checkpoint == SeenCheckpoint(5, encode_base64(root(log.log.leaves[:5])))
    assert said.reason_commit == commitment(request.commit_salt, "reason", "it is hers")
    assert verify(signer.public_key, request.signature, request.statement)
    assert b"hers" not in request.statement


async def test_each_vote_has_a_salt_of_its_own(
    client: AsyncBroker, service: FakeApprovals, signer: Ed25519Signer
) -> None:
    approval = await client.get_approval(service.ask())
    for decision in (VoteDecision.APPROVE, VoteDecision.WITHDRAW):
        await client.cast_vote(approval, decision, signer=signer)
    assert len({request.commit_salt for _, request in service.votes}) == 2


async def test_the_checkpoint_is_the_newest(
    client: AsyncBroker, service: FakeApprovals, signer: Ed25519Signer, log: LogServicer
) -> None:
    approval = await client.get_approval(service.ask())
    log.show(log.log.grow(4))
    await client.cast_vote(approval, VoteDecision.APPROVE, signer=signer)
    seen = service.votes[0][0].checkpoint
    assert seen is not None
    assert seen.size == 9


async def test_nobody_signs_for_a_ledger_that_was_rewritten(
    client: AsyncBroker, service: FakeApprovals, signer: Ed25519Signer, log: LogServicer
) -> None:
    approval = await client.get_approval(service.ask())
    log.show(log.log.fork(3, 6))
    with pytest.raises(HistoryRewrittenError):
        await client.cast_vote(approval, VoteDecision.APPROVE, signer=signer)
    assert service.votes == []


def _other_rendering(message: pb.Approval) -> pb.Approval:
    message.rendering = message.rendering.replace("ada", "eve")
    message.rendering_digest = digest(message.rendering.encode())
    return message


def _rendering_without_its_digest(message: pb.Approval) -> pb.Approval:
    message.rendering = message.rendering.replace("ada", "eve")
    return message


def _other_envelope(message: pb.Approval) -> pb.Approval:
    message.envelope = canonical(action_envelope(message.name.removeprefix("approvals/"), {"person": "eve"}))
    return message


def _envelope_and_its_digest(message: pb.Approval) -> pb.Approval:
    message.envelope_digest = digest(_other_envelope(message).envelope)
    return message


def _all_of_another(message: pb.Approval) -> pb.Approval:
    body = action_envelope("apv_00000000000000000000000009")
    message.envelope, message.rendering = canonical(body), render(body)
    message.envelope_digest, message.rendering_digest = digest(message.envelope), digest(message.rendering.encode())
    return message


def _another_kind(message: pb.Approval) -> pb.Approval:
    message.kind = pb.APPROVAL_KIND_CALL
    return message


def _unreadable(message: pb.Approval) -> pb.Approval:
    message.envelope = b'{"format": "broker.approval-envelope.v9"}'
    message.envelope_digest = digest(message.envelope)
    return message


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (_other_rendering, "RENDERING_DIFFERS"),
        (_rendering_without_its_digest, "DIGEST_DIFFERS"),
        (_other_envelope, "DIGEST_DIFFERS"),
        (_envelope_and_its_digest, "RENDERING_DIFFERS"),
        (_all_of_another, "CONTENT_DIFFERS"),
        (_another_kind, "CONTENT_DIFFERS"),
        (_unreadable, "RENDERING_DIFFERS"),
    ],
)
async def test_a_broker_that_lies_gets_no_approving_signature(
    client: AsyncBroker, service: FakeApprovals, lie: Callable[[pb.Approval], pb.Approval], reason: str
) -> None:
    watched = WatchedSigner()
    service.enroll("ada", watched.public_key)
    service.change["GetApproval"] = lie
    approval = await client.get_approval(service.ask())
    with pytest.raises(DataLossError) as refused:
        await client.cast_vote(approval, VoteDecision.APPROVE, signer=watched)
    assert refused.value.reason == reason
    assert (watched.signed, service.votes) == ([], [])


async def test_whoever_is_lied_to_can_still_say_no(client: AsyncBroker, service: FakeApprovals) -> None:
    watched = WatchedSigner()
    service.enroll("ada", watched.public_key)
    which = service.ask()
    service.change["GetApproval"] = _rendering_without_its_digest
    approval = await client.get_approval(which)
    done = await client.cast_vote(approval, VoteDecision.DENY, signer=watched)
    assert done.state is ApprovalState.DENIED
    assert [json.loads(item)["decision"] for item in watched.signed] == ["deny"]


async def test_what_comes_from_a_list_is_not_signed(
    client: AsyncBroker, service: FakeApprovals, signer: Ed25519Signer
) -> None:
    service.ask()
    [approval] = [item async for item in client.list_approvals()]
    with pytest.raises(InvalidArgumentError) as refused:
        await client.cast_vote(approval, VoteDecision.APPROVE, signer=signer)
    assert refused.value.reason == "CONTENT_MISSING"


async def test_an_answer_about_another_approval_is_none(client: AsyncBroker, service: FakeApprovals) -> None:
    first, second = service.ask(), service.ask()
    service.change["GetApproval"] = lambda _: service.approvals[f"approvals/{second}"]
    with pytest.raises(BrokerError) as refused:
        await client.get_approval(first)
    assert refused.value.reason == "PROTOCOL_ERROR"


async def test_a_key_that_is_not_enrolled_or_revoked_signs_nothing(
    client: AsyncBroker, service: FakeApprovals, signer: Ed25519Signer
) -> None:
    approval = await client.get_approval(service.ask())
    with pytest.raises(FailedPreconditionError) as unknown:
        await client.cast_vote(approval, VoteDecision.APPROVE, signer=Ed25519Signer.generate())
    await client.revoke_voter_key(signer.id, "lost")
    with pytest.raises(FailedPreconditionError) as revoked:
        await client.cast_vote(approval, VoteDecision.APPROVE, signer=signer)
    assert (unknown.value.reason, revoked.value.reason) == ("KEY_UNKNOWN", "KEY_REVOKED")
    assert service.votes == []


async def test_a_signer_that_signs_something_else_gets_nothing_out(client: AsyncBroker, service: FakeApprovals) -> None:
    class Broken(WatchedSigner):
        def sign(self, data: bytes) -> bytes:
            return super().sign(data + b" ")

    broken = Broken()
    service.enroll("ada", broken.public_key)
    with pytest.raises(FailedPreconditionError) as refused:
        await client.cast_vote(await client.get_approval(service.ask()), VoteDecision.DENY, signer=broken)
    assert (refused.value.reason, service.votes) == ("SIGNATURE_INVALID", [])


async def test_a_vote_whose_answer_got_lost_is_sent_again(
    client: AsyncBroker, service: FakeApprovals, signer: Ed25519Signer
) -> None:
    def lose(_: pb.Approval) -> Refuse:
        del service.change["CastVote"]
        return Refuse(StatusCode.UNAVAILABLE, "Socket closed")

    service.change["CastVote"] = lose
    await client.cast_vote(await client.get_approval(service.ask()), VoteDecision.APPROVE, signer=signer)
    first, second = (request for _, request in service.votes)
    assert (first.statement, first.signature) == (second.statement, second.signature)


@pytest.mark.usefixtures("signer")
async def test_a_bot_attests_whose_vote_it_carries(client: AsyncBroker, service: FakeApprovals) -> None:
    bot = Ed25519Signer.generate()
    service.enroll("slackbot", bot.public_key, bot=True)
    ada = next(iter(service.keys.values())).holder
    service.accounts["U1"] = pb.ChatAccount(service="slack", team="T1", user="U1", person=ada, person_name="ada")
    account = await client.get_chat_account("slack", "T1", "U1")
    approval = await client.get_approval(service.ask())
    done = await client.cast_attested_vote(approval, VoteDecision.DENY, signer=bot, account=account, reason="no")
    [(said, request)] = service.votes
    assert (said.attested, said.approver, said.key) == (True, ada, bot.id)
    assert said.account_commit == commitment(request.commit_salt, "account", "slack\nT1\nU1")
    assert [(vote.attested, vote.key) for vote in done.votes] == [(True, bot.id)]
    nobody = ChatAccount("slack", "T1", "U2")
    with pytest.raises(FailedPreconditionError):
        await client.cast_attested_vote(approval, VoteDecision.DENY, signer=bot, account=nobody)
    service.change["GetApproval"] = _other_rendering
    lied = await client.get_approval(approval.id)
    with pytest.raises(DataLossError):
        await client.cast_attested_vote(lied, VoteDecision.APPROVE, signer=bot, account=account)
    assert len(service.votes) == 1


async def found(service: FakeApprovals, signer: Ed25519Signer) -> list[Ed25519Signer]:
    """Three founders, the given one first."""
    others = [Ed25519Signer.generate(), Ed25519Signer.generate()]
    for name, other in zip(("ben", "cleo"), others, strict=True):
        service.enroll(name, other.public_key)
    return [signer, *others]


async def test_founders_accept_and_another_founding_is_told_from_it(
    client: AsyncBroker, connect: Callable[[], AsyncBroker], service: FakeApprovals, signer: Ed25519Signer
) -> None:
    signers = await found(service, signer)
    for one in signers:
        done = await client.accept_founding(await client.get_founding(), signer=one)
    assert (done.complete, done.accepted) == (True, 3)
    said = parse_acceptance(service.acceptances[0].statement)
    assert (said.founding_digest, said.origin, said.key) == (done.digest, ORIGIN, signer.id)
    await client.check_founding()
    service.completed = "sha256:" + "9" * 64
    approval_id = service.ask()
    async with connect() as later:
        approval = await later.get_approval(approval_id)
        for attempt in (
            later.check_founding,
            lambda: later.cast_vote(approval, VoteDecision.APPROVE, signer=signer),
            later.get_founding,
        ):
            with pytest.raises(DataLossError) as refused:
                await attempt()
            assert refused.value.reason == "FOUNDING_DIFFERS"
    assert service.votes == []


async def test_a_founding_that_was_in_force_is_never_replaced(
    client: AsyncBroker, service: FakeApprovals, signer: Ed25519Signer
) -> None:
    for one in await found(service, signer):
        await client.accept_founding(await client.get_founding(), signer=one)
    # A broker that says that nothing was in force, with a key more.
    service.completed = ""
    service.accepted.clear()
    service.enroll("eve", Ed25519Signer.generate().public_key)
    with pytest.raises(DataLossError) as refused:
        await client.accept_founding(await client.show_founding(), signer=signer)
    assert refused.value.reason == "FOUNDING_DIFFERS"
    assert len(service.acceptances) == 3


async def test_before_it_is_in_force_another_can_be_accepted(
    client: AsyncBroker, service: FakeApprovals, signer: Ed25519Signer
) -> None:
    await client.accept_founding(await client.get_founding(), signer=signer)
    service.enroll("ben", Ed25519Signer.generate().public_key)
    with pytest.raises(DataLossError):
        await client.get_founding()
    await client.accept_founding(await client.show_founding(), signer=signer)
    assert (await client.get_founding()).accepted == 1


async def test_what_has_changed_since_is_told_by_what_is_remembered(
    client: AsyncBroker, service: FakeApprovals, signer: Ed25519Signer
) -> None:
    await client.accept_founding(await client.get_founding(), signer=signer)
    assert await client.changes_since_accepted(await client.get_founding()) == ()
    before = digest(service.texts["policy"].encode())
    service.texts["policy"] += "g, human:mallory, role:approver, *\n"
    other = Ed25519Signer.generate()
    service.enroll("ben", other.public_key)
    shown = await client.show_founding()
    policy, key = await client.changes_since_accepted(shown), key_id(other.public_key)
    assert any("human:ben" in item and key in item and "which was not there" in item for item in policy)
    assert f"the policy: {digest(service.texts['policy'].encode())} instead of {before}" in policy


async def test_nobody_accepts_what_they_were_not_shown(
    client: AsyncBroker, service: FakeApprovals, signer: Ed25519Signer
) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        await client.accept_founding(await client.get_founding(content=False), signer=signer)
    assert refused.value.reason == "CONTENT_MISSING"
    assert service.acceptances == []


@pytest.mark.parametrize("part", ["policy", "settings", "tools"])
async def test_a_text_that_is_not_the_one_that_would_be_signed_is_told(
    client: AsyncBroker, service: FakeApprovals, signer: Ed25519Signer, part: str
) -> None:
    """The broker has one thing signed, and shows another."""

    def change(message: pb.Founding) -> pb.Founding:
        message.texts[part] = message.texts[part].replace("approvers", "nobody").replace("4", "3").replace("1", "4")
        return message

    service.change["GetFounding"] = change
    with pytest.raises(DataLossError) as refused:
        await client.accept_founding(await client.show_founding(), signer=signer)
    assert refused.value.reason == "FOUNDING_INVALID"
    assert service.acceptances == []


@pytest.mark.parametrize("lie", ["digest", "genesis", "origin", "key", "content", "spelling", "founder"])
async def test_a_false_founding_is_not_accepted(
    client: AsyncBroker, service: FakeApprovals, signer: Ed25519Signer, lie: str
) -> None:
    def change(message: pb.Founding) -> pb.Founding:
        match lie:
            case "digest":
                message.digest = "sha256:" + "1" * 64
            case "genesis":
                service.genesis_leaf = bytes(32)
                return service.founding()
            case "origin":
                message.origin = "broker-2"
            case "key":
                message.founders[0].key.holder = "hum_00000000000000000000000009"
            case "content":
                policy = json.loads(message.content)["policy"].encode()
                message.content = message.content.replace(policy, f"sha256:{'1' * 64}".encode())
            case "spelling":
                message.content = message.content.replace(b":", b": ", 1)
                message.digest = digest(message.content)
            case "founder":
                del message.founders[0]
        return message

    service.change["GetFounding"] = change
    with pytest.raises(DataLossError) as refused:
        await client.accept_founding(await client.show_founding(), signer=signer)
    assert refused.value.reason == "FOUNDING_INVALID"
    assert service.acceptances == []


async def test_a_key_under_another_name_is_no_answer(client: AsyncBroker, service: FakeApprovals) -> None:
    service.enroll("ada", bytes(32))
    service.keys["x"] = pb.VoterKey(name="voterKeys/sha256:" + "0" * 64, public_key=b"1" * 32)
    with pytest.raises(BrokerError) as refused:
        await client.list_voter_keys()
    assert refused.value.reason == "PROTOCOL_ERROR"


async def test_a_client_without_memory_pins_nothing(
    server: FakeBroker, identity: Path, quick: RetryPolicy, service: FakeApprovals, signer: Ed25519Signer
) -> None:
    unsafe = UnsafeNoCheckpointMemory()
    ca = server.authority.pem
    async with AsyncBroker.connect(server.address, identity=identity, ca=ca, retry=quick, checkpoints=unsafe) as one:
        await one.accept_founding(await one.get_founding(), signer=signer)
        service.enroll("ben", Ed25519Signer.generate().public_key)
        assert len((await one.get_founding()).founders) == 2


async def test_a_watch_that_breaks_loses_no_end(client: AsyncBroker, service: FakeApprovals) -> None:
    first, second = service.ask(), service.ask()
    service.breaks = 1

    def end(_: object) -> None:
        service.approvals[f"approvals/{first}"].state = pb.APPROVAL_STATE_DENIED

    service.change["WatchBreaks"] = end
    seen: list[tuple[str, ApprovalState]] = []
    async with aclosing(client.watch_approvals()) as changes:
        async for item in changes:
            seen.append((item.id, item.state))
            if len(seen) == 4:
                break
    pending, denied = ApprovalState.PENDING, ApprovalState.DENIED
    assert seen == [(first, pending), (second, pending), (first, denied), (second, pending)]


async def test_requests_say_what_is_meant(client: AsyncBroker, service: FakeApprovals) -> None:
    done = await client.request_administration("account.map", {"service": "slack", "user": "U1"}, "new")
    assert (done.state, done.result) == (ApprovalState.USED, {"done": True})
    asked = dict(service.requests)["RequestAdministration"]
    assert (asked.action, json.loads(asked.parameters_json)["user"], asked.reason) == ("account.map", "U1", "new")
    assert (await client.submit_workflow("report", reason="r")).state is ApprovalState.PENDING
    [workflow] = await client.list_workflows()
    assert (workflow.name, workflow.approved, workflow.text) == ("workflows/report", False, {"owner": "ada"})
    frozen = await client.create_freeze(FreezeScope.TOOL, "ops.deploy", "odd")
    assert (frozen.scope, frozen.target, frozen.cancelled_calls) == (FreezeScope.TOOL, "ops.deploy", 2)
    assert scope(dict(service.requests)["CreateFreeze"]) is FreezeScope.TOOL
    assert [item.target for item in await client.list_freezes()] == ["ops.deploy"]


async def test_a_freeze_gets_through_whatever_the_ledger_shows(
    client: AsyncBroker, service: FakeApprovals, log: LogServicer
) -> None:
    await client.list_freezes()
    log.show(log.log.fork(3, 6))
    with pytest.raises(HistoryRewrittenError):
        await client.ledger.checkpoint()
    with pytest.raises(HistoryRewrittenError):
        await client.list_freezes()
    await client.create_freeze(FreezeScope.ALL)
    assert len(service.freezes) == 1


async def test_filters_and_cancelling(client: AsyncBroker, service: FakeApprovals) -> None:
    first, second = service.ask(), service.ask()
    assert (await client.cancel_approval(first)).state is ApprovalState.CANCELLED
    pending = ApprovalFilter(states=(ApprovalState.PENDING,))
    assert [item.id async for item in client.list_approvals(pending)] == [second]
    with pytest.raises(NotFoundError):
        await client.cancel_approval("apv_00000000000000000000000009")


def test_the_synchronous_client_decides_alike(
    authority: Authority, identity: Path, quick: RetryPolicy, tmp_path: Path
) -> None:
    log = LogServicer(Log.make(ORIGIN))
    service, signer = FakeApprovals(ORIGIN, leaf(log.log.entries[0])), Ed25519Signer.generate()
    service.enroll("ada", signer.public_key)
    memory = CheckpointMemory(folder=tmp_path / "memory")
    with (
        fake_broker_in_thread(authority, log, service) as fake,
        Broker.connect(fake.address, identity=identity, ca=authority.pem, retry=quick, checkpoints=memory) as broker,
    ):
        broker.accept_founding(broker.get_founding(), signer=signer)
        broker.check_founding()
        which = service.ask()
        assert [item.id for item in broker.list_approvals()] == [which]
        approval: Approval = broker.get_approval(which)
        done = broker.cast_vote(approval, VoteDecision.DENY, signer=signer)
        assert done.state is ApprovalState.DENIED
        assert [key.id for key in broker.list_voter_keys()] == [signer.id]
        assert broker.create_freeze(FreezeScope.AGENT, "bot").scope is FreezeScope.AGENT


class WatchedSigner:
    """A signer that remembers what it was asked to sign."""

    def __init__(self) -> None:
        self._inner = Ed25519Signer.generate()
        self.signed: list[bytes] = []

    @property
    def id(self) -> str:
        return self._inner.id

    @property
    def public_key(self) -> bytes:
        return self._inner.public_key

    def sign(self, data: bytes) -> bytes:
        self.signed.append(data)
        return self._inner.sign(data)
