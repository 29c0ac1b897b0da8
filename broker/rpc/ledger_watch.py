"""Waiting for what is new in the store, for all watchers together: one question in a while, and none while nobody waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from broker.errors import BrokerError, ResourceExhaustedError

_POLL_S = 0.05
"""How often the store is asked while somebody watches; one question takes microseconds."""
_PATIENCE_S = 5.0
"""How long a watcher waits before it looks by itself, whatever it was told."""
_MOST = 16
"""Watches that one caller may have open at once."""


class Arrivals:
    """Tells watchers when something was committed, by whomever.

    Args:
        version: a number that differs after any commit (``Store.data_version``).
    """

    def __init__(self, version: Callable[[], int]) -> None:
        self._ask = version
        self._seen: int | None = None
        self._changes = 0
        self._changed = asyncio.Event()
        self._watchers: dict[str, int] = {}
        self._poller: asyncio.Task[None] | None = None
        self.closed = False
        """Will nothing more come? Watchers then read what there is, and end."""

    @property
    def changes(self) -> int:
        """How many changes were noticed; read it before reading the store, and give it to ``beyond``."""
        return self._changes

    async def beyond(self, changes: int) -> None:
        """Returns once there was another change, at the end, or after some seconds."""
        changed = self._changed
        if self._changes != changes or self.closed:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                await changed.wait()

    @asynccontextmanager
    async def watching(self, caller: str) -> AsyncIterator[None]:
        """Counts a caller's watch for as long as the block lasts.

        Raises:
            ResourceExhaustedError: the caller has too many (``WATCHES_BUSY``).
        """
        taken = self._watchers.get(caller, 0)
        if taken >= _MOST:
            raise ResourceExhaustedError(
                f"{taken} watches of this caller are open, and that is the limit",
                reason="WATCHES_BUSY",
                hint="Watch once with a wider filter, or wait until one has ended.",
                metadata={"limit": str(_MOST)},
                retry_after_s=1.0,
            )
        self._watchers[caller] = taken + 1
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll())
        try:
            yield
        finally:
            self._watchers[caller] -= 1
            if not self._watchers[caller]:
                del self._watchers[caller]
            if not self._watchers and self._poller is not None:
                self._poller.cancel()
                self._poller = None

    def close(self) -> None:
        """Lets all watches end once they have sent what there is."""
        self.closed = True
        self._tell()

    async def _poll(self) -> None:
        while True:
            try:
                # Not on the event loop: a store on a server may keep one waiting for its answer.
                version = await asyncio.to_thread(self._ask)
            except BrokerError:
                version = None  # the watchers' own reading says what is wrong
            if version != self._seen or version is None:
                self._seen = version
                self._tell()
            await asyncio.sleep(_POLL_S)

    def _tell(self) -> None:
        self._changes += 1
        self._changed.set()
        self._changed = asyncio.Event()
