"""Follows the engine's events for as long as the engine is in use, and tells each container's watcher.

Subscribed before the first container starts. After a break it asks again from the last event on, so that a watcher hears
of what happened in between.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress

import structlog

from broker.sandbox.address import Endpoint
from broker.sandbox.docker_stream import events
from broker.sandbox.engine import LABEL_INSTANCE

_CLOCKS_APART_S = 5
"""How far the engine's clock may be behind ours without an event being missed."""
_RETRY_S = 0.5
_NS = 10**9

log = structlog.get_logger(__name__)


class ContainerWatch:
    """What the engine has said of one container."""

    def __init__(self) -> None:
        self.oom = asyncio.Event()
        """The kernel killed a process of it for memory."""
        self.died = asyncio.Event()
        """Its process 1 has ended."""


class EventFollower:
    """One subscription, dispatched by container id."""

    def __init__(self, endpoint: Endpoint, api_version: str, instance: str) -> None:
        self._endpoint = endpoint
        self._api_version = api_version
        self._filters = {
            "type": ["container"],
            "event": ["oom", "die"],
            "label": [f"{LABEL_INSTANCE}={instance}"],
        }
        self._since = (int(time.time()) - _CLOCKS_APART_S) * _NS
        self._watches: dict[str, ContainerWatch] = {}
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Subscribes; returns once the engine has answered.

        Raises:
            UnavailableError: the engine doesn't answer.
        """
        self._task = asyncio.create_task(self._follow())
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._task.done():
            await self._task

    async def stop(self) -> None:
        """Ends the subscription."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def watch(self, container_id: str) -> ContainerWatch:
        """Begins to collect what is said of a container; call it before the container starts."""
        return self._watches.setdefault(container_id, ContainerWatch())

    def forget(self, container_id: str) -> None:
        """Stops collecting."""
        self._watches.pop(container_id, None)

    async def _follow(self) -> None:
        while True:
            since = f"{self._since // _NS}.{self._since % _NS:09d}"
            try:
                async for event in events(self._endpoint, self._api_version, self._filters, since, self._ready):
                    self._dispatch(event)
            except Exception as error:
                # Whatever breaks it, it goes on: without the engine's evidence later runs would be misjudged.
                if not self._ready.is_set():
                    raise
                log.warning("sandbox.events_lost", kind=type(error).__name__, error=str(error))
            await asyncio.sleep(_RETRY_S)

    def _dispatch(self, event: Mapping[str, object]) -> None:
        actor, at = event.get("Actor"), event.get("timeNano")
        if isinstance(at, int):
            self._since = max(self._since, at)
        watch = self._watches.get(str(actor.get("ID"))) if isinstance(actor, Mapping) else None
        if watch is None:
            return
        if event.get("Action") == "oom":
            watch.oom.set()
        elif event.get("Action") == "die":
            watch.died.set()
