"""Calls from the warm pool through the whole broker, and callers who read slowly."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from broker.client import AsyncBroker
from broker.client.models import Call, CallFilter, Finished, Stdout
from broker.domain.call import CallState
from broker.domain.run import EndCause
from tests.served import Served, make_state, serving

pytestmark = pytest.mark.docker

_POLICY = """\
p, own-flood, role:agent, demo, own.flood, call, 2, allow, made for this test
p, own-brief, role:agent, demo, own.brief, call, 2, allow, made for this test
"""
_FLOOD_BYTES = 48 * 2**20
_BUFFERED_BYTES = 16 * 2**20
"""What may lie between a tool and a caller who doesn't read: windows, feed, and both ends of the connection."""
_FLOOD = f"""\
import os
data = bytes(range(256)) * 256
for _ in range({_FLOOD_BYTES} // len(data)):
    os.write(1, data)
"""
_QUIET_S = 3
_DEADLINE_S = 120


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Served]:
    """A broker that keeps containers of python.run ready from the start."""
    state = tmp_path_factory.mktemp("warm") / "state"
    make_state(state, settings={"pool_prewarm": ["python.run"], "pool_floor": 2, "pool_ceiling": 3})
    spec = yaml.safe_load((repository / "tool_specs" / "python.run.yaml").read_text("utf-8"))
    (state / "tool_specs").mkdir()
    for name, wall_time in (("own.flood", "100s"), ("own.brief", "3s")):
        own = {**spec, "name": name, "limits": {**spec["limits"], "output": "64MiB", "wall_time": wall_time}}
        (state / "tool_specs" / f"{name}.yaml").write_text(yaml.safe_dump(own), "utf-8")
    policy = state / "policy" / "policy.csv"
    policy.write_text(policy.read_text("utf-8") + _POLICY, "utf-8")
    with serving(state) as served:
        yield served


async def test_calls_get_containers_that_were_made_beforehand_each_its_own(warm: Served) -> None:
    code = "import os\nprint(os.path.exists('/work/left'))\nopen('/work/left', 'w').close()"
    async with warm.client() as client, warm.human() as operator, asyncio.timeout(_DEADLINE_S):
        while (await operator.sandbox_status()).idle < 2:
            pass  # each question takes a while by itself
        calls = [await client.run("python.run", {"code": code}) for _ in range(6)]
        status = await operator.sandbox_status()
    assert [call.stdout for call in calls] == [b"False\n"] * 6
    pool = next(item for item in status.pools if item.prewarmed)
    assert pool.warm_claims >= 1
    assert pool.warm_claims + pool.cold_claims == 6


async def test_ten_calls_at_once_are_more_than_the_pool_has_and_all_succeed(warm: Served) -> None:
    async with warm.client() as client:
        calls = await asyncio.gather(*(client.run("python.run", {"code": f"print({n})"}) for n in range(10)))
    assert [call.stdout for call in calls] == [b"%d\n" % n for n in range(10)]


async def test_a_caller_who_does_not_read_stops_the_tool_and_not_the_record(warm: Served) -> None:
    async with (
        asyncio.timeout(_DEADLINE_S),
        warm.client() as client,
        warm.client() as other,
        client.stream("own.flood", {"code": _FLOOD}) as events,
    ):
        await anext(events)
        stalled = await _until_silence(other, "own.flood")
        assert 0 < stalled < _BUFFERED_BYTES
        received = b""
        async for event in events:
            if isinstance(event, Stdout):
                received += event.data
            elif isinstance(event, Finished):
                assert event.call.state is CallState.SUCCEEDED
    assert received == bytes(range(256)) * (_FLOOD_BYTES // 256)


async def test_a_caller_who_never_reads_is_ended_by_the_time_limit_with_an_outcome(warm: Served) -> None:
    async with (
        asyncio.timeout(_DEADLINE_S),
        warm.client() as client,
        warm.client() as other,
        client.stream("own.brief", {"code": _FLOOD}) as events,
    ):
        await anext(events)
        call = await _newest(other, "own.brief")
        async for event in other.watch(call):
            last = event
    assert isinstance(last, Finished)
    assert last.call.outcome is not None
    assert (last.call.state, last.call.outcome.cause) == (CallState.FAILED, EndCause.TIME)


async def _newest(client: AsyncBroker, tool: str) -> Call:
    return await anext(client.list_calls(CallFilter(tool=tool)))


async def _until_silence(client: AsyncBroker, tool: str) -> int:
    """How much output is on record when no more comes."""
    seen = 0
    with suppress(TimeoutError):
        events = client.watch(await _newest(client, tool))
        while True:
            event = await asyncio.wait_for(anext(events), _QUIET_S)
            seen += len(event.data) if isinstance(event, Stdout) else 0
    return seen
