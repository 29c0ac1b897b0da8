"""Attacks on the moments between: the database is blocked while a call is admitted, and then something happens.

Another process holds SQLite's write lock, as a backup tool or a second broker command would. Reads go on; every write
of the broker waits.
"""

from __future__ import annotations

import asyncio
import resource
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest

from broker.client import AsyncBroker, RetryPolicy
from broker.client.models import Call, Stdout
from broker.domain.call import RESTING_STATES, CallState
from broker.domain.run import EndCause
from broker.errors import BrokerError, UnavailableError
from broker.v1 import call_pb2, tool_broker_pb2, tool_broker_pb2_grpc
from tests.integration.test_wire import channel
from tests.served import Served, ledger, make_state, serving

pytestmark = pytest.mark.docker

_UNDER_WAY_S = 1.0
"""After so long a request that nothing hinders has reached the database."""
_ENDS_WITHIN_S = 30
_ENDLESS = "import time\nprint('up', flush=True)\nwhile True: time.sleep(3600)\n"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    make_state(path)
    return path


@contextmanager
def blocked(state: Path) -> Iterator[None]:
    with closing(sqlite3.connect(state / "broker.db", timeout=30, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")


@asynccontextmanager
async def under_way(served: Served, code: str) -> AsyncIterator[asyncio.Task[Call]]:
    async with served.client() as client:
        asking = asyncio.create_task(client.create_call("python.run", {"code": code}, request_id="half-way"))
        await asyncio.wait([asking], timeout=_UNDER_WAY_S)
        assert not asking.done()
        yield asking
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def _end_of(client: AsyncBroker, call: Call) -> Call:
    async with asyncio.timeout(_ENDS_WITHIN_S):
        async for _ in client.watch(call):
            pass
    return await client.get_call(call)


async def test_a_call_that_is_being_admitted_when_the_broker_is_told_to_stop_runs_once_after_the_restart(
    state: Path,
) -> None:
    with serving(state) as served:
        with blocked(state):
            async with under_way(served, "print('once')"):
                stopping = asyncio.create_task(asyncio.to_thread(served.stop))
                await asyncio.wait([stopping], timeout=_UNDER_WAY_S)
        assert await stopping == 0
    types = [item["type"] for item in ledger(state) if "call_id" in item]
    assert types == ["decision", "intent", "outcome"]  # nobody waited before it: it had begun when it was admitted
    with serving(state) as served:
        async with served.client() as client:
            call = await client.create_call("python.run", {"code": "print('once')"}, request_id="half-way")
            ended = await _end_of(client, call)
    assert ended.state is CallState.SUCCEEDED
    types = [item["type"] for item in ledger(state, "--call", call.name.removeprefix("calls/"))]
    assert types == ["decision", "intent", "outcome"]


async def test_a_run_whose_caller_goes_away_while_it_is_admitted_is_cancelled(state: Path) -> None:
    with serving(state) as served:
        async with served.client() as client, channel(served) as opened:
            stub = tool_broker_pb2_grpc.ToolBrokerStub(opened)
            message = call_pb2.ToolCall(
                tool="tools/python.run", arguments_json='{"code": "import time; time.sleep(3600)"}'
            )
            message.context.workspace = "demo"
            with blocked(state):
                stream = stub.RunToolCall(tool_broker_pb2.RunToolCallRequest(tool_call=message))
                reading = asyncio.ensure_future(stream.read())
                await asyncio.wait([reading], timeout=_UNDER_WAY_S)
                stream.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            ended = await _only_call_at_rest(client)
    assert ended.state is CallState.CANCELLED
    assert ended.outcome is not None
    assert ended.outcome.cause is EndCause.CLIENT


async def _only_call_at_rest(client: AsyncBroker) -> Call:
    # Looked at from time to time: whoever watched it would be somebody who cares for it.
    async with asyncio.timeout(_ENDS_WITHIN_S):
        while True:
            found = [call async for call in client.list_calls()]
            if found and found[0].state in RESTING_STATES:
                return found[0]


async def test_a_call_that_runs_goes_on_when_its_output_could_not_be_written_for_a_while(state: Path) -> None:
    code = "import sys\nprint('up', flush=True)\nsys.stdin\nfor n in range(20000): print(n, flush=True)\n"
    with serving(state) as served:
        async with served.client() as client:
            call = await client.create_call("python.run", {"code": code})
            async for event in client.watch(call):
                if isinstance(event, Stdout):
                    break
            with blocked(state):
                await asyncio.wait([asyncio.ensure_future(_ignored(client, call))], timeout=_UNDER_WAY_S)
            ended = await _end_of(client, call)
    assert ended.state is CallState.SUCCEEDED


async def _ignored(client: AsyncBroker, call: Call) -> None:
    with pytest.raises(BrokerError):
        await client.get_call(call.name + "x")


async def test_a_tool_that_changed_between_restarts_ends_its_waiting_call(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_state(state, settings={"max_running": 1, "drain_s": 0})
    own = state / "tool_specs"
    own.mkdir()
    spec = (Path(__file__).parents[2] / "examples" / "tool_specs" / "demo.quick.yaml").read_text("utf-8")
    (own / "demo.quick.yaml").write_text(spec, "utf-8")
    policy = state / "policy" / "policy.csv"
    rule = "p, quick, role:agent, demo, demo.quick, call, 0, allow, small programs\n"
    policy.write_text(policy.read_text("utf-8") + rule, "utf-8")
    with serving(state) as served:
        async with served.client() as client:
            running = await client.create_call("python.run", {"code": _ENDLESS})
            async for event in client.watch(running):
                if isinstance(event, Stdout):
                    break
            waiting = await client.create_call("demo.quick", {"code": "print(1)"})
        served.kill()
    (own / "demo.quick.yaml").write_text(spec.replace("wall_time: 2s", "wall_time: 3s"), "utf-8")
    with serving(state) as served:
        async with served.client() as client:
            ended = await _end_of(client, waiting)
    assert ended.state is CallState.DENIED
    assert ended.outcome is not None
    assert "TOOL_VERSION_CHANGED" in ended.outcome.detail


async def test_a_database_that_fails_ends_the_broker_and_nothing_is_said_to_be_done(state: Path) -> None:
    with serving(state) as served:
        served.killed = True  # it ends by itself, and not with 0
        async with served.client(retry=RetryPolicy(attempts=1)) as client:
            assert (await client.run("python.run", {"code": "print(1)"})).succeeded
            # From here on the broker's process can write nothing further back in a file than this: its next commit fails.
            limit = 4096
            resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            with pytest.raises(BrokerError) as caught:
                await client.run("python.run", {"code": f"print('{'x' * 50_000}')"})
        assert isinstance(caught.value, UnavailableError)
        assert await asyncio.to_thread(served.process.wait, _ENDS_WITHIN_S) == 5
    with serving(state) as served:
        async with served.client() as client:
            assert (await client.run("python.run", {"code": "print(1)"})).succeeded
