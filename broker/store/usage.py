"""The mark that says whether the SQLite file alone holds everything, or needs its write-ahead log beside it.

While a database is in use, commits lie in the ``-wal`` file first. A copy of the main file alone then shows an older
state that looks whole. So the main file carries a number other than 0 as ``in_use`` from before the first such commit
until the last user has closed it cleanly: a reader that sees the mark, and no commit in a ``-wal``, knows that the newest
entries may be missing.
Users find out whether they are alone by a lock on a file beside the database, which a killed process leaves free.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sqlalchemy import Connection, select, update
from sqlalchemy.exc import DBAPIError

from broker.errors import DataLossError, UnavailableError
from broker.store.tables import META

_IN_USE = META.c.key == "in_use"


class UseMark:
    """One user's hold on the mark, from ``take`` to ``give_back``."""

    def __init__(self, path: Path) -> None:
        lock_path = path.with_name(f"{path.name}-lock")
        self._descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self, connection: Connection) -> None:
        """Sets the mark in the main file, before anything else is committed.

        Raises:
            UnavailableError: somebody's transaction keeps the mark from reaching the main file.
        """
        while not self._alone():
            # Others use the file, or one of them is just opening or closing it: wait until it is done with that.
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            if _read(connection) > 0:
                return
        touch(connection)
        busy, logged, moved = connection.exec_driver_sql("PRAGMA wal_checkpoint(FULL)").one()
        if busy or logged != moved:
            raise UnavailableError(
                "another program reads the database while it is being opened",
                reason="STORE_BUSY",
                hint="Close other programs that have the file open, then try again.",
                retry_after_s=1.0,
            )
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def give_back(self, connection: Connection) -> None:
        """Takes the mark off if nobody else uses the file, and moves the whole log into it."""
        if not self._alone():
            return
        try:
            _write(connection, 0)
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").all()
        except DBAPIError:
            # The mark may stay: a reader then asks for the -wal, which is the safe side.
            return

    def close(self) -> None:
        """Lets go of the lock."""
        os.close(self._descriptor)

    def _alone(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def touch(connection: Connection) -> None:
    """Commits the mark with another number (SQLite writes nothing where nothing changes): the log is not empty then."""
    _write(connection, _read(connection) + 1)


def _read(connection: Connection) -> int:
    value = connection.execute(select(META.c.value).where(_IN_USE)).scalar_one_or_none()
    if not isinstance(value, str) or not value.isdecimal():
        raise DataLossError("the database doesn't say whether it is in use", reason="STORE_UNKNOWN_SCHEMA")
    return int(value)


def _write(connection: Connection, value: int) -> None:
    connection.execute(update(META).where(_IN_USE).values(value=str(value)))
