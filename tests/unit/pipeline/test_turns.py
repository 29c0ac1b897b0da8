"""Turns: bounded, fair between agents, and never lost or doubled, whoever gives up while waiting."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import ResourceExhaustedError
from broker.pipeline.turns import Turns


async def test_agents_take_turns_however_many_calls_one_of_them_has() -> None:
    turns = Turns(max_running=1, max_queued=100, max_per_agent=100)
    order: list[str] = []

    async def call(agent: str) -> None:
        await turns.acquire(agent)
        order.append(agent)
        turns.release(agent)

    for agent in "aaaabc":
        turns.reserve(agent)
    turns.reserve("first")
    await turns.acquire("first")
    waiting = [asyncio.create_task(call(agent)) for agent in "aaaabc"]
    await asyncio.wait(waiting, timeout=0)
    turns.release("first")
    await asyncio.gather(*waiting)
    assert order == ["a", "b", "c", "a", "a", "a"]
    assert (turns.running, turns.queued) == (0, 0)


def test_quota_and_queue_are_told_apart() -> None:
    turns = Turns(max_running=1, max_queued=2, max_per_agent=2)
    turns.reserve("a")
    turns.reserve("a")
    with pytest.raises(ResourceExhaustedError) as quota:
        turns.reserve("a")
    turns.reserve("b")
    with pytest.raises(ResourceExhaustedError) as full:
        turns.reserve("c")
    assert (quota.value.reason, full.value.reason) == ("AGENT_QUOTA", "QUEUE_FULL")
    turns.give_back("a")
    turns.reserve("c")


async def _nothing() -> None:
    """Takes one turn of the loop."""


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30), st.integers(1, 4))
def test_no_turn_is_lost_when_waiters_give_up(calls: list[tuple[str, bool]], most: int) -> None:
    async def play() -> None:
        turns = Turns(max_running=most, max_queued=1000, max_per_agent=1000)
        at_once = highest = 0

        async def call(agent: str) -> None:
            nonlocal at_once, highest
            try:
                await turns.acquire(agent)
            except asyncio.CancelledError:
                turns.give_back(agent)
                raise
            at_once += 1
            highest = max(highest, at_once)
            try:
                await asyncio.wait([asyncio.ensure_future(_nothing())])
            finally:
                at_once -= 1
                turns.release(agent)

        tasks = []
        for agent, gives_up in calls:
            turns.reserve(agent)
            task = asyncio.create_task(call(agent))
            tasks.append(task)
            if gives_up:
                await asyncio.wait([task], timeout=0)
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert highest <= most
        assert (turns.running, turns.queued, at_once) == (0, 0, 0)

    asyncio.run(play())
