"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from typing import Final, TypeVar

from broker.errors import FailedPreconditionError

T = TypeVar("T")

_GOODBYE_S = 6.0
"""How long an interrupted request may take to tell the broker that it is cancelled."""


class _End:
    """Says that an iterator has ended."""


_END: Final = _End()


class LoopThread:
    """Runs coroutines for other threads. ``close`` ends the thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="broker-client", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    def run(self, work: Coroutine[object, object, T]) -> T:
        """Runs a coroutine to its end; an interrupt of the waiting thread cancels it before it goes on.

        Raises:
            FailedPreconditionError: called from the loop's own thread, or the loop is closed.
        """
        if not self._thread.is_alive() or threading.current_thread() is self._thread:
            work.close()
            raise FailedPreconditionError("the client is closed", reason="CLIENT_CLOSED")
        tasks: list[asyncio.Task[object]] = []

        async def tracked() -> T:
            task = asyncio.current_task()
            if task is not None:
                tasks.append(task)
            return await work

        future = asyncio.run_coroutine_threadsafe(tracked(), self._loop)
        try:
            return future.result()
        finally:
            if not future.done():
                # An interrupt, such as KeyboardInterrupt: what runs must not go on unseen.
                self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
                concurrent.futures.wait([future], timeout=_GOODBYE_S)

    def iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        """The items of an asynchronous iterator, which is ended when the caller leaves early."""
        try:
            while True:
                item = self.run(_next(source))
                if isinstance(item, _End):
                    return
                yield item
        finally:
            if isinstance(source, AsyncGenerator) and self._thread.is_alive():
                self.run(_close(source))

    @property
    def alive(self) -> bool:
        """Does it still take work?"""
        return self._thread.is_alive()

    def close(self) -> None:
        """Ends the loop and waits for its thread. Again is harmless."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()


async def _next(source: AsyncIterator[T]) -> T | _End:
    try:
        return await anext(source)
    except StopAsyncIteration:
        return _END


async def _close(source: AsyncGenerator[T, None]) -> None:
    await source.aclose()
