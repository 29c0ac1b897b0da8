"""The feed of a live call: bounded memory, no gap, and an end that everybody hears of."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from broker.domain.call import CallState
from broker.domain.events import CallEvent, Finished, OutputPiece, decode_event, encode_event
from broker.domain.events import StateChanged as Changed
from broker.domain.run import EndCause
from broker.errors import DataLossError, UnavailableError
from broker.pipeline.feed import Feed
from broker.pipeline.verdict import never_ran

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def piece(number: int, size: int = 10) -> CallEvent:
    return CallEvent(number, NOW, OutputPiece("stdout", 0, bytes(size)))


def test_memory_is_bounded_by_number_and_by_bytes() -> None:
    feed = Feed(0)
    for number in range(1, 2001):
        feed.publish([piece(number)])
    assert feed.recent(1) == []
    assert [event.number for event in feed.recent(1990)] == list(range(1990, 2001))
    large = Feed(0)
    large.publish([piece(number, 1 << 19) for number in range(1, 11)])
    assert large.recent(1) == []
    assert len(large.recent(9)) == 2


async def test_waiting_ends_with_an_event_or_with_a_failure() -> None:
    feed = Feed(3)
    waiting = asyncio.create_task(feed.beyond(3))
    await asyncio.wait([waiting], timeout=0)
    feed.publish([piece(4)])
    await waiting
    ended = asyncio.create_task(feed.ended())
    await asyncio.wait([ended], timeout=0)
    feed.fail(UnavailableError("gone"))
    await ended
    await feed.beyond(99)
    assert feed.over


def test_the_last_event_finishes_the_feed() -> None:
    feed = Feed(0)
    feed.publish([CallEvent(1, NOW, Finished(CallState.CANCELLED, never_ran(EndCause.CLIENT, "no")))])
    assert feed.finished


@pytest.mark.parametrize(
    "payload",
    [
        Changed(CallState.RUNNING, "because"),
        OutputPiece("stderr", 7, b'\n{"tag":"state"}\n\x00\xff'),
        Finished(CallState.FAILED, never_ran(EndCause.TIME, "ä")),
    ],
)
def test_events_are_read_as_they_were_written(payload: Changed | OutputPiece | Finished) -> None:
    event = CallEvent(12, NOW, payload)
    assert decode_event(encode_event(event)) == event


@pytest.mark.parametrize("data", [b"", b"{}", b"[]\n", b'{"tag":"state","number":1,"time":"x"}\n{}', b"\xff\n"])
def test_damaged_events_are_our_data_loss(data: bytes) -> None:
    with pytest.raises(DataLossError):
        decode_event(data)
