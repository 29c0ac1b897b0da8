"""Small files that are there whole and durable, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

LONGEST = 64 * 1024
"""Bytes of a file that ``read_whole`` takes; a note with many cosignatures has a few thousand."""


class NotWholeError(ValueError):
    """What lies there is no small regular file."""


def write_whole(path: Path, data: bytes, *, beside: str = "", mode: int = 0o600) -> None:
    """Puts a file in place of what is there, if anything; returns once it is durable.

    It is written beside the old one first, then renamed: nobody ever reads a part of it.

    Args:
        path: where it goes; its folder is there.
        data: all of it.
        beside: name of the draft; each writer at one time needs one of its own.
        mode: of the new file.

    Raises:
        OSError: it may be in place, or not.
    """
    draft = path.with_name(beside or f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)  # left by one that was killed
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    move(draft, path)


def move(old: Path, new: Path) -> None:
    """Renames within a folder, durably.

    Raises:
        OSError: it may have been renamed, or not.
    """
    old.replace(new)
    sync_folder(new.parent)


def sync_folder(folder: Path) -> None:
    """Makes durable which names a folder has."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_whole(path: Path) -> bytes | None:
    """A file's bytes; ``None`` where there is no file.

    Raises:
        NotWholeError: it is a link, a folder or the like, or longer than ``LONGEST``.
        OSError: it can't be read.
    """
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(kind):
        raise NotWholeError(f"{path.name} is no regular file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(LONGEST + 1)
    if len(data) > LONGEST:
        raise NotWholeError(f"{path.name} is longer than {LONGEST} bytes")
    return data
