"""What the caller of a call is told, and when: after the job was let start, and never before it is durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.domain.call import CallState
from broker.domain.events import CallEvent, Finished, StateChanged
from broker.domain.ports import CallRow
from broker.domain.run import EndCause, RunEvent, Started
from broker.errors import UnavailableError
from broker.pipeline.active import ActiveCall
from broker.pipeline.calls import Calls, Told
from broker.pipeline.collect import Collector
from broker.pipeline.execution import Execution
from broker.pipeline.feed import Feed
from broker.pipeline.pipeline import handed
from broker.pipeline.verdict import never_ran
from broker.rpc.tool_broker import Made

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ROW = CallRow("call_1", "agt_1", "hum_1", "data.query", "1", "shop", "", CallState.RUNNING, 3, "", "sha256:00", NOW)
NOBODY = cast("Any", None)
WITHIN_S = 10
OUTCOME = never_ran(EndCause.CLIENT, "no")


def attended() -> ActiveCall:
    return ActiveCall(row=ROW, request=NOBODY, tool=NOBODY, feed=Feed(0), clock=NOBODY)


async def test_what_is_foreseen_is_told_only_once_it_has_come() -> None:
    active = attended()
    foreseen: list[Told] = []
    events = Calls(NOBODY).attend(active, foreseen.append)
    active.feed.publish([CallEvent(1, NOW, StateChanged(CallState.RUNNING))])
    assert [event.number for event, _ in await anext(events)] == [1]

    last = CallEvent(2, NOW, Finished(CallState.CANCELLED, OUTCOME))
    foretell = active.foreteller()
    assert foretell is not None
    ended = replace(active.row, state=CallState.CANCELLED)
    await asyncio.to_thread(foretell, ended, [last])
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.wait([waiting], timeout=0.05)
    assert [(event, view and view.state) for event, view in foreseen[0]] == [(last, CallState.CANCELLED)]
    assert not waiting.done()

    active.row = ended
    active.feed.publish([last])
    async with asyncio.timeout(WITHIN_S):
        assert await waiting == foreseen[0]
    await events.aclose()
    assert active.foreteller() is None


def test_a_message_made_beforehand_is_that_of_the_very_event_that_came() -> None:
    made = Made()
    event = CallEvent(2, NOW, StateChanged(CallState.RUNNING))
    other = CallEvent(2, NOW, StateChanged(CallState.CANCELLED))
    made.foresee([(event, None)])
    assert made.message(other, None).state_change.state != made.message(event, None).state_change.state
    made.foresee([(event, None)])
    ready = made.message(event, None)
    assert ready.number == 2
    assert made.message(event, None) == ready


async def test_a_loop_that_has_ended_keeps_nothing_off_the_record() -> None:
    told: list[Sequence[CallEvent]] = []

    async def on_another_loop() -> ActiveCall:
        active = attended()
        active.foresight = lambda _, events: told.append(events)
        return active

    def foretell_after_its_end() -> None:
        loop = asyncio.new_event_loop()
        active = loop.run_until_complete(on_another_loop())

        async def teller() -> object:
            return active.foreteller()

        foretell = loop.run_until_complete(teller())
        loop.close()
        assert callable(foretell)
        foretell(active.row, [])

    await asyncio.to_thread(foretell_after_its_end)
    assert told == []


async def test_the_first_message_waits_for_the_job_to_be_let_start() -> None:
    active = attended()
    waiting = asyncio.ensure_future(handed(active, within_s=WITHIN_S))
    await asyncio.wait([waiting], timeout=0.02)
    assert not waiting.done()
    active.handed.set()
    async with asyncio.timeout(WITHIN_S):
        await waiting


async def test_a_job_is_let_start_before_anybody_is_told_that_it_runs() -> None:
    active, order = attended(), []
    active.clock = cast("Any", SimpleNamespace(restart=lambda: None))

    class Lease:
        taken = staticmethod(lambda _: None)

        async def run(self, *_: object, **__: object) -> AsyncIterator[RunEvent]:
            order.append(("let start", active.handed.is_set()))
            await active.handed.wait()
            raise UnavailableError("the engine is gone", reason="ENGINE_FAILED")
            yield Started()

    collector = Collector(NOBODY, NOBODY, NOW, active.feed.room)
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(UnavailableError):
            await Execution(NOBODY, NOBODY, NOBODY, NOBODY)._run_job(
                active, NOBODY, cast("Any", Lease()), NOBODY, collector
            )
    assert order == [("let start", False)]


async def test_a_call_that_fails_before_its_job_keeps_its_caller_waiting_no_longer() -> None:
    active = attended()
    await Execution(NOBODY, NOBODY, NOBODY, NOBODY).drive(active)
    assert active.handed.is_set()
    assert active.feed.failure is not None


async def test_the_first_message_does_not_wait_for_a_container_that_is_slow_to_come() -> None:
    async with asyncio.timeout(WITHIN_S):
        await handed(attended(), within_s=0.01)


async def test_a_caller_that_goes_away_while_the_first_message_waits_leaves_no_timer() -> None:
    active = attended()
    waiting = asyncio.ensure_future(handed(active, within_s=0.05))
    await asyncio.wait([waiting], timeout=0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait([asyncio.ensure_future(active.handed.wait())], timeout=0.2)
    assert not active.handed.is_set()
