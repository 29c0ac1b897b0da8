"""Reading a ledger from its file: beside a running broker, after a crash, and as a copy with or without its log."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.errors import InvalidArgumentError
from broker.ledger.ledger import Ledger
from broker.ledger.reader import open_ledger, verify_file
from broker.ledger.verdict import Verdict
from broker.ledger.wal import holds_commit
from broker.store.database import Database

LEDGER = Ledger("origin", "boot_1", lambda: datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "broker.db"
    path.parent.mkdir()
    Database.create(path)
    with Database.open_sync(path) as database:
        database.write_sync(lambda tx: LEDGER.append(tx, "genesis", {}))
        _more(database, 3)
    return path


def _more(database: Database, count: int) -> None:
    for _ in range(count):
        database.write_sync(lambda tx: LEDGER.append(tx, "heartbeat", {}))


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _copy(path: Path, *, log: bool) -> Path:
    target = path.parent.parent / "copy" / path.name
    target.parent.mkdir()
    shutil.copyfile(path, target)
    if log:
        shutil.copyfile(_log(path), _log(target))
    return target


def test_a_closed_ledger_is_read_and_nothing_is_left_beside_it(path: Path) -> None:
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    report = verify_file(path)
    assert (report.verdict, report.entries, report.head_seq) == (Verdict.OK, 4, 3)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
    copy = _copy(path, log=False)
    assert verify_file(copy) == report
    assert [file.name for file in copy.parent.iterdir()] == ["broker.db"]


def test_a_ledger_in_use_is_read_to_its_newest_entry(path: Path) -> None:
    with Database.open_sync(path) as database:
        _more(database, 5)
        assert verify_file(path).entries == 9
        _more(database, 1)
        assert verify_file(path).entries == 10
    assert verify_file(path).entries == 10


def test_a_copy_of_a_ledger_in_use_needs_its_log(path: Path) -> None:
    with Database.open_sync(path) as database:
        _more(database, 5)
        whole, cut = _copy(path, log=True), path.parent.parent / "cut" / path.name
        cut.parent.mkdir()
        shutil.copyfile(path, cut)
    report = verify_file(whole)
    assert (report.verdict, report.entries) == (Verdict.OK, 9)
    report = verify_file(cut)
    assert (report.verdict, report.entries) == (Verdict.TRUNCATED, 4)
    assert report.place is not None
    assert "-wal" in report.place.why
    with open_ledger(cut) as file:
        assert "-wal" in file.incomplete


def test_a_ledger_just_opened_is_marked_before_its_first_commit(path: Path) -> None:
    with Database.open_sync(path):
        copy = _copy(path, log=False)
    assert verify_file(copy).verdict is Verdict.TRUNCATED


def test_the_mark_stays_while_another_user_has_the_ledger_open(path: Path) -> None:
    with Database.open_sync(path) as database:
        with Database.open_sync(path) as other:
            _more(other, 2)
        _more(database, 2)
        copy = _copy(path, log=False)
    assert verify_file(copy).verdict is Verdict.TRUNCATED
    report = verify_file(path)
    assert (report.verdict, report.entries) == (Verdict.OK, 8)
    assert not _log(path).exists()


async def test_the_mark_stays_in_the_log_after_a_scrub(path: Path) -> None:
    async with Database.open(path) as database:
        await database.scrub()
        assert verify_file(path).verdict is Verdict.OK
        copy = _copy(path, log=False)
    assert verify_file(copy).verdict is Verdict.TRUNCATED


@pytest.mark.parametrize("position", [0, 4, 16, 24, 32, 40, 48, 56, 500])
def test_a_damaged_log_is_not_read_over(path: Path, position: int) -> None:
    with Database.open_sync(path) as database:
        _more(database, 5)
        copy = _copy(path, log=True)
    assert holds_commit(_log(copy))
    data = bytearray(_log(copy).read_bytes())
    data[position] ^= 0xFF
    _log(copy).write_bytes(data)
    assert not holds_commit(_log(copy))
    assert verify_file(copy).verdict in (Verdict.TRUNCATED, Verdict.MALFORMED)


@pytest.mark.parametrize("size", [0, 31, 32, 55, 4000])
def test_a_log_cut_before_its_first_commit_is_not_read_over(path: Path, size: int) -> None:
    with Database.open_sync(path) as database:
        _more(database, 5)
        copy = _copy(path, log=True)
    _log(copy).write_bytes(_log(copy).read_bytes()[:size])
    assert verify_file(copy).verdict is Verdict.TRUNCATED


CRASH = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from broker.ledger.ledger import Ledger
from broker.store.database import Database

ledger = Ledger("origin", "boot_2", lambda: datetime(2026, 1, 1, tzinfo=UTC))
with Database.open_sync(Path(sys.argv[1])) as database:
    for _ in range(5):
        database.write_sync(lambda tx: ledger.append(tx, "heartbeat", {}))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_ledger_whose_broker_was_killed_is_read_as_it_is(path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", CRASH, path], check=False)
    assert ended.returncode == -signal.SIGKILL
    before = {name: (path.parent / name).read_bytes() for name in ("broker.db", "broker.db-wal")}
    report = verify_file(path)
    assert (report.verdict, report.entries, report.boots) == (Verdict.OK, 9, 2)
    assert {name: (path.parent / name).read_bytes() for name in before} == before
    _log(path).unlink()
    report = verify_file(path)
    assert (report.verdict, report.entries) == (Verdict.TRUNCATED, 4)


def test_after_a_crash_the_next_clean_end_takes_the_mark_off(path: Path) -> None:
    subprocess.run([sys.executable, "-c", CRASH, path], check=False)
    with Database.open_sync(path):
        pass
    report = verify_file(_copy(path, log=False))
    assert (report.verdict, report.entries) == (Verdict.OK, 9)


def test_the_live_file_is_not_disturbed_by_its_reader(path: Path) -> None:
    with Database.open_sync(path) as database:
        for _ in range(20):
            _more(database, 1)
            verify_file(path)
        _more(database, 1)
    assert verify_file(path).entries == 25


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"SQLite format 3\x00" + b"\x00" * 5000])
def test_what_is_no_ledger_is_malformed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broker.db"
    path.write_bytes(content)
    report = verify_file(path)
    assert (report.verdict, report.entries) == (Verdict.MALFORMED, 0)
    assert report.place is not None
    assert (report.place.seq, report.place.field) == (None, "file")


def test_a_view_in_place_of_the_table_is_no_ledger(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE store_meta (key, value)")
        connection.execute("CREATE VIEW ledger_entry AS SELECT 0 AS seq, 1 AS prev, 2 AS leaf, 3 AS data")
    assert verify_file(path).verdict is Verdict.MALFORMED


def test_a_missing_file_is_a_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        verify_file(tmp_path / "broker.db")
    assert refused.value.reason == "LEDGER_MISSING"
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_page_is_told_with_its_place(path: Path) -> None:
    with Database.open_sync(path) as database:
        for _ in range(60):
            database.write_sync(lambda tx: LEDGER.append(tx, "heartbeat", {"x": "y" * 500}))
    data = bytearray(path.read_bytes())
    page = next(start for start in range(0, len(data), 4096) if b'"seq":40,' in data[start : start + 4096])
    data[page : page + 100] = b"\xff" * 100
    path.write_bytes(data)
    report = verify_file(path)
    assert report.verdict is Verdict.MALFORMED
    assert report.place is not None
    assert report.place.seq is not None
    assert 4 < report.place.seq <= 40


def test_one_changed_byte_of_a_copy_is_found_at_its_place(path: Path) -> None:
    copy = _copy(path, log=False)
    data = bytearray(copy.read_bytes())
    place = data.index(b'"seq":2,')
    data[place + 1] ^= 1
    copy.write_bytes(data)
    report = verify_file(copy)
    assert report.place is not None
    assert (report.verdict, report.place.seq, report.place.field) == (Verdict.TAMPERED, 2, "leaf")
