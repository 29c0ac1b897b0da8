"""Connections to the SQLite file: how they are opened, what is checked of them, and their errors as ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from broker.errors import BrokerError, DataLossError, InternalError, UnavailableError
from broker.store.prepared import sqlite_driver_of

BUSY_TIMEOUT_S = 30.0
"""How long a connection waits for another process's transaction."""

_DURABLE: Mapping[str, tuple[object, object]] = MappingProxyType(
    {
        # PRAGMA: (what is set, what must be read back)
        "busy_timeout": (int(BUSY_TIMEOUT_S * 1000), int(BUSY_TIMEOUT_S * 1000)),
        "journal_mode": ("WAL", "wal"),
        "synchronous": ("FULL", 2),
        "foreign_keys": ("ON", 1),
        "recursive_triggers": ("ON", 1),
        "secure_delete": ("ON", 1),
        "trusted_schema": ("OFF", 0),
    },
)


def engine_for(path: Path) -> Engine:
    """An engine whose connections are made new each time; the file must exist (it is never created)."""

    def connect() -> sqlite3.Connection:
        return raw_connection(path)

    return create_engine("sqlite+pysqlite://", creator=connect, poolclass=NullPool, isolation_level="AUTOCOMMIT")


def raw_connection(path: Path) -> sqlite3.Connection:
    """A bare connection in autocommit mode to a file that must exist."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT_S,
    )


def prepare(connection: Connection, *, read_only: bool) -> None:
    """Sets the PRAGMAs on which durability rests, and reads each one back.

    Raises:
        InternalError: SQLite didn't take one of them.
    """
    for name, (wanted, expected) in _DURABLE.items():
        connection.exec_driver_sql(f"PRAGMA {name} = {wanted}")
        found = connection.exec_driver_sql(f"PRAGMA {name}").scalar()
        if found != expected:
            raise InternalError(
                f"SQLite did not take PRAGMA {name} = {wanted}: it is {found!r}", reason="STORE_PRAGMA_REFUSED"
            )
    if read_only:
        connection.exec_driver_sql("PRAGMA query_only = ON")


@contextmanager
def without_waiting(connection: Connection) -> Iterator[None]:
    """While the block runs, a statement that would have to wait for others fails at once."""
    connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    try:
        yield
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")


def vacuum(connection: Connection) -> None:
    """Gives free pages back to the file system."""
    sqlite_driver_of(connection).executescript("PRAGMA incremental_vacuum")  # execute() stops after the first page


def is_busy(error: Exception) -> bool:
    """Did the statement fail because somebody else uses the database?"""
    return error_name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def error_name(error: Exception) -> str:
    """SQLite's name of an error, such as ``SQLITE_FULL``: it holds nothing of SQL or its values."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return getattr(origin, "sqlite_errorname", "") or type(origin).__name__


def translate(error: Exception) -> BrokerError:
    """An error of SQLite as one of ours. Texts of SQL and parameters are left out: they may hold content."""
    name = error_name(error)
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return DataLossError(
            f"the database file is damaged ({name})",
            reason="STORE_CORRUPT",
            hint="Stop the broker, keep the file, run `broker ledger verify` on it and restore a backup.",
        )
    if name.startswith("SQLITE_READONLY"):
        return InternalError("a reading function tried to write", reason="STORE_READ_ONLY")
    if is_busy(error):
        return UnavailableError(
            f"another process held the database for more than {BUSY_TIMEOUT_S:.0f} s; nothing was written",
            reason="STORE_BUSY",
            hint="Find the process that holds the database; then try again.",
            retry_after_s=1.0,
        )
    if name.startswith(("SQLITE_CONSTRAINT", "SQLITE_MISMATCH")):
        return InternalError(f"the database refused a row ({name}); nothing was written", reason="STORE_REFUSED")
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_NOMEM", "SQLITE_PERM")):
        return UnavailableError(
            f"the database can't be used ({name}); nothing was written",
            reason="STORE_FAILED",
            hint="Check the disk's free space and the permissions of the state directory.",
        )
    return InternalError(f"the database failed ({name}); nothing was written", reason="STORE_FAILED")
