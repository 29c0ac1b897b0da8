"""A budget of time that runs only while the other side is the one to act."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Patience:
    """How long in all another side may let us wait.

    Args:
        budget_s: in all, in seconds.
        exhausted: called once, when the budget is used up.
    """

    def __init__(self, budget_s: float, exhausted: Callable[[], None]) -> None:
        self._left = budget_s
        self._exhausted = exhausted
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def run(self, *, on: bool) -> None:
        """Lets the time run, or stops it."""
        if on and self._timer is None:
            self._since = time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, self._left), self._exhausted)
        elif not on and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._left -= time.monotonic() - self._since
