"""Reads a folder of the host: first what is in it, then the bytes of each file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from broker.domain.paths import MAX_DEPTH, check_path
from broker.domain.tree import PERMISSIONS, bad_target
from broker.errors import (
    ConflictError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)

PIECE = 1 << 20
"""Bytes that are read at a time."""

MAX_FILES = 200_000
"""Files and links that a folder may hold by default."""

MAX_BYTES = 8 << 30
"""Bytes that they may have by default."""

NAMED = 20
"""Paths that a refusal names one by one."""

OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
}


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file: its path, permission bits, bytes, and by what it is known again (device, inode, time of last change)."""

    path: str
    mode: int
    size: int
    known: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class FoundLink:
    """A symbolic link, and its target as it stands there."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class Survey:
    """What a folder holds, sorted by path; and the folders with nothing in them, which no tree keeps."""

    found: tuple[FoundFile | FoundLink, ...]
    empty: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """All files together."""
        return sum(item.size for item in self.found if isinstance(item, FoundFile))


class FolderReader:
    """A folder that is read; for a ``with`` block.

    Args:
        folder: the folder itself, not a link to it.
        max_files: files and links that it may hold.
        max_bytes: bytes that they may have.

    Raises:
        NotFoundError: ``FOLDER_MISSING``.
        InvalidArgumentError: ``FOLDER_UNFIT``: it is a link or no folder, or can't be opened.
    """

    def __init__(self, folder: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._root = open_root(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._root)

    def survey(self) -> Survey:
        """Looks at all that is in it.

        Raises:
            InvalidArgumentError: ``FOLDER_UNFIT``: something in it can't be kept; ``violations`` names the first paths,
                ``metadata`` has the number of all in ``refused``.
            ResourceExhaustedError: ``FOLDER_TOO_LARGE``.
        """
        look = _Look(self._max_files, self._max_bytes)
        look.folder(os.dup(self._root), "", 1)
        if look.refused:
            raise unfit(self._folder, look.refused)
        found = sorted(look.found, key=lambda item: item.path.encode())
        return Survey(tuple(found), tuple(sorted(look.empty, key=str.encode)))

    def read(self, file: FoundFile) -> Iterator[bytes]:
        """As ``read_found``, of a file that the survey found."""
        return read_found(self._root, file)


class _Look:
    """One survey on its way."""

    def __init__(self, max_files: int, max_bytes: int) -> None:
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._bytes = 0
        self.found: list[FoundFile | FoundLink] = []
        self.empty: list[str] = []
        self.refused: dict[str, str] = {}

    def folder(self, handle: int, prefix: str, depth: int) -> None:
        """Looks at an open folder, and closes it."""
        try:
            names = sorted(os.listdir(handle))
            if not names and prefix:
                self.empty.append(prefix.rstrip("/"))
            for name in names:
                self._name(handle, name, prefix + name, depth)
        finally:
            os.close(handle)

    def _name(self, folder: int, name: str, path: str, depth: int) -> None:
        try:
            check_path(path, "path")
            facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
            match stat.S_IFMT(facts.st_mode):
                case stat.S_IFDIR if depth >= MAX_DEPTH:
                    self.refused[path] = "lies too deep"
                case stat.S_IFDIR:
                    self.folder(os.open(name, OPEN | os.O_DIRECTORY, dir_fd=folder), f"{path}/", depth + 1)
                case stat.S_IFLNK:
                    self._link(path, os.readlink(name, dir_fd=folder))
                case stat.S_IFREG:
                    self._file(folder, name, path)
                case kind:
                    self.refused[path] = f"is {KINDS.get(kind, 'no plain file')}"
        except InvalidArgumentError as error:
            self.refused[path] = error.violations[0].description
        except OSError as error:
            self.refused[path] = f"can't be read: {error.strerror}"

    def _link(self, path: str, target: str) -> None:
        if wrong := bad_target(target):
            self.refused[path] = wrong
        else:
            self._add(FoundLink(path, target), 0)

    def _file(self, folder: int, name: str, path: str) -> None:
        # Opened, so that what can't be read is found before anything is sent.
        handle = os.open(name, OPEN, dir_fd=folder)
        try:
            facts = os.fstat(handle)
        finally:
            os.close(handle)
        if not stat.S_ISREG(facts.st_mode):
            self.refused[path] = "is no plain file"
        elif stat.S_IMODE(facts.st_mode) & ~PERMISSIONS:
            self.refused[path] = f"has the mode {stat.S_IMODE(facts.st_mode):04o}, with more than permission bits"
        else:
            self._add(FoundFile(path, stat.S_IMODE(facts.st_mode), facts.st_size, _known(facts)), facts.st_size)

    def _add(self, item: FoundFile | FoundLink, size: int) -> None:
        self.found.append(item)
        self._bytes += size
        if len(self.found) > self._max_files or self._bytes > self._max_bytes:
            raise ResourceExhaustedError(
                f"the folder holds more than {self._max_files} files and links, or more than {self._max_bytes} bytes",
                reason="FOLDER_TOO_LARGE",
                metadata={"limit_files": str(self._max_files), "limit_bytes": str(self._max_bytes)},
                hint="Take a smaller folder.",
            )


def read_found(root: int, file: FoundFile) -> Iterator[bytes]:
    """The bytes of a file below an open folder, as it was found there.

    Raises:
        ConflictError: ``FOLDER_CHANGED``: it isn't what was found, or is changed while it is read.
    """
    try:
        handle = open_below(root, file.path.split("/"))
    except OSError as error:
        raise _changed(file.path) from error
    try:
        _same(handle, file)
        left = file.size
        while piece := os.read(handle, min(PIECE, left + 1)):
            left -= len(piece)
            if left < 0:
                raise _changed(file.path)
            yield piece
        _same(handle, file)
        if left:
            raise _changed(file.path)
    finally:
        os.close(handle)


def open_root(folder: Path) -> int:
    """A descriptor of a folder.

    Raises:
        NotFoundError: ``FOLDER_MISSING``.
        InvalidArgumentError: ``FOLDER_UNFIT``: it is a link or no folder, or can't be opened.
    """
    try:
        return os.open(folder, OPEN | os.O_DIRECTORY)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no folder {folder}", reason="FOLDER_MISSING") from error
    except OSError as error:
        raise InvalidArgumentError(
            f"{folder} is no folder that can be opened: {error.strerror}",
            reason="FOLDER_UNFIT",
            hint="Name the folder itself: a link to one isn't followed.",
        ) from error


def open_below(root: int, parts: list[str], flags: int = 0) -> int:
    """Opens something below a folder to read, following no link at any step.

    Raises:
        OSError: it can't be opened, or a link is on the way.
    """
    handle = os.dup(root)
    for number, part in enumerate(parts, 1):
        try:
            inner = os.open(part, OPEN | (flags if number == len(parts) else os.O_DIRECTORY), dir_fd=handle)
        finally:
            os.close(handle)
        handle = inner
    return handle


def unfit(folder: Path, refused: dict[str, str]) -> InvalidArgumentError:
    """The error about things that can't be kept, or made, by their paths."""
    shown = {path.encode("utf-8", "backslashreplace").decode(): why for path, why in sorted(refused.items())}
    first = next(iter(shown))
    more = f", and {len(shown) - 1} more" if len(shown) > 1 else ""
    return InvalidArgumentError(
        f"{folder}: {first!a} {shown[first]}{more}",
        reason="FOLDER_UNFIT",
        metadata={"refused": str(len(shown))},
        hint="Only plain files and symbolic links with portable names are taken. Nothing was changed.",
        violations=tuple(FieldViolation(path, shown[path]) for path in list(shown)[:NAMED]),
    )


def _known(facts: os.stat_result) -> tuple[int, int, int]:
    return facts.st_dev, facts.st_ino, facts.st_ctime_ns


def _same(handle: int, file: FoundFile) -> None:
    facts = os.fstat(handle)
    if (_known(facts), facts.st_size) != (file.known, file.size) or not stat.S_ISREG(facts.st_mode):
        raise _changed(file.path)


def _changed(path: str) -> ConflictError:
    return ConflictError(
        f"{path!a} was changed while the folder was read",
        reason="FOLDER_CHANGED",
        hint="Let nobody change the folder meanwhile, and try again. Nothing was changed.",
        metadata={"path": path},
    )
