"""Five hundred calls, fifty killed half-way, three SIGKILLs of the broker: the engine's own list holds nothing of ours.

What is asserted of the engine is read from the engine, not through any code of the broker.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest

from broker.cli.local import open_local
from broker.client import AsyncBroker, RetryPolicy
from broker.client.models import Stdout
from broker.errors import BrokerError
from broker.sandbox.address import engine_address
from broker.sandbox.engine import LABEL_INSTANCE
from tests.served import OPERATOR, Served, command, command_json, ledger, make_state, serving

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

CALLS = 500
_GONE_WITHIN_S = 30
_CRASHES = 3
_KILLED = (14, 14, 14, 8)
"""Calls that are killed half-way, in each life of the broker: fifty."""
_CUT = 4
"""Calls that are sure to be in the middle of their run when the broker is killed, each time."""
_WORKERS = 6
_QUICK = {"code": "print('done')"}
_ENDLESS = {"code": "import time\nprint('up', flush=True)\nwhile True: time.sleep(3600)"}
_DEADLINE_S = 2.0
_NEVER = RetryPolicy(attempts=1)


@dataclass
class Engine:
    """The engine's own list of what carries one broker's label."""

    client: docker.APIClient
    instance: str

    def containers(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = self.client.containers(all=True, filters=self._filters)
        return found

    def others(self) -> list[object]:
        volumes = self.client.volumes(filters=self._filters)["Volumes"] or []
        return [*volumes, *self.client.networks(filters=self._filters)]

    @property
    def _filters(self) -> dict[str, list[str]]:
        return {"label": [f"{LABEL_INSTANCE}={self.instance}"]}


@contextmanager
def engine_of(state: Path) -> Iterator[Engine]:
    with open_local(state) as local:
        instance = local.origin
    client = docker.APIClient(base_url=engine_address(), version="auto", timeout=60)
    try:
        yield Engine(client, instance)
    finally:
        client.close()


@dataclass
class Tally:
    """What the clients did: how often each way of killing was used, and how many quick calls ended well."""

    killed: Counter[str] = field(default_factory=Counter)
    done: int = 0


async def _speaks(client: AsyncBroker, name: str) -> None:
    async for event in client.watch(name):
        if isinstance(event, Stdout):
            return
    raise AssertionError("the tool never spoke")


async def by_leaving(client: AsyncBroker) -> None:
    """The client breaks its stream off while the tool speaks."""
    async with client.stream("python.run", _ENDLESS) as events:
        async for event in events:
            if isinstance(event, Stdout):
                return


async def by_deadline(client: AsyncBroker) -> None:
    """The client's deadline passes."""
    with pytest.raises(BrokerError):
        await client.run("python.run", _ENDLESS, timeout_s=_DEADLINE_S)


async def by_cancelling(client: AsyncBroker) -> None:
    """The client asks for the end of a call that runs."""
    call = await client.create_call("python.run", _ENDLESS)
    await _speaks(client, call.name)
    await client.cancel_call(call)


WAYS = (by_leaving, by_deadline, by_cancelling)


async def _work(served: Served, jobs: Iterator[int], tally: Tally) -> None:
    async with served.client(retry=_NEVER) as client:
        for number in jobs:
            if number < 0:
                way = WAYS[number % len(WAYS)]
                await way(client)
                tally.killed[way.__name__] += 1
            else:
                assert (await client.run("python.run", _QUICK)).stdout == b"done\n"
                tally.done += 1


def _jobs(quick: int, killed: int) -> list[int]:
    """Negative numbers are calls to kill, spread evenly among the others."""
    total = quick + killed
    due = [round((index + 0.5) * total / killed) for index in range(killed)]
    return [-1 - due.index(index) if index in due else index for index in range(total)]


async def _life(served: Served, jobs: Sequence[int], tally: Tally) -> None:
    rest = iter(jobs)
    async with asyncio.TaskGroup() as group:
        for _ in range(_WORKERS):
            group.create_task(_work(served, rest, tally))


@asynccontextmanager
async def _in_the_middle(served: Served) -> AsyncIterator[None]:
    """Calls that run, and others that come and go, for as long as the block lasts."""
    async with served.client(retry=_NEVER) as client:
        calls = [await client.create_call("python.run", _ENDLESS) for _ in range(_CUT)]
        for call in calls:
            await _speaks(client, call.name)

        async def come_and_go() -> None:
            while True:
                await client.run("python.run", _QUICK)

        coming = [asyncio.create_task(come_and_go()) for _ in range(2)]
        await client.run("python.run", _QUICK)
        yield
        await asyncio.gather(*coming, return_exceptions=True)


async def _until(holds: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(_GONE_WITHIN_S):
            while not await asyncio.to_thread(holds):
                pass
    except TimeoutError:
        raise AssertionError(f"not within {_GONE_WITHIN_S} s: {what}") from None


def _pool(served: Served) -> dict[str, int]:
    found: dict[str, int] = command_json(served.state, "sandbox", "status", "--identity", f"human/{OPERATOR}")
    return found


def _only_the_pool(served: Served, engine: Engine, since: float) -> bool:
    """Whether all that there is was made in this life of the broker and waits for a call."""
    listed = engine.containers()
    pool = _pool(served)
    if pool["leased"] or pool["making"]:
        return False
    return all(float(str(item["Created"])) >= since for item in listed) and len(listed) == pool["idle"]


async def test_five_hundred_calls_fifty_killed_and_three_crashes_leave_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_state(state, settings={"max_running": _WORKERS + _CUT, "pool_floor": 2, "pool_ceiling": 6})
    tally = Tally()
    quick = CALLS - sum(_KILLED) - _CRASHES * _CUT
    share = quick // (_CRASHES + 1)
    with engine_of(state) as engine:
        for killed in _KILLED[:_CRASHES]:
            with serving(state) as served:
                await _life(served, _jobs(share, killed), tally)
                async with _in_the_middle(served):
                    served.kill()
        assert engine.containers(), "nothing was left by the crash, so nothing is shown"
        since = int(time.time())
        with serving(state) as served:
            await _until(lambda: _only_the_pool(served, engine, since), "only the pool's own containers")
            assert engine.others() == []
            await _life(served, _jobs(quick - _CRASHES * share, _KILLED[-1]), tally)
            await _until(lambda: _only_the_pool(served, engine, since), "only the pool's own containers after calls")
            assert _pool(served)["idle"] > 0, "the pool is empty, so its own containers weren't tested"
        assert engine.containers() == []
        assert engine.others() == []
    assert sum(tally.killed.values()) == sum(_KILLED) == 50
    assert set(tally.killed) == {way.__name__ for way in WAYS}
    assert tally.done == quick
    _check_the_record(state)
    assert json.loads(command(state, "sandbox", "gc", "--json").stdout)["items"] == []


def _check_the_record(state: Path) -> None:
    """Every call is on record with its one end, and those that the crashes cut are unknown."""
    entries = ledger(state)
    calls = Counter(item["call_id"] for item in entries if item["type"] == "decision")
    ends = Counter(item["call_id"] for item in entries if item["type"] in {"outcome", "unknown"})
    assert len(calls) >= CALLS
    assert ends == calls, f"without an end: {list((calls - ends).elements())}"
    assert sum(item["type"] == "unknown" for item in entries) >= _CRASHES * _CUT
    ended_by = Counter(item["outcome"]["cause"] for item in entries if item["type"] == "outcome")
    assert ended_by["CLIENT"] >= sum(_KILLED)
    assert command(state, "ledger", "verify").returncode == 0
