"""What was admitted is what runs, or nothing runs: the envelope is made again when a call's turn comes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from broker.client import AsyncBroker
from broker.client.models import Call, Stdout
from broker.domain.call import CallState
from broker.domain.run import EndCause
from tests.served import OPERATOR, ledger, make_state, serving

pytestmark = pytest.mark.docker

_ENDLESS = {"code": "import time\nprint('up', flush=True)\nwhile True: time.sleep(3600)\n"}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    make_state(path, agents={"scout": OPERATOR}, settings={"max_running": 1, "drain_s": 0})
    return path


async def _waiting(client: AsyncBroker) -> Call:
    """A call that waits behind one that doesn't end."""
    first = await client.create_call("python.run", _ENDLESS)
    async for event in client.watch(first):
        if isinstance(event, Stdout):
            return await client.create_call("python.run", {"code": "print(1)"})
    raise AssertionError("the tool never spoke")


async def _refused(client: AsyncBroker, state: Path, call: Call, why: str) -> None:
    async for _ in client.watch(call):
        pass
    ended = await client.get_call(call)
    assert ended.state is CallState.DENIED
    assert ended.started is None
    assert ended.outcome is not None
    assert ended.outcome.cause is EndCause.POLICY
    assert "ENVELOPE_CHANGED" in ended.outcome.detail
    assert ended.outcome.detail.endswith(f" instead of {ended.envelope_digest}: {why}")
    types = [item["type"] for item in ledger(state, "--call", call.name.removeprefix("calls/"))]
    assert types == ["decision", "outcome"]


async def test_another_runtime_than_was_admitted(state: Path) -> None:
    with serving(state) as served:
        async with served.client() as client:
            waiting = await _waiting(client)
    settings = yaml.safe_load((state / "settings.yaml").read_text("utf-8"))
    (state / "settings.yaml").write_text(yaml.safe_dump({**settings, "runtime_by_tier": {1: "runc"}}), "utf-8")
    with serving(state) as served:
        async with served.client() as client:
            await _refused(client, state, waiting, "runtime differs")
            assert (await client.get_tool("python.run", "demo")).runtime == "runc"
            assert (await client.run("python.run", {"code": "print(2)"})).succeeded


async def test_a_record_of_another_envelope(state: Path) -> None:
    with serving(state) as served:
        async with served.client() as client:
            waiting = await _waiting(client)
    identifier = waiting.name.removeprefix("calls/")
    with closing(sqlite3.connect(state / "broker.db")) as database, database:
        change = "UPDATE call SET envelope_digest = ? WHERE id = ?"
        assert database.execute(change, (f"sha256:{'0' * 64}", identifier)).rowcount == 1
    with serving(state) as served:
        async with served.client() as client:
            await _refused(client, state, waiting, "the kept envelope is the same, its record isn't")
