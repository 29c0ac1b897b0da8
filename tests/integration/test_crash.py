"""The broker is killed, or told to stop, in the middle of its work: nothing is lost, doubled or made up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.client.models import Stdout
from broker.domain.call import CallState
from broker.domain.run import EndCause
from tests.served import Served, command, command_json, ledger, make_state, serving

pytestmark = pytest.mark.docker

_GONE_WITHIN_S = 30
_ENDLESS = "import time\nprint('running', flush=True)\nwhile True: time.sleep(3600)\n"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    make_state(path, settings={"max_running": 1})
    return path


async def _started(served: Served, code: str = _ENDLESS) -> str:
    async with served.client() as client:
        call = await client.create_call("python.run", {"code": code})
        async for event in client.watch(call.name):
            if isinstance(event, Stdout):
                return call.name
    raise AssertionError("the tool never spoke")


def _containers(state: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = command_json(state, "sandbox", "gc", "--dry-run")["items"]
    return found


async def _ends_without_its_broker(state: Path) -> None:
    """The container is still there for the next start to reap, but nothing runs in it: nobody keeps its time limit."""
    async with asyncio.timeout(_GONE_WITHIN_S):
        while True:
            (left,) = await asyncio.to_thread(_containers, state)
            if left["state"] == "exited":
                return


async def test_killed_in_the_middle_of_a_run_the_call_is_unknown_and_not_run_again(state: Path) -> None:
    with serving(state) as served:
        name = await _started(served)
        served.kill()
    await _ends_without_its_broker(state)
    with serving(state) as served:
        assert _containers(state) == []
        async with served.client() as client:
            call = await client.get_call(name)
            events = [event async for event in client.watch(name)]
    assert call.state is CallState.UNKNOWN
    assert call.outcome is not None
    assert call.outcome.cause is EndCause.ENGINE
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    entries = ledger(state, "--call", name.removeprefix("calls/"))
    assert [item["type"] for item in entries] == ["decision", "intent", "unknown"]
    assert command(state, "ledger", "verify").returncode == 0


async def test_a_call_that_waited_when_the_broker_was_killed_runs_once_afterwards(state: Path) -> None:
    with serving(state) as served:
        await _started(served)
        async with served.client() as client:
            waiting = await client.create_call("python.run", {"code": "print('late')"})
            assert (await client.get_call(waiting.name)).state is CallState.QUEUED
        served.kill()
    with serving(state) as served:
        async with served.client() as client:
            output = b"".join([event.data async for event in client.watch(waiting.name) if isinstance(event, Stdout)])
            assert (await client.get_call(waiting.name)).state is CallState.SUCCEEDED
    assert output == b"late\n"
    types = [item["type"] for item in ledger(state, "--call", waiting.name.removeprefix("calls/"))]
    assert types == ["decision", "intent", "outcome"]


async def test_sigterm_lets_a_running_call_end_and_its_client_hear_of_it(state: Path) -> None:
    code = "import time\nprint('running', flush=True)\ntime.sleep(2)\nprint('done')\n"
    with serving(state) as served:
        async with served.client() as client:
            spoken = asyncio.Event()

            async def follow() -> bytes:
                output = b""
                async with client.stream("python.run", {"code": code}) as events:
                    async for event in events:
                        if isinstance(event, Stdout):
                            output += event.data
                            spoken.set()
                return output

            following = asyncio.create_task(follow())
            await spoken.wait()
            assert await asyncio.to_thread(served.stop) == 0
            assert await following == b"running\ndone\n"
    outcomes = [item for item in ledger(state) if item["type"] == "outcome"]
    assert outcomes[-1]["outcome"]["state"] == "SUCCEEDED"


async def test_sigterm_ends_what_runs_on_after_the_drain_and_says_so(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_state(state, settings={"drain_s": 0.5})
    with serving(state) as served:
        name = await _started(served)
        assert await asyncio.to_thread(served.stop) == 0
    entries = ledger(state, "--call", name.removeprefix("calls/"))
    assert [item["type"] for item in entries] == ["decision", "intent", "outcome"]
    assert entries[-1]["outcome"]["state"] == "CANCELLED"
    assert entries[-1]["outcome"]["cause"] == "OPERATOR"
    assert _containers(state) == []


async def test_events_are_kept_across_a_restart(state: Path) -> None:
    with serving(state) as served:
        async with served.client() as client:
            call = await client.run("python.run", {"code": "print('kept')"})
            before = [event async for event in client.watch(call.name)]
    with serving(state) as served:
        async with served.client() as client:
            after = [event async for event in client.watch(call.name)]
    assert after == before


def test_a_second_broker_on_the_same_state_is_refused(state: Path) -> None:
    with serving(state):
        result = command(state, "serve", "--json", check=False)
    assert result.returncode != 0
    assert "ALREADY_SERVING" in result.stdout


def test_a_taken_port_is_said(state: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_state(other)
    with serving(state) as served:
        result = command(other, "serve", "--listen", served.address, "--json", check=False)
    assert result.returncode != 0
    assert "ADDRESS_IN_USE" in result.stdout
