"""Whose turn it is: a bounded queue, fair between agents, in front of a bounded number of running calls."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

from broker.errors import ResourceExhaustedError

_RETRY_S = 1.0


class Turns:
    """Places for calls: ``reserve`` on admission, ``take`` or ``acquire`` before the run, ``release`` at the end.

    Agents take turns: one that has filled the queue delays another's next call by one run at most.
    """

    def __init__(self, *, max_running: int, max_queued: int, max_per_agent: int) -> None:
        self._max_running = max_running
        self._max_total = max_running + max_queued
        self._max_per_agent = max_per_agent
        self._held: dict[str, int] = {}
        self._total = 0
        self.running = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def queued(self) -> int:
        """Calls that hold a place and don't run."""
        return self._total - self.running

    def reserve(self, agent: str, *, force: bool = False) -> None:
        """Takes a place for one call of an agent; ``force`` is for calls that were admitted before a restart.

        Raises:
            ResourceExhaustedError: the agent has too many calls, or the queue is full; says when to try again.
        """
        held = self._held.get(agent, 0)
        if held >= self._max_per_agent and not force:
            raise ResourceExhaustedError(
                f"{held} calls of this agent run or wait; the limit is {self._max_per_agent}",
                reason="AGENT_QUOTA",
                hint="Wait for some of them to end.",
                metadata={"limit": str(self._max_per_agent)},
                retry_after_s=_RETRY_S,
            )
        if self._total >= self._max_total and not force:
            raise ResourceExhaustedError(
                f"the queue is full: {self.queued} calls wait",
                reason="QUEUE_FULL",
                hint="Try again after the delay.",
                metadata={"queued": str(self.queued)},
                retry_after_s=_RETRY_S,
            )
        self._held[agent] = held + 1
        self._total += 1

    def give_back(self, agent: str) -> None:
        """Frees the place of a call that doesn't run."""
        self._total -= 1
        self._held[agent] -= 1
        if not self._held[agent]:
            del self._held[agent]

    def take(self) -> bool:
        """Takes a turn for a call that holds a place, if there is one that nobody waits for."""
        if self.running >= self._max_running or self._waiting:
            return False
        self.running += 1
        return True

    async def acquire(self, agent: str) -> None:
        """Waits for the agent's turn; the caller's cancellation leaves the queue in order."""
        if self.take():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(agent, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._next()  # the turn had been given just then: pass it on
            else:
                self._forget(agent, turn)
            raise

    def release(self, agent: str) -> None:
        """Ends a run: its turn and its place are free."""
        self.give_back(agent)
        self._next()

    def _next(self) -> None:
        while self._waiting:
            agent, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[agent] = turns
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    def _forget(self, agent: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(agent)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[agent]
