"""Attacks on the ledger's table with plain SQL, from a connection with SQLite's default pragmas."""

# ruff: noqa: S608 - the attacks are constants of this file

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.ledger.ledger import Ledger
from broker.ledger.reader import verify_file
from broker.ledger.verdict import Expectation, Verdict
from broker.store.database import Database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "broker.db"
    Database.create(path)
    ledger = Ledger("origin", "boot_1", lambda: datetime(2026, 1, 1, tzinfo=UTC))
    with Database.open_sync(path) as database:
        database.write_sync(lambda tx: ledger.append(tx, "genesis", {}))
        for _ in range(4):
            database.write_sync(lambda tx: ledger.append(tx, "heartbeat", {}))
    return path


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as opened:
        assert opened.execute("PRAGMA recursive_triggers").fetchone() == (0,)
        yield opened


COLUMNS = "(seq, prev, leaf, data)"
VALUES = "SELECT seq, prev, leaf, x'00' FROM ledger_entry WHERE seq = 2"
NEXT_PREV = "(SELECT lower(hex(leaf)) FROM ledger_entry WHERE seq = 4)"
ATTACKS = {
    "update": "UPDATE ledger_entry SET data = x'00' WHERE seq = 2",
    "update of the number": "UPDATE ledger_entry SET seq = 99 WHERE seq = 4",
    "update of the row id": "UPDATE ledger_entry SET rowid = 99 WHERE rowid = 4",
    "update or replace": "UPDATE OR REPLACE ledger_entry SET seq = 2 WHERE seq = 3",
    "update or ignore": "UPDATE OR IGNORE ledger_entry SET data = x'00'",
    "update from": "UPDATE ledger_entry SET data = o.data FROM ledger_entry AS o WHERE o.seq = 1",
    "delete": "DELETE FROM ledger_entry WHERE seq = 4",
    "delete all": "DELETE FROM ledger_entry",
    "insert a used number": f"INSERT INTO ledger_entry {COLUMNS} {VALUES}",
    "insert or replace": f"INSERT OR REPLACE INTO ledger_entry {COLUMNS} {VALUES}",
    "replace": f"REPLACE INTO ledger_entry {COLUMNS} {VALUES}",
    "insert or ignore": f"INSERT OR IGNORE INTO ledger_entry {COLUMNS} {VALUES}",
    "insert or fail": f"INSERT OR FAIL INTO ledger_entry {COLUMNS} {VALUES}",
    "insert or rollback": f"INSERT OR ROLLBACK INTO ledger_entry {COLUMNS} {VALUES}",
    "upsert on the number": (
        f"INSERT INTO ledger_entry {COLUMNS} {VALUES} ON CONFLICT (seq) DO UPDATE SET data = x'00'"
    ),
    "upsert on anything": f"INSERT INTO ledger_entry {COLUMNS} {VALUES} ON CONFLICT DO UPDATE SET data = x'00'",
    "upsert that does nothing": f"INSERT INTO ledger_entry {COLUMNS} {VALUES} ON CONFLICT DO NOTHING",
    "replace by a used prev": ("REPLACE INTO ledger_entry SELECT 5, prev, leaf, x'00' FROM ledger_entry WHERE seq = 2"),
    "a fork": f"INSERT INTO ledger_entry VALUES (5, '{'1' * 64}', randomblob(32), x'00')",
    "a gap": f"INSERT INTO ledger_entry VALUES (6, {NEXT_PREV}, randomblob(32), x'00')",
    "before the first": f"INSERT INTO ledger_entry VALUES (-1, {NEXT_PREV}, randomblob(32), x'00')",
    "without a number": f"INSERT INTO ledger_entry (prev, leaf, data) VALUES ({NEXT_PREV}, randomblob(32), x'00')",
    "text for bytes": f"INSERT INTO ledger_entry VALUES (5, {NEXT_PREV}, randomblob(32), 'text')",
    "a short hash": f"INSERT INTO ledger_entry VALUES (5, {NEXT_PREV}, randomblob(31), x'00')",
    "an entry too long": f"INSERT INTO ledger_entry VALUES (5, {NEXT_PREV}, randomblob(32), zeroblob(65536))",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_refused_by_the_database_itself(connection: sqlite3.Connection, path: Path, name: str) -> None:
    before = connection.execute("SELECT * FROM ledger_entry").fetchall()
    assert len(before) == 5
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(ATTACKS[name])
    assert connection.execute("SELECT * FROM ledger_entry").fetchall() == before
    assert verify_file(path).verdict is Verdict.OK


def test_what_is_refused_above_is_the_attack_and_not_the_statement(connection: sqlite3.Connection) -> None:
    prev = connection.execute(f"SELECT {NEXT_PREV}").fetchone()[0]
    leaf = hashlib.sha256(b"\x00{}").digest()
    connection.execute("INSERT INTO ledger_entry VALUES (5, ?, ?, x'7b7d')", (prev, leaf))
    assert connection.execute("SELECT count(*) FROM ledger_entry").fetchone() == (6,)


def _rewrite(path: Path, statement: str, values: tuple[object, ...] = ()) -> None:
    # What the owner of the file can do: take the triggers off, and put them back after.
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement, values)
        for _, sql in triggers:
            connection.execute(sql)


@pytest.mark.parametrize(
    ("statement", "verdict", "seq", "field"),
    [
        ("UPDATE ledger_entry SET data = replace(data, 'heartbeat', 'heartbeet') WHERE seq = 2", "tampered", 2, "data"),
        (
            "UPDATE ledger_entry SET data = CAST(replace(data, 'boot_1', 'boot_2') AS BLOB) WHERE seq = 2",
            "tampered",
            2,
            "leaf",
        ),
        ("UPDATE ledger_entry SET leaf = randomblob(32) WHERE seq = 3", "tampered", 3, "leaf"),
        ("UPDATE ledger_entry SET prev = lower(hex(randomblob(32))) WHERE seq = 1", "tampered", 1, "prev"),
        ("DELETE FROM ledger_entry WHERE seq = 0", "gapped", 0, "seq"),
        ("DELETE FROM ledger_entry WHERE seq = 2", "gapped", 2, "seq"),
        ("DELETE FROM ledger_entry WHERE seq BETWEEN 1 AND 3", "gapped", 1, "seq"),
        ("UPDATE ledger_entry SET seq = 9 WHERE seq = 4", "gapped", 4, "seq"),
        ("DELETE FROM ledger_entry", "truncated", None, "seq"),
    ],
)
def test_what_the_files_owner_changes_is_found(
    path: Path, statement: str, verdict: str, seq: int | None, field: str
) -> None:
    _rewrite(path, statement)
    report = verify_file(path)
    assert report.verdict == verdict
    assert report.place is not None
    assert (report.place.seq, report.place.field) == (seq, field)


def test_a_deleted_end_is_found_by_who_knows_the_head(path: Path) -> None:
    known = verify_file(path)
    assert known.head_seq == 4
    _rewrite(path, "DELETE FROM ledger_entry WHERE seq >= 3")
    assert verify_file(path).verdict is Verdict.OK, "nothing in the file can show it"
    report = verify_file(path, expected=Expectation(4, known.head_leaf))
    assert report.verdict is Verdict.TRUNCATED
    assert report.place is not None
    assert report.place.seq == 2


def test_swapped_entries_are_found(path: Path) -> None:
    _rewrite(path, "UPDATE ledger_entry SET seq = 5 - seq + 100 WHERE seq IN (2, 3)")
    _rewrite(path, "UPDATE ledger_entry SET seq = seq - 100 WHERE seq > 100")
    report = verify_file(path)
    assert report.verdict is Verdict.TAMPERED
    assert report.place is not None
    assert (report.place.seq, report.place.field) == (2, "seq")


def test_a_row_hidden_below_zero_is_found(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as owner:
        owner.execute("DROP TRIGGER ledger_entry_only_next")
        owner.execute(f"INSERT INTO ledger_entry {COLUMNS} SELECT -1, prev, leaf, data FROM ledger_entry WHERE seq = 2")
    report = verify_file(path)
    assert report.place is not None
    assert (report.verdict, report.place.seq) == (Verdict.MALFORMED, -1)
