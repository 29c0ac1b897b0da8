"""Open streams: silence ends them, a check that fails ends them, and nobody holds more than their share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker.errors import DeadlineError, ResourceExhaustedError, UnauthenticatedError
from broker.rpc.guard import Places, guarded, unhurried, watched


async def passes() -> None:
    """A caller who may go on."""


async def silent_after(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
    await asyncio.Event().wait()


async def ending_after(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_a_silent_upload_is_ended() -> None:
    pieces = unhurried(silent_after(b"a", b"b"), 0.05, passes)
    assert [await anext(pieces), await anext(pieces)] == [b"a", b"b"]
    with pytest.raises(DeadlineError) as caught:
        await anext(pieces)
    assert caught.value.reason == "STREAM_IDLE"


async def test_the_caller_is_checked_before_the_end_of_an_upload_counts() -> None:
    async def revoked() -> None:
        raise UnauthenticatedError("revoked", reason="IDENTITY_REVOKED")

    with pytest.raises(UnauthenticatedError):
        async for _ in unhurried(ending_after(b"a"), 60, revoked):
            pass


async def test_work_whose_caller_is_revoked_is_cancelled_while_it_waits() -> None:
    kept = asyncio.Event()
    discarded = asyncio.Event()
    checks = 0

    async def work() -> None:
        try:
            await asyncio.Event().wait()
            kept.set()
        finally:
            discarded.set()

    async def revoked_at_the_second() -> None:
        nonlocal checks
        checks += 1
        if checks == 2:
            raise UnauthenticatedError("revoked", reason="IDENTITY_REVOKED")

    with pytest.raises(UnauthenticatedError):
        await guarded(work(), revoked_at_the_second, 0.01)
    assert discarded.is_set()
    assert not kept.is_set()


async def test_the_caller_is_checked_once_more_before_the_reply() -> None:
    async def done() -> str:
        return "reply"

    async def revoked() -> None:
        raise UnauthenticatedError("revoked", reason="IDENTITY_REVOKED")

    assert await guarded(done(), passes, 60) == "reply"
    with pytest.raises(UnauthenticatedError):
        await guarded(done(), revoked, 60)


def test_places_are_counted_by_caller_and_given_back() -> None:
    places = Places(2)
    with places.one("a"), places.one("a"), places.one("b"):
        with pytest.raises(ResourceExhaustedError) as caught, places.one("a"):
            pass
        assert (caught.value.reason, caught.value.retry_after_s) == ("UPLOADS_BUSY", 1.0)
    with places.one("a"), places.one("a"):
        pass


async def test_a_block_whose_caller_is_revoked_ends_with_that_error_whatever_it_waits_for() -> None:
    checks = 0

    async def revoked_at_the_second() -> None:
        nonlocal checks
        checks += 1
        if checks == 2:
            raise UnauthenticatedError("revoked", reason="IDENTITY_REVOKED")

    with pytest.raises(UnauthenticatedError), watched(revoked_at_the_second, 0.01):
        await asyncio.Event().wait()
    await asyncio.sleep(0)  # nothing of the cancellation is left
    assert checks == 2


async def test_a_watched_block_that_is_cancelled_by_others_stays_cancelled() -> None:
    inside = asyncio.Event()

    async def block() -> None:
        with watched(passes, 0.01):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(block())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_watched_block_is_checked_no_more_once_it_has_ended() -> None:
    checks = 0
    checked = asyncio.Event()

    async def counted() -> None:
        nonlocal checks
        checks += 1
        checked.set()

    with watched(counted, 0.01):
        await checked.wait()
    seen, others, thrice = checks, 0, asyncio.Event()

    async def other() -> None:
        nonlocal others
        others += 1
        if others == 3:
            thrice.set()

    with watched(other, 0.01):  # would the first go on, it would be checked meanwhile
        await thrice.wait()
    assert checks == seen
