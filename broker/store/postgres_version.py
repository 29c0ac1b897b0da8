"""Asks PostgreSQL whether anybody has committed, in a thread of its own: a server that stalls holds up only that."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import psycopg

from broker.errors import BrokerError, UnavailableError
from broker.store.postgres_connection import PostgresDriver, translate

DEADLINE_S = 2.0
"""How long an answer is waited for."""

_SNAPSHOT = "SELECT pg_catalog.pg_current_snapshot()::text"


class SnapshotVersion:
    """A number that differs after anybody has committed. Whoever asks meanwhile shares the next question.

    Args:
        connect: opens a bare connection.
    """

    def __init__(self, connect: Callable[[], PostgresDriver]) -> None:
        self._connect = connect
        self._gate = threading.Lock()
        self._next: Future[int] | None = None
        self._asked: Future[int] | None = None
        self._driver: PostgresDriver | None = None
        self._line: socket.socket | None = None
        self._snapshot = ""
        self._version = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-version")

    def ask(self) -> int:
        """The number; blocks until the server has answered.

        Raises:
            UnavailableError: it didn't within ``DEADLINE_S``, or this is closed.
            BrokerError: it can't be asked.
        """
        future = self._question()
        try:
            return future.result(DEADLINE_S)
        except TimeoutError as error:
            raise self._late(future) from error

    async def ask_async(self) -> int:
        """Like ``ask``, without holding up the event loop."""
        future = self._question()
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise self._late(future) from error

    def close(self) -> None:
        """Ends the connection, and the thread with it; blocks."""
        self._cut(None)
        self._thread.shutdown(wait=True)
        self._disconnect()

    def _question(self) -> Future[int]:
        # One that is under way can't be shared: it may have been asked before the caller's own commit.
        with self._gate:
            if self._next is None:
                future: Future[int] = Future()
                future.set_running_or_notify_cancel()  # it is shared: none of those who wait may cancel it
                try:
                    self._thread.submit(self._answer)
                except RuntimeError as error:
                    raise UnavailableError("the database is closed", reason="STORE_CLOSED") from error
                self._next = future
            return self._next

    def _answer(self) -> None:
        with self._gate:
            future, self._next = self._next, None
            self._asked = future
        if future is None:
            return
        try:
            found = self._ask_server()
            if found != self._snapshot:
                self._snapshot = found
                self._version += 1
            future.set_result(self._version)
        except psycopg.Error as error:
            future.set_exception(translate(error))
        except BaseException as error:  # noqa: BLE001 - it goes to those who wait; they must not wait for ever
            future.set_exception(error)

    def _ask_server(self) -> str:
        if self._driver is not None:
            with suppress(psycopg.OperationalError):
                return _text(self._driver)
        self._disconnect()
        self._driver = self._connect()
        with self._gate:
            self._line = socket.socket(fileno=os.dup(self._driver.fileno()))
        self._driver.execute(f"SELECT set_config('statement_timeout', '{DEADLINE_S:g}s', false)".encode())
        return _text(self._driver)

    def _disconnect(self) -> None:
        with self._gate:
            if self._line is not None:
                self._line.close()
                self._line = None
        if self._driver is not None:
            self._driver.close()
            self._driver = None

    def _late(self, future: Future[int]) -> BrokerError:
        self._cut(future)
        return UnavailableError(
            f"the database hasn't answered for {DEADLINE_S:g} s",
            reason="STORE_FAILED",
            hint="Look at the PostgreSQL server, and at the network to it; then try again.",
            retry_after_s=1.0,
        )

    def _cut(self, future: Future[int] | None) -> None:
        """Ends the connection under a question that still waits on it, or under any; the next one makes another."""
        with self._gate, suppress(OSError):
            if self._line is not None and (future is None or (self._asked is future and not future.done())):
                self._line.shutdown(socket.SHUT_RDWR)


def _text(driver: PostgresDriver) -> str:
    row = driver.execute(_SNAPSHOT).fetchone()
    return "" if row is None else str(row[0])
