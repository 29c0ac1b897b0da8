"""One call through the whole broker beside the same container by the `docker` command, taken by turns in one run.

Three things are timed, each until its output is there: `docker run` of `python3 -c "print(1)"` with the broker's
hardening; the broker's own engine without the broker around it (create, attach, start, run, answer); and a `python.run`
of `print(1)` by a client over mutual TLS, with policy, ledger and encrypted store. What the last costs more than the one
before is the broker's own.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import docker as peers
from benchmarks.report import Measure, Report, percentile
from broker.client import AsyncBroker
from broker.domain.ids import new_id
from broker.domain.run import Ended, Job, Limits, Profile
from broker.errors import FailedPreconditionError
from broker.sandbox.docker_engine import DockerEngine
from broker.sandbox.engine import LABEL_INSTANCE
from tests.served import make_state, serving

_ROUNDS = 40
_WARM_UP = 3
_TARGET_RATIO = 1.25
_SETTLE_S = 0.02
_PATIENCE_S = 30.0


def measure() -> Report:
    """Takes all measures; about a minute."""
    peers.require_docker()
    with tempfile.TemporaryDirectory(prefix="broker-benchmark-") as folder:
        state = Path(folder) / "state"
        make_state(state, settings={"pool_ceiling": 0})
        with serving(state) as served:
            return asyncio.run(_measure(served.client()))


async def _measure(client: AsyncBroker) -> Report:
    async with client, DockerEngine(new_id("bench")) as engine:
        image = (await engine.image("python")).id
        limits = Limits()
        profile = Profile(image=image, limits=limits)
        others = _sandboxes()  # those that other brokers on this engine keep
        docker: list[float] = []
        bare: list[float] = []
        broker: list[float] = []
        for turn in range(_ROUNDS + _WARM_UP):
            taken = [
                await _timed(work, others)
                for work in (
                    lambda: asyncio.to_thread(peers.run_once, image, limits),
                    lambda: _engine_run(engine, profile),
                    lambda: _broker_run(client),
                )
            ]
            if turn >= _WARM_UP:
                for values, value in zip((docker, bare, broker), taken, strict=True):
                    values.append(value)
    docker_p50, broker_p50 = percentile(docker, 50), percentile(broker, 50)
    return Report(
        title="one call, cold: client over mutual TLS, policy, ledger, encrypted store, fresh container",
        measures=(
            Measure("docker_run_p50_ms", docker_p50, "ms", note="`docker run`, same image and hardening"),
            Measure("docker_run_p95_ms", percentile(docker, 95), "ms"),
            Measure("engine_p50_ms", percentile(bare, 50), "ms", note="our engine alone, without the broker"),
            Measure("broker_cold_p50_ms", broker_p50, "ms", note="the whole call, seen by the client"),
            Measure("broker_cold_p95_ms", percentile(broker, 95), "ms"),
            Measure("ratio_cold", broker_p50 / docker_p50, "x", at_most=_TARGET_RATIO),
            Measure("overhead_p50_ms", broker_p50 - percentile(bare, 50), "ms", note="all that isn't the engine"),
        ),
    )


async def _timed(work: Callable[[], Awaitable[None]], others: frozenset[bytes]) -> float:
    # A removal that goes on after an answer must not slow down whatever is timed next.
    until = time.monotonic() + _PATIENCE_S
    while await asyncio.to_thread(_sandboxes) - others:
        if time.monotonic() > until:
            raise FailedPreconditionError("somebody else makes sandboxes on this engine", reason="ENGINE_BUSY")
        await asyncio.sleep(_SETTLE_S)  # the engine offers no event that a stranger could wait for
    start = time.perf_counter()
    await work()
    return (time.perf_counter() - start) * 1e3


def _sandboxes() -> frozenset[bytes]:
    command = ["docker", "ps", "--all", "--quiet", "--filter", f"label={LABEL_INSTANCE}"]
    return frozenset(subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL).stdout.split())


async def _engine_run(engine: DockerEngine, profile: Profile) -> None:
    job = Job(kind="python", argv=("<code>",), code=peers.CODE, env={}, arguments=b"{}")
    lease = await engine.create(profile)
    try:
        async for event in lease.run(job):
            lease.taken(event)
            if isinstance(event, Ended) and event.exit_code != 0:
                raise FailedPreconditionError(f"the engine's run ended with {event.detail}", reason="UNEXPECTED_OUTPUT")
    finally:
        await lease.destroy()


async def _broker_run(client: AsyncBroker) -> None:
    call = await client.run("python.run", {"code": peers.CODE})
    if call.stdout != b"1\n":
        raise FailedPreconditionError(f"the call ended as {call.state}", reason="UNEXPECTED_OUTPUT")
