"""Removes containers of this broker that this process doesn't hold: left by a crash, or by a removal that failed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog

from broker.errors import UnavailableError
from broker.sandbox.engine import Engine, OwnedContainer

log = structlog.get_logger(__name__)


async def orphans(engine: Engine) -> Sequence[OwnedContainer]:
    """Containers with this broker's label that this process didn't make, or has done with.

    Raises:
        UnavailableError: the engine refuses or doesn't answer.
    """
    listing = await engine.list_owned()
    live = engine.live()
    return [item for item in listing if item.id not in live]


async def reap_all(engine: Engine) -> Sequence[OwnedContainer]:
    """Removes every orphan at once. Only for the one process that holds the broker's lock, before it takes calls.

    What can't be removed stays for the ``Reaper``: one broken container mustn't keep the broker from starting.

    Returns:
        What was removed.

    Raises:
        UnavailableError: the engine refuses the list, or doesn't answer.
    """
    found = await orphans(engine)
    answers = await asyncio.gather(*(engine.remove(item.id) for item in found), return_exceptions=True)
    return [item for item, error in zip(found, answers, strict=True) if _tell(item, error)]


class Reaper:
    """Looks at the engine's list at intervals; removes an orphan when it sees it for the second time.

    While it is being made, and once it has been removed, a live container may look like an orphan once.
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
        """Looks once. What the engine refuses to remove stays for the next look, and holds up nothing else.

        Returns:
            What was removed.

        Raises:
            UnavailableError: the engine refuses the list, or doesn't answer.
        """
        found = await orphans(self._engine)
        again = [item for item in found if item.id in self._seen]
        self._seen = frozenset(item.id for item in found)
        return [item for item in again if await self._remove(item)]

    async def _remove(self, item: OwnedContainer) -> bool:
        try:
            await self._engine.remove(item.id)
        except UnavailableError as error:
            return _tell(item, error)
        return _tell(item, None)

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.sweep()
            except Exception as error:  # noqa: BLE001 - a look that fails must not be the last one
                log.warning("sandbox.reaper_failed", kind=type(error).__name__, error=str(error))


def _tell(item: OwnedContainer, error: BaseException | None) -> bool:
    """Logs what became of an orphan; whether it is gone."""
    if error:
        log.warning(
            "sandbox.orphan_stays",
            container=item.id,
            state=item.state,
            kind=type(error).__name__,
            error=str(error),
        )
        return False
    log.warning("sandbox.orphan_removed", container=item.id, state=item.state)
    return True
