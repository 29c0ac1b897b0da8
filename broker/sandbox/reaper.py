"""Removes containers of this broker that nobody holds a lease on: left by a crash, or by a removal that failed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog

from broker.sandbox.engine import Engine, OwnedContainer

log = structlog.get_logger(__name__)


async def orphans(engine: Engine) -> Sequence[OwnedContainer]:
    """Containers with this broker's label that this process holds no lease on."""
    listing = await engine.list_owned()
    live = engine.live_calls()
    return [item for item in listing if item.call_id not in live]


async def reap_all(engine: Engine) -> Sequence[OwnedContainer]:
    """Removes every orphan at once. Only for the one process that holds the broker's lock, before it takes calls.

    Returns:
        What was removed.

    Raises:
        UnavailableError: the engine refuses or doesn't answer.
    """
    found = await orphans(engine)
    await asyncio.gather(*(engine.remove(item.id) for item in found))
    for item in found:
        log.warning("sandbox.orphan_removed", container=item.id, call=item.call_id, state=item.state)
    return found


class Reaper:
    """Looks at the engine's list at intervals; removes an orphan when it sees it for the second time.

    Between its making and its lease, or its lease and its removal, a live container may look like an orphan once.
    """

    def __init__(self, engine: Engine, *, interval_s: float = 30.0) -> None:
        self._engine = engine
        self._interval_s = interval_s
        self._seen: frozenset[str] = frozenset()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begins to look."""
        self._task = asyncio.create_task(self._go_on())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops looking."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def sweep(self) -> Sequence[OwnedContainer]:
        """Looks once.

        Returns:
            What was removed.

        Raises:
            UnavailableError: the engine refuses or doesn't answer.
        """
        found = await orphans(self._engine)
        again = [item for item in found if item.id in self._seen]
        self._seen = frozenset(item.id for item in found)
        for item in again:
            await self._engine.remove(item.id)
            log.warning("sandbox.orphan_removed", container=item.id, call=item.call_id, state=item.state)
        return again

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.sweep()
            except Exception as error:  # noqa: BLE001 - a look that fails must not be the last one
                log.warning("sandbox.reaper_failed", kind=type(error).__name__, error=str(error))
