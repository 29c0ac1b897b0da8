"""Streams: order, resume after a broken connection, and ends."""

from __future__ import annotations

import asyncio

import pytest
from grpc import StatusCode

from broker.client import AsyncBroker, CallState, Finished, RetryPolicy, StateChanged, Stdout
from broker.errors import (
    BrokerError,
    DataLossError,
    DeadlineError,
    OutOfRangeError,
    PermissionDeniedError,
    UnavailableError,
)
from tests.fake_broker import CALL, HANG, FakeBroker, Refuse, call, run, watch

AWAY = Refuse(StatusCode.UNAVAILABLE, "recvmsg: Connection reset by peer")


async def test_run_gives_the_call_with_its_output(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("RunToolCall", run("QUEUED", "RUNNING", b"hel", b"lo\n", call()))
    done = await broker.run("python.run", {"code": "print('hello')"})
    assert (done.state, done.stdout_text, done.outcome.exit_code) == (CallState.SUCCEEDED, "hello\n", 0)
    [request] = fake.script.sent("RunToolCall")
    assert request.request_id.startswith("req_")
    assert request.tool_call.tool == "tools/python.run"
    assert request.tool_call.context.workspace == "demo"


async def test_a_failed_tool_raises_nothing(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("RunToolCall", run("RUNNING", call("FAILED")))
    done = await broker.run("python.run", {})
    assert (done.succeeded, done.outcome.exit_code) == (False, 7)


async def test_a_broken_run_goes_on_as_a_watch_from_the_next_event(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("RunToolCall", run("RUNNING", b"one", AWAY))
    fake.script.on("CreateToolCall", call("RUNNING"))
    fake.script.on("WatchToolCall", [*watch(3, b"two"), AWAY], watch(4, b"three", call()))
    done = await broker.run("python.run", {}, request_id="mine")
    assert done.stdout == b"onetwothree"
    assert [item.request_id for item in fake.script.sent("CreateToolCall")] == ["mine"]
    assert [(item.name, item.first_event) for item in fake.script.sent("WatchToolCall")] == [(CALL, 3), (CALL, 4)]
    assert not fake.script.sent("CancelToolCall")


async def test_a_run_that_breaks_before_its_first_event_is_asked_for_under_the_same_id(
    fake: FakeBroker, broker: AsyncBroker
) -> None:
    fake.script.on("RunToolCall", [AWAY], run("RUNNING", call()))
    done = await broker.run("python.run", {})
    first, second = fake.script.sent("RunToolCall")
    assert done.succeeded
    assert first.request_id == second.request_id
    assert not fake.script.sent("CreateToolCall")


async def test_a_full_queue_is_waited_for_as_long_as_the_broker_says(fake: FakeBroker, broker: AsyncBroker) -> None:
    full = Refuse(StatusCode.RESOURCE_EXHAUSTED, "queue full", reason="QUEUE_FULL", retry_after_s=0.05)
    fake.script.on("RunToolCall", [full], run(call()))
    loop = asyncio.get_running_loop()
    start = loop.time()
    assert (await broker.run("python.run", {})).succeeded
    assert loop.time() - start >= 0.05


@pytest.mark.parametrize(
    "refusal",
    [
        Refuse(StatusCode.PERMISSION_DENIED, "no", reason="POLICY_DENIED"),
        Refuse(StatusCode.RESOURCE_EXHAUSTED, "quota", reason="QUOTA_EXCEEDED"),
        Refuse(StatusCode.INTERNAL, "defect", reason="INTERNAL"),
        Refuse(StatusCode.UNKNOWN, "odd"),
    ],
)
async def test_nothing_else_is_tried_again(fake: FakeBroker, broker: AsyncBroker, refusal: Refuse) -> None:
    fake.script.on("RunToolCall", [refusal])
    with pytest.raises(BrokerError):
        await broker.run("python.run", {})
    assert len(fake.script.sent("RunToolCall")) == 1


async def test_a_connection_that_stays_away_is_told_after_the_last_attempt(
    fake: FakeBroker, broker: AsyncBroker, quick: RetryPolicy
) -> None:
    fake.script.on("RunToolCall", [AWAY])
    with pytest.raises(UnavailableError):
        await broker.run("python.run", {})
    assert len(fake.script.sent("RunToolCall")) == quick.attempts


@pytest.mark.parametrize("numbers", [(1, 3), (1, 1), (2,)])
async def test_a_gap_or_a_repeated_event_is_data_loss(
    fake: FakeBroker, broker: AsyncBroker, numbers: tuple[int, ...]
) -> None:
    fake.script.on("WatchToolCall", [watch(number, b"x")[0] for number in numbers])
    with pytest.raises(DataLossError) as caught:
        async for _ in broker.watch(CALL):
            pass
    assert caught.value.reason == "EVENT_GAP"


async def test_a_stream_without_its_last_event_is_data_loss(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("RunToolCall", run("RUNNING", b"half"))
    with pytest.raises(DataLossError) as caught:
        await broker.run("python.run", {})
    assert caught.value.reason == "STREAM_CUT"


async def test_watch_starts_where_it_is_told(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("WatchToolCall", watch(5, b"five", call()))
    seen = [event async for event in broker.watch(CALL.removeprefix("calls/"), first_event=5)]
    assert [event.number for event in seen] == [5, 6]
    assert isinstance(seen[0], Stdout)
    assert isinstance(seen[1], Finished)


async def test_events_no_longer_kept_are_out_of_range(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("WatchToolCall", [Refuse(StatusCode.OUT_OF_RANGE, "gone", reason="EVENT_NOT_KEPT")])
    with pytest.raises(OutOfRangeError):
        await anext(broker.watch(CALL))


async def test_leaving_a_run_ends_its_stream(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("RunToolCall", run("RUNNING", HANG))
    async with broker.stream("python.run", {}) as events:
        assert isinstance(await anext(events), StateChanged)
    async with asyncio.timeout(10):
        await fake.script.ended.wait()


async def test_cancelling_the_task_ends_the_stream(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("RunToolCall", run("RUNNING", HANG))
    task = asyncio.create_task(broker.run("python.run", {}))
    async with asyncio.timeout(10):
        await fake.script.hung.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await fake.script.ended.wait()


async def test_leaving_a_resumed_run_cancels_the_call_by_name(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("RunToolCall", run("RUNNING", AWAY))
    fake.script.on("CreateToolCall", call("RUNNING"))
    fake.script.on("WatchToolCall", [*watch(2, b"x"), HANG])
    fake.script.on("CancelToolCall", call("CANCELLED"))
    async with broker.stream("python.run", {}) as events:
        await anext(events)
        await anext(events)
    assert [item.name for item in fake.script.sent("CancelToolCall")] == [CALL]


async def test_leaving_a_run_cancels_the_call_by_name_at_once(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("RunToolCall", run("RUNNING", HANG))
    fake.script.on("CreateToolCall", call("RUNNING"))
    fake.script.on("CancelToolCall", call("CANCELLED"))
    async with broker.stream("python.run", {}) as events:
        await anext(events)
    assert fake.script.sent("CreateToolCall")[0].request_id == fake.script.sent("RunToolCall")[0].request_id
    assert [item.name for item in fake.script.sent("CancelToolCall")] == [CALL]


async def test_a_finished_run_cancels_nothing(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("RunToolCall", run("RUNNING", call()))
    async with broker.stream("python.run", {}) as events:
        async for event in events:
            if isinstance(event, Finished):
                break
    assert not fake.script.sent("CreateToolCall")
    assert not fake.script.sent("CancelToolCall")


async def test_leaving_a_watch_cancels_nothing(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("WatchToolCall", [*watch(1, b"x"), HANG])
    async with broker.watch(CALL) as events:
        await anext(events)
    assert not fake.script.sent("CancelToolCall")


async def test_a_deadline_ends_the_wait(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("RunToolCall", run("RUNNING", HANG))
    with pytest.raises(DeadlineError):
        await broker.run("python.run", {}, timeout_s=0.2)


async def test_a_denial_says_its_rule(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on(
        "RunToolCall",
        [Refuse(StatusCode.PERMISSION_DENIED, "no", reason="POLICY_DENIED", metadata={"rule": "r7", "hint": "ask"})],
    )
    with pytest.raises(PermissionDeniedError) as caught:
        await broker.run("python.run", {})
    assert (caught.value.metadata, caught.value.hint) == ({"rule": "r7"}, "ask")
