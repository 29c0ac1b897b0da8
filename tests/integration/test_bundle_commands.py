"""`broker ledger export` and `import` on a real state directory, and the verifier file on its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from broker.domain.ids import new_id
from broker.ledger.checkpoint_store import DirectoryCheckpoints
from broker.ledger.checkpointer import Checkpointer
from broker.ledger.genesis import read_origin
from broker.ledger.ledger import Ledger
from broker.ledger.signer import FileSigner, read_passphrase
from broker.settings import StatePaths
from broker.store.database import Database
from tests.bundle_world import members
from tests.served import AGENT, command, command_json, make_state


def now() -> datetime:
    return datetime.now(UTC)


async def work(state: Path, *, calls: int) -> str:
    """Appends calls of the agent and publishes a checkpoint, as a serving broker does; returns the agent's id."""
    paths = StatePaths(state)
    async with Database.open(paths.database) as store:
        origin = await store.read(read_origin)
        ledger = Ledger(origin, new_id("boot"), now)
        agent = await store.read(lambda tx: next(one.id for one in tx.identities.all() if one.name == AGENT))
        signer = FileSigner.load(paths.checkpoint_key, read_passphrase("", paths.checkpoint_passphrase))
        checkpointer = Checkpointer(
            store=store,
            ledger=ledger,
            signer=signer,
            checkpoints=DirectoryCheckpoints(paths.checkpoints),
            clock=now,
            interval_s=3600,
            on_unfit=lambda _: None,
        )
        async with checkpointer:
            for number in range(calls):
                body: dict[str, Any] = {"call_id": f"call_{number}", "tier": 1}
                await store.write(lambda tx, body=body: ledger.append(tx, "decision", body, agent=agent))
            await checkpointer.publish_now()
            # More comes while the commands run; this process has the database open all the time.
            await store.write(lambda tx: ledger.append(tx, "decision", {"call_id": "call_late"}, agent=agent))
            await _exports(state)
    return str(agent)


async def _exports(state: Path) -> None:
    for name, arguments in {
        "full": (),
        "agent": ("--agent", AGENT),
        "call": ("--call", "call_3"),
        "range": ("--from", "2", "--to", "6"),
    }.items():
        command_json(state, "ledger", "export", str(state.parent / f"{name}.zip"), *arguments)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "state"
    make_state(folder)
    asyncio.run(work(folder, calls=9))
    return folder


def alone(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the verifier that lies in a bundle, in a folder and with a path that know nothing of the broker."""
    folder = bundle.parent / "auditor"
    folder.mkdir(exist_ok=True)
    script = folder / "verify_bundle.py"
    script.write_bytes(members(bundle)["verify_bundle.py"])
    # What the environment has besides the project; -I keeps the folder, PYTHONPATH and user packages out.
    program = (
        "import runpy, sys\n"
        "sys.path = [part for part in sys.path if part]\n"
        "sys.meta_path.insert(0, type('No', (), {'find_spec': staticmethod(lambda name, *_: "
        "sys.exit(f'imports {name}') if name.split('.')[0] == 'broker' else None)}))\n"
        f"sys.argv = {['verify_bundle.py', str(bundle), *arguments]!r}\n"
        f"try:\n    runpy.run_path({str(script)!r}, run_name='__main__')\n"
        "finally:\n    assert not [name for name in sys.modules if name.split('.')[0] == 'broker']\n"
    )
    return subprocess.run(
        [sys.executable, "-I", "-c", program],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_auditor_alone(state: Path) -> None:
    key = command_json(state, "ledger", "keys")["items"][0]["key"]
    held = min((state / "checkpoints").glob("0*.note"))
    for name in ("full", "agent", "call", "range"):
        ended = alone(state.parent / f"{name}.zip", "--key", key, "--checkpoint", str(held), "--json")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        report = json.loads(ended.stdout)
        assert (report["verdict"], report["trusted"], report["kind"]) == (
            "ok",
            "your key",
            "full" if name == "full" else "extract",
        )
    text = alone(state.parent / "agent.zip").stdout
    assert text.startswith("ok")
    assert "not origin" in text


def test_an_auditor_sees_what_was_changed(state: Path) -> None:
    copy = state.parent / "copy.zip"
    data = bytearray((state.parent / "full.zip").read_bytes())
    data[data.index(b"checkpoints/") + 60] ^= 1
    copy.write_bytes(data)
    (state.parent / "auditor").mkdir(exist_ok=True)
    verifier = state.parent / "auditor" / "verify_bundle.py"
    verifier.write_bytes(members(state.parent / "full.zip")["verify_bundle.py"])
    ended = subprocess.run(
        [sys.executable, "-I", str(verifier), str(copy)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 14
    assert ended.stdout.startswith("malformed")
    assert "Traceback" not in ended.stderr
    for arguments in (("--key", "nonsense"), ("--checkpoint", "/nonexistent"), ("--nonsense",)):
        assert alone(state.parent / "full.zip", *arguments).returncode == 2
    foreign = "brk_x+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
    assert alone(state.parent / "full.zip", "--key", foreign).returncode == 2  # its id isn't the key's


def test_what_export_says(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = command_json(state, "ledger", "export", str(state.parent / "again.zip"))
    assert made["not_proved"] == 0  # the checkpoint at the broker's end covers all
    assert (made["kind"], made["first"], made["last"]) == ("full", 0, made["entries"] - 1)
    assert made["bytes"] == (state.parent / "again.zip").stat().st_size
    refused = command(state, "ledger", "export", str(state.parent / "again.zip"), "--json", check=False)
    assert (refused.returncode, json.loads(refused.stdout)["reason"]) == (2, "FILE_EXISTS")
    for arguments, reason in (
        (("--agent", "nobody"), "IDENTITY_UNKNOWN"),
        (("--call", "call_none"), "NOTHING_SELECTED"),
        (("--from", "3"), "USAGE"),
        (("--from", "3", "--to", "100000"), "RANGE_NOT_PROVED"),
    ):
        refused = command(state, "ledger", "export", str(state.parent / "no.zip"), *arguments, "--json", check=False)
        assert (refused.returncode, json.loads(refused.stdout)["reason"]) == (2, reason)
    assert not (state.parent / "no.zip").exists()
    text = command(state, "ledger", "export", str(state.parent / "text.zip"), "--call", "calls/call_3").stdout
    assert "1 of them selected" in text
    folder = state.parent / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    made = command_json(state, "ledger", "export", "--call", "call_3")
    assert Path(made["file"]).parent == folder
    assert Path(made["file"]).name.endswith("-call-call_3.zip")


def test_an_export_of_entries_that_came_after_the_checkpoint(state: Path) -> None:
    files = members(state.parent / "full.zip")
    assert b"call_late" not in files["entries.jsonl"]
    assert b"call_8" in files["entries.jsonl"]


def test_import(state: Path) -> None:
    bundle, key = state.parent / "full.zip", command_json(state, "ledger", "keys")["items"][0]["key"]
    for into in (state.parent / "copy.db", state.parent / "copied"):
        made = command_json(state, "ledger", "import", str(bundle), "--into", str(into), "--key", key)
        file = Path(made["file"])
        assert (made["verdict"], made["trusted"]) == ("ok", "your key")
        assert stat.S_IMODE(file.stat().st_mode) == 0o400
        shown = command_json(state, "ledger", "show", str(file), "--call", "call_3")
        assert [item["entry"]["call_id"] for item in shown["items"]] == ["call_3"]
        verified = command_json(state, "ledger", "verify", str(file))
        assert (verified["verdict"], verified["entries"], verified["root"]) == ("ok", made["entries"], made["root"])
        assert [one.name for one in file.parent.iterdir() if one.name.startswith(f"{file.name}-")] == []
        again = command(state, "ledger", "import", str(bundle), "--into", str(into), "--json", check=False)
        assert (again.returncode, json.loads(again.stdout)["reason"]) == (2, "FILE_EXISTS")
    copied = state.parent / "copied"
    assert sorted(one.name for one in copied.iterdir()) == ["broker.db", "checkpoints"]
    assert (copied / "checkpoints" / "latest.note").read_bytes() == max(
        (copied / "checkpoints").glob("0*.note")
    ).read_bytes()
    assert not list(state.parent.glob(".*import*"))


def test_import_refuses_what_does_not_verify(state: Path) -> None:
    for name, reason, code in (("agent", "BUNDLE_IS_EXTRACT", 2), ("cut", "BUNDLE_UNREADABLE", 6)):
        bundle = state.parent / f"{name}.zip"
        if name == "cut":
            bundle.write_bytes((state.parent / "full.zip").read_bytes()[:-100])
        refused = command(
            state, "ledger", "import", str(bundle), "--into", str(state.parent / "no.db"), "--json", check=False
        )
        assert (refused.returncode, json.loads(refused.stdout)["reason"]) == (code, reason)
    other = state.parent / "other"
    make_state(other)
    foreign = command_json(other, "ledger", "keys")["items"][0]["key"]
    into = state.parent / "no.db"
    refused = command(
        state,
        "ledger",
        "import",
        str(state.parent / "full.zip"),
        "--into",
        str(into),
        "--key",
        foreign,
        "--json",
        check=False,
    )
    found = json.loads(refused.stdout)
    assert (refused.returncode, found["reason"], found["metadata"]["verdict"]) == (
        6,
        "BUNDLE_NOT_VERIFIED",
        "wrong key",
    )
    assert not into.exists()
    shutil.rmtree(other)
