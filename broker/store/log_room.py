"""Room in SQLite's write-ahead log: a log that is as long as it gets is written over, and need not grow with each commit.

To sync a file that has grown costs the file system a commit of its own beside the data's.
SQLite begins the log anew after a thousand pages and keeps the file, so that only the first calls after a start, or after
the log was emptied, would wait for that.
"""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import Connection

from broker.store.connection import without_waiting

_ROOM_PAGES = 1100
"""A checkpoint comes after 1000 (SQLite's ``wal_autocheckpoint``), and the transaction that brings it about goes beyond."""
_FRAME_HEAD = 24
_LOG_HEAD = 32


def make_room(connection: Connection, path: Path) -> None:
    """Lengthens the log with zeros, which SQLite reads as its end: they have no frame's checksum.

    Nobody else can write meanwhile, and what is in the log is left alone. Where there is no room on the disk, all stays
    as it was.

    Args:
        connection: in no transaction.
        path: the database file.

    Raises:
        DBAPIError: another process writes; said at once.
        OSError: the log can't be opened.
    """
    page_size = int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
    wanted = _LOG_HEAD + _ROOM_PAGES * (_FRAME_HEAD + page_size)
    with without_waiting(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        _lengthen(path.with_name(f"{path.name}-wal"), wanted)
    finally:
        connection.exec_driver_sql("ROLLBACK")


def _lengthen(log: Path, wanted: int) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        before = os.fstat(descriptor).st_size
        if before >= wanted:
            return
        try:
            _write_zeros(descriptor, before, wanted)
            os.fdatasync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
    finally:
        os.close(descriptor)


def _write_zeros(descriptor: int, at: int, end: int) -> None:
    zeros = bytes(256 * 1024)
    while at < end:
        at += os.pwrite(descriptor, zeros[: end - at], at)
