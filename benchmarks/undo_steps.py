"""Times the steps of calls that change a workspace, where the broker itself takes them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar
from unittest.mock import patch

from broker.pipeline import planning
from broker.pipeline.execution import Execution
from broker.pipeline.outside_steps import Steps as OutsideSteps
from broker.pipeline.planning import Planning
from broker.pipeline.rehearsing import rehearse
from broker.vault.artifacts import Artifacts

P = ParamSpec("P")
T = TypeVar("T")


class Steps:
    """What the steps of one call took, in milliseconds; for one call at a time."""

    def __init__(self) -> None:
        self.taken: dict[str, float] = {}
        self._began = 0.0

    def begin(self) -> float:
        """A call begins now: the moment, by ``time.perf_counter``."""
        self.taken.clear()
        self._began = time.perf_counter()
        return self._began

    def timed(self, step: str, work: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """The same work, which notes what it took."""

        @wraps(work)
        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            began = time.perf_counter()
            try:
                return await work(*args, **kwargs)
            finally:
                self.taken[step] = (time.perf_counter() - began) * 1e3

        return run

    def reached(self, step: str, work: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """The same work, which notes what the call took until it came to it."""

        @wraps(work)
        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            self.taken[step] = (time.perf_counter() - self._began) * 1e3
            return await work(*args, **kwargs)

        return run


@contextmanager
def watching() -> Iterator[Steps]:
    """Meanwhile the steps of a broker in this process are timed; the broker's own code runs, and nothing in its place."""
    steps = Steps()
    with (
        patch.object(Planning, "settle", steps.reached("plan", Planning.settle)),
        patch.object(Artifacts, "put", steps.timed("capture", Artifacts.put)),
        patch.object(planning, "rehearse", steps.timed("rehearse", rehearse)),
        patch.object(OutsideSteps, "tried", steps.timed("rehearse", OutsideSteps.tried)),
        patch.object(Execution, "apply", steps.timed("apply", Execution.apply)),
    ):
        yield steps
