"""A lease before its job and after it: health, what is live, and a removal that waits."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import docker
import pytest

from broker.domain.run import EndCause, Limits, Output, Profile
from broker.errors import FailedPreconditionError, InternalError, UnavailableError
from broker.sandbox import docker_engine as docker_engine_module
from broker.sandbox import docker_lease
from broker.sandbox.address import engine_address
from broker.sandbox.docker_engine import DockerEngine
from broker.sandbox.docker_lease import DockerLease
from broker.sandbox.engine import Capabilities, Engine
from tests.sandbox_support import LIMITS, docker_engine, finish, leased, new_instance, profile, python

pytestmark = pytest.mark.docker

WITHIN_S = 30
LONG_S = 3600.0


async def test_a_waiting_runner_answers_and_then_runs(engine: Engine) -> None:
    async with leased(engine, await profile(engine)) as lease:
        assert [await lease.ready() for _ in range(20)] == [True] * 20
        assert lease.profile == await profile(engine)
        assert (await finish(lease, python("print(1)"))).text == "1\n"
        assert not await lease.ready()


async def test_a_container_that_died_is_not_ready(engine: Engine) -> None:
    client = docker.APIClient(base_url=engine_address(), version="auto")
    try:
        async with leased(engine, await profile(engine)) as lease:
            assert await lease.ready()
            client.kill(lease.container_id)
            async with asyncio.timeout(WITHIN_S):
                while await lease.ready():
                    pass
            with pytest.raises(UnavailableError):
                await finish(lease, python("print(1)"))
    finally:
        client.close()


async def test_a_frozen_container_is_not_ready_and_can_be_removed(engine: Engine) -> None:
    client = docker.APIClient(base_url=engine_address(), version="auto")
    try:
        async with leased(engine, await profile(engine)) as lease:
            client.pause(lease.container_id)
            assert not await lease.ready()
            await lease.destroy()
            await lease.removed()
    finally:
        client.close()


async def test_a_destroyed_lease_is_not_ready_and_runs_nothing(engine: Engine) -> None:
    lease = await engine.create(await profile(engine))
    assert await lease.ready()
    await lease.destroy()
    assert not await lease.ready()
    with pytest.raises(InternalError):
        await finish(lease, python("print(1)"))
    await lease.removed()


async def test_a_container_is_live_from_its_making_to_its_removal(engine: Engine) -> None:
    chosen = await profile(engine)
    making = asyncio.create_task(engine.create(chosen))
    while not (listed := {item.id for item in await engine.list_owned()}):
        pass
    assert engine.live() == listed
    lease = await making
    assert engine.live() == {lease.container_id} == listed
    await lease.destroy(linger_s=LONG_S)
    assert engine.live() == listed
    lease.kill(EndCause.OPERATOR, "enough")
    await lease.removed()
    assert engine.live() == frozenset()
    assert await engine.list_owned() == []


@pytest.mark.parametrize("used", [True, False])
async def test_a_runner_with_nothing_to_do_ends_by_itself_and_needs_no_kill(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, *, used: bool
) -> None:
    monkeypatch.setattr(docker_lease, "LEAVE_S", WITHIN_S)
    before = time.time()
    lease = await engine.create(await profile(engine))
    if used:
        await finish(lease, python("print(1)"))
    else:
        assert await lease.ready()
    await lease.destroy()
    await asyncio.wait_for(lease.removed(), WITHIN_S)
    if await isolates(engine) or not used:  # elsewhere nobody knows whether the tool is over
        assert _exit_codes(lease.container_id, before) == ["0"]


async def isolates(engine: Engine) -> bool:
    """Whether this engine, as the suite uses it, keeps the tool from the runner."""
    return (await engine.capabilities((await profile(engine)).runtime)).isolated_runner


def _exit_codes(container_id: str, since: float) -> list[str]:
    """How process 1 of a container ended, by the engine's own record."""
    client = docker.APIClient(base_url=engine_address(), version="auto")
    wanted = {"container": container_id, "event": "die"}
    try:
        told = client.events(since=f"{since:.6f}", until=f"{time.time():.6f}", filters=wanted, decode=True)
        return [event["Actor"]["Attributes"]["exitCode"] for event in told]
    finally:
        client.close()


async def test_a_removal_that_lingers_waits(engine: Engine) -> None:
    lease = await engine.create(await profile(engine))
    await finish(lease, python("print(1)"))
    await lease.destroy(linger_s=LONG_S)
    if await isolates(engine):  # elsewhere the tool may be at work still, and goes at once
        for _ in range(3):
            assert [item.state for item in await engine.list_owned()] == ["running"]
        await lease.destroy()
    await asyncio.wait_for(lease.removed(), WITHIN_S)
    assert await engine.list_owned() == []


async def test_a_tool_that_still_runs_is_removed_at_once_whatever_is_asked(engine: Engine) -> None:
    lease = await engine.create(await profile(engine))
    async for event in lease.run(python("print(1)\nimport time\ntime.sleep(600)")):
        if isinstance(event, Output):
            break
    await lease.destroy(linger_s=LONG_S)
    await asyncio.wait_for(lease.removed(), WITHIN_S)


async def test_an_engine_that_closes_does_not_wait_for_what_lingers() -> None:
    instance = new_instance()
    async with asyncio.timeout(WITHIN_S), docker_engine(instance) as engine:
        lease = await engine.create(await profile(engine))
        await lease.destroy(linger_s=LONG_S)


async def test_processor_time_is_the_runs_own(engine: Engine) -> None:
    async with leased(engine, await profile(engine, Limits(wall_s=60))) as lease:
        before = time.process_time()
        while not await lease.ready() or time.process_time() - before < 0.2:
            pass  # the runner answers all the while, and that is nobody's run
        ended = (await finish(lease, python("pass"))).ended
    assert ended.cpu_s is not None
    assert 0 < ended.cpu_s < 0.1


async def test_many_at_once_keep_apart(engine: Engine) -> None:
    chosen = await profile(engine, LIMITS)

    async def one(number: int) -> str:
        async with leased(engine, chosen) as lease:
            return (await finish(lease, python(f"print({number})"))).text

    assert await asyncio.gather(*map(one, range(6))) == [f"{number}\n" for number in range(6)]


class CountingEngine(DockerEngine):
    """Knows how many containers it made at the same time."""

    now = most = 0

    async def _start(self, profile: Profile, capabilities: Capabilities) -> DockerLease:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super()._start(profile, capabilities)
        finally:
            self.now -= 1


async def test_no_more_containers_are_made_at_once_than_there_are_turns() -> None:
    async with CountingEngine(new_instance()) as engine, asyncio.timeout(WITHIN_S), AsyncExitStack() as leases:
        engine._turns = asyncio.Semaphore(2)
        chosen = await profile(engine)
        missing = Profile(f"sha256:{'0' * 64}", chosen.limits)
        for _ in range(3):  # one that can't be made gives its turn back
            with pytest.raises(FailedPreconditionError):
                await engine.create(missing)
        await asyncio.gather(*(leases.enter_async_context(leased(engine, chosen)) for _ in range(5)))
        assert engine.most == 2


async def test_who_has_waited_long_enough_for_a_turn_goes_ahead_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_engine_module, "_TURN_S", 0.01)
    async with docker_engine() as engine, asyncio.timeout(WITHIN_S):
        engine._turns = asyncio.Semaphore(0)
        async with leased(engine, await profile(engine)) as lease:
            assert (await finish(lease, python("print(1)"))).text == "1\n"
        assert engine._turns.locked()


@pytest.mark.parametrize(("said", "turns"), [(4, 8), (0, 2), (None, 2), ("8", 2)])
async def test_turns_go_by_the_processors_that_the_engine_says_it_has(
    monkeypatch: pytest.MonkeyPatch, said: object, turns: int
) -> None:
    monkeypatch.setattr(docker.APIClient, "info", lambda _: {"NCPU": said})
    async with DockerEngine(new_instance()) as engine:
        assert engine._turns._value == turns
