"""What is left of the warm pool where calls are cancelled, and where it ends."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from broker.errors import UnavailableError
from broker.sandbox.pool import Pool
from tests.memory_engine import DEADLINE_S, Counting, MemoryEngine, MemoryLease
from tests.pool_world import BUSY, OTHER, PROFILE, SIZING, pool_of


async def test_a_call_that_is_cancelled_while_its_container_is_made_leaves_nothing() -> None:
    async with pool_of(replace(SIZING, ceiling=0)) as world:
        world.engine.gate.clear()
        call = asyncio.create_task(world.call("call_1"))
        await world.bell.until(lambda: world.engine.making == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert world.pool.status().making == 0
        world.engine.gate.set()
        await world.bell.until(lambda: len(world.engine.made) == 1 and not world.engine.there)


async def test_what_was_made_for_a_cancelled_call_is_kept_where_it_is_wanted() -> None:
    async with pool_of(BUSY) as world:
        world.engine.gate.clear()
        call = asyncio.create_task(world.call("call_1"))
        await world.bell.until(lambda: world.engine.making == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        world.engine.gate.set()
        await world.filled(1)
        assert await world.call("call_2") == "container-1"


@pytest.mark.parametrize("ceiling", [0, 4])
async def test_a_container_that_comes_in_the_moment_of_the_cancel_is_not_lost(ceiling: int) -> None:
    async with pool_of(replace(BUSY, ceiling=ceiling)) as world:
        keeper = world.pool._keeper
        assert keeper
        keeper.cancel()  # it would give up what is too much; here it mustn't come to that
        world.engine.gate.clear()
        call = asyncio.create_task(world.call("call_1"))
        await world.bell.until(lambda: world.engine.making == 1)
        world.engine.gate.set()
        while not world.engine.made or world.pool.status().making:  # noqa: ASYNC110  # the very step is what counts
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert world.pool.status().idle == min(ceiling, 1)
        await world.bell.until(lambda: len(world.engine.there) == min(ceiling, 1))


async def test_what_was_made_for_a_cancelled_call_is_undone_where_it_is_not_wanted() -> None:
    async with pool_of(replace(BUSY, floor=0)) as world:
        world.engine.gate.clear()
        call = asyncio.create_task(world.call("call_1"))
        await world.bell.until(lambda: world.engine.making == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert world.pool.status().making == 0
        world.engine.gate.set()
        await world.bell.until(lambda: len(world.engine.made) == 1 and not world.engine.there)


async def test_what_was_made_for_a_cancelled_call_is_undone_where_there_is_no_room() -> None:
    async with pool_of(replace(BUSY, floor=1, ceiling=1), [OTHER]) as world:
        world.engine.gate.clear()
        call = asyncio.create_task(world.call("call_1"))
        await world.bell.until(lambda: world.engine.making == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert world.pool.status().making == 0
        world.engine.gate.set()
        await world.bell.until(lambda: len(world.engine.made) == 2 and len(world.engine.there) == 1)


async def test_a_container_goes_past_the_place_of_a_call_that_is_just_being_cancelled() -> None:
    async with pool_of(BUSY) as world:
        world.engine.gate.clear()
        first, second = (asyncio.create_task(world.call(f"call_{number}")) for number in range(2))
        await world.bell.until(lambda: world.engine.making == 2)
        world.engine.gate.set()
        first.cancel()
        assert await second == "container-1"
        await world.filled(1)
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_a_call_that_is_cancelled_during_the_check_leaves_nothing() -> None:
    async with pool_of(replace(BUSY, floor=1), [PROFILE]) as world:
        world.engine.made[0].answers.clear()
        checks = world.engine.checks
        call = asyncio.create_task(world.call("call_1"))
        await world.bell.until(lambda: world.engine.checks == checks + 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await world.bell.until(lambda: not world.engine.there)


async def test_a_cancelled_call_gives_its_place_to_the_next() -> None:
    async with pool_of(replace(BUSY, ceiling=0)) as world:
        world.engine.gate.clear()
        first, second = (asyncio.create_task(world.call(f"call_{number}")) for number in range(2))
        await world.bell.until(lambda: world.engine.making == 2)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert world.pool.status().making == 1
        world.engine.gate.set()
        assert await second in {"container-1", "container-2"}


async def test_a_take_over_that_is_cancelled_does_not_lift_the_ceiling() -> None:
    async with pool_of(replace(SIZING, floor=1, ceiling=1)) as world:
        world.engine.gate.clear()
        world.pool.prewarm([PROFILE])
        await world.bell.until(lambda: world.engine.making == 1)
        call = asyncio.create_task(world.call("call_1"))
        await world.bell.until(lambda: world.pool.status().rows[0].making == 1 and world.engine.begun == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        world.engine.gate.set()
        await world.filled(1)
        assert len(world.engine.there) == 1


async def test_the_end_cuts_off_what_never_gets_ready_and_refuses_who_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("broker.sandbox.pool_works._FINISH_S", 0.001)
    async with pool_of(replace(SIZING, floor=2)) as world:
        world.engine.gate.clear()
        world.pool.prewarm([PROFILE])
        await world.bell.until(lambda: world.engine.making == 2)
        calls = [asyncio.create_task(world.call(f"call_{number}")) for number in range(3)]
        await world.bell.until(lambda: world.engine.making == 3)
    for call in calls:
        with pytest.raises(UnavailableError) as caught:
            await call
        assert caught.value.reason == "DRAINING"


async def test_the_end_waits_for_what_is_being_made_and_destroys_it() -> None:
    async with pool_of(replace(SIZING, floor=2)) as world:
        world.engine.gate.clear()
        world.pool.prewarm([PROFILE])
        await world.bell.until(lambda: world.engine.making == 2)
        asyncio.get_running_loop().call_soon(world.engine.gate.set)
    assert len(world.engine.made) == 2


async def test_the_end_takes_what_a_call_still_holds() -> None:
    async with AsyncExitStack() as calls:
        async with pool_of(BUSY, [PROFILE]) as world:
            lease = await calls.enter_async_context(world.pool.lease("call_1", PROFILE))
        assert world.engine.there == {}
        assert world.engine.made[-1] is lease
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
    assert world.engine.made[-1].lingers == [0.0]


async def test_a_removal_that_fails_is_said_and_holds_up_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    async with pool_of(replace(SIZING, floor=1), [PROFILE]) as world:
        world.engine.lingers_out = True
        world.engine.made[0].removal_error = UnavailableError("the engine refuses", reason="ENGINE_FAILED")
        await world.call("call_1")
        await world.filled(1)
    assert "the engine refuses" in capsys.readouterr().out


async def test_a_ceiling_below_the_number_of_prewarmed_profiles_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    async with pool_of(replace(SIZING, ceiling=1), [PROFILE, OTHER]) as world:
        assert sorted(row.idle for row in world.pool.status().rows) == [0, 1]
        for number, wanted in enumerate([PROFILE, OTHER]):
            await world.call(f"call_{number}", wanted)
        assert all(idle <= 1 for idle, _, _ in world.meter.sizes)
    assert "sandbox.pool_too_small" in capsys.readouterr().out


async def test_after_the_end_no_call_gets_one() -> None:
    async with pool_of() as world:
        pass
    with pytest.raises(UnavailableError) as caught:
        await world.call("call_1")
    assert caught.value.reason == "DRAINING"


async def test_the_end_during_a_check_starts_nothing_new() -> None:
    async with pool_of(replace(BUSY, floor=1), [PROFILE]) as world:
        lease = world.engine.made[0]
        lease.fit = False
        lease.answers.clear()
        call = asyncio.create_task(world.call("call_1"))
        checks = world.engine.checks
        await world.bell.until(lambda: world.engine.checks == checks + 1)
    lease.answers.set()
    with pytest.raises(UnavailableError):
        await call
    assert world.engine.begun == 1


class HangingLease(MemoryLease):
    """Its removal is never answered."""

    async def destroy(self, *, linger_s: float = 0.0) -> None:
        """See ``Lease``."""
        self.lingers.append(linger_s)


async def test_an_engine_that_never_answers_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.memory_engine.MemoryLease", HangingLease)
    engine = MemoryEngine()
    async with asyncio.timeout(DEADLINE_S / 2), Pool(engine, SIZING, meter=Counting(engine.bell), close_s=0.05) as pool:
        pool.prewarm([PROFILE])
        await engine.bell.until(lambda: (pool.status().idle, pool.status().making) == (SIZING.floor, 0))
        engine.gate.clear()
        pool.prewarm([PROFILE, OTHER])
        await engine.bell.until(lambda: engine.making > 0)
    assert engine.making == 0
    assert all(lease.lingers for lease in engine.made)
    said = capsys.readouterr().out
    assert said.count("sandbox.pool_close_cut_off") == 1
    assert f"containers={SIZING.floor}" in said
