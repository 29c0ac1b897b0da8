"""The warm pool over an engine in memory: who gets which container, and what is left."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from broker.domain.meter import Claim, Step
from broker.domain.run import Limits
from broker.errors import FailedPreconditionError, InternalError, UnavailableError
from tests.memory_engine import Clock, Counting
from tests.pool_world import BUSY, JOB, NEVER_S, OTHER, PROFILE, SIZING, pool_of


async def test_a_prewarmed_profile_waits_at_its_floor_before_any_call() -> None:
    async with pool_of(warm=[PROFILE, OTHER]) as world:
        rows = world.pool.status().rows
        assert {(row.image, row.idle, row.target, row.prewarmed) for row in rows} == {
            ("sha256:1", 2, 2, True),
            ("sha256:2", 2, 2, True),
        }
        assert world.engine.most <= SIZING.creates


async def test_a_warm_call_gets_the_newest_and_it_is_gone_after() -> None:
    async with pool_of(warm=[PROFILE]) as world:
        newest = world.engine.made[-1]
        async with world.pool.lease("call_1", PROFILE) as lease:
            assert lease is newest
            assert world.pool.calls() == {"call_1": newest.container_id}
            assert world.pool.status().leased == 1
        assert world.pool.calls() == {}
        await world.bell.until(lambda: newest.container_id not in world.engine.there)
        await world.filled(2)
        assert world.meter.claims == [Claim.WARM]
        assert world.meter.steps.count(Step.CLAIM) == 1
        assert {Step.CREATE, Step.REMOVE} <= set(world.meter.steps)


async def test_a_hundred_calls_at_once_share_ten_containers_and_none_is_given_twice() -> None:
    async with pool_of(replace(BUSY, floor=10), [PROFILE]) as world:
        ready = {lease.container_id for lease in world.engine.made}
        got = await asyncio.gather(*(world.call(f"call_{number}") for number in range(100)))
        assert len(set(got)) == 100
        assert ready <= set(got)
        assert Counter(world.meter.claims) == {Claim.WARM: 10, Claim.COLD: 90}
        assert world.engine.begun == 100


async def test_an_empty_pool_makes_one_for_the_call() -> None:
    async with pool_of(replace(BUSY, ceiling=0)) as world:
        assert await world.call("call_1") == "container-1"
        assert world.meter.claims == [Claim.COLD]
        assert world.engine.begun == 1


async def test_a_ceiling_of_nothing_keeps_nothing() -> None:
    async with pool_of(replace(SIZING, ceiling=0), ()) as world:
        world.pool.prewarm([PROFILE])
        for number in range(5):
            await world.call(f"call_{number}")
        await world.bell.until(lambda: not world.engine.there)
        assert world.engine.begun == 5
        assert world.pool.status().idle == 0


async def test_an_unfit_container_is_destroyed_and_the_next_one_taken() -> None:
    async with pool_of(replace(BUSY, floor=2), [PROFILE]) as world:
        older, newer = world.engine.made
        newer.fit = False
        assert await world.call("call_1") == older.container_id
        assert newer.lingers == [0.0]
        assert world.meter.claims == [Claim.UNFIT, Claim.WARM]
        assert (world.pool.status().rows[0].unfit, world.pool.status().rows[0].warm) == (1, 1)


async def test_where_all_are_unfit_two_are_asked_and_the_call_starts_cold() -> None:
    async with pool_of(replace(BUSY, floor=5), [PROFILE]) as world:
        for lease in world.engine.made:
            lease.fit = False
        asked = world.engine.checks
        assert await world.call("call_1") == "container-6"
        assert world.engine.checks == asked + 2
        assert world.meter.claims == [Claim.UNFIT, Claim.UNFIT, Claim.COLD]
        await world.bell.until(lambda: all(lease.lingers for lease in world.engine.made))


async def test_a_container_of_another_profile_on_the_shelf_is_destroyed_not_used() -> None:
    async with pool_of(BUSY, [PROFILE]) as world:
        older, newer = world.engine.made
        newer.profile = OTHER
        assert await world.call("call_1") == older.container_id
        assert newer.lingers == [0.0]


async def test_an_engine_that_makes_another_profile_is_refused() -> None:
    async with pool_of(replace(BUSY, ceiling=0)) as world:
        world.engine.disguise = OTHER
        with pytest.raises(InternalError) as caught:
            await world.call("call_1")
        assert caught.value.reason == "PROFILE_MISMATCH"


async def test_a_call_is_never_given_what_was_made_for_another_profile() -> None:
    async with pool_of(BUSY, [PROFILE]) as world:
        for number, limits in enumerate([Limits(memory_bytes=2**27), Limits(wall_s=1.0), Limits(cpu_cores=2.0)]):
            wanted = replace(PROFILE, limits=limits)
            async with world.pool.lease(f"call_{number}", wanted) as lease:
                assert lease.profile == wanted
        assert world.meter.claims == [Claim.COLD] * 3


async def test_one_call_cannot_hold_two() -> None:
    async with pool_of(BUSY, [PROFILE]) as world, world.pool.lease("call_1", PROFILE):
        with pytest.raises(InternalError) as caught:
            await world.call("call_1")
        assert caught.value.reason == "LEASE_TWICE"
        assert list(world.pool.calls()) == ["call_1"]


async def test_the_end_of_a_failed_call_is_not_put_off() -> None:
    async with pool_of(BUSY, [PROFILE]) as world:
        with pytest.raises(ZeroDivisionError):
            async with world.pool.lease("call_1", PROFILE) as lease:
                raise ZeroDivisionError
        await world.bell.until(lambda: lease.container_id not in world.engine.there)
        async with world.pool.lease("call_2", PROFILE) as lease:
            pass
        await world.bell.until(lambda: bool(world.engine.there[lease.container_id].lingers))
        assert world.engine.there[lease.container_id].lingers == [NEVER_S]


async def test_a_used_container_waits_for_a_quiet_moment_and_goes_then() -> None:
    async with pool_of(replace(SIZING, linger_s=NEVER_S), [PROFILE]) as world:
        async with world.pool.lease("call_1", PROFILE) as used:
            pass
        await world.bell.until(lambda: used.container_id not in world.engine.there)
        lease = next(item for item in world.engine.made if item is used)
        assert lease.lingers == [NEVER_S, 0.0]


async def test_nothing_is_made_beside_a_call_before_its_bound() -> None:
    async with (
        pool_of(replace(BUSY, floor=4), [PROFILE]) as world,
        world.pool.lease("call_1", PROFILE),
        world.pool.lease("call_2", PROFILE),
    ):
        await world.bell.until(lambda: world.meter.sizes[-1] == (2, 0, 2))
        assert world.engine.begun == 4


async def test_where_it_never_gets_quiet_containers_are_made_one_at_a_time() -> None:
    async with pool_of(replace(BUSY, floor=4, refill_wait_s=0.001), [PROFILE]) as world:
        world.engine.most = 0
        async with world.pool.lease("call_1", PROFILE), world.pool.lease("call_2", PROFILE):
            await world.filled(4)
            assert world.engine.most == 1


async def test_a_call_takes_over_what_is_being_made() -> None:
    async with pool_of(replace(SIZING, floor=2)) as world:
        world.engine.gate.clear()
        world.pool.prewarm([PROFILE])
        await world.bell.until(lambda: world.engine.making == 2)
        calls = [asyncio.create_task(world.call(f"call_{number}")) for number in range(3)]
        await world.bell.until(lambda: world.engine.making == 3)
        world.engine.gate.set()
        assert set(await asyncio.gather(*calls)) == {"container-1", "container-2", "container-3"}


async def test_a_failed_refill_that_a_call_took_over_is_begun_again_for_it() -> None:
    async with pool_of(replace(SIZING, floor=1)) as world:
        world.engine.gate.clear()
        world.pool.prewarm([PROFILE])
        await world.bell.until(lambda: world.engine.making == 1)
        world.engine.errors = [UnavailableError("gone", reason="ENGINE_FAILED")]
        call = asyncio.create_task(world.call("call_1"))
        await asyncio.sleep(0)
        assert world.engine.begun == 1
        world.engine.gate.set()
        assert await call == "container-1"


async def test_what_calls_wait_for_does_not_count_as_warm() -> None:
    async with pool_of(replace(BUSY, ceiling=3, refill_wait_s=0.001)) as world:
        world.engine.gate.clear()
        calls = [asyncio.create_task(world.call(f"call_{number}")) for number in range(6)]
        await world.bell.until(lambda: world.engine.making == 7)
        world.engine.gate.set()
        assert len(set(await asyncio.gather(*calls))) == 6


async def test_misses_make_the_pool_grow_and_the_ceiling_holds() -> None:
    async with pool_of(replace(SIZING, floor=1, ceiling=5), [PROFILE]) as world:
        async with AsyncExitStack() as stack:
            for number in range(8):
                await stack.enter_async_context(world.pool.lease(f"call_{number}", PROFILE))
        await world.filled(5)
        assert all(idle <= 5 for idle, _, _ in world.meter.sizes)


async def test_a_profile_without_calls_ages_out_and_is_forgotten() -> None:
    clock = Clock()
    async with pool_of(replace(SIZING, floor=3), clock=clock) as world:
        await world.call("call_1")
        clock.now += 1
        world.pool.prewarm([])
        await world.filled(3)
        clock.now += SIZING.idle_age_s
        world.pool.prewarm([])
        await world.bell.until(lambda: not world.engine.there)
        world.pool.prewarm([])
        await world.bell.until(lambda: not world.pool.status().rows)


async def test_what_is_prewarmed_no_longer_goes() -> None:
    async with pool_of(warm=[PROFILE]) as world:
        world.pool.prewarm([OTHER])
        await world.bell.until(lambda: [(row.image, row.idle) for row in world.pool.status().rows] == [("sha256:2", 2)])


async def test_an_old_container_is_replaced_one_at_a_time() -> None:
    clock = Clock()
    async with pool_of(replace(SIZING, floor=3, creates=1), [PROFILE], clock=clock) as world:
        old = {lease.container_id for lease in world.engine.made}
        clock.now += SIZING.max_age_s
        world.meter.sizes.clear()
        world.engine.gate.clear()
        for looks in range(1, 5):
            world.pool.prewarm([PROFILE])
            await world.bell.until(lambda looks=looks: len(world.meter.sizes) >= looks)
        world.engine.gate.set()
        await world.bell.until(lambda: not old & set(world.engine.there) and len(world.engine.there) == 3)
        await world.filled(3)
        assert min(idle for idle, _, _ in world.meter.sizes) == 2


async def test_room_that_another_profile_needs_is_made() -> None:
    async with pool_of(replace(SIZING, floor=2, ceiling=4)) as world:
        async with AsyncExitStack() as stack:
            for number in range(6):
                await stack.enter_async_context(world.pool.lease(f"call_{number}", PROFILE))
        await world.filled(4)
        world.pool.prewarm([OTHER])
        await world.bell.until(lambda: any(row.image == "sha256:2" and row.idle for row in world.pool.status().rows))
        assert all(idle <= 4 for idle, _, _ in world.meter.sizes)


async def test_who_goes_over_to_another_tool_waits_once() -> None:
    async with pool_of(replace(SIZING, floor=4, ceiling=4)) as world:
        for number in range(60):
            await world.call(f"call_{number}")
            await world.filled(4)
        world.meter.claims.clear()
        for number in range(60, 66):
            async with world.pool.lease(f"call_{number}", OTHER):
                pass
            await world.bell.until(
                lambda: any(row.image == "sha256:2" and row.idle for row in world.pool.status().rows)
            )
        assert world.meter.claims == [Claim.COLD, *[Claim.WARM] * 5]


async def test_a_failing_engine_is_asked_ever_more_rarely_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    async with pool_of(replace(SIZING, floor=1, retry_s=0.001, retry_max_s=0.05)) as world:
        world.engine.error = UnavailableError("the engine is down", reason="ENGINE_FAILED")
        world.pool.prewarm([PROFILE])
        await world.bell.until(lambda: world.engine.begun == 8)
        assert world.pool.status().rows[0].trouble == "ENGINE_FAILED"
        with pytest.raises(UnavailableError, match="the engine is down"):
            await world.call("call_1")
        world.engine.error = None
        await world.filled(2)
        assert world.pool.status().rows[0].trouble == ""
    said = capsys.readouterr().out
    assert said.count("sandbox.pool_cannot_make") == 1
    assert said.count("sandbox.pool_recovered") == 1


async def test_a_failing_engine_makes_no_busy_loop() -> None:
    clock = Clock()
    async with pool_of(replace(SIZING, floor=1, retry_s=1.0, retry_max_s=30.0), clock=clock) as world:
        world.engine.error = FailedPreconditionError("no image", reason="IMAGE_MISSING")
        waits = []
        for attempt in range(1, 9):
            world.pool.prewarm([PROFILE])
            await world.bell.until(lambda attempt=attempt: world.engine.begun == attempt)
            await world.bell.until(lambda: world.meter.sizes[-1][1] == 0)
            began = clock.now
            while world.engine.begun == attempt:
                looks = len(world.meter.sizes)
                clock.now += 0.5
                world.pool.prewarm([PROFILE])
                await world.bell.until(lambda looks=looks: len(world.meter.sizes) > looks)
            waits.append(clock.now - began)
        assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


async def test_a_new_container_that_does_not_answer_is_not_kept() -> None:
    async with pool_of(replace(SIZING, floor=1)) as world:
        world.engine.unready = 2
        world.pool.prewarm([PROFILE])
        await world.filled(1)
        assert [lease.fit for lease in world.engine.made] == [False, False, True]
        await world.bell.until(lambda: list(world.engine.there) == ["container-3"])


async def test_an_unexpected_error_of_the_engine_does_not_end_the_keeping() -> None:
    async with pool_of(replace(SIZING, floor=1)) as world:
        world.engine.error = RuntimeError("a defect")
        world.pool.prewarm([PROFILE])
        await world.bell.until(lambda: world.engine.begun == 3)
        world.engine.error = None
        await world.filled(1)


async def test_an_unexpected_error_of_the_keeper_is_not_its_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.sandbox.pool_keeper._PAUSE_S", 0.001)
    async with pool_of(replace(SIZING, floor=1)) as world:
        broken = [ValueError("a defect"), ValueError("a defect")]
        real = Counting.pool

        def once(**sizes: int) -> None:
            if broken:
                raise broken.pop()
            real(world.meter, **sizes)

        monkeypatch.setattr(world.meter, "pool", once)
        world.pool.prewarm([PROFILE])
        await world.filled(1)
        assert not broken


async def test_a_container_is_made_ready_for_the_job_of_the_call_that_claims_it() -> None:
    async with pool_of(BUSY, [PROFILE]) as world:
        first, newest = world.engine.made
        async with world.pool.lease("call-1", PROFILE, JOB) as lease:
            assert lease.container_id == newest.container_id
            assert (first.handed, newest.handed) == (None, JOB)


async def test_a_container_that_is_made_for_a_call_gets_its_job_when_it_runs() -> None:
    async with pool_of() as world, world.pool.lease("call-1", PROFILE, JOB):
        assert world.engine.made[0].handed is None
