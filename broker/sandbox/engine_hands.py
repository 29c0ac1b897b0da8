"""What one container needs of its engine."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from broker.domain.container_facts import ContainerFacts


class EngineSight(Protocol):
    """What a witness needs of the engine."""

    async def state(self, container_id: str) -> tuple[int, bool]:
        """Process id of a container's process 1 (0: none), and whether the engine calls it killed for memory."""


class EngineHands(EngineSight, Protocol):
    """What a lease needs of its engine."""

    async def remove(self, container_id: str) -> None:
        """Kills and removes a container."""

    async def observe(self, container_id: str) -> ContainerFacts:
        """What the engine reports of a container now."""

    def background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs something beside; the engine waits for it when it closes."""

    def gone(self, container_id: str) -> None:
        """Nobody holds this container any more: it was removed, or couldn't be."""
