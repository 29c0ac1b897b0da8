"""What holds while a stream is open: its caller is checked again and again, a silent one ends, and nobody has too many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from broker.errors import DeadlineError, ResourceExhaustedError

T = TypeVar("T")
Check = Callable[[], Awaitable[None]]
"""Raises where the caller has lost the right to what it does."""


@contextmanager
def watched(check: Check, period_s: float) -> Iterator[None]:
    """A block whose caller is checked once a period, whatever it waits for; a check that fails ends it with its error."""
    rounds = _Rounds(check, period_s)
    try:
        yield
    except asyncio.CancelledError:
        if rounds.failure is None or rounds.undone():
            raise
        raise rounds.failure from None
    else:
        if rounds.failure is not None:
            raise rounds.failure
    finally:
        rounds.end()


class _Rounds:
    """Checks once a period, and cancels the task that it was made in where a check fails. Most streams end before the
    first check, and so cost no task.
    """

    def __init__(self, check: Check, period_s: float) -> None:
        self._check = check
        self._period_s = period_s
        self._watched = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(period_s, self._begin)
        self._look: asyncio.Task[None] | None = None
        self._over = False
        self.failure: BaseException | None = None
        """What a check has failed with."""

    def undone(self) -> bool:
        """Takes the cancellation of a failed check back; true where somebody else has cancelled the task too."""
        return self._watched is not None and self._watched.uncancel() > 0

    def end(self) -> None:
        """No more checks."""
        self._over = True  # a callback may be on its way already
        self._timer.cancel()
        if self._look is not None:
            self._look.cancel()

    def _begin(self) -> None:
        self._look = asyncio.ensure_future(self._once())
        self._look.add_done_callback(self._settle)

    async def _once(self) -> None:
        await self._check()

    def _settle(self, look: asyncio.Task[None]) -> None:
        if look.cancelled():
            return
        error = look.exception()
        if self._over:
            return
        self.failure = error
        if error is None:
            self._timer = asyncio.get_running_loop().call_later(self._period_s, self._begin)
        elif self._watched is not None:
            self._watched.cancel()


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
