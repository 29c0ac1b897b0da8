"""The broker's database: one SQLite file, one writing thread, a few reading ones."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from broker.domain.ports import Transaction
from broker.errors import ConflictError, FailedPreconditionError, UnavailableError
from broker.store.base import SqlStore
from broker.store.connection import engine_for, is_busy, prepare, raw_connection, translate, vacuum, without_waiting
from broker.store.log_room import make_room
from broker.store.prepared import sqlite_driver_of
from broker.store.schema import APPLICATION_ID, check_schema, create_schema
from broker.store.session import SqliteSession
from broker.store.transaction import SqlTransaction
from broker.store.usage import UseMark, touch

T = TypeVar("T")


class Database(SqlStore):
    """Implements ``broker.domain.ports.Store``; made by ``open`` or ``open_sync``, never by itself.

    Several processes may have the same file open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = engine_for(path)
        self._local = threading.local()
        self._readers: list[Connection] = []
        self._readers_gate = threading.Lock()
        self._mark = UseMark(path)
        self._serves = False
        try:
            self._connection = _open_connection(self._engine, read_only=False)
            try:
                check_schema(self._connection)
                self._mark.take(self._connection)
                self._version_connection = raw_connection(path)
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            self._mark.close()
            raise
        self._version_gate = threading.Lock()
        super().__init__(SqliteSession(self._connection))

    @staticmethod
    def create(path: Path) -> None:
        """Makes a new database with mode 0600: whole, or not at all.

        Raises:
            ConflictError: the file, or a log that belongs to a lost one, is there already.
        """
        _refuse_existing(path)
        fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
        os.close(os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            _fill(fresh)
            _sync(fresh)
            try:
                os.link(fresh, path)  # unlike a rename, it never replaces a file that came in between
            except FileExistsError as error:
                raise _exists(path) from error
        finally:
            fresh.unlink()
        _sync(path.parent)

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Self]:
        """Opens a database that is there, for reading and writing, until the block ends; queued writes are finished.

        Raises:
            FailedPreconditionError: there is no file (``STORE_MISSING``); none is ever made in its place.
            DataLossError: the file isn't one of ours, is damaged, or its triggers were changed.
            UnavailableError: other programs are in the way.
        """
        database = await asyncio.to_thread(cls._open, path)
        try:
            yield database
        finally:
            await asyncio.to_thread(database.close)

    @classmethod
    @contextmanager
    def open_sync(cls, path: Path) -> Iterator[Self]:
        """Like ``open``, for programs without an event loop."""
        database = cls._open(path)
        try:
            yield database
        finally:
            database.close()

    def data_version(self) -> int:
        """A number that differs after anybody has committed: another process, or this one. Takes microseconds.

        Raises:
            UnavailableError: the database can't be asked.
        """
        try:
            with self._version_gate:
                row = self._version_connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error as error:
            raise translate(error) from error
        return int(row[0])

    async def scrub(self) -> None:
        """Makes what was deleted unreadable in the files: empties the log into the database and gives pages back.

        Deleted rows are overwritten in the main file at once (``secure_delete``), but the log keeps older pages until
        it is emptied.

        Raises:
            UnavailableError: ``STORE_BUSY``: readers were in the way. Said at once, for everybody's writes would wait
                too; ``scrub_due`` stays true, so try again later.
        """
        await asyncio.wrap_future(self._writer.submit_alone(self._scrub))

    def _scrub(self, connection: Connection) -> None:
        deletions = self._writer.deletions  # all committed or rolled back: this runs between two transactions
        _empty_log(connection)
        self._scrubbed = deletions
        if self._serves:
            self._make_room(connection)

    async def serve_alone(self) -> None:
        """The lock on the state directory, where the file lies, lets one broker alone serve it. What serves commits often,
        and so gets a log that need not grow.
        """
        self._serves = True
        await asyncio.wrap_future(self._writer.submit_alone(self._make_room))

    def _make_room(self, connection: Connection) -> None:
        with suppress(DBAPIError, OSError):  # another process writes, say: then commits wait longer until the next time
            make_room(connection, self._path)

    def close(self) -> None:
        """Finishes what is queued and closes the file; blocks. ``open`` and ``open_sync`` call it."""
        self._writer.close()
        self._pool.shutdown(wait=True)
        for connection in self._readers:
            connection.close()
        self._version_connection.close()
        if not self._writer.failed:
            self._mark.give_back(self._connection)
        self._connection.close()
        self._engine.dispose()
        self._mark.close()

    @classmethod
    def _open(cls, path: Path) -> Self:
        if not path.is_file():
            raise FailedPreconditionError(
                f"there is no broker database at {path}",
                reason="STORE_MISSING",
                hint="Run `broker init` for a new state directory, or name the right one with --state. If a database "
                "should be there, don't make a new one: restore it.",
            )
        try:
            return cls(path)
        except (DBAPIError, sqlite3.Error) as error:
            raise translate(error) from error

    def _read(self, work: Callable[[Transaction], T]) -> T:
        try:
            connection, transaction = self._reader()
            driver = sqlite_driver_of(connection)
            driver.execute("BEGIN")
            transaction.ledger.begin()
            try:
                return work(transaction)
            finally:
                if driver.in_transaction:
                    driver.execute("ROLLBACK")
        except (DBAPIError, sqlite3.Error) as error:
            raise translate(error) from error

    def _reader(self) -> tuple[Connection, SqlTransaction]:
        found: tuple[Connection, SqlTransaction] | None = getattr(self._local, "reader", None)
        if found is None:
            connection = _open_connection(self._engine, read_only=True)
            with self._readers_gate:
                self._readers.append(connection)
            found = self._local.reader = (connection, SqlTransaction(connection))
        return found


def _open_connection(engine: Engine, *, read_only: bool) -> Connection:
    connection = engine.connect()
    try:
        prepare(connection, read_only=read_only)
    except BaseException:
        connection.close()
        raise
    return connection


def _empty_log(connection: Connection) -> None:
    try:
        with without_waiting(connection):
            vacuum(connection)
            busy = bool(connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0])
    except (DBAPIError, sqlite3.Error) as error:
        if not is_busy(error):
            raise
        busy = True
    touch(connection)
    if busy:
        raise UnavailableError(
            "other users of the database kept its log from being emptied", reason="STORE_BUSY", retry_after_s=1.0
        )


def _refuse_existing(path: Path) -> None:
    for taken in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-journal")):
        if taken.exists() or taken.is_symlink():
            raise _exists(taken)


def _exists(path: Path) -> ConflictError:
    return ConflictError(
        f"{path} is there already; a database is never made over another",
        reason="STORE_EXISTS",
        hint="Use the state directory as it is, or choose another with --state.",
    )


def _fill(path: Path) -> None:
    engine = engine_for(path)
    with engine.connect() as connection:
        for statement in (
            "PRAGMA synchronous = FULL",
            "PRAGMA auto_vacuum = INCREMENTAL",  # only takes before the first table
            f"PRAGMA application_id = {APPLICATION_ID}",
            "BEGIN IMMEDIATE",
        ):
            connection.exec_driver_sql(statement)
        create_schema(connection)
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    engine.dispose()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
