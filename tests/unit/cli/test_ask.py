"""``broker ask``: tables, JSON and CSV with evidence, and what it says of a ledger that doesn't verify."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from broker.cli.init import create_state
from broker.cli.local import open_local
from broker.cli.main import run
from broker.domain.canonical import JsonObject
from broker.ledger.genesis import read_origin
from broker.ledger.ledger import Ledger
from tests.bundle_world import World, bundle_world, members, pack
from tests.casebook_world import decision, refusals, run_call


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bundle of calls that nobody had to agree to, one with a tool that was named for a spreadsheet."""
    folder = tmp_path_factory.mktemp("ask")
    with bundle_world(folder) as world:
        run_call(world, "call_1", "files.read")
        effect = {"added": 0, "changed": 0, "removed": 3, "undoes": []}
        run_call(world, "call_3", "files.clean", effect=effect)
        refusals(world)
        _odd(world)
        world.publish()
        world.export(folder / "story.zip")
        yield folder / "story.zip"


def _odd(world: World) -> None:
    body = decision("call_9", "=cmd()|'x'", model="\x1b[31mred\u202e")
    world.append("decision", body, "agt_a")
    intent = world.append("intent", body, "agt_a")
    world.append("outcome", {"call_id": "call_9", "intent_seq": intent, "outcome": {"state": "FAILED"}}, "agt_a")


def ask(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert run(["ask", *arguments]) == code, capsys.readouterr()
    return capsys.readouterr().out


def answer(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(capsys, *arguments, "--json", code=code))
    return found


def test_the_evidence_stands_beside_each_line(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "changes", "--removed", "--bundle", str(bundle))
    assert found["mark"]["sound"]
    assert found["mark"]["checkpoint_size"] == found["mark"]["entries"]
    (line,) = found["lines"]
    assert line["values"]["call"] == "call_3"
    assert line["values"]["approved by"] == []
    assert len(line["evidence"]) == 2


def test_csv_is_harmless_in_a_spreadsheet(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(ask(capsys, "agent", "agt_" + "a" * 26, "--bundle", str(bundle), "--csv"))))
    assert rows == []
    rows = list(csv.DictReader(io.StringIO(ask(capsys, "paths", "--bundle", str(bundle), "--csv"))))
    tools = {row["tool"] for row in rows}
    assert "'=cmd()|'x'" in tools
    assert all(row["evidence"].replace(" ", "").isdecimal() for row in rows)


def test_what_somebody_made_up_can_not_move_the_cursor(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = ask(capsys, "paths", "--bundle", str(bundle))
    assert "\\x1b[31mred\\u202e" in text.replace("\n", "")
    assert "\x1b[31mred" not in text


def test_lines_beyond_the_limit_are_counted(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "paths", "--bundle", str(bundle), "--limit", "1")
    assert len(found["lines"]) == 1
    assert found["omitted"] > 0
    assert "more lines" in ask(capsys, "paths", "--bundle", str(bundle), "--limit", "1")


def test_a_doctored_bundle_is_answered_and_marked(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = members(bundle)
    files["entries.jsonl"] = files["entries.jsonl"].replace(b'"removed":3', b'"removed":4')
    doctored = pack(tmp_path / "doctored.zip", files)
    found = answer(capsys, "changes", "--removed", "--bundle", str(doctored), code=6)
    assert not found["mark"]["sound"]
    assert found["mark"]["verdict"] == "tampered"
    assert found["lines"][0]["values"]["removed"] == 4
    assert "DOESN'T VERIFY" in ask(capsys, "changes", "--bundle", str(doctored), code=6)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("person", "nobody"), "IDENTITY_UNKNOWN"),
        (("paths", "--agent", "nobody"), "IDENTITY_UNKNOWN"),
        (("policy", "sha256:ffffffff"), "POLICY_UNKNOWN"),
        (("policy", "a"), "POLICY_UNKNOWN"),
        (("egress", "--since", "yesterday"), "TIME_INVALID"),
        (("egress", "--since", "1d", "--until", "2d"), "TIME_INVALID"),
        (("approvers", "--on", "soon"), "TIME_INVALID"),
        (("refusals", "--csv"), "USAGE"),
    ],
)
def test_a_wrong_question_says_what_is_wrong(
    bundle: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], reason: str
) -> None:
    assert answer(capsys, *arguments, "--bundle", str(bundle), code=2)["reason"] == reason


def test_what_is_no_bundle_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.zip").write_bytes(b"none")
    assert answer(capsys, "refusals", "--bundle", str(tmp_path / "none.zip"), code=2)["reason"] == "USAGE"
    assert answer(capsys, "refusals", "--bundle", str(tmp_path / "gone.zip"), code=2)["reason"] == "LEDGER_MISSING"
    assert answer(capsys, "refusals", "--state", str(tmp_path), code=2)["reason"] == "STATE_MISSING"


def test_csv_says_beside_it_that_it_is_of_an_extract_and_moves_no_cursor(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["ask", "paths", "--bundle", str(bundle), "--csv"]) == 0
    whole = capsys.readouterr()
    assert "\x1b" not in whole.out
    assert "\\x1b[31mred\\u202e" in whole.out
    assert "extract" not in whole.err
    part = Path(__file__).parents[2] / "histories" / "day-session.zip"
    assert run(["ask", "refusals", "--bundle", str(part), "--csv"]) == 0
    assert capsys.readouterr().err.startswith("from an extract (session ses_")


def test_an_entry_that_was_changed_after_it_was_filed_is_no_evidence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    create_state(state, operator="ada", hosts=())
    refused: JsonObject = {"tool": {"name": "shell.run"}, "refused": {"reason": "POLICY_DENIED", "rule": "no-shell"}}
    with open_local(state) as local:
        ledger = Ledger(local.read(read_origin), "boot_2", lambda: datetime.now(UTC))
        local.write(lambda tx: [ledger.append(tx, "decision", refused, agent=agent) for agent in ("agt_a", "agt_b")])
    options = ("refusals", "--state", str(state))
    first = answer(capsys, *options)
    assert first["mark"]["verdict"] == "ok"
    seq = first["lines"][0]["evidence"][0]
    with closing(sqlite3.connect(state / "broker.db", isolation_level=None)) as db:
        triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        changed = "CAST(replace(CAST(data AS TEXT), 'no-shell', 'no-shall') AS BLOB)"
        assert db.execute(f"UPDATE ledger_entry SET data = {changed} WHERE seq = ?", (seq,)).rowcount == 1  # noqa: S608 - of this test
        for _, text in triggers:
            db.execute(text)
    found = answer(capsys, *options, code=6)
    assert (found["mark"]["sound"], found["mark"]["verdict"]) == (False, "changed")
    assert f"entry {seq} " in found["mark"]["why"]


def test_a_casebook_that_can_not_be_used_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    create_state(state, operator="ada", hosts=())
    kept = state / "casebook.db"
    kept.mkdir()
    found = answer(capsys, "refusals", "--state", str(state), code=6)
    assert (found["reason"], str(kept) in found["error"]) == ("CASEBOOK_UNREADABLE", True)
    kept.rmdir()
    answer(capsys, "refusals", "--state", str(state))
    with closing(sqlite3.connect(kept)) as db:
        db.execute("UPDATE meta SET value = '{}' WHERE key = 'mark'")
        db.commit()
    assert answer(capsys, "refusals", "--state", str(state))["mark"]["verdict"] == "ok"
