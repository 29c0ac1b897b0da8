"""The one thread that writes: it takes what is queued, runs each function in a savepoint and commits once for all."""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from broker.errors import UnavailableError
from broker.store.connection import translate
from broker.store.prepared import driver_of
from broker.store.transaction import SqlTransaction

MAX_BATCH = 64
"""Functions that share one commit at most."""

T = TypeVar("T")
Work = Callable[[SqlTransaction], Any]


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work | None
    """Runs inside the shared transaction; ``None`` where ``alone`` is set."""
    alone: Callable[[Connection], Any] | None
    """Runs outside of any transaction, between two batches."""
    future: Future[Any]


class GroupWriter:
    """Owns a connection and its thread from construction to ``close``.

    A function's exception rolls back what that function wrote and goes to its caller; the others of its batch are
    committed. A COMMIT that fails leaves open whether the batch is durable. Nothing is safe to do after that, so the
    writer then refuses all further work: reopen the database and read what is there.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._driver = driver_of(connection)
        self._transaction = SqlTransaction(connection)
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._failure: str = ""
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Has a COMMIT failed, so that nothing is known of its batch?"""
        return bool(self._failure)

    @property
    def deletions(self) -> int:
        """How many encrypted objects its functions have deleted."""
        return self._transaction.vault.deletions

    def submit(self, work: Callable[[SqlTransaction], T]) -> Future[T]:
        """Queues a function. A future cancelled before its turn is never run; after that it can't be cancelled.

        Raises:
            UnavailableError: the writer is closed.
        """
        future: Future[T] = Future()
        self._put(_Job(work, None, future))
        return future

    def submit_alone(self, work: Callable[[Connection], T]) -> Future[T]:
        """Queues a function that runs between two transactions, such as a checkpoint.

        Raises:
            UnavailableError: the writer is closed.
        """
        future: Future[T] = Future()
        self._put(_Job(None, work, future))
        return future

    def close(self) -> None:
        """Finishes what is queued and ends the thread; the connection stays with its owner."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _put(self, job: _Job) -> None:
        with self._gate:
            if self._closed:
                raise UnavailableError("the database is closed; nothing was written", reason="STORE_CLOSED")
            self._queue.put(job)

    def _run(self) -> None:
        waiting: deque[_Job | None] = deque()
        while True:
            waiting.append(self._queue.get())
            while not self._queue.empty():
                waiting.append(self._queue.get())
            while waiting:
                first = waiting.popleft()
                if first is None:
                    return
                if first.alone is not None:
                    self._run_alone(first, first.alone)
                    continue
                batch = [first]
                while len(batch) < MAX_BATCH and waiting and (job := waiting[0]) is not None and job.alone is None:
                    batch.append(job)
                    waiting.popleft()
                self._write(batch)

    def _run_alone(self, job: _Job, work: Callable[[Connection], Any]) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        if self._failure:
            job.future.set_exception(self._refusal())
            return
        try:
            result = work(self._connection)
        except BaseException as error:  # noqa: BLE001 - it goes to its caller, whatever it is; the thread must live on
            job.future.set_exception(_for_caller(error))
        else:
            job.future.set_result(result)

    def _write(self, batch: list[_Job]) -> None:
        jobs = [job for job in batch if job.future.set_running_or_notify_cancel()]
        while jobs:
            jobs = self._commit(jobs)

    def _commit(self, jobs: list[_Job]) -> list[_Job]:
        """Runs and commits jobs; returns those that it didn't come to, because SQLite ended the transaction."""
        if self._failure:
            _fail(jobs, self._refusal())
            return []
        try:
            self._sql("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            _fail(jobs, translate(error))
            return []
        done: list[tuple[_Job, Any]] = []
        for position, job in enumerate(jobs):
            try:
                result = self._run_one(job)
            except BaseException as error:  # noqa: BLE001 - it goes to its caller; the others of the batch go on
                job.future.set_exception(_for_caller(error))
                if not self._driver.in_transaction:
                    # A full disk and the like roll back everything: what ran before is gone, the rest can try anew.
                    _fail([job for job, _ in done], _for_caller(error))
                    return jobs[position + 1 :]
            else:
                done.append((job, result))
        self._finish(done)
        return []

    def _run_one(self, job: _Job) -> Any:  # noqa: ANN401 - the function's own result
        if job.work is None:
            return None
        self._sql("SAVEPOINT work")
        try:
            result = job.work(self._transaction)
        except BaseException:
            if self._driver.in_transaction:
                self._sql("ROLLBACK TO work")
                self._sql("RELEASE work")
            raise
        self._sql("RELEASE work")
        return result

    def _finish(self, done: list[tuple[_Job, Any]]) -> None:
        try:
            self._sql("COMMIT" if done else "ROLLBACK")
        except sqlite3.Error as error:
            self._failure = getattr(error, "sqlite_errorname", "") or "no error name"
            _fail([job for job, _ in done], self._refusal())
            return
        for job, result in done:
            job.future.set_result(result)

    def _sql(self, statement: str) -> None:
        self._driver.execute(statement)

    def _refusal(self) -> UnavailableError:
        return UnavailableError(
            f"a COMMIT failed ({self._failure}): whether its writes are durable is unknown, and no more are taken",
            reason="STORE_FAILED",
            hint="Restart the broker: it reads what is durable, and marks calls without an outcome UNKNOWN.",
        )


def _for_caller(error: BaseException) -> BaseException:
    return translate(error) if isinstance(error, DBAPIError | sqlite3.Error) else error


def _fail(jobs: list[_Job], error: BaseException) -> None:
    for job in jobs:
        job.future.set_exception(error)
