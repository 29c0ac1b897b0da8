"""Where the writing thread's results go: to a thread that waits, or to an event loop, which is woken once for all of a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol, TypeAlias


class Answer(Protocol):
    """One caller's end of a job."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Where ``give`` must be called; ``None`` is anywhere."""

    def taken(self) -> bool:
        """Takes the job, unless its caller has given up."""

    def give(self, result: Any, error: BaseException | None) -> None:  # noqa: ANN401 - the job's own
        """Gives the caller the result, or the error to raise."""


Told: TypeAlias = tuple[Answer, Any, BaseException | None]
"""Whom, the result, or the error in its place."""


class ThreadAnswer:
    """For a caller whose thread waits."""

    loop = None

    def __init__(self) -> None:
        self.future: Future[Any] = Future()

    def taken(self) -> bool:
        """Takes the job, unless its caller has given up."""
        return self.future.set_running_or_notify_cancel()

    def give(self, result: Any, error: BaseException | None) -> None:  # noqa: ANN401 - the job's own
        """Ends the caller's wait."""
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class HereAnswer:
    """For a caller that runs its job itself."""

    loop = None

    def __init__(self) -> None:
        self._result: Any = None
        self._error: BaseException | None = None

    def taken(self) -> bool:
        """Takes the job: nobody can give it up meanwhile."""
        return True

    def give(self, result: Any, error: BaseException | None) -> None:  # noqa: ANN401 - the job's own
        """Keeps what there is to say."""
        self._result, self._error = result, error

    def result(self) -> Any:  # noqa: ANN401 - the job's own
        """Returns the result, or raises the error."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback holds this frame
        return self._result


class LoopAnswer:
    """For a caller on an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()

    def taken(self) -> bool:
        """Takes the job, unless its caller has given up."""
        return not self.future.cancelled()

    def give(self, result: Any, error: BaseException | None) -> None:  # noqa: ANN401 - the job's own
        """Ends the caller's wait, if it still waits; on the loop only."""
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


def tell(told: Iterable[Told]) -> None:
    """Gives each caller its result: waking a loop costs more than writing an entry, so each is woken once."""
    loops: dict[asyncio.AbstractEventLoop, list[Told]] = {}
    for item in told:
        answer, result, error = item
        if answer.loop is not None:
            loops.setdefault(answer.loop, []).append(item)
        else:
            answer.give(result, _raisable(error))
    for loop, items in loops.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
            loop.call_soon_threadsafe(_give_all, items)


def _give_all(told: list[Told]) -> None:
    for answer, result, error in told:
        answer.give(result, _raisable(error))


def _raisable(error: BaseException | None) -> BaseException | None:
    # A future refuses it, and its caller would wait for ever.
    return RuntimeError("a function raised StopIteration") if isinstance(error, StopIteration) else error
