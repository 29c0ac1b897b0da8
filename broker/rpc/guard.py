"""What holds while a stream is open: its caller is checked again and again, a silent one ends, and nobody has too many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from google.protobuf.message import Message

from broker.errors import DeadlineError, ResourceExhaustedError

T = TypeVar("T")
Check = Callable[[], Awaitable[None]]
"""Raises where the caller has lost the right to what it does."""


class Guard:
    """Ends a stream of replies whose caller has lost the right to it, even while nothing is sent."""

    def __init__(self, replies: AsyncGenerator[Message, None], check: Check, period_s: float) -> None:
        self._replies = replies
        self._check = check
        self._period_s = period_s
        self._next: asyncio.Task[Message] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await self._replies.aclose()

    async def iterate(self) -> AsyncIterator[Message]:
        """The replies, with the caller checked again at least once a period."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._period_s
        while True:
            self._next = self._next or asyncio.ensure_future(_anext(self._replies))
            done, _ = await asyncio.wait({self._next}, timeout=max(0.0, due - loop.time()))
            if loop.time() >= due:
                await self._check()
                due = loop.time() + self._period_s
            if done:
                finished, self._next = self._next, None
                try:
                    yield finished.result()
                except StopAsyncIteration:
                    return


async def _anext(replies: AsyncIterator[Message]) -> Message:
    return await anext(replies)


async def guarded(work: Coroutine[Any, Any, T], check: Check, period_s: float) -> T:
    """The result of work that takes a stream of requests, with the caller checked once a period and at the end.

    A check that fails cancels the work, which then keeps nothing of it.
    """
    task = asyncio.ensure_future(work)
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=period_s)
            if done:
                result = task.result()  # a failure of the work goes before one of the check
                await check()
                return result
            await check()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def unhurried(requests: AsyncIterator[bytes], idle_s: float, check: Check) -> AsyncGenerator[bytes, None]:
    """A stream of requests, as long as it goes on; at its end the caller is checked once more, before what it sent
    counts.

    Raises:
        DeadlineError: nothing came for ``idle_s`` seconds (``STREAM_IDLE``).
    """
    incoming = aiter(requests)
    while True:
        try:
            async with asyncio.timeout(idle_s):
                data = await anext(incoming)
        except StopAsyncIteration:
            await check()
            return
        except TimeoutError as error:
            raise DeadlineError(
                f"nothing came on the stream for {idle_s:g} seconds",
                reason="STREAM_IDLE",
                hint="Open the stream when there is something to send, and half-close it at the end.",
                metadata={"idle_s": f"{idle_s:g}"},
            ) from error
        yield data


class Places:
    """How many uploads each caller has open at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: dict[str, int] = {}

    @contextmanager
    def one(self, identity: str) -> Iterator[None]:
        """Takes a place for as long as the block lasts.

        Raises:
            ResourceExhaustedError: the caller has them all (``UPLOADS_BUSY``).
        """
        taken = self._taken.get(identity, 0)
        if taken >= self._most:
            raise ResourceExhaustedError(
                f"{taken} uploads of this caller are open, and {self._most} is the limit",
                reason="UPLOADS_BUSY",
                hint="Wait until one has ended.",
                metadata={"limit": str(self._most)},
                retry_after_s=1.0,
            )
        self._taken[identity] = taken + 1
        try:
            yield
        finally:
            left = self._taken[identity] - 1
            if left:
                self._taken[identity] = left
            else:
                del self._taken[identity]
