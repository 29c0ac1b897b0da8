"""The ZIP file of a bundle: written as a stream, in a fixed order, with nothing of the moment or the machine in it."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from broker.domain.canonical import JsonObject
from broker.errors import ConflictError, UnavailableError
from broker.ledger.whole_file import sync_folder

_MOMENT = (1980, 1, 1, 0, 0, 0)
"""Every member's time: the first that the format knows."""


class BundleZip:
    """Writes members one after the other; ``files`` has what the manifest says of each."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED)
        self.files: dict[str, JsonObject] = {}

    def add(self, name: str, data: bytes) -> None:
        """Writes a small member."""
        with self.member(name) as member:
            member.write(data)

    @contextmanager
    def member(self, name: str) -> Iterator[Member]:
        """A member of any length, written piece by piece until the block ends."""
        info = zipfile.ZipInfo(name, _MOMENT)
        info.compress_type, info.create_system, info.external_attr = zipfile.ZIP_DEFLATED, 3, 0o100644 << 16
        with self._zip.open(info, "w", force_zip64=name.endswith(".jsonl")) as stream:
            member = Member(stream)
            yield member
        self.files[name] = {"sha256": member.digest.hexdigest(), "size": member.size}

    def close(self) -> None:
        """Writes the directory at the end."""
        self._zip.close()


class Member:
    """A member that is being written."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Adds bytes."""
        self._stream.write(data)
        self.digest.update(data)
        self.size += len(data)


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name, durably, when the block ends without an error; else there is none.

    Raises:
        ConflictError: ``FILE_EXISTS``: something has that name already; it is never replaced.
        UnavailableError: ``FILE_UNWRITABLE``.
    """
    if path.exists() or path.is_symlink():
        raise _exists(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UnavailableError(
            f"{path} can't be written: {error.strerror}", reason="FILE_UNWRITABLE", hint="Name another file."
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        put_new(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def put_new(draft: Path, path: Path) -> None:
    """Gives a finished file its name, durably; unlike a rename, it never replaces a file that came in between.

    Raises:
        ConflictError: ``FILE_EXISTS``.
        OSError: it can't be done there.
    """
    try:
        path.hardlink_to(draft)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError:
        # No hard links, as on a memory stick: the name is taken first, and the file moved onto it.
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError as error:
            raise _exists(path) from error
        draft.replace(path)
    sync_folder(path.parent)


def _exists(path: Path) -> ConflictError:
    return ConflictError(
        f"{path} is there already; nothing was written", reason="FILE_EXISTS", hint="Name another file."
    )
