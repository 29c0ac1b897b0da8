"""What the writing thread needs of a connection, whichever database is behind it; and SQLite's."""

from __future__ import annotations

import sqlite3
from typing import Protocol

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from broker.errors import BrokerError, InternalError
from broker.store.connection import error_name, translate
from broker.store.prepared import sqlite_driver_of
from broker.store.savepoint import Savepoint
from broker.store.transaction import SqlTransaction


class RolledBackError(InternalError):
    """The database itself has undone a transaction: nothing of it is written, and that is known."""

    def __init__(self) -> None:
        super().__init__("a statement failed and its function went on; nothing was written", reason="STORE_FAILED")


class WriteSession(Protocol):
    """A connection that one thread writes through, and the tables on it.

    ``begin``, ``flush``, ``commit``, ``rollback``, ``save``, ``undo`` and ``keep`` raise what ``is_ours`` knows.
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

    def flush(self) -> None:
        """Gives the database what the transaction still holds; when it raises, nothing of the transaction may stay.

        Raises:
            InternalError: ``LEDGER_REFUSED``.
        """

    def commit(self) -> None:
        """Commits, and flushes before; once it was flushed, when it raises anything but ``RolledBackError``, nobody knows whether what was written is durable."""

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
        self._run = self._driver.cursor().execute  # a fresh cursor for each statement costs as much as the statement
        self._savepoint = Savepoint(self._save)
        self._transaction = SqlTransaction(connection, self._savepoint)
        self._version = -1
        self._whole = False

    @property
    def connection(self) -> Connection:
        """The connection; whoever has it may write what this session doesn't see."""
        self._whole = False
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
        self._savepoint.drop()
        if self._driver.in_transaction:  # somebody was interrupted before its end
            self._run("ROLLBACK")
        self._run("BEGIN IMMEDIATE")
        # What it remembers of the ledger holds as long as each transaction was its own, and committed.
        version = self._run("PRAGMA data_version").fetchone()[0]
        self._transaction.ledger.begin(known=self._whole and version == self._version)
        self._version, self._whole = version, False

    def flush(self) -> None:
        """Gives SQLite what the transaction still holds."""
        self._transaction.ledger.flush()

    def commit(self) -> None:
        """Commits: the log is on the disk when it returns."""
        self.flush()
        self._run("COMMIT")
        self._whole = True

    def rollback(self) -> None:
        """Ends the transaction with nothing written."""
        self._run("ROLLBACK")

    def save(self) -> None:
        """Marks a point to go back to."""
        self._transaction.ledger.mark()
        self._savepoint.want()

    def keep(self) -> None:
        """Drops the mark."""
        if self._savepoint.made:
            self._run("RELEASE work")
        self._savepoint.drop()

    def undo(self) -> None:
        """Goes back to the mark and drops it.

        Raises:
            RolledBackError: there is none.
        """
        if not self._savepoint.wanted:
            raise RolledBackError
        if self._savepoint.made:
            self._run("ROLLBACK TO work")
            self._run("RELEASE work")
        self._transaction.ledger.undo()
        self._savepoint.drop()

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

    def _save(self) -> None:
        self._run("SAVEPOINT work")
