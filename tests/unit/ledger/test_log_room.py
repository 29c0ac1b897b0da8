"""The log of a broker that serves has its length from the start, and holds what it would hold otherwise."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from broker.domain.ports import Head, Transaction
from broker.ledger.wal import holds_commit
from broker.store import log_room
from broker.store.database import Database

ROOM = 32 + 1100 * (24 + 4096)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Database.create(tmp_path / "broker.db")
    return tmp_path / "broker.db"


@pytest.fixture
async def serving(path: Path) -> AsyncIterator[Database]:
    async with Database.open(path) as database:
        await database.serve_alone()
        yield database


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def put(*agents: str) -> Callable[[Transaction], None]:
    def work(tx: Transaction) -> None:
        for agent in agents:
            tx.ledger.set_agent_head(agent, Head(0, b"x" * 32), 0)

    return work


def heads(path: Path) -> set[str]:
    def work(tx: Transaction) -> set[str]:
        return {agent for agent in ("agt_1", "agt_2", "agt_3") if tx.ledger.agent_head(agent)}

    with Database.open_sync(path) as database:
        return database.read_sync(work)


async def test_what_only_looks_something_up_makes_no_room(path: Path) -> None:
    async with Database.open(path) as database:
        await database.write(put("agt_1"))
        assert 0 < log_of(path).stat().st_size < ROOM


async def test_a_commit_does_not_lengthen_the_log(path: Path, serving: Database) -> None:
    assert log_of(path).stat().st_size == ROOM
    for number in range(50):
        await serving.write(put(f"agt_{number}"))
    assert log_of(path).stat().st_size == ROOM


async def test_a_log_that_was_emptied_gets_its_room_back_and_nothing_else(path: Path, serving: Database) -> None:
    await serving.write(put(*(f"agt_{number}" for number in range(2000))))
    assert any(log_of(path).read_bytes()[ROOM // 100 :])
    await serving.scrub()
    content = log_of(path).read_bytes()
    assert len(content) == ROOM
    assert not any(content[ROOM // 100 :])
    assert holds_commit(log_of(path))  # the mark that says that the log belongs to the file


async def test_what_is_in_the_log_stays_and_is_found_after_a_crash(path: Path, tmp_path: Path) -> None:
    async with Database.open(path) as database:
        await database.write(put("agt_1"))
        before = log_of(path).read_bytes()
        await database.serve_alone()
        assert log_of(path).read_bytes() == before + bytes(ROOM - len(before))
        await database.write(put("agt_2"))
        crashed = tmp_path / "crashed"
        crashed.mkdir()
        for name in (path.name, log_of(path).name):
            shutil.copy(path.with_name(name), crashed / name)
    assert heads(crashed / path.name) == heads(path) == {"agt_1", "agt_2"}


async def test_others_write_and_read_beside_it(path: Path, serving: Database) -> None:
    await serving.write(put("agt_1"))
    async with Database.open(path) as other:
        await other.write(put("agt_2"))
        await serving.scrub()
        await other.write(put("agt_3"))
        assert await serving.read(lambda tx: tx.ledger.agent_head("agt_3")) is not None
    assert heads(path) == {"agt_1", "agt_2", "agt_3"}


async def test_a_log_that_somebody_writes_is_left_alone_and_not_waited_for(path: Path) -> None:
    async with Database.open(path) as database:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            before = log_of(path).read_bytes()
            await database.serve_alone()
            assert log_of(path).read_bytes() == before
            other.execute("ROLLBACK")
        await database.write(put("agt_1"))
    assert heads(path) == {"agt_1"}


async def test_a_full_disk_leaves_the_log_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def full(descriptor: int, data: bytes, at: int) -> int:
        if at > ROOM // 2:
            raise OSError(28, "No space left on device")
        return real(descriptor, data, at)

    async with Database.open(path) as database:
        await database.write(put("agt_1"))
        before = log_of(path).read_bytes()
        monkeypatch.setattr(log_room.os, "pwrite", full)
        await database.serve_alone()
        assert log_of(path).read_bytes() == before
        await database.write(put("agt_2"))
    assert heads(path) == {"agt_1", "agt_2"}
