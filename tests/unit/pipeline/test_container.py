"""A call that has begun and waits for its container can be ended; what is claimed for it is given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.domain.call import CallState
from broker.domain.events import EventPayload, Outcome
from broker.domain.run import EndCause, Job, Limits, Profile
from broker.errors import UnavailableError
from broker.pipeline.active import ActiveCall
from broker.pipeline.execution import Execution
from broker.pipeline.feed import Feed
from broker.pipeline.hold import Hold
from broker.pipeline.start import Begun

NOBODY = cast("Any", None)
PROFILE = Profile("sha256:image", Limits())
WITHIN_S = 10


class Pool:
    """Gives a container, or never does, or fails; counts those that were given back."""

    def __init__(self, *, never: bool = False, error: Exception | None = None) -> None:
        self.asked = asyncio.Event()
        self.given_up = 0
        self._never = never
        self._error = error

    @asynccontextmanager
    async def lease(self, call_id: str, profile: Profile, job: Job | None = None) -> AsyncIterator[str]:
        del profile, job
        self.asked.set()
        try:
            if self._error:
                raise self._error
            if self._never:
                await asyncio.Event().wait()
            yield f"container of {call_id}"
        finally:
            self.given_up += 1


def active() -> ActiveCall:
    return ActiveCall(row=NOBODY, request=NOBODY, tool=NOBODY, feed=Feed(0), clock=NOBODY)


async def container(call: ActiveCall, hold: Hold) -> object:
    return await Execution(NOBODY, NOBODY, NOBODY, NOBODY)._container(call, hold)


async def test_a_container_that_is_there_is_taken_and_given_up_in_the_end() -> None:
    pool = Pool()
    hold = Hold(cast("Any", pool), "call_1", PROFILE)
    hold.begin_soon()
    await pool.asked.wait()
    assert str(await container(active(), hold)) == "container of call_1"
    assert pool.given_up == 0
    await hold.release()
    await hold.release()
    assert pool.given_up == 1


async def test_a_call_that_is_ended_waits_for_no_container() -> None:
    pool, call = Pool(never=True), active()
    hold = Hold(cast("Any", pool), "call_1", PROFILE)
    waiting = asyncio.create_task(container(call, hold))
    await pool.asked.wait()
    call.end(EndCause.CLIENT, "cancelled")
    async with asyncio.timeout(WITHIN_S):
        assert await waiting is None
        await hold.release()
    assert pool.given_up == 1


async def test_a_defect_of_ours_before_the_start_is_an_end_on_record_and_no_run() -> None:
    ended: list[tuple[CallState, Outcome]] = []

    class Recording(Execution):
        async def _finish(
            self, active: ActiveCall, state: CallState, outcome: Outcome, tail: Sequence[EventPayload] = ()
        ) -> None:
            del active, tail
            ended.append((state, outcome))

    def broken(*_: object) -> None:
        raise KeyError("Id")

    parts = SimpleNamespace(egress=SimpleNamespace(session=broken))
    row, plan = SimpleNamespace(id="call_1", state=CallState.RUNNING), SimpleNamespace(profile=PROFILE)
    call = ActiveCall(row=cast("Any", row), request=NOBODY, tool=NOBODY, feed=Feed(0), clock=NOBODY)
    hold = Hold(cast("Any", Pool()), "call_1", PROFILE)
    with pytest.raises(KeyError):
        await Recording(cast("Any", parts), NOBODY, NOBODY, NOBODY)._in_container(call, Begun(cast("Any", plan), hold))
    ((state, outcome),) = ended
    assert (state, outcome.cause, outcome.exit_code) == (CallState.CANCELLED, EndCause.ENGINE, None)


async def test_a_claim_that_fails_says_why() -> None:
    pool = Pool(error=UnavailableError("the engine is away", reason="ENGINE_FAILED"))
    hold = Hold(cast("Any", pool), "call_1", PROFILE)
    with pytest.raises(UnavailableError, match="away"):
        await container(active(), hold)
    await hold.release()


async def test_what_was_given_up_before_it_was_claimed_is_never_claimed() -> None:
    pool = Pool()
    hold = Hold(cast("Any", pool), "call_1", PROFILE)
    await hold.release()
    hold.begin_soon()
    turn = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turn.set_result, None)
    await turn
    assert not pool.asked.is_set()
