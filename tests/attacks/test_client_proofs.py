"""Proofs that don't show what they should, over real gRPC and TLS: the client hands none of them out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from broker.client import AsyncBroker, CheckpointMemory
from broker.errors import BrokerError
from broker.tlog.checkpoint import Checkpoint
from broker.v1 import ledger_pb2 as pb
from tests.fake_broker import Authority, fake_broker
from tests.fake_log import Log, LogServicer, leaf

ORIGIN = "broker-1.example/ledger"


@pytest.fixture(scope="session")
def proof_authority() -> Authority:
    return Authority.make("ca")


@pytest.fixture
def shown() -> LogServicer:
    log = Log.make(ORIGIN, 5)
    for number in range(12):
        log.append("intent", agent=f"agt_{number % 4}", text=str(number))
    log.heads()
    return LogServicer(log.grow(2))


@pytest.fixture
async def broker(shown: LogServicer, proof_authority: Authority, tmp_path: Path) -> AsyncIterator[AsyncBroker]:
    identity = proof_authority.write(tmp_path / "bot", "bot")
    memory = CheckpointMemory(tmp_path / "memory")
    async with (
        fake_broker(proof_authority, ledger=shown) as server,
        AsyncBroker.connect(server.address, identity=identity, ca=proof_authority.pem, checkpoints=memory) as client,
    ):
        await client.ledger.checkpoint()
        yield client


async def test_honest_proofs_are_handed_out(shown: LogServicer, broker: AsyncBroker) -> None:
    proven = await broker.ledger.prove(7)
    assert (proven.entry.data, proven.checkpoint.size) == (shown.log.entries[7], 20)
    head = await broker.ledger.agent_head("agt_2")
    assert (head.seq, head.leaf) == shown.log.agents["agt_2"]
    absent = await broker.ledger.agent_head("agt_9")
    assert (absent.seq, absent.leaf) == (None, None)
    old = Checkpoint.parse(shown.log.text(6))
    assert (await broker.ledger.consistency(old)).checkpoint.size == 20


def swapped(field: str, value: Callable[[LogServicer], object]) -> Callable[[LogServicer, object], object]:
    def change(shown: LogServicer, answer: object) -> object:
        where, _, name = field.rpartition(".")
        target = getattr(answer, where) if where else answer
        setattr(target, name, value(shown))
        return answer

    return change


def without_first_hash(_: LogServicer, answer: pb.InclusionProof) -> pb.InclusionProof:
    lines = answer.proof.split(b"\n")
    answer.proof = b"\n".join(lines[:2] + lines[3:])
    return answer


def another_entry(_: LogServicer, answer: pb.LedgerEntry) -> pb.LedgerEntry:
    data = answer.data.replace(b'"text":"2"', b'"text":"3"')
    return pb.LedgerEntry(name=answer.name, seq=answer.seq, data=data, leaf_hash=leaf(data), type=answer.type)


def less(shown: LogServicer, answer: pb.AgentHeadProof) -> pb.AgentHeadProof:
    # The chain's last entry but one is said to be the last: an extract that lacks the last would look complete.
    earlier = max(
        (entry["agent"]["seq"], data)
        for data in shown.log.entries
        if (entry := json.loads(data)).get("agent", {}).get("id") == "agt_2"
        and entry["agent"]["seq"] < shown.log.agents["agt_2"][0]
    )
    answer.agent_seq, answer.agent_leaf_hash = earlier[0], leaf(earlier[1])
    return answer


LIES = [
    ("GetEntry", swapped("data", lambda _: b"{}")),
    ("GetEntry", another_entry),
    ("GetEntry", lambda shown, _: shown.entry(8)),
    ("GetInclusionProof", swapped("proof", lambda shown: shown.proof(8, 20))),
    ("GetInclusionProof", swapped("proof", lambda _: b"nothing")),
    ("GetInclusionProof", without_first_hash),
    ("GetInclusionProof", swapped("proof", lambda shown: shown.proof(7, 20).replace(b"index 7", b"index 6"))),
]
HEAD_LIES = [
    ("GetAgentHeadProof", less),
    ("GetAgentHeadProof", swapped("present", lambda _: False)),
    ("GetAgentHeadProof", swapped("agent", lambda _: "agt_1")),
    ("GetAgentHeadProof", swapped("map_proof_json", lambda _: "[]")),
    ("GetAgentHeadProof", swapped("map_proof_json", lambda _: "{}")),
    ("GetAgentHeadProof", lambda shown, answer: (answer.heads_entry.CopyFrom(shown.entry(19)), answer)[1]),
    ("GetAgentHeadProof", swapped("heads_proof.proof", lambda shown: shown.proof(16, 20))),
]


@pytest.mark.parametrize(("method", "lie"), LIES)
async def test_no_false_proof_of_an_entry_is_handed_out(
    shown: LogServicer, broker: AsyncBroker, method: str, lie: Callable[..., object]
) -> None:
    shown.change[method] = lambda answer: lie(shown, answer)
    with pytest.raises(BrokerError) as caught:
        await broker.ledger.prove(7)
    assert caught.value.reason in {"PROOF_INVALID", "PROTOCOL_ERROR"}


@pytest.mark.parametrize(("method", "lie"), HEAD_LIES)
async def test_no_false_end_of_a_chain_is_handed_out(
    shown: LogServicer, broker: AsyncBroker, method: str, lie: Callable[..., object]
) -> None:
    shown.change[method] = lambda answer: lie(shown, answer)
    with pytest.raises(BrokerError) as caught:
        await broker.ledger.agent_head("agt_2")
    assert caught.value.reason in {"PROOF_INVALID", "PROTOCOL_ERROR"}


async def test_the_end_of_another_agents_chain_is_no_answer(shown: LogServicer, broker: AsyncBroker) -> None:
    asked, other = "agt_" + "1" * 26, "agt_" + "2" * 26
    shown.log.append("intent", agent=asked)
    shown.log.append("intent", agent=other)
    shown.log.heads()
    shown.show(shown.log)
    assert (await broker.ledger.agent_head(asked)).seq == 0
    answers = {}
    shown.change["GetAgentHeadProof"] = lambda answer: answers.setdefault("kept", answer)
    await broker.ledger.agent_head(other)
    with pytest.raises(BrokerError) as caught:
        await broker.ledger.agent_head(asked)
    assert caught.value.reason == "PROTOCOL_ERROR"


async def test_an_old_checkpoint_of_another_history_is_not_extended(shown: LogServicer, broker: AsyncBroker) -> None:
    other = Checkpoint.parse(shown.log.fork(3, 9).text(9))
    with pytest.raises(BrokerError) as caught:
        await broker.ledger.consistency(other)
    assert caught.value.reason == "PROOF_INVALID"


async def test_pages_that_go_round_and_entries_in_no_order_end(shown: LogServicer, broker: AsyncBroker) -> None:
    def round_and_round(answer: pb.ListEntriesResponse) -> pb.ListEntriesResponse:
        answer.next_page_token = "again"  # noqa: S105 - a token of pages
        return answer

    shown.change["ListEntries"] = round_and_round
    with pytest.raises(BrokerError) as caught:
        _ = [entry async for entry in broker.ledger.list()]
    assert caught.value.reason == "PROTOCOL_ERROR"
