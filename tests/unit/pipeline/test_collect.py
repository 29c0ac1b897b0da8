"""The collector under pressure: a write that fails, a run that breaks off, output byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from broker.domain.events import EventPayload, OutputPiece
from broker.domain.run import EndCause, Ended, EvidenceSource, Output, RunEvent, Started, StreamSummary
from broker.errors import UnavailableError
from broker.pipeline.blobs import BlobWriter
from broker.pipeline.collect import Collector

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NONE = StreamSummary(0, 0, truncated=False, digest="")
ENDED = Ended(0, None, EndCause.TOOL, EvidenceSource.SANDBOX, "", NONE, NONE, 0.1)
ENDS_WITHIN_S = 10


def no_blob() -> BlobWriter:
    raise AssertionError("there is no file in these runs")


async def one_turn() -> None:
    """Lets everything else that is ready run once."""
    turn = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turn.set_result, None)
    await turn


class Sink:
    """Takes payloads; refuses from the nth write on."""

    def __init__(self, refuse_from: int | None = None) -> None:
        self.written: list[list[EventPayload]] = []
        self._refuse_from = refuse_from

    async def emit(self, payloads: list[EventPayload]) -> None:
        if self._refuse_from is not None and len(self.written) >= self._refuse_from:
            await one_turn()
            raise UnavailableError("the disk is full", reason="STORE_FAILED")
        self.written.append(payloads)

    @property
    def collector(self) -> Collector:
        return Collector(self.emit, no_blob, NOW)


async def forever() -> AsyncIterator[RunEvent]:
    yield Started()
    while True:
        yield Output("stdout", b"x")
        await one_turn()


async def test_a_write_that_fails_while_the_tool_floods_ends_the_collection() -> None:
    sink = Sink(refuse_from=0)
    async with asyncio.timeout(ENDS_WITHIN_S):
        with pytest.raises(UnavailableError) as caught:
            await sink.collector.consume(forever())
    assert caught.value.reason == "STORE_FAILED"


async def test_cancelling_the_collection_of_a_flood_ends_it() -> None:
    collecting = asyncio.create_task(Sink().collector.consume(forever()))
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
        await Sink().collector.consume(broken())
    assert caught.value.reason == "ENGINE_FAILED"


async def test_what_the_engine_raises_comes_out() -> None:
    async def broken() -> AsyncIterator[RunEvent]:
        yield Started()
        raise UnavailableError("the engine is gone", reason="ENGINE_FAILED")

    with pytest.raises(UnavailableError, match="the engine is gone"):
        await Sink().collector.consume(broken())


async def test_alternating_single_bytes_become_few_events_with_each_stream_whole() -> None:
    async def alternating() -> AsyncIterator[RunEvent]:
        for number in range(20_000):
            yield Output(("stdout", "stderr")[number % 2], bytes([number % 251]))
        yield ENDED

    sink = Sink()
    collected = await sink.collector.consume(alternating())
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
    collected = await sink.collector.consume(short())
    assert sink.written == []
    assert collected.tail == [OutputPiece("stdout", 0, b"1\n")]
