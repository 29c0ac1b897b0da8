"""Files that hold keys and certificates: private, complete or absent, and never overwritten by accident."""

from __future__ import annotations

import stat
from pathlib import Path

from broker.errors import InvalidArgumentError
from broker.private_file import PRIVATE, make_private_dir, replace, sync_dir, write_new

__all__ = ["PRIVATE", "PUBLIC", "make_private_dir", "read_pem", "read_secret", "replace", "sync_dir", "write_new"]

_MAX_PEM_BYTES = 64 * 1024
PUBLIC = 0o644
"""Mode of a certificate."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_pem(path: Path, *, what: str) -> bytes:
    """Reads a certificate or request; ``what`` names it in errors.

    Raises:
        InvalidArgumentError: there is no such readable file, or it is too large to be one (``FILE_UNREADABLE``).
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_PEM_BYTES + 1)
    except OSError as error:
        raise InvalidArgumentError(
            f"{what} {path} can't be read: {error.strerror}", reason="FILE_UNREADABLE"
        ) from error
    if len(data) > _MAX_PEM_BYTES:
        raise InvalidArgumentError(f"{what} {path} is larger than {_MAX_PEM_BYTES} bytes", reason="FILE_UNREADABLE")
    return data


def read_secret(path: Path, *, what: str) -> bytes:
    """Reads a private key, and refuses one that others than its owner may read.

    Raises:
        InvalidArgumentError: unreadable (``FILE_UNREADABLE``), or open to others (``KEY_FILE_OPEN``).
    """
    data = read_pem(path, what=what)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _OTHERS:
        raise InvalidArgumentError(
            f"{what} {path} is open to others (mode {mode:04o})",
            reason="KEY_FILE_OPEN",
            hint=f"Close it with: chmod 600 {path}",
        )
    return data
