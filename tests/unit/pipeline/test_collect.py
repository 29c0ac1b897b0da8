"""The collector under pressure: a write that fails, a run that breaks off, output byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from broker.domain.events import EventPayload, OutputPiece
from broker.domain.run import EndCause, Ended, EvidenceSource, Exited, Output, RunEvent, Started, StreamSummary
from broker.errors import UnavailableError
from broker.pipeline.blobs import BlobWriter
from broker.pipeline.collect import Collector

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NONE = StreamSummary(0, 0, truncated=False, digest="")
ENDED = Ended(0, None, EndCause.TOOL, EvidenceSource.SANDBOX, "", NONE, NONE, 0.1)
ENDS_WITHIN_S = 10


def no_blob() -> BlobWriter:
    raise AssertionError("there is no file in these runs")


def ignore(_: RunEvent) -> None:
    """For runs whose windows are no matter."""


async def one_turn() -> None:
    """Lets everything else that is ready run once."""
    turn = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turn.set_result, None)
    await turn


class Sink:
    """Takes payloads; refuses from the nth write on."""

    def __init__(self, refuse_from: int | None = None) -> None:
        self.written: list[list[EventPayload]] = []
        self.taken: list[RunEvent] = []
        self.room = asyncio.Event()
        self.room.set()
        self._refuse_from = refuse_from

    async def emit(self, payloads: list[EventPayload]) -> None:
        if self._refuse_from is not None and len(self.written) >= self._refuse_from:
            await one_turn()
            raise UnavailableError("the disk is full", reason="STORE_FAILED")
        self.written.append(payloads)

    @property
    def collector(self) -> Collector:
        return Collector(self.emit, no_blob, NOW, self.room)


async def forever() -> AsyncIterator[RunEvent]:
    yield Started()
    while True:
        yield Output("stdout", b"x")
        await one_turn()


async def test_a_write_that_fails_while_the_tool_floods_ends_the_collection() -> None:
    sink = Sink(refuse_from=0)
    async with asyncio.timeout(ENDS_WITHIN_S):
        with pytest.raises(UnavailableError) as caught:
            await sink.collector.consume(forever(), sink.taken.append)
    assert caught.value.reason == "STORE_FAILED"


async def test_cancelling_the_collection_of_a_flood_ends_it() -> None:
    collecting = asyncio.create_task(Sink().collector.consume(forever(), ignore))
    await asyncio.wait([collecting], timeout=0.1)
    collecting.cancel()
    async with asyncio.timeout(ENDS_WITHIN_S):
        await asyncio.gather(collecting, return_exceptions=True)
    assert collecting.cancelled()


async def test_events_that_end_without_an_end_are_the_engines_failure() -> None:
    async def broken() -> AsyncIterator[RunEvent]:
        yield Started()
        yield Output("stdout", b"x")

    with pytest.raises(UnavailableError) as caught:
        await Sink().collector.consume(broken(), ignore)
    assert caught.value.reason == "ENGINE_FAILED"


async def test_what_the_engine_raises_comes_out() -> None:
    async def broken() -> AsyncIterator[RunEvent]:
        yield Started()
        raise UnavailableError("the engine is gone", reason="ENGINE_FAILED")

    with pytest.raises(UnavailableError, match="the engine is gone"):
        await Sink().collector.consume(broken(), ignore)


async def test_alternating_single_bytes_become_few_events_with_each_stream_whole() -> None:
    async def alternating() -> AsyncIterator[RunEvent]:
        for number in range(20_000):
            yield Output(("stdout", "stderr")[number % 2], bytes([number % 251]))
        yield ENDED

    sink = Sink()
    collected = await sink.collector.consume(alternating(), sink.taken.append)
    pieces = [item for batch in [*sink.written, collected.tail] for item in batch]
    assert len(pieces) < 2_000
    for stream, first in (("stdout", 0), ("stderr", 1)):
        whole = b""
        for piece in pieces:
            assert isinstance(piece, OutputPiece)
            if piece.stream == stream:
                assert piece.offset == len(whole)
                whole += piece.data
        assert whole == bytes(number % 251 for number in range(first, 20_000, 2))


async def test_the_last_output_goes_on_record_with_the_outcome() -> None:
    async def short() -> AsyncIterator[RunEvent]:
        yield Started()
        yield Output("stdout", b"1\n")
        yield ENDED

    sink = Sink()
    collected = await sink.collector.consume(short(), sink.taken.append)
    assert sink.written == []
    assert collected.tail == [OutputPiece("stdout", 0, b"1\n")]


async def test_for_output_that_goes_with_the_outcome_nothing_is_begun() -> None:
    tasks: list[int] = []

    async def short() -> AsyncIterator[RunEvent]:
        tasks.append(len(asyncio.all_tasks()))
        yield Output("stdout", b"1\n")
        await one_turn()
        tasks.append(len(asyncio.all_tasks()))
        yield ENDED

    sink = Sink()
    await sink.collector.consume(short(), sink.taken.append)
    assert tasks[0] == tasks[1]
    await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=0.05)  # longer than the first one waits
    assert sink.written == []


async def test_output_is_taken_only_once_it_is_on_record() -> None:
    first = Output("stdout", b"first")
    sink = Sink()
    on_record = asyncio.Event()

    async def paused() -> AsyncIterator[RunEvent]:
        yield Started()
        yield first
        await on_record.wait()
        yield ENDED

    def taken(event: RunEvent) -> None:
        if event is first:
            assert sink.written == [[OutputPiece("stdout", 0, b"first")]]
            on_record.set()

    async with asyncio.timeout(ENDS_WITHIN_S):
        collected = await sink.collector.consume(paused(), taken)
    assert collected.tail == []


async def test_a_caller_without_room_holds_output_back_until_the_tool_has_ended() -> None:
    sink = Sink()
    sink.room.clear()
    late = Output("stdout", b"late")
    seen = asyncio.Event()

    async def crowded() -> AsyncIterator[RunEvent]:
        yield Started()
        yield Output("stdout", b"early ")
        for _ in range(1000):
            await one_turn()
        assert sink.written == []
        yield Exited()
        yield late
        await seen.wait()
        yield ENDED

    def taken(event: RunEvent) -> None:
        if event is late:
            seen.set()

    async with asyncio.timeout(ENDS_WITHIN_S):
        await sink.collector.consume(crowded(), taken)
    assert (
        b"".join(item.data for batch in sink.written for item in batch if isinstance(item, OutputPiece))
        == b"early late"
    )


async def test_a_run_that_breaks_off_in_the_middle_of_a_write_waits_for_the_write() -> None:
    writing, done = asyncio.Event(), asyncio.Event()
    written: list[EventPayload] = []

    async def slow(payloads: list[EventPayload]) -> None:
        writing.set()
        await done.wait()
        written.extend(payloads)

    async def broken() -> AsyncIterator[RunEvent]:
        yield Started()
        yield Output("stdout", b"x")
        await writing.wait()
        asyncio.get_running_loop().call_later(0.05, done.set)
        raise UnavailableError("the engine is gone", reason="ENGINE_FAILED")

    room = asyncio.Event()
    room.set()
    with pytest.raises(UnavailableError):
        await Collector(slow, no_blob, NOW, room).consume(broken(), ignore)
    assert written == [OutputPiece("stdout", 0, b"x")]


async def test_a_write_that_fails_just_as_the_run_ends_is_told_as_what_it_is() -> None:
    failing = asyncio.Event()

    async def emit(_: list[EventPayload]) -> None:
        failing.set()
        await one_turn()
        raise UnavailableError("the disk is full", reason="STORE_FAILED")

    async def ends_at_once() -> AsyncIterator[RunEvent]:
        yield Started()
        yield Output("stdout", b"x")
        await failing.wait()
        await one_turn()
        yield ENDED

    room = asyncio.Event()
    room.set()
    for _ in range(20):
        failing.clear()
        with pytest.raises(UnavailableError, match="full"):
            await Collector(emit, no_blob, NOW, room).consume(ends_at_once(), ignore)


async def test_what_had_come_of_a_run_that_broke_off_can_still_be_written() -> None:
    async def broken() -> AsyncIterator[RunEvent]:
        yield Started()
        yield Output("stdout", b"last words")
        raise UnavailableError("the engine is gone", reason="ENGINE_FAILED")

    collector = Sink().collector
    with pytest.raises(UnavailableError):
        await collector.consume(broken(), ignore)
    assert collector.unwritten() == [OutputPiece("stdout", 0, b"last words")]


async def test_a_run_that_ends_while_an_urgent_write_waits_its_turn_writes_nothing_empty() -> None:
    large = Output("stdout", b"x" * (130 * 1024))
    writing = asyncio.Event()
    written: list[list[EventPayload]] = []

    async def emit(payloads: list[EventPayload]) -> None:
        written.append(payloads)
        writing.set()
        for _ in range(5):
            await one_turn()

    async def twice() -> AsyncIterator[RunEvent]:
        yield Started()
        yield large
        await writing.wait()
        yield large
        yield ENDED

    room = asyncio.Event()
    room.set()
    collected = await Collector(emit, no_blob, NOW, room).consume(twice(), ignore)
    pieces = [item for batch in [*written, collected.tail] for item in batch if isinstance(item, OutputPiece)]
    assert all(written)
    assert sum(len(item.data) for item in pieces) == 2 * 130 * 1024
