"""Objects as files, each named by the SHA-256 of its bytes. Everything here blocks: see ``objects`` for the event loop.

An object has its name only once its bytes are on the disk, so whoever is killed leaves drafts and objects that nothing
names, which ``sweep`` removes. An object that nothing names yet is kept for ``KEPT_S`` after it was last put.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from broker.durable import sync_all
from broker.errors import DataLossError, ResourceExhaustedError

PIECE = 1 << 20
"""Bytes that are read or written at a time."""

KEPT_S = 3600.0
"""How long an object stays that nothing names: whoever puts it has so long to make a state count that does."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DRAFTS = "drafts"
_LOCK = "lock"
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did: objects kept, and objects and drafts removed, with the bytes of these."""

    kept: int
    removed: int
    removed_bytes: int


class ObjectFiles:
    """Objects in a folder, which is made, mode 0700, where there is none.

    Args:
        folder: a folder of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.drafts = folder / _DRAFTS
        self._lock = folder / _LOCK
        self.drafts.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)

    def place(self, digest: str) -> Path:
        """Where an object lies, if it is there.

        Raises:
            DataLossError: ``TREE_DAMAGED``: that is no digest.
        """
        if not _DIGEST.fullmatch(digest):
            raise damaged(digest, "its name is no digest")
        name = digest.removeprefix("sha256:")
        return self.folder / name[:2] / name

    def size(self, digest: str) -> int | None:
        """How many bytes an object has; ``None`` where it isn't there."""
        return _size(self.place(digest))

    def pieces(self, digest: str) -> Iterator[bytes]:
        """An object's bytes, as ``Reader`` gives them.

        Raises:
            DataLossError: ``TREE_DAMAGED``: it is missing, or has other bytes.
        """
        reader = Reader(self, digest)
        try:
            while piece := reader.read():
                yield piece
        finally:
            reader.close()

    def load(self, digest: str, most: int) -> bytes:
        """A whole object.

        Raises:
            DataLossError: as ``pieces``.
            ResourceExhaustedError: ``OBJECT_TOO_LARGE``: it has more than ``most`` bytes.
        """
        data = bytearray()
        for piece in self.pieces(digest):
            data += piece
            if len(data) > most:
                raise too_large(digest, most)
        return bytes(data)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Meanwhile no sweep removes anything."""
        with self._locked(fcntl.LOCK_SH):
            yield

    def sweep(self, named: Container[str], now: float | None = None) -> Swept:
        """Removes objects that aren't named, and drafts, that were put more than ``KEPT_S`` before ``now``, in Unix seconds."""
        before = (time.time() if now is None else now) - KEPT_S
        kept = removed = freed = 0
        for folder in sorted(self.folder.iterdir()):
            if not folder.is_dir():
                continue
            with self._locked(fcntl.LOCK_EX), os.scandir(folder) as found:
                for entry in found:
                    facts = entry.stat(follow_symlinks=False)
                    if facts.st_mtime >= before or (folder != self.drafts and f"sha256:{entry.name}" in named):
                        kept += folder != self.drafts
                        continue
                    Path(entry.path).unlink()
                    removed += 1
                    freed += facts.st_size
        return Swept(kept, removed, freed)

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, kind)
            yield
        finally:
            os.close(handle)


class Reader:
    """Reads an object piece by piece; gives the last one only where all of them have its digest. To be closed."""

    def __init__(self, files: ObjectFiles, digest: str) -> None:
        self._path = files.place(digest)
        self._digest = digest
        self._found = hashlib.sha256()
        self._file: BinaryIO | None = None
        self._held = b""

    def read(self) -> bytes:
        """The next piece; nothing at the end.

        Raises:
            DataLossError: ``TREE_DAMAGED``: the object is missing, or has other bytes.
        """
        if self._file is None:
            self._file = self._opened()
            self._held = self._next()
        held, self._held = self._held, self._next() if self._held else b""
        if not self._held and (found := f"sha256:{self._found.hexdigest()}") != self._digest:
            raise damaged(self._digest, f"its bytes have the digest {found}")
        return held

    def close(self) -> None:
        """No more is read."""
        if self._file is not None:
            self._file.close()

    def _next(self) -> bytes:
        piece = b"" if self._file is None else self._file.read(PIECE)
        self._found.update(piece)
        return piece

    def _opened(self) -> BinaryIO:
        try:
            file = os.fdopen(os.open(self._path, _READ), "rb", buffering=0)
        except OSError as error:
            why = "it is missing" if isinstance(error, FileNotFoundError) else f"it can't be read: {error.strerror}"
            raise damaged(self._digest, why) from error
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise damaged(self._digest, "it is no plain file")
        return file


class Draft:
    """One object on its way in."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / secrets.token_hex(16)
        self.size = 0
        self._found = hashlib.sha256()
        self._file = os.fdopen(os.open(self.path, _CREATE, 0o600), "wb", buffering=0)

    def write(self, data: bytes) -> None:
        """Takes the next bytes."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._found.update(data)
        self.size += len(data)

    def close(self) -> str:
        """All is written; gives the digest."""
        self._file.close()
        return f"sha256:{self._found.hexdigest()}"

    def drop(self) -> None:
        """Takes it back."""
        self._file.close()
        with suppress(FileNotFoundError):
            self.path.unlink()


class Batch:
    """Objects that are made durable together, when the ``with`` block ends well; none of them where it doesn't.

    For one thread at a time.

    Args:
        files: where they go.
        anew: write those that are there as well, since their bytes may have been damaged.
    """

    def __init__(self, files: ObjectFiles, *, anew: bool = False) -> None:
        self._files = files
        self._anew = anew
        self._drafts: set[Draft] = set()
        self._new: dict[str, Draft] = {}
        self._folders: set[Path] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.drop()

    def draft(self) -> Draft:
        """A new object, to be written and then given to ``take``."""
        draft = Draft(self._files.drafts)
        self._drafts.add(draft)
        return draft

    def take(self, draft: Draft) -> tuple[str, int]:
        """A draft becomes an object of the batch; gives digest and size."""
        digest = draft.close()
        if digest in self._new or self.keep(digest, draft.size):
            self._drafts.discard(draft)
            draft.drop()
        else:
            self._new[digest] = draft
        return digest, draft.size

    def put(self, pieces: Iterable[bytes]) -> tuple[str, int]:
        """Adds an object; gives digest and size."""
        draft = self.draft()
        for piece in pieces:
            draft.write(piece)
        return self.take(draft)

    def put_bytes(self, data: bytes) -> str:
        """Adds an object that is in memory; gives its digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if digest not in self._new and not self.keep(digest, len(data)):
            self.put((data,))
        return digest

    def keep(self, digest: str, size: int) -> bool:
        """Is an object there already, with that size? If so it is as good as one that is put now."""
        path = self._files.place(digest)
        if self._anew or _size(path) != size:
            return False
        with self._files.shared():  # and once more, now that no sweep removes it
            if _size(path) != size:
                return False
            os.utime(path)
        self._folders.add(path.parent)  # who put it may still be about to make its name durable
        return True

    def commit(self) -> None:
        """Returns once all are durable under their names; after that the batch is empty.

        Raises:
            OSError: they may not be; some may be there all the same, which hurts nobody.
        """
        try:
            if self._new:
                sync_all(draft.path for draft in self._new.values())
            with self._files.shared():
                for digest, draft in self._new.items():
                    path = self._files.place(digest)
                    path.parent.mkdir(mode=0o700, exist_ok=True)
                    os.utime(draft.path)  # it may have been written long ago
                    draft.path.replace(path)  # one that is there has the same bytes, or was damaged
                    self._drafts.discard(draft)
                    self._folders.add(path.parent)
            if self._folders:
                sync_all({self._files.folder, *self._folders})
        finally:
            self.drop()

    def drop(self) -> None:
        """Takes back what isn't an object yet."""
        for draft in self._drafts:
            draft.drop()
        self._drafts.clear()
        self._new.clear()
        self._folders.clear()


def too_large(digest: str, most: int) -> ResourceExhaustedError:
    """The error about an object that is longer than its reader takes."""
    return ResourceExhaustedError(
        f"the object {digest} has more than {most} bytes",
        reason="OBJECT_TOO_LARGE",
        metadata={"limit_bytes": str(most)},
        hint="Read it as a stream.",
    )


def damaged(digest: str, why: str) -> DataLossError:
    """The error about an object that isn't what its name says."""
    return DataLossError(
        f"the object {digest[:80]} of a workspace's tree is damaged: {why}",
        reason="TREE_DAMAGED",
        hint="Keep the state directory for an investigation, and restore its trees from a backup.",
        metadata={"digest": digest[:80]},
    )


def _size(path: Path) -> int | None:
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return None
    return facts.st_size if stat.S_ISREG(facts.st_mode) else None
