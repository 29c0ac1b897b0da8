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
from broker.client.checkpoint_memory import MemoryFolder, Remembered
from broker.client.history import FIRST_TRIES
from broker.errors import (
    BrokerError,
    CancelledCallError,
    DeadlineError,
    FailedPreconditionError,
    InvalidArgumentError,
    class_for_code,
)
from broker.tlog.note import Note
from broker.v1 import tool_broker_pb2
from tests.fake_broker import HANG, Authority, FakeBroker, Refuse, fake_broker, run
from tests.fake_broker import call as message
from tests.fake_log import Log, LogServicer, SigningKey

ORIGIN = "broker-1.example/ledger"
CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNAUTHENTICATED,
}
PROOFS = ["ListEntries", "GetInclusionProof", "GetConsistencyProof"]
by_code = pytest.mark.parametrize("code", CODES, ids=[code.name for code in CODES])


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


async def ended(broker: AsyncBroker) -> BrokerError:
    """The error with which the calls of an open client end."""
    async with asyncio.timeout(20):
        while True:
            try:
                await call(broker)
            except BrokerError as error:
                return error


def quick(tmp_path: Path, *, unproved_s: float = 0.03) -> CheckpointMemory:
    """Asks often, and bears little."""
    return CheckpointMemory(tmp_path / "memory", interval_s=0.005, unproved_s=unproved_s)


def rewrite(shown: LogServicer) -> None:
    """Another history, to be proved by each of the questions that there are: its key has changed too."""
    shown.log = shown.log.fork(2, 9)
    shown.log.rotate()
    shown.show(shown.log.grow(2))


def levels(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [item.levelno for item in caplog.records if item.name == "broker.client.history"]


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

    shown.change["ListEntries"] = change
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


# What is kept back, with every status that there is


@by_code
@pytest.mark.parametrize("question", PROOFS)
async def test_a_rewritten_history_whose_proof_is_kept_back_is_noticed_at_once(
    shown: LogServicer,
    connect: Connect,
    fake: FakeBroker,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    *,
    question: str,
    code: grpc.StatusCode,
) -> None:
    honest = shown.log.note(5).decode()
    async with connect() as broker:
        await call(broker)
    rewrite(shown)
    shown.refuse[question] = code
    sent = len(fake.script.requests)
    # A program that makes one request and ends must notice it too: nothing goes out before the check is decided.
    async with connect(quick(tmp_path, unproved_s=1000)) as broker:
        error = await refused(broker)
    assert error.reason == ("HISTORY_UNPROVED" if code in PASSING else "HISTORY_REWRITTEN")
    assert (error.remembered, error.shown) == (honest, shown.log.note(len(shown.log.entries)).decode())
    assert error.hint
    assert logging.ERROR in levels(caplog)
    assert len(fake.script.requests) == sent, "a request went out to a broker that is not believed"
    assert remembered(tmp_path) == honest


@by_code
async def test_a_rewritten_history_under_the_same_key_is_noticed_if_its_proof_is_kept_back(
    shown: LogServicer, connect: Connect, tmp_path: Path, code: grpc.StatusCode
) -> None:
    async with connect() as broker:
        await call(broker)
    shown.show(shown.log.fork(2, 9))
    shown.refuse["GetConsistencyProof"] = code
    async with connect(quick(tmp_path, unproved_s=1000)) as broker:
        error = await refused(broker)
    assert error.reason == ("HISTORY_UNPROVED" if code in PASSING else "HISTORY_REWRITTEN")


@by_code
@pytest.mark.parametrize("question", PROOFS)
async def test_a_rewritten_history_whose_proof_is_kept_back_ends_an_open_client(
    shown: LogServicer, connect: Connect, tmp_path: Path, question: str, code: grpc.StatusCode
) -> None:
    async with connect(quick(tmp_path)) as broker:
        await call(broker)
        shown.refuse[question] = code
        rewrite(shown)
        error = await ended(broker)
        assert error.reason == ("HISTORY_UNPROVED" if code in PASSING else "HISTORY_REWRITTEN")
        await refused(broker)


@by_code
@pytest.mark.parametrize("question", PROOFS[:2])
async def test_a_first_checkpoint_is_not_taken_while_its_proof_is_kept_back(
    shown: LogServicer, connect: Connect, tmp_path: Path, question: str, code: grpc.StatusCode
) -> None:
    shown.refuse[question] = code
    async with connect(quick(tmp_path, unproved_s=1000)) as broker:
        error = await refused(broker)
    assert error.reason == ("HISTORY_UNPROVED" if code in PASSING else "HISTORY_REWRITTEN")
    assert not (tmp_path / "memory").exists()


def check_no_checkpoint(error: BrokerError, code: grpc.StatusCode) -> None:
    """The error where something is remembered, and the latest checkpoint was refused with a status."""
    if code is grpc.StatusCode.NOT_FOUND:
        assert error.reason == "HISTORY_ROLLED_BACK"
    elif code in PASSING or code is grpc.StatusCode.DATA_LOSS:  # the broker is away, or says itself what is damaged
        assert type(error) is class_for_code(code.value[0])
        assert error.reason == "REFUSED"
    else:
        assert isinstance(error, HistoryRewrittenError)
        assert error.reason == "HISTORY_UNPROVED"
        assert "UnsafeNoCheckpointMemory()" in error.hint


@by_code
async def test_without_its_latest_checkpoint_a_broker_that_had_one_is_asked_nothing(
    shown: LogServicer,
    connect: Connect,
    fake: FakeBroker,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    *,
    code: grpc.StatusCode,
) -> None:
    async with connect() as broker:
        await call(broker)
    shown.refuse["GetCheckpoint"] = code
    sent = len(fake.script.requests)
    async with connect(quick(tmp_path, unproved_s=1000)) as broker:
        for _ in range(3):
            with pytest.raises(BrokerError) as caught:
                await call(broker)
            check_no_checkpoint(caught.value, code)
    assert len(fake.script.requests) == sent
    assert levels(caplog).count(logging.ERROR) == 1


@by_code
async def test_an_open_client_that_gets_no_checkpoint_any_more_ends(
    shown: LogServicer, connect: Connect, tmp_path: Path, code: grpc.StatusCode
) -> None:
    async with connect(quick(tmp_path)) as broker:
        await call(broker)
        shown.refuse["GetCheckpoint"] = code
        check_no_checkpoint(await ended(broker), code)


@by_code
async def test_where_nothing_is_remembered_a_broker_without_checkpoints_is_used_and_it_is_said_once(
    shown: LogServicer, connect: Connect, tmp_path: Path, caplog: pytest.LogCaptureFixture, code: grpc.StatusCode
) -> None:
    caplog.set_level(logging.INFO)
    shown.refuse["GetCheckpoint"] = code
    async with connect(quick(tmp_path)) as broker:
        await call(broker)
        if code not in {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED}:
            async with asyncio.timeout(20):
                while shown.requests.count("GetCheckpoint") < 4:
                    await call(broker)
        await call(broker)
    assert levels(caplog) == [logging.INFO]


async def test_the_hint_names_the_rule_that_denies_checkpoints(
    shown: LogServicer, connect: Connect, tmp_path: Path
) -> None:
    async with connect() as broker:
        await call(broker)
    denied = Refuse(grpc.StatusCode.PERMISSION_DENIED, reason="POLICY_DENIED", metadata={"rule": "no-ledger"})
    shown.refuse["GetCheckpoint"] = denied
    async with connect(quick(tmp_path)) as broker:
        error = await refused(broker)
        assert "rule no-ledger" in error.hint
        assert error.metadata["rule"] == "no-ledger"
    async with connect(UnsafeNoCheckpointMemory()) as broker:  # what the hint says
        await call(broker)


# What passes by itself


@pytest.mark.parametrize("code", sorted(PASSING - {grpc.StatusCode.UNAUTHENTICATED}, key=str))
@pytest.mark.parametrize("question", ["GetCheckpoint", *PROOFS])
async def test_a_restart_of_the_broker_during_the_first_check_goes_by_unnoticed(
    shown: LogServicer,
    connect: Connect,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    *,
    question: str,
    code: grpc.StatusCode,
) -> None:
    async with connect() as broker:
        await call(broker)
    shown.log.rotate()
    shown.show(shown.log.grow(2))
    shown.refuse[question], shown.times[question] = code, FIRST_TRIES - 1
    async with connect(quick(tmp_path, unproved_s=1000)) as broker:
        await call(broker)
    assert remembered(tmp_path) == shown.log.note(8).decode()
    # A checkpoint that is shown and for a second time not proved is no common restart.
    assert levels(caplog) == ([] if question == "GetCheckpoint" else [logging.ERROR])


async def test_an_open_client_bears_a_broker_that_is_away_for_a_while(
    shown: LogServicer, connect: Connect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(quick(tmp_path, unproved_s=1000)) as broker:
        await call(broker)
        shown.refuse["GetCheckpoint"] = grpc.StatusCode.UNAVAILABLE
        before = len(shown.requests)
        async with asyncio.timeout(20):
            while len(shown.requests) < before + 2 * FIRST_TRIES:
                await call(broker)
    assert levels(caplog) == []


@pytest.mark.parametrize(
    ("question", "code"),
    [
        ("GetCheckpoint", grpc.StatusCode.UNAVAILABLE),
        ("GetCheckpoint", grpc.StatusCode.INTERNAL),
        ("GetCheckpoint", grpc.StatusCode.PERMISSION_DENIED),
        ("GetConsistencyProof", grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_calls_go_on_as_soon_as_the_broker_shows_what_it_kept_back(
    shown: LogServicer, connect: Connect, tmp_path: Path, question: str, code: grpc.StatusCode
) -> None:
    async with connect() as broker:
        await call(broker)
    shown.refuse[question] = code
    shown.show(shown.log.grow(3))
    async with connect(CheckpointMemory(tmp_path / "memory", unproved_s=1e-6)) as broker:
        for _ in range(15):  # by now minutes lie between two checks: the request itself must bring one about
            with pytest.raises(BrokerError):
                await call(broker)
        shown.refuse.clear()
        await call(broker)
        assert remembered(tmp_path) == shown.log.note(8).decode()


async def test_what_was_shown_and_not_proved_is_kept_in_mind(
    shown: LogServicer, connect: Connect, tmp_path: Path
) -> None:
    async with connect(quick(tmp_path)) as broker:
        await call(broker)
        honest = shown.log
        shown.refuse["GetConsistencyProof"] = grpc.StatusCode.UNAVAILABLE
        shown.show(shown.log.fork(2, 9))
        assert (await ended(broker)).reason == "HISTORY_UNPROVED"
        shown.refuse.clear()
        shown.show(honest)  # as if nothing had been
        assert (await refused(broker)).reason == "HISTORY_REWRITTEN"


async def test_a_question_whose_checkpoint_is_not_proved_has_the_watch_ask_for_it(
    shown: LogServicer, connect: Connect, tmp_path: Path
) -> None:
    memory = CheckpointMemory(tmp_path / "memory", unproved_s=0.05)  # five minutes between two checks
    async with connect(memory) as broker:
        await call(broker)
        shown.refuse["GetConsistencyProof"] = grpc.StatusCode.UNAVAILABLE
        shown.show(shown.log.fork(2, 9))
        with pytest.raises(BrokerError):
            await broker.ledger.checkpoint()
        assert (await ended(broker)).reason == "HISTORY_UNPROVED"


async def test_what_an_honest_broker_could_not_prove_it_proves_later(
    shown: LogServicer, connect: Connect, tmp_path: Path
) -> None:
    async with connect() as broker:
        await call(broker)
        shown.refuse["GetConsistencyProof"] = grpc.StatusCode.UNAVAILABLE
        shown.show(shown.log.grow(4))
        with pytest.raises(BrokerError):
            await broker.ledger.checkpoint()
        shown.refuse.clear()
        shown.show(shown.log.grow(3))
        assert (await broker.ledger.checkpoint()).checkpoint.size == 12
    assert remembered(tmp_path) == shown.log.note(12).decode()


async def test_a_broker_that_never_answers_gets_no_request_where_something_is_remembered(
    shown: LogServicer, connect: Connect, fake: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.client.history.FIRST_CHECK_S", 0.02)
    async with connect() as broker:
        await call(broker)
    sent = len(fake.script.requests)
    shown.hang.add("GetCheckpoint")
    async with connect() as broker:
        with pytest.raises(DeadlineError) as caught:
            _ = [tool async for tool in broker.list_tools(timeout_s=0.3)]
    assert "nothing was asked" in str(caught.value)
    assert len(fake.script.requests) == sent


async def test_closing_lets_nothing_out_that_waits_for_the_check(
    shown: LogServicer, connect: Connect, fake: FakeBroker
) -> None:
    async with connect() as broker:
        await call(broker)
    sent = len(fake.script.requests)
    shown.hang.add("GetCheckpoint")
    async with connect() as broker:
        waiting = asyncio.create_task(call(broker))
        await shown.hung.wait()
    with pytest.raises(CancelledCallError) as caught:
        await waiting
    assert caught.value.reason == "CLIENT_CLOSED"
    assert len(fake.script.requests) == sent


# A latest checkpoint that isn't


def freeze(shown: LogServicer) -> None:
    """The latest is said to be what both histories begin with; proofs up to the remembered one come from a copy."""
    shown.copy = shown.log
    shown.show(shown.log.fork(3, 200), 3)


async def test_a_latest_checkpoint_that_is_smaller_than_the_remembered_one_is_noticed(
    shown: LogServicer, connect: Connect, tmp_path: Path
) -> None:
    honest = shown.log.note(5).decode()
    async with connect() as broker:
        await call(broker)
    freeze(shown)
    async with connect() as broker:
        error = await refused(broker)
    assert (error.reason, error.remembered) == ("HISTORY_ROLLED_BACK", honest)
    assert error.shown == shown.log.note(3).decode()
    assert remembered(tmp_path) == honest


async def test_it_is_noticed_while_a_client_is_open(shown: LogServicer, connect: Connect, tmp_path: Path) -> None:
    async with connect(quick(tmp_path)) as broker:
        await call(broker)
        freeze(shown)
        assert (await ended(broker)).reason == "HISTORY_ROLLED_BACK"


async def test_it_is_noticed_where_only_the_answer_says_which_ledger_it_is(
    shown: LogServicer, connect: Connect, fake: FakeBroker
) -> None:
    async with connect() as broker:
        await call(broker)
    freeze(shown)
    # By another set of CAs nothing is remembered, so what is remembered can't be looked up before the question.
    async with connect(ca=fake.authority.pem + Authority.make("another").pem) as broker:
        assert (await refused(broker)).reason == "HISTORY_ROLLED_BACK"


async def test_it_is_noticed_by_whoever_asks_for_the_latest_without_a_memory(
    shown: LogServicer, connect: Connect
) -> None:
    async with connect(UnsafeNoCheckpointMemory()) as broker:
        assert (await broker.ledger.checkpoint()).checkpoint.size == 5
        assert (await broker.ledger.checkpoint(3)).checkpoint.size == 3, "an older one may be asked for"
        freeze(shown)
        with pytest.raises(HistoryRewrittenError) as caught:
            await broker.ledger.checkpoint()
    assert caught.value.reason == "HISTORY_ROLLED_BACK"


@pytest.mark.parametrize("honest", [True, False])
async def test_a_larger_one_that_another_process_sees_meanwhile_is_asked_for_again(
    shown: LogServicer, connect: Connect, tmp_path: Path, *, honest: bool
) -> None:
    async with connect() as broker:
        await call(broker)
    folder, larger = MemoryFolder(tmp_path / "memory"), shown.log.grow(3)
    shown.copy = larger

    def moved(answer: object) -> object:
        known = folder.read(ORIGIN)
        assert known is not None
        if known.checkpoint.size == 5:
            folder.replace(known, Remembered(Note.parse(larger.note(8)), known.key_entries, known.authority))
            if honest:
                shown.show(larger)
        return answer

    shown.change["GetCheckpoint"] = moved
    shown.requests.clear()
    async with connect() as broker:
        if honest:
            await call(broker)
        else:
            assert (await refused(broker)).reason == "HISTORY_ROLLED_BACK"
    assert shown.requests.count("GetCheckpoint") == 2


@pytest.mark.parametrize("ask", ["check", "checkpoint", "prove"])
async def test_the_remembered_text_under_another_signature_is_not_handed_out(
    shown: LogServicer, connect: Connect, tmp_path: Path, ask: str
) -> None:
    async with connect() as broker:
        await call(broker)
        shown.sign = SigningKey(ORIGIN)
        if ask != "check":
            with pytest.raises(HistoryRewrittenError):
                await (broker.ledger.checkpoint() if ask == "checkpoint" else broker.ledger.prove(3))
            assert (await refused(broker)).reason == "CHECKPOINT_FORGED"
    async with connect() as broker:
        assert (await refused(broker)).reason == "CHECKPOINT_FORGED"
    assert remembered(tmp_path) == shown.log.note(5).decode()
