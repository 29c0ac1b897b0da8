"""``broker ledger verify`` and ``show``, as the real program, with the broker down."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.ledger.ledger import Ledger
from broker.store.database import Database

PROGRAM = """
import sys, typer
from broker.cli import ledger
from broker.cli.output import exit_code, report
from broker.errors import BrokerError
app = typer.Typer()
app.add_typer(ledger.app, name="ledger")
try:
    app(standalone_mode=True)
except BrokerError as error:
    report(error, as_json="--json" in sys.argv)
    sys.exit(exit_code(error))
"""


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, "ledger", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = tmp_path_factory.mktemp("state")
    Database.create(state / "broker.db")
    ledger = Ledger("origin", "boot_1", lambda: datetime(2026, 1, 1, tzinfo=UTC))
    with Database.open_sync(state / "broker.db") as database:
        for name, call in (("genesis", ""), ("decision", "call_1"), ("intent", "call_1"), ("intent", "call_2")):
            body = {"call_id": call, "tier": 1} if call else {}
            agent = "agt_1" if call else ""
            database.write_sync(lambda tx, n=name, b=body, a=agent: ledger.append(tx, n, b, agent=a))
    return state


def test_verify_says_count_head_and_root(state: Path) -> None:
    ended = _run("verify", "--state", state, "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["verdict"] == "ok"
    assert (found["entries"], found["head_seq"], found["open_intents"]) == (4, 3, [2, 3])
    assert len(found["head_leaf"]) == len(found["root"]) == 64
    text = _run("verify", state / "broker.db").stdout
    for word in ("ok", found["head_leaf"], found["root"], "origin", "entries"):
        assert word in text


def test_a_changed_byte_of_a_copy_is_found(state: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    shutil.copyfile(state / "broker.db", copy)
    data = bytearray(copy.read_bytes())
    data[data.index(b'"call_id":"call_2"') + 16] ^= 1
    copy.write_bytes(data)
    ended = _run("verify", copy)
    assert ended.returncode == 10
    assert "tampered" in ended.stdout
    assert "entry 3, leaf" in ended.stdout
    found = json.loads(_run("verify", copy, "--json").stdout)
    assert (found["verdict"], found["place"]["seq"], found["entries"]) == ("tampered", 3, 3)


def test_an_expected_head_that_is_not_reached(state: Path) -> None:
    assert _run("verify", "--state", state, "--expect-seq", "9").returncode == 13
    assert _run("verify", "--state", state, "--expect-seq", "3", "--expect-leaf", "0" * 64).returncode == 11
    head = json.loads(_run("verify", "--state", state, "--json").stdout)["head_leaf"]
    assert _run("verify", "--state", state, "--expect-seq", "3", "--expect-leaf", head).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--expect-leaf", "0" * 64),
        ("--expect-seq", "1", "--expect-leaf", "xyz"),
        ("--expect-seq", "-1"),
        ("--nonsense",),
    ],
)
def test_a_wrong_use_is_exit_code_2(state: Path, arguments: tuple[str, ...]) -> None:
    assert _run("verify", "--state", state, *arguments).returncode == 2


def test_no_such_file_and_no_ledger(tmp_path: Path) -> None:
    ended = _run("verify", tmp_path / "broker.db", "--json")
    assert ended.returncode == 2
    assert json.loads(ended.stdout)["reason"] == "LEDGER_MISSING"
    (tmp_path / "broker.db").write_bytes(b"no ledger")
    assert _run("verify", tmp_path / "broker.db").returncode == 14
    assert _run("show", tmp_path / "broker.db").returncode == 6


def test_the_exit_codes_are_in_the_help() -> None:
    text = " ".join(_run("verify", "--help").stdout.split())
    for word in (
        "10 tampered",
        "11 forked",
        "12 gapped",
        "13 truncated",
        "14 malformed",
        "15 rolled back",
        "17 wrong key",
    ):
        assert word in text


def test_show_filters_and_pages(state: Path) -> None:
    def seqs(*arguments: str) -> tuple[list[int], int | None]:
        found = json.loads(_run("show", "--state", state, "--json", *arguments).stdout)
        return [item["seq"] for item in found["items"]], found["next_seq"]

    assert seqs() == ([0, 1, 2, 3], None)
    assert seqs("--from", "1", "--limit", "2") == ([1, 2], 3)
    assert seqs("--type", "intent") == ([2, 3], None)
    assert seqs("--call", "call_1") == ([1, 2], None)
    assert seqs("--call", "call_1", "--type", "intent", "--limit", "1") == ([2], None)
    text = _run("show", "--state", state).stdout
    assert "intent" in text
    assert "call_2" in text
