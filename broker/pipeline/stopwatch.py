"""Times the steps of one call."""

from __future__ import annotations

import time

from broker.domain.meter import Meter, Step


class Stopwatch:
    """Tells a meter how long each step took, one after the other."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._since = time.monotonic()

    def took(self, step: Step) -> None:
        """A step ended just now; it began when the one before ended."""
        now = time.monotonic()
        self._meter.took(step, now - self._since)
        self._since = now

    def restart(self) -> None:
        """The next step begins now; what went before is somebody else's to tell."""
        self._since = time.monotonic()
