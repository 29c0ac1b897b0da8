"""The writing connection to PostgreSQL: one writer at a time, made anew after the server was away."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from broker.errors import BrokerError, FailedPreconditionError
from broker.store.postgres_connection import PostgresDriver, close, error_name, is_lost, postgres_driver_of, translate
from broker.store.savepoint import Savepoint
from broker.store.session import RolledBackError
from broker.store.transaction import SqlTransaction

_LOCKS = 0x61_62_72_31
"""First half of our advisory locks' keys; they count for one database of a server."""
_WRITING = 1
_SERVING = 2
# Waits for the other writers before the first statement looks at anything, and lets go after the commit is visible.
_BEGIN = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_catalog.pg_advisory_xact_lock({_LOCKS}, {_WRITING})"
_SERVE = f"SELECT pg_catalog.pg_try_advisory_lock({_LOCKS}, {_SERVING})"
_OPEN = frozenset({TransactionStatus.INTRANS, TransactionStatus.INERROR, TransactionStatus.ACTIVE})


class PostgresSession:
    """Implements ``WriteSession``; used by one thread at a time.

    A connection that was lost before COMMIT has written nothing: the next ``begin`` makes another one. The lock by
    which one broker serves the database hangs on the connection, so a new one must get it first.

    Args:
        make: opens a connection that is ready for use.
    """

    def __init__(self, make: Callable[[], Connection]) -> None:
        self._make = make
        self._serving = False
        self._saved = False
        """Has the server a savepoint, of this function or of one before?"""
        self._savepoint = Savepoint(self._save)
        self._deleted_before = 0
        self._use(make())

    @property
    def connection(self) -> Connection:
        """The connection."""
        return self._connection

    @property
    def transaction(self) -> SqlTransaction:
        """The tables."""
        return self._transaction

    @property
    def deletions(self) -> int:
        """How many encrypted objects were deleted through it."""
        return self._deleted_before + self._transaction.deletions

    def serve_alone(self) -> None:
        """Takes the lock by which one broker serves the database, and keeps it.

        Raises:
            FailedPreconditionError: ``ALREADY_SERVING``.
        """
        if is_lost(self._driver):
            self._replace()
        if not self._serving:
            _take_serving(self._driver)
            self._serving = True

    def begin(self) -> None:
        """Begins a transaction once no other process writes."""
        self._saved = False
        self._savepoint.drop()
        if self.in_transaction():
            # Somebody was interrupted before its end. A second BEGIN would only be warned of, and all of it committed.
            self._drop_transaction()
        if is_lost(self._driver):
            self._replace()
        try:
            self._driver.execute(_BEGIN)
        except psycopg.Error:
            if self.in_transaction():
                self._driver.execute("ROLLBACK")
            if not is_lost(self._driver):
                raise
            # The server was restarted while nothing was under way; what it has forgotten is only the connection.
            self._replace()
            self._driver.execute(_BEGIN)
        self._transaction.ledger.begin()

    def flush(self) -> None:
        """Gives the server what the transaction still holds."""
        self._transaction.ledger.flush()

    def commit(self) -> None:
        """Commits.

        Raises:
            RolledBackError: a function hid that a statement had failed, so there is nothing to commit.
        """
        self.flush()
        # An earlier failure makes a rollback of COMMIT, and no error of it.
        if self._driver.execute("COMMIT").statusmessage != "COMMIT":
            raise RolledBackError

    def rollback(self) -> None:
        """Ends the transaction with nothing written."""
        self._driver.execute("ROLLBACK")

    def save(self) -> None:
        """Marks a point to go back to."""
        self._transaction.ledger.mark()
        self._savepoint.want()

    def keep(self) -> None:
        """Drops the mark; the server's is left to be dropped by the next one or by the commit.

        Raises:
            RolledBackError: a function hid that a statement had failed.
        """
        if self._driver.info.transaction_status is not TransactionStatus.INTRANS:
            raise RolledBackError
        self._savepoint.drop()

    def undo(self) -> None:
        """Goes back to the mark and drops it.

        Raises:
            RolledBackError: there is none that the server could go back to.
        """
        if self._savepoint.made:
            self._driver.execute("ROLLBACK TO work; RELEASE work")
            self._saved = False
        elif not self._savepoint.wanted or self._driver.info.transaction_status is not TransactionStatus.INTRANS:
            raise RolledBackError
        self._transaction.ledger.undo()
        self._savepoint.drop()

    def in_transaction(self) -> bool:
        """Is there still a transaction? There is none on a connection that was lost."""
        return not is_lost(self._driver) and self._driver.info.transaction_status in _OPEN

    def is_ours(self, error: BaseException) -> bool:
        """Does the error come from the database?"""
        return isinstance(error, SQLAlchemyError | psycopg.Error)

    def translate(self, error: Exception) -> BrokerError:
        """Such an error as one of the broker's."""
        return translate(error)

    def name(self, error: Exception) -> str:
        """The SQLSTATE, or that the connection was lost."""
        return "the connection was lost" if is_lost(self._driver) else error_name(error)

    def close(self) -> None:
        """Closes the connection."""
        close(self._connection)

    def _save(self) -> None:
        # Drops the mark before it in the same message to the server.
        self._driver.execute("RELEASE work; SAVEPOINT work" if self._saved else "SAVEPOINT work")
        self._saved = True

    def _drop_transaction(self) -> None:
        with suppress(psycopg.Error):
            self._driver.execute("ROLLBACK")
        if self._driver.info.transaction_status is not TransactionStatus.IDLE:
            self._driver.close()  # a statement is still under way: only the connection's end is sure to undo it

    def _use(self, connection: Connection) -> None:
        self._connection = connection
        self._driver: PostgresDriver = postgres_driver_of(connection)
        self._transaction = SqlTransaction(connection, self._savepoint)

    def _replace(self) -> None:
        fresh = self._make()
        try:
            if self._serving:
                _take_serving(postgres_driver_of(fresh))
        except BaseException:
            close(fresh)
            raise
        self._deleted_before = self.deletions
        close(self._connection)
        self._use(fresh)


def _take_serving(driver: PostgresDriver) -> None:
    row = driver.execute(_SERVE).fetchone()
    if row is None or not row[0]:
        raise FailedPreconditionError(
            "another broker serves this database",
            reason="ALREADY_SERVING",
            hint="Stop it first, or give this one a database of its own. After a crash of its machine, PostgreSQL lets go"
            " once it has found out that the connection is dead.",
        )
