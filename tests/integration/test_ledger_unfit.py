"""A restored old backup: the broker stays up and says why it doesn't serve, and is taken into service only in the open."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from broker.client import AsyncBroker
from broker.errors import BrokerError
from broker.ledger.signer import FileSigner, read_passphrase
from broker.settings import StatePaths
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import Note, sign
from tests.served import command, command_json, ledger, make_state, serving

ROLLED_BACK, RECOVERED = 15, 16


async def told(client: AsyncBroker) -> BrokerError:
    """With what error a request is refused."""
    async with client:
        with pytest.raises(BrokerError) as found:
            await anext(aiter(client.list_tools()))
    return found.value


async def test_a_restored_backup_is_not_served_and_can_be_recovered_in_the_open(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_state(state)
    with serving(state):
        pass
    shutil.copy(state / "broker.db", tmp_path / "backup.db")
    with serving(state):
        pass
    newest = Checkpoint.parse(Note.parse((state / "checkpoints" / "latest.note").read_bytes()).text)
    shutil.copy(tmp_path / "backup.db", state / "broker.db")

    with serving(state) as served:
        assert served.ready["not_serving"] == "LEDGER_BEHIND_CHECKPOINT"
        error = await told(served.client())
        assert error.reason == "LEDGER_BEHIND_CHECKPOINT"
        assert str(newest.size) in str(error)
        assert "recover" in error.hint
        assert served.stop() != 0  # it has never served: whoever supervises it must not take that for a good end
        served.killed = True

    assert json.loads(command(state, "ledger", "verify", "--json", check=False).stdout)["verdict"] == "rolled back"
    assert command(state, "ledger", "verify", check=False).returncode == ROLLED_BACK
    assert command(state, "ledger", "recover", check=False).returncode == 2
    root = Note.parse((state / "checkpoints" / "latest.note").read_bytes()).text.splitlines()[2]
    command_json(state, "ledger", "recover", "--checkpoint-root", root[-6:])

    with serving(state) as served:
        async with served.client() as client:
            assert [tool async for tool in client.list_tools()]
    assert command(state, "ledger", "verify", check=False).returncode == RECOVERED


async def test_a_broker_that_serves_stops_at_once_when_its_checkpoints_say_otherwise(tmp_path: Path) -> None:
    """A checkpoint of another history appears in the store: what runs can't be told from it any more."""
    state = tmp_path / "state"
    make_state(state, settings={"checkpoint_interval_s": 0.2})
    with serving(state) as served:
        async with served.client() as client:
            await anext(aiter(client.list_tools()))
        rewritten(state)
        command(state, "identity", "issue", "human", "grace")  # something new, so that the next round signs
        assert served.process.stdout is not None
        line = await asyncio.to_thread(served.process.stdout.readline)
        assert json.loads(line)["not_serving"] == "LEDGER_FORKED"
        served.ready = json.loads(line)  # it listens anew
        told_now = await told(served.client())
        assert told_now.reason == "LEDGER_FORKED"
        entries = len(ledger(state))
        doctor = command(state, "doctor", "--json", check=False)
        assert "serves nobody: LEDGER_FORKED" in doctor.stdout
        assert len(ledger(state)) == entries
        assert served.stop() != 0
        served.killed = True


def rewritten(state: Path) -> None:
    """Signs another history of the same size with the broker's own key, as whoever has stolen it could."""
    paths = StatePaths(state)
    signer = FileSigner.load(paths.checkpoint_key, read_passphrase("", paths.checkpoint_passphrase))
    latest = paths.checkpoints / "latest.note"
    shown = Checkpoint.parse(Note.parse(latest.read_bytes()).text)
    text = replace(shown, root=bytes(32)).text()
    note = Note(text, (sign(text, signer.key, signer.sign),)).encode()
    for path in (latest, paths.checkpoints / f"{shown.size:016d}.note"):
        path.write_bytes(note)
