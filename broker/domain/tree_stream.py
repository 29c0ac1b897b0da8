"""A tree on its way in or out, piece by piece: what is checked of it by whoever takes it, server or client. Pure.

What comes is hostile: a path may climb out, come twice or lie under a file; a file may have more or fewer bytes than it
was announced with, or others; the end may say something else than what came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from broker.domain.canonical import canonical
from broker.domain.paths import check_path
from broker.domain.tree import PERMISSIONS, Entry, TreeFile, TreeLink, bad_target, check_not_reserved, entry_body
from broker.errors import FieldViolation, InvalidArgumentError, ResourceExhaustedError

MAX_PIECE = 1 << 20
"""Bytes of a file in one piece at the most."""
_MAX_PATHS = 64 << 20
"""Bytes of all paths and targets of a tree: they are kept in memory until its end."""


@dataclass(frozen=True, slots=True)
class Announced:
    """What lies at a path. A file's bytes follow; its digest may be empty on the way in."""

    path: str
    entry: Entry


Piece: TypeAlias = Announced | bytes
"""What lies at a path, or the next bytes of the file that came last."""


@dataclass(frozen=True, slots=True)
class Total:
    """What a tree adds up to."""

    files: int
    """Files and links."""
    size: int
    """Bytes of all files."""
    listing: str
    """``listing_digest`` of all entries."""

    @classmethod
    def of(cls, entries: Mapping[str, Entry]) -> Total:
        """Of a whole tree."""
        size = sum(entry.size for entry in entries.values() if isinstance(entry, TreeFile))
        return cls(len(entries), size, listing_digest(entries))


def listing_digest(entries: Mapping[str, Entry]) -> str:
    """``sha256:`` over a line for each path, in the order of the paths' UTF-8 bytes: by it two sides know that they have
    the same tree. A line is the RFC 8785 form of ``{"entry": ..., "path": ...}`` and a line feed.
    """
    found = hashlib.sha256()
    for path in sorted(entries, key=str.encode):
        found.update(canonical({"path": path, "entry": entry_body(entries[path])}) + b"\n")
    return f"sha256:{found.hexdigest()}"


@dataclass(frozen=True, slots=True)
class Bound:
    """How much of a tree is taken."""

    files: int
    size: int


class Intake:
    """Takes a tree piece by piece, and lets only a sound one through.

    Args:
        bound: how much of it is taken.
    """

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self._entries: dict[str, Entry] = {}
        self._folders: set[str] = set()
        self._size = 0
        self._text = 0
        self._open: tuple[str, TreeFile] | None = None
        self._came = 0
        self._hash = hashlib.sha256()

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What has come whole so far, each file with its digest."""
        return self._entries

    @property
    def files(self) -> int:
        """Files and links that have come whole so far."""
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes of the files that were announced so far."""
        return self._size

    @property
    def missing(self) -> int:
        """Bytes that the file which came last still lacks."""
        return 0 if self._open is None else self._open[1].size - self._came

    def announce(self, item: Announced) -> None:
        """Takes what lies at a path. A file without bytes is whole at once.

        Raises:
            InvalidArgumentError: ``PATH_INVALID``, ``PATH_TWICE``, ``PATH_UNDER_FILE``, ``ENTRY_INVALID``; or the file
                before isn't whole (``SIZE_DIFFERS``).
            ResourceExhaustedError: the tree has more files, bytes or text than are taken (``TREE_TOO_LARGE``).
        """
        path, entry = item.path, item.entry
        if self._open is not None:
            raise self._differs()
        parts = check_path(path, "path")
        check_not_reserved(path, "path")
        self._place(path, parts)
        self._text += len(path.encode())
        if isinstance(entry, TreeLink):
            if wrong := bad_target(entry.target):
                raise _refuse(path, wrong, "ENTRY_INVALID")
            self._text += len(entry.target.encode())
            self._entries[path] = entry
        else:
            if entry.size < 0 or not 0 <= entry.mode <= PERMISSIONS:
                raise _refuse(path, "has a size below 0, or a mode beyond 0777", "ENTRY_INVALID")
            self._size += entry.size
            self._open, self._came, self._hash = (path, entry), 0, hashlib.sha256()
        if len(self._entries) + (self._open is not None) > self._bound.files or self._size > self._bound.size:
            raise _too_large(f"{self._bound.files} files and links of {self._bound.size} bytes", self._bound)
        if self._text > _MAX_PATHS:
            raise _too_large(f"{_MAX_PATHS} bytes of paths and links' targets", self._bound)
        self._close()

    def take(self, data: bytes) -> None:
        """Takes the next bytes of the file that came last.

        Raises:
            InvalidArgumentError: there is no such file, or it has fewer bytes (``SIZE_DIFFERS``), or others than it was
                announced with (``DIGEST_DIFFERS``).
        """
        if self._open is None or len(data) > self.missing:
            raise self._differs(more=True)
        self._came += len(data)
        self._hash.update(data)
        self._close()

    def end(self, said: Total) -> Mapping[str, Entry]:
        """The whole tree, if it is what its sender says.

        Raises:
            InvalidArgumentError: the last file isn't whole (``SIZE_DIFFERS``), or something else came than was sent
                (``TOTAL_DIFFERS``).
        """
        if self._open is not None:
            raise self._differs()
        came = Total.of(self._entries)
        if came != said:
            raise InvalidArgumentError(
                f"what came is not what was sent: {came.files} files of {came.size} bytes came with the listing"
                f" {came.listing}, and the end says {said.files} files of {said.size} bytes with {said.listing}",
                reason="TOTAL_DIFFERS",
                hint="Send it again, and don't change it meanwhile.",
                violations=(FieldViolation("end", "must add up to the pieces before it"),),
            )
        return self._entries

    def _place(self, path: str, parts: list[str]) -> None:
        if path in self._entries:
            raise _refuse(path, "came before", "PATH_TWICE")
        if path in self._folders:
            raise _refuse(path, "is a folder of paths that came before", "PATH_UNDER_FILE")
        for depth in range(len(parts) - 1, 0, -1):
            folder = "/".join(parts[:depth])
            if folder in self._folders:
                return  # and so are those above it
            if folder in self._entries:
                raise _refuse(path, f"lies under {folder!a}, which is a file or a link", "PATH_UNDER_FILE")
            self._folders.add(folder)

    def _close(self) -> None:
        if self._open is None or self.missing:
            return
        path, announced = self._open
        found = f"sha256:{self._hash.hexdigest()}"
        if announced.digest not in {"", found}:
            raise _refuse(path, f"was announced with {announced.digest[:80]!a}, and has {found}", "DIGEST_DIFFERS")
        self._entries[path] = replace(announced, digest=found)
        self._open = None

    def _differs(self, *, more: bool = False) -> InvalidArgumentError:
        if self._open is None:
            why = "brings bytes that belong to no file"
            return InvalidArgumentError(f"the stream {why}", reason="SIZE_DIFFERS")
        path, entry = self._open
        came = f"more than {entry.size}" if more else str(self._came)
        return _refuse(path, f"was announced with {entry.size} bytes, and {came} came", "SIZE_DIFFERS")


def _refuse(path: str, why: str, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{path[:1024]!a} {why}; nothing of the tree counts", reason=reason, violations=(FieldViolation("path", why),)
    )


def _too_large(limit: str, bound: Bound) -> ResourceExhaustedError:
    return ResourceExhaustedError(
        f"the tree is larger than the limit of {limit}",
        reason="TREE_TOO_LARGE",
        hint="Leave out what no tool needs; or ask the operator for a higher `workspace_max_files` or"
        " `workspace_max_bytes`.",
        metadata={"max_files": str(bound.files), "max_bytes": str(bound.size)},
    )
