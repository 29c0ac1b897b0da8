"""Keeps the warm pool at its size, at moments when no call is in a hurry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import structlog

from broker.domain.meter import Meter
from broker.sandbox.pool_shelf import Shelf
from broker.sandbox.pool_sizing import Sizing, Want, refills, shares, surplus
from broker.sandbox.pool_works import Works

_PAUSE_S = 1.0
_SHORTEST_S = 0.001

log = structlog.get_logger(__name__)


class Traffic:
    """Whether somebody is in a hurry.

    Args:
        sizing: for how long nobody may have been, alone or where they follow each other.
        clock: monotonic seconds.
        changed: called whenever somebody is done.
    """

    def __init__(self, sizing: Sizing, clock: Callable[[], float], changed: Callable[[], None]) -> None:
        self._sizing = sizing
        self._clock = clock
        self._changed = changed
        self._busy = 0
        self._last = float("-inf")
        self._wait_s = sizing.quiet_s

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Somebody is, inside this block."""
        if not self._busy:
            quiet_s, close_s = self._sizing.quiet_s, self._sizing.close_s
            self._wait_s = max(quiet_s, close_s) if self._clock() - self._last < close_s else quiet_s
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self._last = self._clock()
            self._changed()

    def quiet_at(self) -> float:
        """When it gets quiet, if nobody comes; may be past, or infinite."""
        return float("inf") if self._busy else self._last + self._wait_s


class Keeper:
    """Looks after every change and at every deadline: gives up what is too much or too old, and makes what is missing.

    A container takes the engine ten times as long to make or to remove as a warm call takes in all. So both wait until
    no call is under way; where that never comes, used containers go after ``linger_s``, and after ``refill_wait_s``
    new ones are made one at a time: else an engine that is busy with cold starts would never have a warm one again.
    """

    def __init__(
        self,
        sizing: Sizing,
        shelves: dict[str, Shelf],
        works: Works,
        traffic: Traffic,
        *,
        meter: Meter,
        clock: Callable[[], float],
        changed: asyncio.Event,
    ) -> None:
        self._sizing = sizing
        self._shelves = shelves
        self._works = works
        self._traffic = traffic
        self._meter = meter
        self._clock = clock
        self._changed = changed
        self._short_since: float | None = None

    async def run(self) -> None:
        """Keeps on until it is cancelled."""
        while True:
            self._changed.clear()
            try:
                wait = self.look()
            except Exception:
                log.exception("sandbox.pool_keeper_failed")
                wait = _PAUSE_S
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    def look(self) -> float | None:
        """Looks once.

        Returns:
            Seconds to the next deadline; ``None`` where there is none.
        """
        now = self._clock()
        quiet = now >= self._traffic.quiet_at()
        if quiet:
            self._works.hasten()
        self._give_up(now, self._settle(now), linger_s=0.0 if quiet else self._sizing.linger_s)
        due = self._due(now)
        self._make(now, due, quiet=quiet)
        shelves = self._shelves.values()
        self._meter.pool(
            idle=sum(len(shelf.idle) for shelf in shelves),
            making=sum(len(shelf.makings) for shelf in shelves),
            leased=sum(shelf.leased for shelf in shelves),
        )
        deadline = min(self._deadlines(now, pending=bool(due) or self._works.lingering), default=float("inf"))
        return None if deadline == float("inf") else max(_SHORTEST_S, deadline - now)

    def _settle(self, now: float) -> dict[str, int]:
        """Lets demands shrink, forgets profiles that nothing wants, and shares the ceiling anew."""
        wants: dict[str, Want] = {}
        for key, shelf in tuple(self._shelves.items()):
            shelf.demand = shelf.demand.settled(self._sizing, now)
            wanted = shelf.demand.wanted(self._sizing, now, prewarmed=shelf.prewarmed)
            expires = shelf.demand.expires(self._sizing)
            expired = not shelf.prewarmed and (expires is None or expires <= now)
            if expired and not (shelf.users or shelf.idle or shelf.makings):
                del self._shelves[key]
            else:
                demand = shelf.demand
                wants[key] = Want(wanted, demand.weight(now), shelf.prewarmed, demand.expected(now))
        for key, target in shares(wants, self._sizing.ceiling).items():
            self._shelves[key].target = target
        return {key: want.wanted for key, want in wants.items()}

    def _targets(self, now: float) -> dict[str, int]:
        """What to aim at now: a shelf that can't be filled makes no room for itself."""
        return {
            key: shelf.target if now >= shelf.retry_at else min(shelf.target, shelf.stock.total)
            for key, shelf in self._shelves.items()
        }

    def _give_up(self, now: float, wanted: dict[str, int], *, linger_s: float) -> None:
        stocks = {key: shelf.stock for key, shelf in self._shelves.items()}
        dropped = surplus(stocks, wanted, self._targets(now), self._sizing.ceiling)
        for key, shelf in self._shelves.items():
            count = dropped.get(key, 0)
            if not count and self._replaces(shelf, now):
                count = 1
            for item in shelf.idle[:count]:
                self._works.discard(item.lease, linger_s=linger_s)
            del shelf.idle[:count]

    def _replaces(self, shelf: Shelf, now: float) -> bool:
        """Whether the oldest goes for its age: one at a time, and only from a shelf that isn't short anyhow."""
        old = bool(shelf.idle) and now - shelf.idle[0].since >= self._sizing.max_age_s
        return old and shelf.stock.idle >= shelf.target and now >= shelf.retry_at

    def _due(self, now: float) -> list[str]:
        stocks = {key: shelf.stock for key, shelf in self._shelves.items()}
        return refills(stocks, self._targets(now), self._sizing.ceiling)

    def _make(self, now: float, due: list[str], *, quiet: bool) -> None:
        if not due:
            self._short_since = None
            return
        under_way = self._works.refills()
        if quiet:
            self._short_since = now
            allowed = self._sizing.creates - under_way
        else:
            self._short_since = now if self._short_since is None else self._short_since
            allowed = 1 - under_way if now >= self._short_since + self._sizing.refill_wait_s else 0
        for key in due[: max(0, allowed)]:
            self._works.begin(self._shelves[key], for_call=False)

    def _deadlines(self, now: float, *, pending: bool) -> Iterator[float]:
        """Moments at which something changes by time alone; what has begun says so itself."""
        if pending:
            yield self._after(now, self._traffic.quiet_at())
        if self._short_since is not None:
            yield self._after(now, self._short_since + self._sizing.refill_wait_s)
        for shelf in self._shelves.values():
            yield self._after(now, shelf.retry_at)
            if shelf.demand.level > self._sizing.floor:
                yield self._after(now, shelf.demand.since + self._sizing.shrink_s)
            if (expires := shelf.demand.expires(self._sizing)) is not None:
                yield self._after(now, expires)
            if shelf.idle:
                yield self._after(now, shelf.idle[0].since + self._sizing.max_age_s)

    @staticmethod
    def _after(now: float, moment: float) -> float:
        return moment if moment > now else float("inf")
