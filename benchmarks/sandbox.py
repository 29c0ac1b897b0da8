"""Calls through the whole broker from warm containers, beside `docker run`, `docker exec` and the engine's own floor.

Every call is seen by a client over mutual TLS and passes policy, durable ledger and encrypted store. Two brokers serve,
one after the other: one with a pool of ten for all that is warm, one without a pool for what is cold and sustained.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks import docker as peers
from benchmarks.report import Measure, Report, percentile
from broker.client import AsyncBroker
from broker.domain.ids import new_id
from broker.domain.run import Limits, Profile
from broker.errors import FailedPreconditionError
from broker.sandbox.docker_engine import DockerEngine
from tests.served import Served, make_state, serving

_TOOL_SPECS = Path(__file__).parents[1] / "tool_specs"
_POOL = 10
_WARM = 60
_COLD = 20
_PEER = 12
_FLOOR_S = 8.0
_IDLE = 4
_IDLE_S = 30.0
_BURSTS = 7
_SUSTAINED_S = 60.0
_FILL_S = 60.0
_POLL_S = 0.05
_TOOL = """\
name: bench.argv
description: Prints the number one by an interpreter of its own, as a benchmark's measure.
owner: platform
tier: 1
image: python
run:
  argv: [/usr/bin/python3, -c, print(1)]
arguments: {type: object, additionalProperties: false}
limits: """
"""The limits of ``python.run`` follow: both tools claim from one pool."""
_RULE = "p, bench-argv, role:agent, demo, bench.argv, call, 1, allow, made for the benchmark\n"


def measure() -> Report:
    """Takes all measures; about seven minutes."""
    peers.require_docker()
    return Report(
        title="calls from warm containers, seen by a client of the whole broker",
        measures=tuple(_measures()),
    )


def _measures() -> Iterator[Measure]:
    profile = asyncio.run(_profile())
    peer = _Peers(profile)
    peer.take()
    with _broker(_POOL) as served:
        warm = asyncio.run(_Warm(served, interval_s=2 / peer.floor).measures())
    peer.take()
    with _broker(0) as served:
        cold = asyncio.run(_cold(served, peer.parallelism))
    peer.take()
    yield Measure("docker_run_p50_ms", peer.run_p50, "ms", note="`docker run`, same image, hardening and program")
    yield Measure("docker_exec_p50_ms", peer.exec_p50, "ms", note="`docker exec` into a container that runs")
    note = f"bare create, start and remove, {peer.parallelism} at a time"
    yield Measure("engine_floor_per_s", peer.floor, "1/s", note=note)
    yield from _judged(warm | cold, run_p50=peer.run_p50, exec_p50=peer.exec_p50, floor=peer.floor)


def _judged(values: Mapping[str, float], *, run_p50: float, exec_p50: float, floor: float) -> Iterator[Measure]:
    """What the broker took, each beside its target."""
    warm_target = min(run_p50 / 20, exec_p50 / 4)
    yield Measure("warm_p50_ms", values["warm_p50"], "ms", at_most=warm_target, note="run as Python")
    yield Measure("warm_p95_ms", values["warm_p95"], "ms")
    note = "run as a program of its own"
    yield Measure("warm_argv_p50_ms", values["argv_p50"], "ms", at_most=run_p50 / 10, note=note)
    yield Measure("pool_misses", values["misses"], "", at_most=0, note="of those calls, such as found the pool empty")
    yield Measure("idle_p50_ms", values["idle_p50"], "ms", note=f"after {_IDLE_S:g} s without a call")
    yield Measure("burst10_ms", values["burst"], "ms", at_most=run_p50, note="ten calls at once, all results")
    note = "runner and the engine's shim, proportional set size"
    yield Measure("idle_mib_per_warm", values["mib"], "MiB", note=note)
    yield Measure("cold_p50_ms", values["cold_p50"], "ms", at_most=1.2 * run_p50, note="the pool is empty")
    note = f"for {_SUSTAINED_S:g} s, no pool"
    yield Measure("sustained_per_s", values["sustained"], "1/s", at_least=0.85 * floor, note=note)


class _Peers:
    """What others take, measured before, between and after what the broker takes: the machine's speed drifts.

    Args:
        profile: what the containers are made under.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._instance = new_id("bench")
        self._run: list[float] = []
        self._exec: list[float] = []
        self._floors: list[float] = []
        self.parallelism = peers.best_parallelism(self._instance, profile)

    def take(self) -> None:
        """Measures them all once more."""
        image, limits = self._profile.image, self._profile.limits
        self._run += _repeat(lambda: peers.run_once(image, limits), _PEER)
        with peers.waiting_container(image, limits) as container:
            self._exec += _repeat(lambda: peers.exec_once(container), _PEER)
        self._floors.append(peers.engine_floor(self._instance, self._profile, self.parallelism, _FLOOR_S))

    @property
    def run_p50(self) -> float:
        """Of `docker run`, in milliseconds."""
        return percentile(self._run, 50)

    @property
    def exec_p50(self) -> float:
        """Of `docker exec`, in milliseconds."""
        return percentile(self._exec, 50)

    @property
    def floor(self) -> float:
        """The engine's containers in a second."""
        return percentile(self._floors, 50)


async def _profile() -> Profile:
    async with DockerEngine(new_id("bench")) as engine:
        return Profile(image=(await engine.image("python")).id, limits=Limits())


def _repeat(work: Callable[[], None], times: int) -> list[float]:
    work()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append((time.perf_counter() - began) * 1e3)
    return taken


@contextmanager
def _broker(pool: int) -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="broker-benchmark-") as folder:
        state = Path(folder) / "state"
        settings: dict[str, Any] = {"pool_floor": pool, "pool_ceiling": pool, "max_running": _POOL}
        make_state(state, settings=settings)
        (state / "tool_specs").mkdir()
        shipped = yaml.safe_load((_TOOL_SPECS / "python.run.yaml").read_text("utf-8"))
        (state / "tool_specs" / "bench.argv.yaml").write_text(_TOOL + json.dumps(shipped["limits"]), "utf-8")
        with (state / "policy" / "policy.csv").open("a", encoding="utf-8") as policy:
            policy.write(_RULE)
        with serving(state) as served:
            yield served


class _Warm:
    """What is measured with the pool; before each call it is full again."""

    def __init__(self, served: Served, *, interval_s: float) -> None:
        self._served = served
        self._interval_s = interval_s
        self._operator: AsyncBroker
        self._misses = 0

    async def measures(self) -> dict[str, float]:
        """All measures with the pool."""
        async with self._served.client() as client, self._served.human() as operator:
            self._operator = operator
            warm = await self._paced(client, "python.run", _WARM)
            bursts = [await self._burst(client) for _ in range(_BURSTS)]
            idle = [await self._after_rest(client) for _ in range(_IDLE)]
            idle_mib = await self._memory()
            argv = await self._paced(client, "bench.argv", _WARM)
        return {
            "warm_p50": percentile(warm, 50),
            "warm_p95": percentile(warm, 95),
            "argv_p50": percentile(argv, 50),
            "idle_p50": percentile(idle, 50),
            "burst": percentile(bursts, 50),
            "mib": idle_mib,
            "misses": self._misses,
        }

    async def _paced(self, client: AsyncBroker, tool: str, times: int) -> list[float]:
        """Calls at half the rate that the engine can follow; refill and removal go on beside."""
        await _call(client, tool)  # the pool keeps what has been called for
        await self._filled(tool)
        misses = await self._cold_claims()
        taken: list[float] = []
        due = time.monotonic()
        for _ in range(times):
            due += self._interval_s
            await asyncio.sleep(due - time.monotonic())
            taken.append(await _timed(lambda: _call(client, tool)))
        self._misses += await self._cold_claims() - misses
        return taken

    async def _cold_claims(self) -> int:
        """Calls so far that found no warm container that was fit."""
        return sum(pool.cold_claims for pool in (await self._operator.sandbox_status()).pools)

    async def _burst(self, client: AsyncBroker) -> float:
        await self._filled("python.run")

        async def all_of_them() -> None:
            await asyncio.gather(*(_call(client, "python.run") for _ in range(_POOL)))

        return await _timed(all_of_them)

    async def _after_rest(self, client: AsyncBroker) -> float:
        await self._filled("python.run")
        await asyncio.sleep(_IDLE_S)
        return await _timed(lambda: _call(client, "python.run"))

    async def _filled(self, tool: str) -> None:
        """Returns once the pool has all that it wants to have."""
        until = time.monotonic() + _FILL_S
        while time.monotonic() < until:
            status = await self._operator.sandbox_status()
            wanted = sum(pool.target for pool in status.pools)
            if wanted and status.idle >= wanted and not status.making and not status.leased:
                return
            await asyncio.sleep(_POLL_S)
        raise FailedPreconditionError(f"the pool didn't fill for {tool}", reason="POOL_NOT_FILLED")

    async def _memory(self) -> float:
        await self._filled("python.run")
        return percentile(await asyncio.to_thread(peers.waiting_mib), 50)


async def _cold(served: Served, parallelism: int) -> dict[str, float]:
    async with served.client() as client:
        await _call(client, "python.run")
        cold = [await _timed(lambda: _call(client, "python.run")) for _ in range(_COLD)]
        done = 0
        began = time.monotonic()

        async def caller() -> None:
            nonlocal done
            while time.monotonic() - began < _SUSTAINED_S:
                await _call(client, "python.run")
                done += 1

        # One more than the engine does best at a time: while that one is decided or put on record, the engine has as many.
        await asyncio.gather(*(caller() for _ in range(parallelism + 1)))
        sustained = done / (time.monotonic() - began)
    return {"cold_p50": percentile(cold, 50), "sustained": sustained}


async def _call(client: AsyncBroker, tool: str) -> None:
    arguments = {"code": peers.CODE} if tool == "python.run" else {}
    call = await client.run(tool, arguments)
    if call.stdout != b"1\n":
        raise FailedPreconditionError(f"the call ended as {call.state}: {call.outcome}", reason="UNEXPECTED_OUTPUT")


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await work()
    return (time.perf_counter() - began) * 1e3
