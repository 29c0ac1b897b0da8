"""``broker ledger show|tail|prove|checkpoint`` as the real program, asking a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.tlog.note import Note
from tests.log_world import publish, write
from tests.served import OPERATOR, Served, command, command_json, make_state, serving

pytestmark = pytest.mark.usefixtures("folder")

ME = ("--identity", f"human/{OPERATOR}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    state = tmp_path_factory.mktemp("broker") / "state"
    make_state(state, settings={"checkpoint_interval_s": 86400})
    with serving(state) as broker:
        yield broker


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, and a client that has seen nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    return tmp_path


def test_show_asks_the_file_or_the_broker_and_both_say_the_same(served: Served) -> None:
    asyncio.run(write(served.state, ("heartbeat", "", {"text": "x"})))
    by_file = command_json(served.state, "ledger", "show")
    by_broker = command_json(served.state, "ledger", "show", "--server", *ME)
    assert by_file["items"] == by_broker["items"]
    assert (bool(by_file["file"]), by_broker["file"]) == (True, "")
    some = command_json(served.state, "ledger", "show", "--server", "--from", "2", "--limit", "3", *ME)
    assert ([item["seq"] for item in some["items"]], some["next_seq"]) == ([2, 3, 4], 5)
    typed = command_json(served.state, "ledger", "show", "--server", "--type", "genesis", *ME)
    assert [item["seq"] for item in typed["items"]] == [0]
    assert command(served.state, "ledger", "show", "x.db", "--server", *ME, check=False).returncode == 2
    assert "genesis" in command(served.state, "ledger", "show", "--server", *ME).stdout


def test_an_agent_is_shown_its_own(served: Served) -> None:
    assert command(served.state, "status", "--identity", "agent/scout", check=False).returncode == 3
    found = command_json(served.state, "ledger", "tail", "--identity", "agent/scout")["items"]
    assert {item["entry"]["type"] for item in found} >= {"decision"}
    assert all("agent" in item["entry"] for item in found)


def test_tail_gives_the_last_and_follows(served: Served) -> None:
    written = asyncio.run(write(served.state, *[("heartbeat", "", {"text": str(number)}) for number in range(5)]))
    found = command_json(served.state, "ledger", "tail", "-n", "3", *ME)
    assert [item["seq"] for item in found["items"]] == list(written[-3:])
    assert command_json(served.state, "ledger", "tail", "-n", "0", *ME) == {"items": []}
    process = subprocess.Popen(
        [sys.executable, "-m", "broker.cli.main", "ledger", "tail", "-n", "1", "--follow", "--json", *ME],
        env={**os.environ, "BROKER_STATE": str(served.state)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert [item["seq"] for item in first["items"]] == [written[-1]]
        (later,) = asyncio.run(write(served.state, ("heartbeat", "", {"text": "later"})))
        assert [item["seq"] for item in json.loads(process.stdout.readline())["items"]] == [later]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.communicate()


def test_a_proof_is_written_and_can_be_checked_without_the_broker(served: Served, folder: Path) -> None:
    asyncio.run(publish(served.state))
    made = command_json(served.state, "ledger", "prove", "3", *ME)
    assert (made["proof_file"], made["entry_file"]) == ("entry-3.tlog-proof", "entry-3.json")
    data = Path("entry-3.json").read_bytes()
    assert json.loads(data)["seq"] == 3
    assert Path("entry-3.tlog-proof").read_bytes().startswith(b"c2sp.org/tlog-proof@v1\nindex 3\n")
    check = ("ledger", "prove", "--check", "entry-3.tlog-proof", "--entry", "entry-3.json")
    nowhere = folder / "nowhere"
    assert command_json(nowhere, *check)["leaf"] == made["leaf"], "by the key that was remembered"
    forgetful = {"XDG_STATE_HOME": str(folder / "other")}
    unknown = command(nowhere, *check, "--json", check=False, **forgetful)
    assert (unknown.returncode, json.loads(unknown.stdout)["reason"]) == (2, "LEDGER_KEY_UNKNOWN")
    assert (
        command_json(nowhere, *check, "--key", made["key"], **forgetful)["checkpoint_size"] == made["checkpoint_size"]
    )
    Path("entry-3.json").write_bytes(data.replace(b'"v":1', b'"v":2'))
    changed = command(nowhere, *check, "--json", check=False)
    assert (changed.returncode, json.loads(changed.stdout)["reason"]) == (6, "PROOF_INVALID")
    again = command(served.state, "ledger", "prove", "3", *ME, "--json", check=False)
    assert (again.returncode, json.loads(again.stdout)["reason"]) == (2, "FILE_EXISTS")
    command_json(served.state, "ledger", "prove", "3", "--force", *ME)
    assert Path("entry-3.json").read_bytes() == data


@pytest.mark.parametrize("arguments", [(), ("--check", "x"), ("3", "--check", "x", "--entry", "y"), ("-1",)])
def test_a_wrong_use_of_prove_is_exit_code_2(served: Served, arguments: tuple[str, ...]) -> None:
    assert command(served.state, "ledger", "prove", *arguments, *ME, check=False).returncode == 2


def test_a_checkpoint_is_printed_as_a_note_and_an_earlier_one_is_compared(served: Served) -> None:
    asyncio.run(publish(served.state))
    kept = command(served.state, "ledger", "checkpoint", *ME).stdout
    Path("kept.note").write_text(kept, "utf-8")
    size = int(Note.parse(kept.encode()).text.split("\n")[1])
    asyncio.run(write(served.state, *[("heartbeat", "", {})] * 7))
    asyncio.run(publish(served.state))
    found = command_json(served.state, "ledger", "checkpoint", "--extends", "kept.note", *ME)
    assert (found["extends"], found["size"] > size, found["note"].startswith(found["origin"])) == (size, True, True)
    other = kept.split("\n")
    other[2] = "A" * 43 + "="
    Path("kept.note").write_text("\n".join(other), "utf-8")
    refused = command(served.state, "ledger", "checkpoint", "--extends", "kept.note", *ME, "--json", check=False)
    assert (refused.returncode, json.loads(refused.stdout)["reason"]) == (6, "PROOF_INVALID")
    Path("kept.note").write_text("nothing", "utf-8")
    assert command(served.state, "ledger", "checkpoint", "--extends", "kept.note", *ME, check=False).returncode == 2


def test_commands_say_loudly_that_history_was_rewritten(served: Served, folder: Path) -> None:
    asyncio.run(publish(served.state))
    command(served.state, "ledger", "checkpoint", *ME)
    (path,) = (item for item in (folder / "home/agent-broker/checkpoints").iterdir() if item.name.startswith("brk_"))
    kept = json.loads(path.read_text("utf-8"))
    lines = kept["checkpoint"].split("\n")
    lines[2] = "A" * 43 + "="  # as if another tree of that size had been seen before
    kept["checkpoint"] = "\n".join(lines)
    path.write_text(json.dumps(kept), "utf-8")
    ended = command(served.state, "status", *ME, check=False)
    assert ended.returncode == 6
    assert "HISTORY IS NOT WHAT IT WAS" in ended.stderr
    assert "HISTORY_REWRITTEN" in ended.stderr
    as_json = command(served.state, "status", *ME, "--json", check=False)
    assert json.loads(as_json.stdout)["metadata"]["memory"] == str(path)
