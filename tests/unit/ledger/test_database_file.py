"""The SQLite file: made whole or not at all, never made in place of a lost one, opened only as it must be."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.domain.ports import Head, Transaction
from broker.errors import ConflictError, DataLossError, FailedPreconditionError, UnavailableError
from broker.store.database import Database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Database.create(tmp_path / "broker.db")
    return tmp_path / "broker.db"


def _set(tx: Transaction, agent: str = "agt_1") -> None:
    tx.ledger.set_agent_head(agent, Head(0, b"x" * 32), 0)


def test_a_new_database_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Database.create(tmp_path / "broker.db")
        with Database.open_sync(tmp_path / "broker.db") as database:
            database.write_sync(_set)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("broker.db", "broker.db-wal", "broker.db-shm", "broker.db-lock"), 0o600)


def test_nothing_but_the_database_is_left_by_its_making(path: Path) -> None:
    assert [file.name for file in path.parent.iterdir()] == ["broker.db"]


@pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
def test_a_database_is_never_made_over_another_or_its_log(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"broker.db{suffix}").write_bytes(b"something")
    with pytest.raises(ConflictError) as refused:
        Database.create(tmp_path / "broker.db")
    assert refused.value.reason == "STORE_EXISTS"
    assert (tmp_path / f"broker.db{suffix}").read_bytes() == b"something"


def test_a_missing_database_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError) as refused, Database.open_sync(tmp_path / "broker.db"):
        pytest.fail("it opened")
    assert refused.value.reason == "STORE_MISSING"
    assert "broker init" in refused.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "STORE_UNKNOWN_SCHEMA"), (b"not a database at all" * 100, "STORE_CORRUPT")]
)
def test_a_file_that_is_no_database_of_ours_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "broker.db"
    path.write_bytes(content)
    with pytest.raises(DataLossError) as refused, Database.open_sync(path):
        pytest.fail("it opened")
    assert refused.value.reason == reason


def _as_owner(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)


def test_another_schema_version_is_refused(path: Path) -> None:
    _as_owner(path, "UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(DataLossError) as refused, Database.open_sync(path):
        pytest.fail("it opened")
    assert refused.value.reason == "STORE_UNKNOWN_SCHEMA"
    assert "0099" in refused.value.message


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TRIGGER ledger_entry_no_update",
        "DROP TRIGGER ledger_entry_no_delete",
        "DROP TRIGGER ledger_entry_only_next",
        "CREATE TRIGGER extra AFTER INSERT ON ledger_entry BEGIN DELETE FROM call; END",
    ],
)
def test_a_database_with_other_triggers_is_refused(path: Path, statement: str) -> None:
    _as_owner(path, statement)
    with pytest.raises(DataLossError) as refused, Database.open_sync(path):
        pytest.fail("it opened")
    assert refused.value.reason == "STORE_SCHEMA_CHANGED"


def test_durability_does_not_hang_on_the_default_pragmas(path: Path) -> None:
    with Database.open_sync(path) as database:
        found = {
            name: database._connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "recursive_triggers", "secure_delete")
        }
    expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "recursive_triggers": 1, "secure_delete": 1}
    assert found == expected


def test_a_closed_database_takes_no_more(path: Path) -> None:
    with Database.open_sync(path) as database:
        pass
    with pytest.raises(UnavailableError) as refused:
        database.write_sync(_set)
    assert refused.value.reason == "STORE_CLOSED"


def test_what_is_queued_is_written_before_the_end(path: Path) -> None:
    with Database.open_sync(path) as database:
        futures = [database._writer.submit(lambda tx, n=n: _set(tx, f"agt_{n}")) for n in range(200)]
    assert all(future.done() and future.exception() is None for future in futures)
    with Database.open_sync(path) as database:
        assert database.read_sync(lambda tx: tx.ledger.agent_head("agt_199")) is not None


async def test_the_data_version_shows_what_another_process_commits(path: Path) -> None:
    async with Database.open(path) as database:
        before = database.data_version()
        _as_owner(path, "INSERT INTO refusal VALUES ('a', 'k', '', '', 1, x'00')")
        assert database.data_version() != before


async def test_the_data_version_changes_with_nothing_but_commits(path: Path) -> None:
    def fail(tx: Transaction) -> None:
        _set(tx)
        raise KeyError

    async with Database.open(path) as database:
        before = database.data_version()
        await database.read(lambda tx: tx.ledger.head())
        with pytest.raises(KeyError):
            await database.write(fail)
        assert database.data_version() == before


async def test_erased_bytes_are_gone_from_all_files_after_a_scrub(path: Path) -> None:
    mark = b"these bytes must go"
    async with Database.open(path) as database:
        await database.write(lambda tx: tx.refusals.bump("agt_1", "k", datetime(2026, 1, 1, tzinfo=UTC), mark))
        await database.write(lambda tx: tx.refusals.remove("agt_1", "k"))
        assert any(mark in file.read_bytes() for file in path.parent.iterdir())
        await database.scrub()
        assert not any(mark in file.read_bytes() for file in path.parent.iterdir())


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from broker.domain.ports import Head
from broker.errors import BrokerError
from broker.store.database import Database

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
with Database.open_sync(path) as database:
    database.write_sync(lambda tx: tx.ledger.set_agent_head("agt_before", Head(0, b"x" * 32), 0))
    size = path.with_name(path.name + "-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
    for agent in ("agt_during", "agt_after"):
        try:
            database.write_sync(lambda tx: tx.ledger.set_agent_head(agent, Head(0, b"x" * 32), 0))
            print("acknowledged", agent)
        except BrokerError as error:
            print(error.reason, type(error).__name__, error.message)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print("failed", database.failed)
"""


def test_after_a_commit_that_failed_nothing_more_is_taken(path: Path) -> None:
    # The log can't grow, so COMMIT itself fails: its writes may or may not be durable. The disk has room again after
    # that, and still nothing is written until somebody looks at what is there.
    ended = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=False)
    lines = ended.stdout.splitlines()
    assert lines.pop() == "failed True", ended.stderr
    assert len(lines) == 2, ended.stderr
    for line in lines:
        assert line.startswith("STORE_FAILED UnavailableError a COMMIT failed"), line
        assert "unknown" in line
    with Database.open_sync(path) as database:
        assert database.read_sync(lambda tx: tx.ledger.agent_head("agt_before")) is not None
        assert database.read_sync(lambda tx: tx.ledger.agent_head("agt_after")) is None
        database.write_sync(lambda tx: _set(tx, "agt_after"))
