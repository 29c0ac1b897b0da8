"""One profile's part of the warm pool: what lies ready, what is being made, and who waits for it."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass

from broker.domain.meter import Claim
from broker.domain.run import Profile
from broker.errors import BrokerError
from broker.sandbox.engine import Lease
from broker.sandbox.pool_sizing import Demand, Sizing, Stock
from broker.sandbox.pool_status import PoolRow


@dataclass(frozen=True, slots=True)
class Idle:
    """A container that waits for a call."""

    lease: Lease
    since: float


@dataclass(slots=True, eq=False)
class Making:
    """A container that is being made."""

    for_call: bool
    """Begun because a call waits: its failure is that call's answer."""


class Shelf:
    """The containers of one profile. As many are being made as calls wait, or more."""

    def __init__(self, key: str, profile: Profile, demand: Demand) -> None:
        self.key = key
        self.profile = profile
        self.demand = demand
        self.prewarmed = False
        self.idle: list[Idle] = []
        """The oldest first."""
        self.makings: set[Making] = set()
        self.users = 0
        """Calls that hold one or ask for one."""
        self.leased = 0
        self.target = 0
        self.counts: Counter[Claim] = Counter()
        self.trouble = ""
        self.retry_at = 0.0
        self._failures = 0
        self._waiters: deque[asyncio.Future[Lease]] = deque()

    @property
    def waiting(self) -> int:
        """Calls that wait for a container that is being made."""
        return sum(not future.done() for future in self._waiters)

    @property
    def promised_short(self) -> bool:
        """Whether more calls wait than containers are being made."""
        return len(self.makings) < self.waiting

    @property
    def stock(self) -> Stock:
        """What counts against the ceiling: a container that a call waits for doesn't."""
        return Stock(len(self.idle), max(0, len(self.makings) - self.waiting))

    @property
    def known(self) -> bool:
        """Whether the pool could have expected a call."""
        return self.prewarmed or self.demand.last_call is not None

    def wait(self) -> asyncio.Future[Lease]:
        """A place in the queue of calls; who leaves it early says so with ``leave``."""
        future = asyncio.get_running_loop().create_future()
        self._waiters.append(future)
        return future

    def leave(self, future: asyncio.Future[Lease]) -> None:
        """Gives up a place in the queue; none is no error."""
        if future in self._waiters:
            self._waiters.remove(future)

    def serve(self, answer: Lease | BaseException) -> bool:
        """Gives the call that has waited longest its container or its error.

        Returns:
            Whether one waited.
        """
        while self._waiters:
            future = self._waiters.popleft()
            if future.done():
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
            return True
        return False

    def failed(self, error: Exception, sizing: Sizing, now: float) -> bool:
        """A container couldn't be made: the next attempt for the shelf waits longer each time.

        Returns:
            Whether this is news.
        """
        wait = min(sizing.retry_max_s, sizing.retry_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        self.retry_at = now + wait
        kind = error.reason if isinstance(error, BrokerError) else type(error).__name__
        news, self.trouble = kind != self.trouble, kind
        return news

    def recovered(self) -> bool:
        """A container could be made.

        Returns:
            Whether this is news.
        """
        news = bool(self.trouble)
        self.trouble, self.retry_at, self._failures = "", 0.0, 0
        return news

    def row(self, now: float) -> PoolRow:
        """What there is to tell."""
        return PoolRow(
            fingerprint=self.key,
            image=self.profile.image,
            runtime=self.profile.runtime,
            prewarmed=self.prewarmed,
            idle=len(self.idle),
            making=len(self.makings),
            leased=self.leased,
            target=self.target,
            warm=self.counts[Claim.WARM],
            cold=self.counts[Claim.COLD],
            unfit=self.counts[Claim.UNFIT],
            oldest_idle_s=now - self.idle[0].since if self.idle else 0.0,
            trouble=self.trouble,
        )
