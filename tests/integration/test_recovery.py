"""A start that finds a call whose kept content is gone: the call ends, the broker serves, and the ledger says so."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from broker.client.models import Call, Stdout
from broker.domain.call import CallState
from tests.served import Served, command, ledger, make_state, serving

pytestmark = pytest.mark.docker

_ENDLESS = "import time\nprint('up', flush=True)\nwhile True: time.sleep(3600)\n"
_OWN_TOOL = "tool_specs/own.run.yaml"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    make_state(path, settings={"max_running": 1})
    return path


async def _running(served: Served) -> str:
    """The id of a call in the middle of its run."""
    async with served.client() as client:
        call = await client.create_call("python.run", {"code": _ENDLESS})
        async for event in client.watch(call.name):
            if isinstance(event, Stdout):
                return call.name.removeprefix("calls/")
    raise AssertionError("the tool never spoke")


def _erase(state: Path, call: str) -> None:
    """Takes away what is kept of a call, as somebody with the file could, or a disk that has failed."""
    with closing(sqlite3.connect(state / "broker.db")) as database, database:
        database.execute("DELETE FROM vault_chunk WHERE object_id = ?", (call,))
        assert database.execute("DELETE FROM vault_object WHERE id = ?", (call,)).rowcount == 1


async def _still_serves(served: Served) -> None:
    async with served.client() as client:
        assert (await client.run("python.run", {"code": "print('on')"})).stdout == b"on\n"


async def _read(served: Served, call: str) -> Call:
    async with served.client() as client:
        return await client.get_call(f"calls/{call}")


def _ends(state: Path, call: str) -> list[tuple[str, str, str]]:
    """Type, state and what is said of the content, of the ledger's entries after the call's decision."""
    entries = [item for item in ledger(state, "--call", call) if item["type"] != "decision"]
    return [
        (item["type"], item.get("outcome", {}).get("state", ""), item.get("outcome", {}).get("content", ""))
        for item in entries
    ]


async def test_a_running_call_without_its_content_ends_unknown(state: Path) -> None:
    with serving(state) as served:
        call = await _running(served)
        served.kill()
    _erase(state, call)
    with serving(state) as served:
        await _still_serves(served)
        shown = await _read(served, call)
    assert (shown.state, shown.outcome, shown.arguments) == (CallState.UNKNOWN, None, None)
    assert _ends(state, call) == [("intent", "", ""), ("unknown", "UNKNOWN", "CONTENT_ERASED")]
    assert command(state, "ledger", "verify").returncode == 0


async def test_a_waiting_call_without_its_content_is_cancelled_and_never_runs(state: Path) -> None:
    with serving(state) as served:
        await _running(served)
        async with served.client() as client:
            waiting = (await client.create_call("python.run", {"code": "print('late')"})).name.removeprefix("calls/")
        served.kill()
    _erase(state, waiting)
    with serving(state) as served:
        await _still_serves(served)
    assert _ends(state, waiting) == [("outcome", "CANCELLED", "CONTENT_ERASED")]
    assert command(state, "ledger", "verify").returncode == 0


async def test_a_waiting_call_whose_tool_has_gone_with_its_content_stops_no_start(
    state: Path, repository: Path
) -> None:
    own = state / _OWN_TOOL
    own.parent.mkdir(exist_ok=True)
    spec = yaml.safe_load((repository / "tool_specs" / "python.run.yaml").read_text("utf-8"))
    own.write_text(yaml.safe_dump({**spec, "name": "own.run"}), "utf-8")
    policy = state / "policy" / "policy.csv"
    rule = "p, own-run, role:agent, demo, own.run, call, 2, allow, for this test\n"
    policy.write_text(policy.read_text("utf-8") + rule, "utf-8")
    with serving(state) as served:
        await _running(served)
        async with served.client() as client:
            waiting = (await client.create_call("own.run", {"code": "print('late')"})).name.removeprefix("calls/")
        served.kill()
    _erase(state, waiting)
    own.unlink()
    policy.write_text(policy.read_text("utf-8").removesuffix(rule), "utf-8")
    with serving(state) as served:
        await _still_serves(served)
    ((kind, ended, _),) = _ends(state, waiting)
    assert (kind, ended in {"DENIED", "CANCELLED"}) == ("outcome", True)
    assert command(state, "ledger", "verify").returncode == 0
