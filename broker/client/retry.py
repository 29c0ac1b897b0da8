"""What is tried again, and for how long: only what is safe, and never for ever."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, stop_before_delay

from broker.client.errors import HANDSHAKE_FAILED
from broker.errors import BrokerError, ResourceExhaustedError, UnavailableError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long.

    A request is tried again only if it is a read, or a create that carries a request id, and only when the broker is
    unavailable or names the delay after which it will have room. Times are in seconds.
    """

    attempts: int = 5
    """Most attempts, the first one included; 1 never tries again."""
    total_s: float = 30.0
    """No attempt starts later than this after the first."""
    initial_s: float = 0.1
    """First pause; each further one is twice as long, and all are shortened at random by up to a half."""
    max_s: float = 5.0
    """Longest pause of the client's own; a delay that the broker names is kept to, however long."""

    def pause(self, failures: int, error: BaseException | None) -> float:
        """Seconds to wait after the given number of failures in a row (from 1)."""
        named = error.retry_after_s if isinstance(error, BrokerError) else None
        if named is not None:
            return named
        longest = min(self.max_s, self.initial_s * float(2 ** (failures - 1)))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients out; nothing secret


def may_retry(error: BaseException) -> bool:
    """Was nothing done, and can the same request succeed a little later?"""
    if isinstance(error, UnavailableError):
        return error.reason != HANDSHAKE_FAILED
    return isinstance(error, ResourceExhaustedError) and error.retry_after_s is not None


async def retrying(policy: RetryPolicy, work: Callable[[], Awaitable[T]], *, within_s: float) -> T:
    """Runs ``work`` until it succeeds, fails for good, or the policy or ``within_s`` seconds are used up.

    Raises:
        BrokerError: the last attempt's.
    """

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        return policy.pause(state.attempt_number, error)

    attempts = AsyncRetrying(
        retry=retry_if_exception(may_retry),
        wait=wait,
        stop=stop_after_attempt(policy.attempts) | stop_before_delay(min(policy.total_s, within_s)),
        reraise=True,
    )
    return await attempts(work)
