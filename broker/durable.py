"""Makes what was written durable, many files at a time; below all rooms."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

FEW = 4
"""Up to so many files are synced one by one. For more, one sync of the whole file system is several times faster and costs
the same for any number, although it waits for what others have written to it, too (measured, also on a busy disk)."""
_START = 2  # SYNC_FILE_RANGE_WRITE


def sync_all(files: Iterable[Path]) -> None:
    """Returns once the bytes of files, or the names in folders, are on the disk; all of them in one file system.

    Raises:
        OSError: one may not be.
    """
    paths = list(files)
    if not paths:
        return
    if len(paths) > FEW:
        sync_file_system(paths[0])
        return
    handles: list[int] = []
    try:
        for path in paths:
            handles.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
            # Begun for all before any is waited for: one commit of the file system's journal then serves them all.
            _start(handles[-1])
        for handle in handles:
            os.fsync(handle)
    finally:
        for handle in handles:
            os.close(handle)


def sync_file_system(path: Path) -> None:
    """Returns once everything that was written to a path's file system is on the disk.

    Raises:
        OSError: it may not be.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        sync_file_system_of(handle)
    finally:
        os.close(handle)


def sync_file_system_of(handle: int) -> None:
    """The same for the file system of something that is open.

    Raises:
        OSError: as ``sync_file_system``.
    """
    if _libc().syncfs(ctypes.c_int(handle)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _start(handle: int) -> None:
    # Only a beginning: whether it worked is what the sync after it says.
    whole = ctypes.c_int64(0)
    _libc().sync_file_range(ctypes.c_int(handle), whole, whole, ctypes.c_uint(_START))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
