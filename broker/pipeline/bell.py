"""Tells those who wait that something about approvals or freezes has changed; the database says what."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

_KEPT = 4096


class Bell:
    """Rung after a commit, in the event loop. It can be missed by nobody who looks at the database after hearing it."""

    def __init__(self) -> None:
        self._count = 0
        self._recent: deque[tuple[int, str]] = deque(maxlen=_KEPT)
        self._rung = asyncio.Event()

    @property
    def count(self) -> int:
        """How often it was rung: to be taken before the database is looked at, and given to ``heard``."""
        return self._count

    def ring(self, *approvals: str) -> None:
        """Says that these approvals have changed; none named is any of them."""
        for which in approvals or ("",):
            self._count += 1
            self._recent.append((self._count, which))
        self._rung.set()
        self._rung = asyncio.Event()

    async def heard(self, count: int, timeout_s: float) -> bool:
        """Returns once it was rung more often than ``count``, or the time is over; whether it was rung."""
        if self._count > count:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        return self._count > count

    def since(self, count: int) -> frozenset[str] | None:
        """The approvals that have changed since; ``None`` where it may have been any."""
        if self._recent and self._recent[0][0] > count + 1:
            return None
        named = frozenset(which for number, which in self._recent if number > count)
        return None if "" in named else named
