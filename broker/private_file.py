"""Files that hold keys and the like: private, complete or absent, never overwritten by accident; below all rooms."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from broker.errors import ConflictError, FailedPreconditionError, UnavailableError

PRIVATE = 0o600
"""Mode of a file with a secret."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private_dir(path: Path) -> None:
    """Makes a directory, and those above it, of mode 0700 whatever the umask; one that exists is left as it is."""
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_private_dir(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)


def write_new(path: Path, data: bytes, *, mode: int = PRIVATE) -> None:
    """Writes a new file that is complete and on the disk when it appears.

    Raises:
        ConflictError: something of that name exists; it stays as it is (``FILE_EXISTS``).
    """
    draft = _draft(path, data, mode)
    try:
        # A hard link, unlike a rename, fails where the name is taken.
        os.link(draft, path)
    except FileExistsError as error:
        raise ConflictError(
            f"{path} exists already and is not overwritten", reason="FILE_EXISTS", hint="Move it away, or choose --out."
        ) from error
    finally:
        draft.unlink()
    sync_dir(path.parent)


def replace(path: Path, data: bytes, *, mode: int) -> None:
    """Puts a file in the place of another in one step: readers see the old or the new, never a part."""
    draft = _draft(path, data, mode)
    try:
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    sync_dir(path.parent)


def write_over(path: Path, data: bytes) -> None:
    """Writes a private file that somebody named, whether it is there already or not; a link is replaced, not followed.

    Raises:
        UnavailableError: ``FILE_UNWRITABLE``: its folder isn't there, or it is one itself, or the disk is full.
    """
    try:
        replace(path, data, mode=PRIVATE)
    except OSError as error:
        raise UnavailableError(
            f"{path} can't be written: {error.strerror}", reason="FILE_UNWRITABLE", hint="Name another file."
        ) from error


def sync_dir(path: Path) -> None:
    """Makes the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_private(path: Path, *, what: str, most_bytes: int, missing: str, follow_links: bool = False) -> bytes:
    """Reads a file whose content nobody but its owner may know.

    Args:
        path: the file.
        what: what it is, for errors, such as ``vault key``.
        most_bytes: a longer file is cut to one byte more than this, so that the caller sees that it is too long.
        missing: what to do where there is none, for the error.
        follow_links: a link is taken too; what it leads to is checked all the same.

    Raises:
        FailedPreconditionError: there is no such file (``KEY_MISSING``), it is no regular file or can't be read
            (``KEY_UNREADABLE``), or others than its owner may use it, or it belongs to somebody else (``KEY_EXPOSED``).
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError as error:
        raise FailedPreconditionError(f"there is no {what} at {path}", reason="KEY_MISSING", hint=missing) from error
    except OSError as error:
        raise _unreadable(path, what, f"can't be read: {error.strerror}") from error
    try:
        _check_status(path, what, os.fstat(descriptor))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most_bytes + 1)
    except OSError as error:
        raise _unreadable(path, what, f"can't be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _check_status(path: Path, what: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _unreadable(path, what, "is no regular file")
    if status.st_mode & _OTHERS:
        raise FailedPreconditionError(
            f"others than its owner may use the {what} {path} (mode {stat.S_IMODE(status.st_mode):04o})",
            reason="KEY_EXPOSED",
            hint=f"Find out who has read it; then `chmod 600 {path}`.",
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise FailedPreconditionError(
            f"the {what} {path} belongs to user {status.st_uid}, not to the broker's user",
            reason="KEY_EXPOSED",
            hint="Find out who put it there; it must belong to the broker's user or to root.",
        )


def _unreadable(path: Path, what: str, why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"the {what} {path} {why}",
        reason="KEY_UNREADABLE",
        hint="It must be a regular file (no link) that the broker's user owns.",
    )


def _draft(path: Path, data: bytes, mode: int) -> Path:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as file:
        # The mode given to open() is only narrowed by the umask; a certificate that must be readable says so here.
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return draft
