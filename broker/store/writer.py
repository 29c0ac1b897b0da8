"""The one thread that writes: it takes what is queued, runs each function so that it can be undone, and commits for all."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection

from broker.errors import BrokerError, UnavailableError
from broker.store.answers import Answer, HereAnswer, LoopAnswer, ThreadAnswer, Told, tell
from broker.store.session import RolledBackError, WriteSession
from broker.store.transaction import SqlTransaction

MAX_BATCH = 64
"""Functions that share one commit at most."""

T = TypeVar("T")
Work = Callable[[SqlTransaction], Any]


class _Job(NamedTuple):
    work: Work | None
    """Runs inside the shared transaction; ``None`` where ``alone`` is set."""
    alone: Callable[[Connection], Any] | None
    """Runs outside of any transaction, between two batches."""
    answer: Answer


class GroupWriter:
    """Has a session's connection to itself, in a thread of its own, from construction to ``close``.

    A function's exception rolls back what that function wrote and goes to its caller; the others of its batch are
    committed. A COMMIT that fails leaves open whether the batch is durable. Nothing is safe to do after that, so the
    writer then refuses all further work: reopen the database and read what is there.
    """

    def __init__(self, session: WriteSession) -> None:
        self._session = session
        self._queue: queue.SimpleQueue[Sequence[_Job | None]] = queue.SimpleQueue()
        self._gathered: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
        self._gate = threading.Lock()
        self._turn = threading.Lock()
        self._closed = False
        self._failure: str = ""
        self._stopped: BrokerError | None = None
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Has a COMMIT failed, so that nothing is known of its batch?"""
        return bool(self._failure)

    def stop(self, why: BrokerError) -> None:
        """Takes no further work, for good; whoever comes is told why."""
        self._stopped = why

    @property
    def deletions(self) -> int:
        """How many encrypted objects its functions have deleted."""
        return self._session.deletions

    def submit(self, work: Callable[[SqlTransaction], T]) -> Future[T]:
        """Queues a function. A future cancelled before its turn is never run; after that it can't be cancelled.

        Raises:
            UnavailableError: the writer is closed.
        """
        answer = ThreadAnswer()
        self._put([_Job(work, None, answer)])
        return answer.future

    async def run(self, work: Callable[[SqlTransaction], T]) -> T:
        """Queues a function and waits for its result, on an event loop. Cancelled before its turn, it never runs.

        Raises:
            UnavailableError: the writer is closed.
            Exception: what the function raised.
        """
        loop = asyncio.get_running_loop()
        answer = LoopAnswer(loop)
        gathered = self._gathered.get(loop)
        if gathered is None:
            gathered = self._gathered[loop] = []
            loop.call_soon(self._hand_over, loop)
        gathered.append(_Job(work, None, answer))
        result: T = await answer.future
        return result

    def run_here(self, work: Callable[[SqlTransaction], T]) -> T:
        """Runs a function in the caller's thread where nobody else writes now, otherwise by the queue; blocks.

        Raises:
            UnavailableError: the writer is closed.
            Exception: what the function raised.
        """
        if not self._turn.acquire(blocking=False):
            return self.submit(work).result()
        answer = HereAnswer()
        try:
            if self._closed:
                raise _closed()
            self._write([_Job(work, None, answer)])
        finally:
            self._turn.release()
        result: T = answer.result()
        return result

    def submit_alone(self, work: Callable[[Connection], T]) -> Future[T]:
        """Queues a function that runs between two transactions, such as a checkpoint.

        Raises:
            UnavailableError: the writer is closed.
        """
        answer = ThreadAnswer()
        self._put([_Job(None, work, answer)])
        return answer.future

    def close(self) -> None:
        """Finishes what is queued and ends the thread; the connection stays with its owner."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put([None])
        self._thread.join()
        with self._turn:  # whoever writes in a thread of its own has ended, and nobody begins
            pass

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """Queues what the loop's callers have had to write since its last turn: they mostly come together."""
        jobs = self._gathered.pop(loop)
        try:
            self._put(jobs)
        except UnavailableError as error:
            _fail(jobs, error)

    def _put(self, jobs: list[_Job]) -> None:
        with self._gate:
            if self._closed:
                raise _closed()
            self._queue.put(jobs)

    def _run(self) -> None:
        waiting: deque[_Job | None] = deque()
        while True:
            waiting.extend(self._queue.get())
            while not self._queue.empty():
                waiting.extend(self._queue.get())
            while waiting:
                first = waiting.popleft()
                if first is None:
                    return
                if first.alone is not None:
                    with self._turn:
                        self._run_alone(first, first.alone)
                    continue
                batch = [first]
                while len(batch) < MAX_BATCH and waiting and (job := waiting[0]) is not None and job.alone is None:
                    batch.append(job)
                    waiting.popleft()
                with self._turn:
                    self._write(batch)

    def _run_alone(self, job: _Job, work: Callable[[Connection], Any]) -> None:
        if not job.answer.taken():
            return
        if self._failure or self._stopped:
            tell([(job.answer, None, self._refusal())])
            return
        try:
            result = work(self._session.connection)
        except BaseException as error:  # noqa: BLE001 - it goes to its caller, whatever it is; the thread must live on
            tell([(job.answer, None, self._for_caller(error))])
        else:
            tell([(job.answer, result, None)])

    def _write(self, batch: list[_Job]) -> None:
        jobs = [job for job in batch if job.answer.taken()]
        while jobs:
            jobs = self._commit(jobs)

    def _commit(self, jobs: list[_Job]) -> list[_Job]:
        """Runs and commits jobs; returns those that it didn't come to, because the database ended the transaction."""
        if self._failure or self._stopped:
            _fail(jobs, self._refusal())
            return []
        session = self._session
        try:
            session.begin()
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing was begun; the thread must live on
            _fail(jobs, self._for_caller(error))
            return []
        alone = len(jobs) == 1
        done: list[tuple[_Job, Any]] = []
        refused: list[Told] = []
        begins: list[Callable[[], None]] = []
        session.transaction.take_begins()  # of one that was interrupted
        for position, job in enumerate(jobs):
            try:
                result = self._run_one(job, alone=alone)
            except BaseException as error:  # noqa: BLE001 - it goes to its caller; the others of the batch go on
                session.transaction.take_begins()
                refusal = (job.answer, None, self._for_caller(error))
                if not session.in_transaction():
                    # A full disk and the like roll back everything: what ran before is gone, the rest can try anew.
                    _fail([job for job, _ in done], self._taken_back(error))
                    tell([refusal])
                    _fail_all(refused, self._taken_back(error))
                    return jobs[position + 1 :]
                if done:
                    refused.append(refusal)
                else:
                    tell([refusal])
            else:
                done.append((job, result))
                begins += session.transaction.take_begins()
        self._finish(done, refused, begins)
        return []

    def _run_one(self, job: _Job, *, alone: bool) -> Any:  # noqa: ANN401 - the function's own result
        if job.work is None:
            return None
        session = self._session
        if alone:  # where it raises, the whole transaction is rolled back
            return job.work(session.transaction)
        session.save()
        try:
            result = job.work(session.transaction)
            session.keep()
        except BaseException:
            if session.in_transaction():
                self._undo()
            raise
        return result

    def _undo(self) -> None:
        try:
            self._session.undo()
        except Exception:  # noqa: BLE001 - whatever it is, what was refused may still stand in the transaction
            self._roll_back()

    def _finish(self, done: list[tuple[_Job, Any]], refused: list[Told], begins: list[Callable[[], None]]) -> None:
        """Commits what was done, and begins meanwhile what waited for that; ``refused`` may rest on what was done, so those
        are told once it is durable.
        """
        if not done:
            self._roll_back()
            return
        try:
            self._session.flush()
            for begin in begins:
                begin()
        except BaseException as error:
            # Nothing was committed yet, and that is known: the database refused an entry, has no room, or is away.
            if self._session.in_transaction():
                self._roll_back()
            told = self._for_caller(error) if isinstance(error, Exception) else self._taken_back(error)
            _fail([job for job, _ in done], told)
            _fail_all(refused, told)
            if not isinstance(error, Exception):  # Ctrl-C in a caller's own thread goes on to it
                raise
            return
        try:
            self._session.commit()
        except RolledBackError as error:
            _fail([job for job, _ in done], error)
            _fail_all(refused, error)
            return
        except BaseException as error:
            self._failure = self._name(error)
            _fail([job for job, _ in done], self._refusal())
            _fail_all(refused, self._refusal())
            if not isinstance(error, Exception):  # Ctrl-C in a caller's own thread goes on to it
                raise
            return
        durable: list[Told] = [(job.answer, result, None) for job, result in done]
        tell(durable + refused)

    def _roll_back(self) -> None:
        try:
            self._session.rollback()
        except BaseException as error:
            # Nothing was acknowledged; but the connection is in no known state.
            self._failure = self._name(error)
            if not isinstance(error, Exception):
                raise

    def _name(self, error: BaseException) -> str:
        return self._session.name(error) if isinstance(error, Exception) else type(error).__name__

    def _for_caller(self, error: BaseException) -> BaseException:
        if isinstance(error, Exception) and self._session.is_ours(error):
            return self._session.translate(error)
        return error

    def _taken_back(self, error: BaseException) -> BaseException:
        """For those whose writes went with another's: what the database said, but never what the other was refused for."""
        if isinstance(error, Exception) and self._session.is_ours(error):
            return self._session.translate(error)
        return UnavailableError(
            "the database took the transaction back; nothing was written", reason="STORE_FAILED", retry_after_s=1.0
        )

    def _refusal(self) -> BrokerError:
        return self._stopped or UnavailableError(
            f"a COMMIT failed ({self._failure}): whether its writes are durable is unknown, and no more are taken",
            reason="STORE_FAILED",
            hint="Restart the broker: it reads what is durable, and marks calls without an outcome UNKNOWN.",
        )


def _closed() -> UnavailableError:
    return UnavailableError("the database is closed; nothing was written", reason="STORE_CLOSED")


def _fail(jobs: list[_Job], error: BaseException) -> None:
    tell([(job.answer, None, error) for job in jobs])


def _fail_all(refused: list[Told], error: BaseException) -> None:
    """In place of refusals that rested on what is not durable."""
    tell([(answer, None, error) for answer, _, _ in refused])
