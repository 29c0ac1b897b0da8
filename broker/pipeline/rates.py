"""How often an agent may ask: each request for a call costs a token, and tokens come back with time.

Each admitted call leaves entries in a ledger that nothing ever shortens, so their number in time is bounded, whatever
becomes of the calls.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.errors import ResourceExhaustedError


class Rates:
    """A token bucket per agent.

    Args:
        per_s: tokens that come back in a second.
        burst: most tokens that an agent can have.
        clock: seconds that only go forward.
    """

    def __init__(self, *, per_s: float, burst: int, clock: Callable[[], float]) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._full_at: dict[str, float] = {}
        """Agent -> when its bucket will be full again; who isn't here has a full one."""

    def take(self, agent: str) -> None:
        """Takes one token of an agent.

        Raises:
            ResourceExhaustedError: there is none; says when there will be.
        """
        now = self._clock()
        full_at = max(self._full_at.get(agent, now), now) + 1 / self._per_s
        short = full_at - now - self._burst / self._per_s
        if short > 1e-9:  # less is rounding
            raise ResourceExhaustedError(
                f"this agent asks too often: more than {self._per_s:g} calls a second for a while",
                reason="AGENT_RATE",
                hint="Wait for the delay, then ask less often.",
                metadata={"per_second": f"{self._per_s:g}", "burst": str(self._burst)},
                retry_after_s=short,
            )
        self._full_at[agent] = full_at
        if len(self._full_at) > _FORGET_FROM:
            self._full_at = {name: moment for name, moment in self._full_at.items() if moment > now}


_FORGET_FROM = 1024
"""Agents from which on those with full buckets are forgotten."""
