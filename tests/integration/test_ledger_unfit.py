"""A restored old backup: the broker stays up and says why it doesn't serve, and is taken into service only in the open."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from broker.client import AsyncBroker
from broker.errors import BrokerError
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import Note
from tests.served import command, command_json, make_state, serving

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
