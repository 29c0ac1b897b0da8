"""A broker that tells its past otherwise than before, and a client that remembers: over real gRPC and TLS."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import grpc
import pytest

from broker.client import (
    AsyncBroker,
    CallContext,
    CheckpointMemory,
    HistoryRewrittenError,
    RetryPolicy,
    UnsafeNoCheckpointMemory,
)
from broker.errors import FailedPreconditionError, InvalidArgumentError
from broker.v1 import tool_broker_pb2
from tests.fake_broker import HANG, Authority, FakeBroker, fake_broker, run
from tests.fake_broker import call as message
from tests.fake_log import Log, LogServicer, SigningKey

ORIGIN = "broker-1.example/ledger"


@pytest.fixture(scope="session")
def history_authority() -> Authority:
    return Authority.make("ca")


@pytest.fixture(scope="session")
def history_identity(history_authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return history_authority.write(tmp_path_factory.mktemp("identities") / "bot", "bot")


@pytest.fixture
def shown() -> LogServicer:
    """What the broker shows: a log of five entries."""
    return LogServicer(Log.make(ORIGIN))


@pytest.fixture
async def fake(history_authority: Authority, shown: LogServicer) -> AsyncIterator[FakeBroker]:
    async with fake_broker(history_authority, ledger=shown) as server:
        server.script.on("ListTools", tool_broker_pb2.ListToolsResponse())
        yield server


Connect: TypeAlias = Callable[..., "asynccontextmanager[AsyncBroker]"]


@pytest.fixture
def connect(fake: FakeBroker, history_identity: Path, tmp_path: Path) -> Connect:
    """Opens a client that remembers in this test's folder, as another process would after the last one's end."""

    @asynccontextmanager
    async def made(
        memory: CheckpointMemory | UnsafeNoCheckpointMemory | None = None, *, ca: bytes = b""
    ) -> AsyncIterator[AsyncBroker]:
        async with AsyncBroker.connect(
            fake.address,
            identity=history_identity,
            ca=ca or fake.authority.pem,
            context=CallContext(workspace="demo"),
            retry=RetryPolicy(attempts=2, total_s=5, initial_s=0.001, max_s=0.002),
            checkpoints=memory or CheckpointMemory(folder=tmp_path / "memory"),
        ) as broker:
            yield broker

    return made


async def call(broker: AsyncBroker) -> None:
    """Any request at all."""
    _ = [tool async for tool in broker.list_tools()]


async def refused(broker: AsyncBroker) -> HistoryRewrittenError:
    """The error with which the client refuses, and goes on refusing whatever is asked."""
    with pytest.raises(HistoryRewrittenError) as caught:
        await call(broker)
    for ask in (
        broker.status(),
        broker.run("python.run", {}),
        broker.upload(b"x"),
        broker.ledger.checkpoint(),
        broker.ledger.get(1),
    ):
        with pytest.raises(HistoryRewrittenError) as again:
            await ask
        assert again.value is caught.value
    return caught.value


def remembered(tmp_path: Path) -> str:
    """The note that the client has kept."""
    (path,) = (item for item in (tmp_path / "memory").iterdir() if item.is_file() and not item.name.startswith("."))
    return str(json.loads(path.read_text("utf-8"))["checkpoint"])


async def test_an_honest_log_is_followed_as_it_grows(shown: LogServicer, connect: Connect, tmp_path: Path) -> None:
    for size in (5, 6, 9, 9, 16, 300):
        shown.log.grow(size - len(shown.log.entries))
        shown.size = size
        async with connect() as broker:
            await call(broker)
        assert remembered(tmp_path) == shown.log.note(size).decode()
    assert (tmp_path / "memory").stat().st_mode & 0o777 == 0o700


async def test_a_rewritten_history_is_noticed_and_said_loudly(
    shown: LogServicer, connect: Connect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    honest = shown.log.note(5).decode()
    async with connect() as broker:
        await call(broker)
    rewritten = shown.log.fork(3, 6)
    shown.show(rewritten)
    async with connect() as broker:
        error = await refused(broker)
    assert (error.reason, error.remembered, error.shown) == ("HISTORY_REWRITTEN", honest, rewritten.note(9).decode())
    assert error.metadata["remembered_size"] == "5"
    assert "HISTORY IS NOT WHAT IT WAS" in str(error)
    assert [item.levelno for item in caplog.records if "HISTORY" in item.getMessage()] == [logging.ERROR]
    assert remembered(tmp_path) == honest, "the evidence must stay"


async def test_two_views_of_one_size_are_noticed(shown: LogServicer, connect: Connect) -> None:
    async with connect() as broker:
        await call(broker)
    shown.show(shown.log.fork(4, 1))
    async with connect() as broker:
        assert (await refused(broker)).reason == "HISTORY_REWRITTEN"


async def test_an_older_checkpoint_is_noticed_where_the_newer_one_is_gone(shown: LogServicer, connect: Connect) -> None:
    shown.show(shown.log.grow(4))
    async with connect() as broker:
        await call(broker)
    shown.size = 6
    async with connect() as broker:
        assert (await refused(broker)).reason == "HISTORY_ROLLED_BACK"


async def test_a_backup_that_went_on_is_noticed(shown: LogServicer, connect: Connect) -> None:
    shown.show(shown.log.grow(4))
    async with connect() as broker:
        await call(broker)
    restored = shown.log.fork(6, 1)
    lost = {"from": 6, "to": 8}
    restored.append("recovered", lost=lost, votes=[], checkpoint=shown.log.note(9).decode())
    shown.show(restored)
    async with connect() as broker:
        error = await refused(broker)
    assert error.reason == "HISTORY_ROLLED_BACK"
    assert "entries were lost: 6 to 8" in str(error)


async def test_no_checkpoint_any_more_is_noticed(shown: LogServicer, connect: Connect) -> None:
    async with connect() as broker:
        await call(broker)
    shown.refuse["GetCheckpoint"] = grpc.StatusCode.NOT_FOUND
    async with connect() as broker:
        assert (await refused(broker)).reason == "HISTORY_ROLLED_BACK"


@pytest.mark.parametrize("first", [True, False], ids=["at first sight", "later"])
async def test_a_forged_signature_is_noticed(
    shown: LogServicer, connect: Connect, tmp_path: Path, *, first: bool
) -> None:
    if not first:
        async with connect() as broker:
            await call(broker)
        shown.show(shown.log.grow(1))
    shown.sign = SigningKey(ORIGIN)
    async with connect() as broker:
        assert (await refused(broker)).reason == "CHECKPOINT_FORGED"
    assert not first or not (tmp_path / "memory").exists()


async def test_a_signature_by_the_right_key_of_another_text_is_noticed(shown: LogServicer, connect: Connect) -> None:
    def change(answer: object) -> object:
        answer.note = answer.note.replace(shown.log.text(5).encode(), shown.log.fork(2, 3).text(5).encode())
        return answer

    shown.change["GetCheckpoint"] = change
    async with connect() as broker:
        assert (await refused(broker)).reason == "CHECKPOINT_FORGED"


async def test_what_is_no_checkpoint_is_noticed(shown: LogServicer, connect: Connect) -> None:
    def change(answer: object) -> object:
        answer.note = b"nothing"
        return answer

    shown.change["GetCheckpoint"] = change
    async with connect() as broker:
        assert (await refused(broker)).reason == "CHECKPOINT_FORGED"


async def test_a_genesis_made_up_for_a_new_client_is_not_in_the_tree(shown: LogServicer, connect: Connect) -> None:
    attacker = Log.make(ORIGIN)

    def change(answer: object) -> object:
        answer.entries[0].data = attacker.entries[0]
        return answer

    shown.change["ListLedgerEntries"] = change
    shown.sign = attacker.key
    async with connect() as broker:
        assert (await refused(broker)).reason == "CHECKPOINT_FORGED"


async def test_another_ledger_behind_the_same_ca_is_noticed(shown: LogServicer, connect: Connect) -> None:
    async with connect() as broker:
        await call(broker)
    shown.show(Log.make("broker-2.example/ledger"))
    async with connect() as broker:
        error = await refused(broker)
    assert error.reason == "LEDGER_REPLACED"
    await asyncio.to_thread(Path(error.metadata["memory"]).unlink)  # what the hint says, for those who know why
    async with connect() as broker:
        await call(broker)


async def test_a_key_known_from_elsewhere_is_not_replaced_at_first_sight(
    shown: LogServicer, connect: Connect, tmp_path: Path
) -> None:
    other = Log.make(ORIGIN)
    async with connect(CheckpointMemory(tmp_path / "memory", key=other.key.vkey)) as broker:
        assert (await refused(broker)).reason == "CHECKPOINT_FORGED"
    async with connect(CheckpointMemory(tmp_path / "memory", key=shown.log.key.vkey)) as broker:
        await call(broker)
    with pytest.raises(InvalidArgumentError) as caught:
        CheckpointMemory(key="no key")
    assert caught.value.violations[0].field == "checkpoints.key"


async def test_history_rewritten_while_a_client_is_open_ends_its_calls(
    shown: LogServicer, connect: Connect, tmp_path: Path
) -> None:
    async with connect(CheckpointMemory(tmp_path / "memory", interval_s=0.02)) as broker:
        await call(broker)
        shown.show(shown.log.fork(2, 9))
        async with asyncio.timeout(20):
            while True:
                try:
                    await call(broker)
                except HistoryRewrittenError:
                    break
        await refused(broker)


async def test_a_rewritten_history_that_a_question_shows_ends_all_calls(shown: LogServicer, connect: Connect) -> None:
    async with connect() as broker:
        await call(broker)
        shown.show(shown.log.fork(2, 9))
        with pytest.raises(HistoryRewrittenError):
            await broker.ledger.prove(1)
        await refused(broker)


async def test_a_call_that_runs_when_it_is_noticed_is_still_cancelled(
    shown: LogServicer, connect: Connect, fake: FakeBroker
) -> None:
    fake.script.on("RunToolCall", run("RUNNING", HANG))
    fake.script.on("CreateToolCall", message("RUNNING"))
    fake.script.on("CancelToolCall", message("CANCELLED"))
    async with connect() as broker:
        async with broker.stream("python.run", {}) as events:
            await anext(events)
            shown.show(shown.log.fork(2, 9))
            with pytest.raises(HistoryRewrittenError):
                await broker.ledger.checkpoint()
        assert len(fake.script.sent("CancelToolCall")) == 1


async def test_rotated_keys_are_followed_and_others_are_not(shown: LogServicer, connect: Connect) -> None:
    async with connect() as broker:
        await call(broker)
    first = shown.log.key
    shown.log.rotate()
    shown.show(shown.log.grow(2))
    async with connect() as broker:
        await call(broker)
    shown.log.rotate()
    shown.log.append("signer.revoked", key=first.vkey, reason_commit="0" * 64)
    shown.show(shown.log.grow(1))
    async with connect() as broker:
        await call(broker)
    shown.show(shown.log.grow(1))
    shown.sign = first
    async with connect() as broker:
        assert (await refused(broker)).reason == "CHECKPOINT_FORGED"


async def test_a_rotation_that_the_old_key_did_not_sign_is_noticed(shown: LogServicer, connect: Connect) -> None:
    async with connect() as broker:
        await call(broker)
    shown.log.rotate(signed_by=SigningKey(ORIGIN))
    shown.show(shown.log.grow(1))
    async with connect() as broker:
        assert (await refused(broker)).reason == "CHECKPOINT_FORGED"


async def test_a_rotation_over_another_tree_is_noticed(shown: LogServicer, connect: Connect) -> None:
    other = shown.log.fork(2, 3)  # of the same size, signed by the same key
    other.rotate()
    shown.log.entries.append(other.entries[-1])
    shown.log.key = other.key
    shown.show(shown.log.grow(1))
    async with connect() as broker:
        assert (await refused(broker)).reason == "CHECKPOINT_FORGED"


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED])
async def test_a_broker_that_shows_no_checkpoints_is_used_and_it_is_said_once(
    shown: LogServicer, connect: Connect, tmp_path: Path, caplog: pytest.LogCaptureFixture, code: grpc.StatusCode
) -> None:
    caplog.set_level(logging.INFO)
    shown.refuse["GetCheckpoint"] = code
    async with connect(CheckpointMemory(tmp_path / "memory", interval_s=0.01)) as broker:
        for _ in range(20):
            await call(broker)
    said = [item for item in caplog.records if "isn't checked" in item.getMessage()]
    assert len(said) == 1
    assert shown.requests == ["GetCheckpoint"]


async def test_a_broker_that_stops_showing_checkpoints_is_told_with_a_warning(
    shown: LogServicer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect() as broker:
        await call(broker)
    shown.refuse["GetCheckpoint"] = grpc.StatusCode.UNIMPLEMENTED
    async with connect() as broker:
        await call(broker)
    assert [item.levelno for item in caplog.records if "isn't checked" in item.getMessage()] == [logging.WARNING]


async def test_a_broker_without_the_service_is_used(
    history_authority: Authority, history_identity: Path, tmp_path: Path
) -> None:
    async with fake_broker(history_authority) as old:
        old.script.on("ListTools", tool_broker_pb2.ListToolsResponse())
        async with AsyncBroker.connect(
            old.address,
            identity=history_identity,
            ca=history_authority.pem,
            context=CallContext(workspace="demo"),
            checkpoints=CheckpointMemory(tmp_path / "memory"),
        ) as broker:
            await call(broker)


async def test_calls_ask_for_no_checkpoint_of_their_own(shown: LogServicer, connect: Connect) -> None:
    async with connect() as broker:
        for _ in range(50):
            await call(broker)
    assert shown.requests.count("GetCheckpoint") == 1
    shown.requests.clear()
    async with connect() as broker:
        await call(broker)
    assert shown.requests == ["GetCheckpoint"], "what is remembered and unchanged needs no proof"


async def test_nothing_is_asked_or_kept_where_it_is_turned_off(
    shown: LogServicer, connect: Connect, tmp_path: Path
) -> None:
    async with connect(UnsafeNoCheckpointMemory()) as broker:
        await call(broker)
        assert shown.requests == []
        assert (await broker.ledger.prove(2)).entry.seq == 2
        shown.show(shown.log.fork(2, 9))
        with pytest.raises(HistoryRewrittenError):  # what it has seen itself it doesn't forget
            await broker.ledger.checkpoint()
    assert not (tmp_path / "memory").exists()


async def test_a_broker_that_fails_to_answer_holds_nobody_up(shown: LogServicer, connect: Connect) -> None:
    shown.refuse["GetCheckpoint"] = grpc.StatusCode.INTERNAL
    async with connect() as broker:
        await call(broker)


@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS])
async def test_a_proof_that_is_kept_back_counts_as_none(
    shown: LogServicer, connect: Connect, code: grpc.StatusCode
) -> None:
    async with connect() as broker:
        await call(broker)
    shown.show(shown.log.fork(2, 9))
    shown.refuse["GetConsistencyProof"] = code
    async with connect() as broker:
        error = await refused(broker)
    assert "can't show" in str(error)


async def test_a_damaged_memory_is_an_error_and_not_a_blank(connect: Connect, tmp_path: Path) -> None:
    async with connect() as broker:
        await call(broker)
    (path,) = (item for item in (tmp_path / "memory").iterdir() if item.is_file() and not item.name.startswith("."))
    path.write_text("{}")
    async with connect() as broker:
        with pytest.raises(FailedPreconditionError) as caught:
            await call(broker)
    assert caught.value.reason == "CHECKPOINT_MEMORY_DAMAGED"


async def test_a_folder_that_cannot_be_made_is_said_and_the_process_remembers(
    shown: LogServicer, connect: Connect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    memory = CheckpointMemory(tmp_path / "file" / "memory", interval_s=0.02)
    async with connect(memory) as broker:
        await call(broker)
        assert "no checkpoint can be remembered" in caplog.text
        shown.show(shown.log.fork(2, 9))
        with pytest.raises(HistoryRewrittenError):
            await broker.ledger.checkpoint()
