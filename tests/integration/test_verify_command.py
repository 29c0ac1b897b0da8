"""``broker ledger verify`` as the real program: on files, on a PostgreSQL database, with checkpoints and keys."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from broker.domain.ports import Transaction
from broker.ledger.bundle_format import Selection
from broker.ledger.ledger import Ledger
from broker.ledger.source import Reopen
from broker.ledger.source_kinds import how_to_open, open_source
from broker.ledger.verdict import Verdict
from broker.ledger.verifier import Known, verify_opened
from broker.store.base import SqlStore
from broker.store.opening import DatabaseTarget, create_store, open_store_sync
from broker.tlog.merkle import leaf_hash
from broker.tlog.note import Note
from tests.bundle_world import bundle_world, fill, members, pack
from tests.ledger_world import FIRST, checkpoint_of, heads_body
from tests.postgres_server import OWNER, PostgresServer
from tests.signing_support import ORIGIN, NumberedSigner, signed

_numbers = count()


def _run(*arguments: str | Path) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "broker.cli.main", "ledger", "verify", *map(str, arguments), "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.returncode, json.loads(ended.stdout)


def _fill(store: SqlStore, count: int) -> None:
    ledger = Ledger(ORIGIN, "boot_01", lambda: datetime(2026, 1, 1, tzinfo=UTC))

    def work(tx: Transaction) -> None:
        if tx.ledger.head() is None:
            ledger.append(tx, "genesis", {"checkpoint_key": str(FIRST.key)})
        for number in range(count):
            ledger.append(tx, "heartbeat", {"number": number}, agent=f"agt_{number % 3}")
        ledger.append(tx, "heads", heads_body(tx))

    store.write_sync(work)


def _sign(store: SqlStore, path: Path, signer: NumberedSigner = FIRST) -> Note:
    note = signed(store.read_sync(checkpoint_of), signer)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(note.encode())
    return note


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with a ledger of 42 entries, and the checkpoint of them."""
    target = DatabaseTarget(tmp_path / "state" / "broker.db")
    target.path.parent.mkdir()
    create_store(target)
    with open_store_sync(target) as store:
        _fill(store, 40)
        _sign(store, target.path.parent / "checkpoints" / "latest.note")
    return target.path.parent


def test_the_state_directory_with_its_checkpoints(state: Path) -> None:
    code, found = _run("--state", state)
    assert (code, found["verdict"], found["entries"]) == (0, "ok", 42)
    assert (found["checkpoints_checked"], found["checkpoint_size"], found["heads_checked"]) == (1, 42, 1)
    assert found["keys"] == [str(FIRST.key)]
    code, found = _run(state / "broker.db", "--key", str(FIRST.key), "--workers", "1")
    assert (code, found["checkpoints_checked"]) == (0, 1)
    code, found = _run(state / "broker.db", "--from", "20")
    assert (code, found["first"], found["entries"], found["root"], found["checkpoints_checked"]) == (0, 20, 22, "", 0)


def test_the_exit_code_of_each_verdict_by_checkpoint(state: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    shutil.copyfile(state / "broker.db", old)
    note = tmp_path / "notes" / "newer.note"
    with open_store_sync(DatabaseTarget(state / "broker.db")) as store:
        _fill(store, 5)
        _sign(store, note)
    assert _run(state / "broker.db", "--checkpoint", note)[0] == 0
    code, found = _run(old, "--checkpoint", note)
    assert (code, found["verdict"], found["place"]["seq"]) == (15, "rolled back", 41)
    assert _run(old, "--checkpoint", note, "--from", "5")[0] == 2
    code, found = _run(old, "--checkpoint", note, "--from", "5", "--key", str(FIRST.key))
    assert (code, found["verdict"]) == (15, "rolled back")
    other = NumberedSigner(9)
    code, found = _run(old, "--checkpoint", note, "--from", "5", "--key", str(other.key))
    assert (code, found["verdict"]) == (17, "wrong key")
    code, found = _run(old, "--key", str(other.key))
    assert (code, found["verdict"], found["place"]["field"]) == (17, "wrong key", "checkpoint_key")
    with open_store_sync(DatabaseTarget(old)) as store:
        _fill(store, 6)
    code, found = _run(old, "--checkpoint", note)
    assert (code, found["verdict"], found["place"]["field"]) == (11, "forked", "checkpoint")
    with open_store_sync(DatabaseTarget(old)) as store:
        _sign(store, note, other)
    code, found = _run(old, "--checkpoint", note)
    assert (code, found["verdict"]) == (17, "wrong key")


def test_a_restored_backup_is_caught_by_the_checkpoints_beside_it(state: Path) -> None:
    backup = (state / "broker.db").read_bytes()
    with open_store_sync(DatabaseTarget(state / "broker.db")) as store:
        _fill(store, 5)
        _sign(store, state / "checkpoints" / "latest.note")
    (state / "broker.db").write_bytes(backup)
    code, found = _run("--state", state)
    assert (code, found["verdict"]) == (15, "rolled back")


def test_a_copy_without_its_log_is_never_ok(state: Path, tmp_path: Path) -> None:
    with open_store_sync(DatabaseTarget(state / "broker.db")) as store:
        _fill(store, 5)
        shutil.copyfile(state / "broker.db", tmp_path / "copy.db")
    for options in ((), ("--from", "10"), ("--checkpoint", state / "checkpoints" / "latest.note")):
        code, found = _run(tmp_path / "copy.db", *options)
        assert (code, found["verdict"]) == (13, "truncated"), options
        assert "-wal" in found["place"]["why"]


@pytest.mark.parametrize(
    "arguments", [("--key", "no key"), ("--checkpoint", "/nowhere"), ("--checkpoint", __file__), ("--from", "-1")]
)
def test_a_wrong_use_is_exit_code_2(state: Path, arguments: tuple[str, ...]) -> None:
    assert _run("--state", state, *arguments)[0] == 2


def test_a_bundle_with_its_checkpoints(tmp_path: Path) -> None:
    path, extract = tmp_path / "full.zip", tmp_path / "range.zip"
    with bundle_world(tmp_path) as world:
        fill(world)
        world.export(path)
        world.export(extract, Selection(first=1, last=4))
        leaf = leaf_hash(members(extract)["entries.jsonl"].splitlines()[3]).hex()
        key = str(world.signer.key)
    code, found = _run(path, "--key", key)
    assert (code, found["verdict"], found["entries"], found["checkpoints_checked"]) == (0, "ok", 43, 3)
    assert _run(path, "--key", str(NumberedSigner(9).key))[0] == 17
    code, found = _run(extract, "--expect-seq", "3", "--expect-leaf", leaf)
    assert (code, found["verdict"], found["expected_head_checked"]) == (0, "ok", True)
    code, found = _run(extract, "--expect-seq", "3", "--expect-leaf", "f" * 64)
    assert (code, found["verdict"], found["place"]["seq"]) == (11, "forked", 3)
    for options in (("--expect-seq", "5"), ("--from", "20")):
        code, found = _run(extract, *options)
        assert (code, found["reason"]) == (2, "USAGE")
    files = members(path)
    lines = files["entries.jsonl"].splitlines(keepends=True)
    pack(path, {**files, "entries.jsonl": b"".join(lines[:-1])})
    code, found = _run(path)
    assert (code, found["verdict"], found["place"]["seq"]) == (13, "truncated", 42)
    pack(path, {**files, "entries.jsonl": b"".join([*lines[:5], lines[5].replace(b"call", b"cell"), *lines[6:]])})
    code, found = _run(path)
    assert (code, found["verdict"], found["place"]["seq"]) == (10, "tampered", 6)


@pytest.fixture
def database(postgres: PostgresServer, tmp_path: Path) -> tuple[str, DatabaseTarget]:
    name = f"verify_{next(_numbers)}"
    target = DatabaseTarget(tmp_path / "none.db", postgres.url(name, owner=OWNER))
    create_store(target, DatabaseTarget(tmp_path / "none.db", postgres.url(name, OWNER, owner=OWNER)))
    with open_store_sync(target) as store:
        _fill(store, 40)
        _sign(store, tmp_path / "held.note")
    return name, target


def test_a_postgresql_database(database: tuple[str, DatabaseTarget], tmp_path: Path) -> None:
    url = database[1].url
    code, found = _run(url, "--checkpoint", tmp_path / "held.note", "--key", str(FIRST.key))
    assert (code, found["verdict"], found["entries"], found["file"]) == (0, "ok", 42, url)
    assert found["checkpoints_checked"] == 1
    assert _run(url, "--from", "20")[1]["entries"] == 22


def test_a_postgresql_database_that_the_server_has_not(postgres: PostgresServer) -> None:
    url = postgres.url("verify_empty")
    code, found = _run(url)
    assert (code, found["verdict"]) == (14, "malformed")
    code, found = _run(url.replace("verify_empty", "verify_absent"))
    assert found["reason"] == "LEDGER_UNREACHABLE"


@pytest.mark.parametrize(
    ("statements", "verdict", "seq"),
    [
        (("UPDATE {} SET data = data || '\\x20' WHERE seq = 7",), Verdict.TAMPERED, 7),
        (("DELETE FROM {} WHERE seq = 7",), Verdict.GAPPED, 7),
        (("DELETE FROM {} WHERE seq > 30",), Verdict.TRUNCATED, 30),
    ],
)
def test_a_postgresql_database_that_its_superuser_changed(
    database: tuple[str, DatabaseTarget],
    postgres: PostgresServer,
    statements: tuple[str, ...],
    verdict: Verdict,
    seq: int,
) -> None:
    name, target = database
    with postgres.superuser(name) as connection:
        connection.execute("ALTER TABLE broker.ledger_entry DISABLE TRIGGER ALL")
        for statement in statements:
            connection.execute(statement.format("broker.ledger_entry").encode())
    report = verify_opened(lambda: open_source(how_to_open(target.url)), Known())
    assert report.place is not None
    assert (report.verdict, report.place.seq) == (verdict, seq)


def test_workers_read_a_postgresql_database(
    database: tuple[str, DatabaseTarget], small_runs: Callable[[], int], postgres: PostgresServer
) -> None:
    target = database[1]
    with open_store_sync(target) as store:
        for _ in range(4):
            _fill(store, 500)
    how = how_to_open(target.url)
    alone = verify_opened(lambda: open_source(how), Known())
    report = verify_opened(lambda: open_source(how), Known(), workers=2)
    assert report == alone
    assert (report.verdict, report.entries) == (Verdict.OK, 42 + 4 * 501)
    assert small_runs() == 4
    by_tcp = Reopen("postgresql", postgres.tcp_url(database[0]), "only for tests")
    assert "only for tests" not in repr(by_tcp)
    assert verify_opened(lambda: open_source(by_tcp), Known(), workers=2) == alone
    assert small_runs() == 8


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Makes runs of 512 entries; gives the number of summaries that came from workers."""
    from broker.ledger import segment_workers, verifier  # noqa: PLC0415 - patched

    taken: list[int] = []
    receive = segment_workers._receive

    def counted(process: Any) -> Any:  # noqa: ANN401 - a process, and its answer
        summary = receive(process)
        if summary is not None:
            taken.append(summary.first)
        return summary

    monkeypatch.setattr(segment_workers, "SEGMENT", 512)
    monkeypatch.setattr(verifier, "SEGMENT", 512)
    monkeypatch.setattr(segment_workers, "_receive", counted)
    return lambda: len(taken)
