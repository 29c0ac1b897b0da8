"""The broker's database on PostgreSQL: one writing connection with its thread, a few reading ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Self, TypeVar

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from broker.domain.ports import Transaction
from broker.errors import UnavailableError
from broker.store.base import SqlStore
from broker.store.postgres_connection import (
    PostgresAddress,
    PostgresDriver,
    close,
    connect,
    engine_for,
    is_lost,
    postgres_driver_of,
    prepare,
    translate,
)
from broker.store.postgres_schema import SCRUBBED_TABLES, check_schema, owns_ledger
from broker.store.postgres_session import PostgresSession
from broker.store.postgres_version import DEADLINE_S, SnapshotVersion
from broker.store.transaction import SqlTransaction

_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# Snapshots of this role's other sessions that are older than now: what they may still see can't be vacuumed away.
_OLD_SNAPSHOTS = (
    "SELECT 1 FROM pg_catalog.pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND backend_xmin IS NOT NULL AND backend_type = 'client backend'"
    " AND age(backend_xmin) > 0 LIMIT 1"
)

T = TypeVar("T")


class PostgresDatabase(SqlStore):
    """Implements ``broker.domain.ports.Store``; made by ``open`` or ``open_sync``, never by itself.

    Several processes, on several machines, may have the same database open: an advisory lock lets them write by turns.
    """

    def __init__(self, address: PostgresAddress) -> None:
        self._engine = engine_for(address)
        self._local = threading.local()
        self._readers: list[Connection] = []
        self._gate = threading.Lock()
        self._session = PostgresSession(self._connect)
        try:
            check_schema(self._session.connection)
        except BaseException:
            self._session.close()
            raise
        self._versions = SnapshotVersion(lambda: connect(address, timeout_s=int(DEADLINE_S)))
        super().__init__(self._session)

    @classmethod
    @asynccontextmanager
    async def open(cls, address: PostgresAddress) -> AsyncIterator[Self]:
        """Opens a database that is there, for reading and writing, until the block ends; queued writes are finished.

        Raises:
            FailedPreconditionError: the broker isn't let in (``STORE_FORBIDDEN``), there are no tables of the broker
                (``STORE_MISSING``), they are older than this broker (``STORE_OLD``), or the server doesn't keep what it
                acknowledges (``STORE_NOT_DURABLE``).
            DataLossError: it isn't one of ours, or its triggers were changed.
            UnavailableError: no server answers.
        """
        database = await asyncio.to_thread(cls._open, address)
        try:
            yield database
        finally:
            await asyncio.to_thread(database.close)

    @classmethod
    @contextmanager
    def open_sync(cls, address: PostgresAddress) -> Iterator[Self]:
        """Like ``open``, for programs without an event loop."""
        database = cls._open(address)
        try:
            yield database
        finally:
            database.close()

    @classmethod
    def _open(cls, address: PostgresAddress) -> Self:
        try:
            return cls(address)
        except (DBAPIError, psycopg.Error) as error:
            raise translate(error) from error

    async def serve_alone(self) -> None:
        """Makes this the one broker that serves the database, until it is closed.

        Raises:
            FailedPreconditionError: ``ALREADY_SERVING``.
        """
        await asyncio.wrap_future(self._writer.submit_alone(lambda _: self._session.serve_alone()))

    def weakness(self) -> str:
        """Does the role that the broker serves with own the ledger's table?"""
        if self._writer.submit_alone(owns_ledger).result():
            return (
                "the role that the broker serves with owns the ledger's table or may act as its owner: the triggers hold,"
                " but it could take them off"
            )
        return ""

    def data_version(self) -> int:
        """A number that differs after anybody has committed: another process, or this one. Asks the server, and blocks.

        It may change without a commit too, where a transaction was undone or another database of the server was used.

        Raises:
            UnavailableError: the server doesn't answer, or not soon enough.
        """
        return self._versions.ask()

    async def ask_data_version(self) -> int:
        """Like ``data_version``, for an event loop: nothing else waits for the server's answer."""
        return await self._versions.ask_async()

    async def scrub(self) -> None:
        """Vacuums the tables with encrypted content: deleted rows leave them.

        Where the role may not (it isn't the tables' owner, and the server older than 17), autovacuum does, which is set
        to do so at once in these tables. Bytes stay in free space until it is used again, or until
        ``postgres_rewriting.rewrite`` makes new files, and in the server's own log.

        Raises:
            UnavailableError: ``STORE_BUSY``: somebody reads an older state; ``scrub_due`` stays true.
        """
        deletions = await asyncio.wrap_future(self._writer.submit_alone(lambda _: self._writer.deletions))
        await asyncio.to_thread(self._vacuum)
        self._scrubbed = deletions

    def _vacuum(self) -> None:
        try:
            connection = self._connect()
            try:
                driver = postgres_driver_of(connection)
                driver.execute("SELECT set_config('statement_timeout', '0', false)")
                busy = driver.execute(_OLD_SNAPSHOTS).fetchone() is not None
                driver.add_notice_handler(lambda _: None)  # it says which tables the role may not vacuum
                driver.execute(f"VACUUM {', '.join(SCRUBBED_TABLES)}".encode())
            finally:
                close(connection)
        except (DBAPIError, psycopg.Error) as error:
            raise translate(error) from error
        if busy:
            raise UnavailableError(
                "other users of the database may still see what was deleted", reason="STORE_BUSY", retry_after_s=1.0
            )

    def close(self) -> None:
        """Finishes what is queued and closes the connections; blocks."""
        self._writer.close()
        self._pool.shutdown(wait=True)
        for connection in self._readers:
            close(connection)
        self._versions.close()
        self._session.close()
        self._engine.dispose()

    def _connect(self) -> Connection:
        connection = self._engine.connect()
        try:
            prepare(connection)
        except BaseException:
            close(connection)
            raise
        return connection

    def _read(self, work: Callable[[Transaction], T]) -> T:
        try:
            driver, transaction = self._begin_read()
            try:
                return work(transaction)
            finally:
                if not is_lost(driver):
                    driver.execute("ROLLBACK")
        except (DBAPIError, psycopg.Error) as error:
            raise translate(error) from error

    def _begin_read(self) -> tuple[PostgresDriver, SqlTransaction]:
        found: tuple[Connection, SqlTransaction] | None = getattr(self._local, "reader", None)
        if found is not None:
            driver = postgres_driver_of(found[0])
            with suppress(psycopg.OperationalError):
                driver.execute(_READ)
                found[1].ledger.begin()
                return driver, found[1]
            with self._gate:  # the server was away meanwhile
                self._readers.remove(found[0])
            self._local.reader = None
            close(found[0])
        connection = self._connect()
        with self._gate:
            self._readers.append(connection)
        self._local.reader = (connection, SqlTransaction(connection))
        driver = postgres_driver_of(connection)
        driver.execute(_READ)
        return driver, self._local.reader[1]
