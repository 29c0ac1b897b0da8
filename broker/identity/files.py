"""Files that hold keys and certificates: private, complete or absent, and never overwritten by accident."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from broker.errors import ConflictError, InvalidArgumentError

_MAX_PEM_BYTES = 64 * 1024
PRIVATE = 0o600
"""Mode of a file with a secret."""
PUBLIC = 0o644
"""Mode of a certificate."""
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
    draft.replace(path)
    sync_dir(path.parent)


def sync_dir(path: Path) -> None:
    """Makes the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
