"""The timer that removes what nobody holds: on second sight, never a live one, and it never stops looking."""

from __future__ import annotations

import pytest

from broker.domain.run import Limits, Profile
from broker.errors import UnavailableError
from broker.sandbox.engine import OwnedContainer
from broker.sandbox.reaper import Reaper, orphans, reap_all
from tests.memory_engine import MemoryEngine

LEFT = OwnedContainer("left", "running")
NEVER_S = 3600.0


async def engine_with_a_live_one() -> MemoryEngine:
    engine = MemoryEngine()
    await engine.create(Profile("sha256:1", Limits()))
    return engine


async def test_an_orphan_is_what_this_process_does_not_hold() -> None:
    engine = await engine_with_a_live_one()
    engine.foreign = [LEFT]
    assert len(await engine.list_owned()) == 2
    assert await orphans(engine) == [LEFT]
    assert await reap_all(engine) == [LEFT]
    assert engine.foreign == []
    assert len(engine.there) == 1


async def test_at_the_start_one_that_cannot_be_removed_stays_for_the_reaper(
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = MemoryEngine()
    other = OwnedContainer("other", "exited")
    engine.foreign, engine.stubborn = [LEFT, other], {"left"}
    assert await reap_all(engine) == [other]
    assert engine.foreign == [LEFT]
    said = capsys.readouterr().out
    assert (said.count("sandbox.orphan_stays"), said.count("sandbox.orphan_removed")) == (1, 1)


async def test_at_the_start_a_list_that_fails_is_an_error() -> None:
    engine = MemoryEngine()
    engine.broken_lists = [UnavailableError("the engine is away")]
    with pytest.raises(UnavailableError):
        await reap_all(engine)


async def test_an_orphan_goes_on_second_sight() -> None:
    engine = await engine_with_a_live_one()
    async with Reaper(engine, interval_s=NEVER_S) as reaper:
        assert await reaper.sweep() == []
        engine.foreign = [LEFT]
        assert await reaper.sweep() == []
        assert engine.foreign == [LEFT]
        assert await reaper.sweep() == [LEFT]
        assert await reaper.sweep() == []
        assert len(engine.there) == 1


async def test_what_cannot_be_removed_holds_up_nothing_else_and_is_tried_again() -> None:
    engine = MemoryEngine()
    other = OwnedContainer("other", "exited")
    engine.foreign, engine.stubborn = [LEFT, other], {"left"}
    async with Reaper(engine, interval_s=NEVER_S) as reaper:
        assert await reaper.sweep() == []
        assert await reaper.sweep() == [other]
        engine.stubborn.clear()
        assert await reaper.sweep() == [LEFT]


async def test_a_look_that_fails_is_not_the_last_one() -> None:
    engine = MemoryEngine()
    engine.foreign = [LEFT]
    engine.broken_lists = [RuntimeError("a defect"), UnavailableError("the engine is away")]
    async with Reaper(engine, interval_s=0.001):
        await engine.bell.until(lambda: engine.foreign == [])
    assert engine.lists >= 4
