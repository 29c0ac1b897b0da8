"""What the writing thread needs of a connection, whichever database is behind it; and SQLite's."""

from __future__ import annotations

import sqlite3
from typing import Protocol

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from broker.errors import BrokerError, InternalError
from broker.store.connection import error_name, translate
from broker.store.prepared import sqlite_driver_of
from broker.store.transaction import SqlTransaction


class RolledBackError(InternalError):
    """The database itself has undone a transaction: nothing of it is written, and that is known."""

    def __init__(self) -> None:
        super().__init__("a statement failed and its function went on; nothing was written", reason="STORE_FAILED")


class WriteSession(Protocol):
    """A connection that one thread writes through, and the tables on it.

    ``begin``, ``commit``, ``rollback``, ``save``, ``undo`` and ``keep`` raise what ``is_ours`` knows.
    """

    @property
    def connection(self) -> Connection:
        """The connection."""

    @property
    def transaction(self) -> SqlTransaction:
        """The tables."""

    @property
    def deletions(self) -> int:
        """How many encrypted objects were deleted through it."""

    def begin(self) -> None:
        """Begins a transaction that no other writer runs beside, in this process or another."""

    def commit(self) -> None:
        """Commits; when it raises anything but ``RolledBackError``, nobody knows whether what was written is durable."""

    def rollback(self) -> None:
        """Ends the transaction with nothing written."""

    def save(self) -> None:
        """Marks a point to go back to."""

    def keep(self) -> None:
        """Drops the mark; what was written since stays in the transaction."""

    def undo(self) -> None:
        """Goes back to the mark and drops it."""

    def in_transaction(self) -> bool:
        """Is there still a transaction? Some failures end it, with nothing written."""

    def is_ours(self, error: BaseException) -> bool:
        """Does the error come from the database?"""

    def translate(self, error: Exception) -> BrokerError:
        """Such an error as one of the broker's."""

    def name(self, error: Exception) -> str:
        """What kind of error it is, for a message: nothing of SQL or its values."""


class SqliteSession:
    """Implements ``WriteSession`` on a prepared connection to SQLite, which stays its owner's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._driver = sqlite_driver_of(connection)
        self._transaction = SqlTransaction(connection)

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
        return self._transaction.deletions

    def begin(self) -> None:
        """Takes SQLite's write lock."""
        self._driver.execute("BEGIN IMMEDIATE")
        self._transaction.ledger.forget()

    def commit(self) -> None:
        """Commits: the log is on the disk when it returns."""
        self._driver.execute("COMMIT")

    def rollback(self) -> None:
        """Ends the transaction with nothing written."""
        self._driver.execute("ROLLBACK")

    def save(self) -> None:
        """Marks a point to go back to."""
        self._driver.execute("SAVEPOINT work")

    def keep(self) -> None:
        """Drops the mark."""
        self._driver.execute("RELEASE work")

    def undo(self) -> None:
        """Goes back to the mark and drops it."""
        self._transaction.ledger.forget()
        self._driver.execute("ROLLBACK TO work")
        self._driver.execute("RELEASE work")

    def in_transaction(self) -> bool:
        """Is there still a transaction? A full disk and the like roll back everything."""
        return self._driver.in_transaction

    def is_ours(self, error: BaseException) -> bool:
        """Does the error come from the database?"""
        return isinstance(error, DBAPIError | sqlite3.Error)

    def translate(self, error: Exception) -> BrokerError:
        """Such an error as one of the broker's."""
        return translate(error)

    def name(self, error: Exception) -> str:
        """SQLite's name of the error."""
        return error_name(error)
