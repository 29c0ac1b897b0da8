"""How many warm containers of which profile there should be: arithmetic without clock, engine or task.

Times are seconds of one monotonic clock, given by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from heapq import nlargest

from broker.errors import InvalidArgumentError

_HALF_LIFE_S = 60.0
_EXPECTED_S = 15.0
"""So long after a call of a profile the next one is likely."""
_UNASKED_WEIGHT = 0.01
"""Of a profile that no call has asked for: behind all others, and among its like in the order of their keys."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """The bounds of the pool. Times in seconds."""

    floor: int = 2
    """Idle containers of each profile that calls use or that is kept warm beforehand."""
    ceiling: int = 10
    """Warm containers of all profiles together, those being made included; 0 turns the pool off."""
    idle_age_s: float = 600.0
    """After so long without a call a profile keeps none, unless it is kept warm beforehand."""
    max_age_s: float = 3600.0
    """An idle container that is older is replaced."""
    shrink_s: float = 60.0
    """After so long, half of what was never needed meanwhile is given up, down to the floor."""
    creates: int = 2
    """Containers that are made at one time for the pool; what a call waits for is made besides."""
    quiet_s: float = 0.002
    """So long nobody may have held or wanted a container before the pool makes and removes some."""
    close_s: float = 0.02
    """Calls that follow each other within this time are expected to go on: it must then be quiet for as long."""
    refill_wait_s: float = 1.0
    """Where it never gets quiet: after so long the pool makes containers all the same, one at a time."""
    linger_s: float = 0.4
    """Where it never gets quiet: after so long a used container is removed all the same."""
    retry_s: float = 0.5
    """After a failure to make a container, the pool waits so long; twice as long after each more."""
    retry_max_s: float = 30.0
    """The longest such wait."""

    def __post_init__(self) -> None:
        """Refuses what the pool could never keep.

        Raises:
            InvalidArgumentError: a count is too small, or a time isn't above 0; names it.
        """
        least = {"floor": 0, "ceiling": 0, "creates": 1}
        for item in fields(self):
            value = getattr(self, item.name)
            if value < least[item.name] if item.name in least else value <= 0:
                rule = f"at least {least[item.name]}" if item.name in least else "above 0 seconds"
                raise InvalidArgumentError(
                    f"the pool's {item.name} is {value}; it must be {rule}", reason="POOL_SIZING_INVALID"
                )


@dataclass(frozen=True, slots=True)
class Demand:
    """What calls have wanted of one profile."""

    level: int
    """Idle containers that were enough lately."""
    since: float
    """When the present period of observation began."""
    spare: int
    """The fewest that were left over at any time of it."""
    calls: float = 0.0
    """Calls, each halved with every minute since; as of ``last_call``."""
    last_call: float | None = None

    @staticmethod
    def fresh(sizing: Sizing, now: float) -> Demand:
        """Of a profile that has just become known."""
        return Demand(level=sizing.floor, since=now, spare=sizing.floor)

    def called(self, sizing: Sizing, now: float, *, left: int, missed: bool) -> Demand:
        """After a call; a ``missed`` one found none, though the profile was known, and raises the level.

        Args:
            sizing: the bounds.
            now: the time.
            left: idle containers after it.
            missed: whether it had to wait for a container.
        """
        return replace(
            self,
            level=min(self.level + missed, max(sizing.ceiling, self.level)),
            spare=min(self.spare, left),
            calls=self.weight(now) + 1.0,
            last_call=now,
        )

    def settled(self, sizing: Sizing, now: float) -> Demand:
        """Gives up half of what lay unused, for each period that is over."""
        demand = self
        while now - demand.since >= sizing.shrink_s:
            level = max(sizing.floor, demand.level - math.ceil(demand.spare / 2))
            ended = now if level <= sizing.floor else demand.since + sizing.shrink_s
            demand = replace(demand, level=level, since=ended, spare=level)
        return demand

    def weight(self, now: float) -> float:
        """How much of the ceiling it may claim beside others."""
        if self.last_call is None:
            return 0.0
        return self.calls * math.pow(0.5, (now - self.last_call) / _HALF_LIFE_S)

    def expected(self, now: float) -> float | None:
        """When it was called last, if that is so short ago that the next call is likely."""
        return self.last_call if self.last_call is not None and now - self.last_call < _EXPECTED_S else None

    def expires(self, sizing: Sizing) -> float | None:
        """When the profile keeps none any more; ``None``: no call has asked for it."""
        return None if self.last_call is None else self.last_call + sizing.idle_age_s

    def wanted(self, sizing: Sizing, now: float, *, prewarmed: bool) -> int:
        """Idle containers that there should be, were the ceiling its own."""
        expires = self.expires(sizing)
        recent = expires is not None and now < expires
        least = max(sizing.floor, 1) if prewarmed else 0
        return min(sizing.ceiling, max(least, self.level if recent else 0))


@dataclass(frozen=True, slots=True)
class Want:
    """One profile's part in sharing the ceiling."""

    wanted: int
    weight: float
    prewarmed: bool
    expected: float | None = None
    """Of its last call, where the next one is likely."""


@dataclass(frozen=True, slots=True)
class Stock:
    """What there is of one profile."""

    idle: int
    making: int
    """Being made, and not promised to a call."""

    @property
    def total(self) -> int:
        """What counts against the ceiling."""
        return self.idle + self.making


def shares(wants: Mapping[str, Want], ceiling: int) -> dict[str, int]:
    """How many each profile should have: never more than it wants, never more than the ceiling together.

    Every prewarmed profile gets one first, then those called last, up to half of the ceiling: weight follows the calls of
    minutes, and whoever goes over to another tool would find none for its first dozen. The others go one by one to
    the profile with the greatest weight for each that it would then have, so that each profile's part comes to follow its
    part in the calls.
    """
    given = dict.fromkeys(wants, 0)
    calls = {key: want.expected for key, want in wants.items() if want.wanted and want.expected is not None}
    called_last = nlargest(ceiling // 2, calls, key=lambda key: (calls[key], key))

    def urgency(key: str) -> tuple[bool, bool, float, str]:
        want, none = wants[key], not given[key]
        part = max(want.weight, _UNASKED_WEIGHT) / (given[key] + 1)
        return want.prewarmed and none, key in called_last and none, part, key

    for _ in range(ceiling):
        short = [key for key, want in wants.items() if given[key] < want.wanted]
        if not short:
            break
        given[max(short, key=urgency)] += 1
    return given


def refills(stocks: Mapping[str, Stock], targets: Mapping[str, int], ceiling: int) -> list[str]:
    """Which containers to make, the most needed first, within what room the ceiling leaves.

    Args:
        stocks: profile -> what there is of it; the same keys as ``targets``.
        targets: profile -> how many it should have.
        ceiling: how many there may be in all.
    """
    totals = {key: stock.total for key, stock in stocks.items()}
    made: list[str] = []
    for _ in range(ceiling - sum(totals.values())):
        short = [key for key, target in targets.items() if totals[key] < target]
        if not short:
            break
        key = min(short, key=lambda item: (totals[item] / targets[item], item))
        totals[key] += 1
        made.append(key)
    return made


def surplus(
    stocks: Mapping[str, Stock], wanted: Mapping[str, int], targets: Mapping[str, int], ceiling: int
) -> dict[str, int]:
    """How many idle containers of which profile to give up.

    All that the profile itself doesn't want goes. What is above its share goes where another needs the room; but not
    for that one's last missing container, unless it has none: shares that tip to and fro must not make the engine busy.

    Args:
        stocks: profile -> what there is of it; the same keys as the others.
        wanted: profile -> how many it would have, were the ceiling its own.
        targets: profile -> its share of the ceiling.
        ceiling: how many there may be in all.
    """
    dropped = {key: min(stock.idle, max(0, stock.total - wanted[key])) for key, stock in stocks.items()}
    room = ceiling - sum(stock.total - dropped[key] for key, stock in stocks.items())
    missing = {key: targets[key] - stock.total for key, stock in stocks.items()}
    needed = sum(count for key, count in missing.items() if count >= 2 or (count == 1 and not stocks[key].total))
    for _ in range(max(0, needed - room)):
        above = {key: stock.total - dropped[key] - targets[key] for key, stock in stocks.items()}
        able = [key for key, stock in stocks.items() if above[key] > 0 and dropped[key] < stock.idle]
        if not able:
            break
        dropped[max(able, key=lambda item: (above[item], item))] += 1
    return {key: count for key, count in dropped.items() if count}
