"""A database that is only looked at: the same is read, and nothing of it is changed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.cli.init import create_state
from broker.cli.local import open_local
from broker.domain.ports import Transaction
from broker.errors import BrokerError, DataLossError, FailedPreconditionError
from broker.settings import StatePaths
from broker.store.looking import look_at
from broker.store.opening import DatabaseTarget


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("looked-at") / "state"
    create_state(place, operator="olivia", hosts=())
    return place


def _files(state: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in state.glob("broker.db*")}


def _head(tx: Transaction) -> int:
    head = tx.ledger.head()
    assert head is not None
    return head.seq


async def test_nothing_is_written_where_nobody_uses_it(state: Path) -> None:
    before = _files(state)
    async with look_at(DatabaseTarget(StatePaths(state).database)) as store:
        assert await store.read(_head) > 0
        assert _files(state) == before
    assert _files(state) == before


async def test_what_another_has_just_written_is_read(state: Path) -> None:
    async with look_at(DatabaseTarget(StatePaths(state).database)) as store:
        first = await store.read(_head)
        with open_local(state) as local:
            local.write(lambda tx: local.recorder.append(tx, "heartbeat", {"software": "x"}))
            assert await store.read(_head) == first + 1
            assert (state / "broker.db-wal").stat().st_size
        assert await store.read(_head) == first + 1


def _write(tx: Transaction) -> None:
    tx.workspace_keys.insert("demo", b"key", datetime.now(UTC))


async def test_either_store_refuses_a_reader_that_writes(target: DatabaseTarget) -> None:
    async with look_at(target) as store:
        assert await store.read(lambda tx: tx.ledger.head()) is None
        with pytest.raises(BrokerError) as caught:
            await store.read(_write)
        assert caught.value.reason == "STORE_READ_ONLY"


async def test_a_reader_that_writes_is_refused_beside_others(state: Path) -> None:
    async with look_at(DatabaseTarget(StatePaths(state).database)) as store:
        with open_local(state) as local:
            local.write(lambda tx: local.recorder.append(tx, "heartbeat", {"software": "x"}))
            with pytest.raises(BrokerError) as caught:
                await store.read(_write)
        assert caught.value.reason == "STORE_READ_ONLY"


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError):
        async with look_at(DatabaseTarget(tmp_path / "none.db")):
            pass
    (tmp_path / "other.db").write_bytes(b"nonsense" * 1000)
    async with look_at(DatabaseTarget(tmp_path / "other.db")) as store:
        with pytest.raises(DataLossError):
            await store.read(_head)
