"""The vault's key in a file: 32 random bytes, readable by their owner alone."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from broker.domain.secret import Secret
from broker.errors import ConflictError, DataLossError, FailedPreconditionError

KEY_BYTES = 32
"""AES-256."""


def make_key_file(path: Path) -> Secret:
    """Writes a fresh key with mode 0600, durable when this returns, and gives it back.

    Raises:
        ConflictError: there is a file already; a key is never overwritten, since all that it opens would be lost.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = secrets.token_bytes(KEY_BYTES)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise ConflictError(
            f"{path} is there already; a key is never overwritten",
            reason="KEY_EXISTS",
            hint="Keep it: all encrypted content depends on it.",
        ) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return Secret(key)


def read_key_file(path: Path) -> Secret:
    """Reads the key.

    Raises:
        FailedPreconditionError: there is no such file, it is no regular file, or others than its owner may read it.
        DataLossError: it doesn't hold exactly 32 bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise FailedPreconditionError(
            f"there is no vault key at {path}",
            reason="KEY_MISSING",
            hint="Run `broker init` for a new state directory; for an old one, restore the key from its backup.",
        ) from error
    except OSError as error:
        raise FailedPreconditionError(
            f"the vault key {path} can't be read: {error.strerror}",
            reason="KEY_UNREADABLE",
            hint="It must be a regular file (no link) that the broker's user owns.",
        ) from error
    try:
        _check_status(path, os.fstat(descriptor))
        key = os.read(descriptor, KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(key) != KEY_BYTES:
        raise DataLossError(
            f"the vault key {path} must hold exactly {KEY_BYTES} bytes",
            reason="KEY_DAMAGED",
            hint="Restore it from its backup.",
        )
    return Secret(key)


def _check_status(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FailedPreconditionError(f"the vault key {path} is no regular file", reason="KEY_UNREADABLE")
    if status.st_mode & 0o077:
        raise FailedPreconditionError(
            f"others than its owner may use the vault key {path} (mode {stat.S_IMODE(status.st_mode):04o})",
            reason="KEY_EXPOSED",
            hint=f"Find out who has read it; then `chmod 600 {path}`.",
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise FailedPreconditionError(
            f"the vault key {path} belongs to user {status.st_uid}, not to the broker's user",
            reason="KEY_EXPOSED",
            hint="Find out who put it there; the key must belong to the broker's user or to root.",
        )
