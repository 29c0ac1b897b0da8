"""Looks at all that a folder of the host holds, without reading any file: by what each would be known again."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from broker.domain.paths import MAX_DEPTH, check_path
from broker.domain.tree import PERMISSIONS, STAGED, check_not_reserved
from broker.errors import InvalidArgumentError, ResourceExhaustedError
from broker.tree_folder.reading import KINDS, OPEN

Facts: TypeAlias = tuple[int, int, int, int, int]
"""Inode, bytes, time of the last change of the content and of the inode, in Unix nanoseconds, and mode with the kind."""


@dataclass(slots=True)
class Scan:
    """What a folder holds."""

    found: dict[str, Facts] = field(default_factory=dict)
    """Path -> facts, of each file and link."""
    folders: dict[str, Facts] = field(default_factory=dict)
    """The same of each folder, as it was before it was looked into; empty for the folder itself."""
    refused: dict[str, str] = field(default_factory=dict)
    """Path -> why no tree can keep what is there."""
    bytes: int = 0
    """Of all files."""


def scan(root: int, known: Mapping[str, Facts], *, max_files: int, max_bytes: int) -> Scan:
    """Looks at everything below an open folder, following no link.

    Args:
        root: the folder.
        known: facts that were seen before; what has the same is fit, as it was then.
        max_files: files and links that it may hold.
        max_bytes: bytes that they may have.

    Raises:
        ResourceExhaustedError: ``FOLDER_TOO_LARGE``.
        OSError: the folder itself can't be read.
    """
    look = _Look(known, os.fstat(root).st_dev, max_files, max_bytes)
    handle = os.open(".", OPEN | os.O_DIRECTORY, dir_fd=root)
    try:
        look.folder(handle, "", 1)
    finally:
        os.close(handle)
    return look.scan


class _Look:
    def __init__(self, known: Mapping[str, Facts], device: int, max_files: int, max_bytes: int) -> None:
        self._known = known
        self._device = device
        self._max_files = max_files
        self._max_bytes = max_bytes
        self.scan = Scan()

    def folder(self, handle: int, prefix: str, depth: int) -> None:
        facts = os.fstat(handle)
        if facts.st_dev != self._device:
            self.scan.refused[prefix.rstrip("/")] = "is on another file system"
            return
        self.scan.folders[prefix] = _facts(facts)
        self._bound()
        with os.scandir(handle) as entries:
            for entry in entries:
                self._entry(handle, entry, prefix + entry.name, depth)

    def _entry(self, folder: int, entry: os.DirEntry[str], path: str, depth: int) -> None:
        try:
            facts = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return  # it went just now, which its folder's facts tell
        except OSError as error:
            self.scan.refused[path] = f"can't be read: {error.strerror}"
            return
        if stat.S_ISDIR(facts.st_mode):
            self._inner(folder, entry.name, path, depth)
            return
        brief = _facts(facts)
        wrong = "" if self._known.get(path) == brief else self._unfit(path, facts)
        if stat.S_ISREG(facts.st_mode) and facts.st_nlink > 1 and not wrong:
            wrong = f"has {facts.st_nlink} names (hard links), so that others change it, too"
        if wrong:
            self.scan.refused[path] = wrong
        else:
            self.scan.found[path] = brief
            self.scan.bytes += facts.st_size if stat.S_ISREG(facts.st_mode) else 0
        self._bound()

    def _bound(self) -> None:
        scan = self.scan
        most = max(len(scan.found) + len(scan.refused), len(scan.folders))
        if most > self._max_files or scan.bytes > self._max_bytes:
            raise ResourceExhaustedError(
                f"the workspace's directory holds more than {self._max_files} files and links, or as many folders, or"
                f" more than {self._max_bytes} bytes",
                reason="FOLDER_TOO_LARGE",
                metadata={"limit_files": str(self._max_files), "limit_bytes": str(self._max_bytes)},
                hint="Bind a smaller one, or raise `workspace_max_files` or `workspace_max_bytes`.",
            )

    def _inner(self, folder: int, name: str, path: str, depth: int) -> None:
        if depth >= MAX_DEPTH:
            self.scan.refused[path] = "lies too deep"
            return
        if name.startswith(STAGED) and depth == 1:
            self.scan.refused[path] = "is left of an effect that was cut: look at what it holds, and remove it"
            return
        try:
            handle = os.open(name, OPEN | os.O_DIRECTORY, dir_fd=folder)
        except FileNotFoundError:
            return
        except OSError as error:
            self.scan.refused[path] = f"can't be read: {error.strerror}"
            return
        try:
            self.folder(handle, f"{path}/", depth + 1)
        finally:
            os.close(handle)

    def _unfit(self, path: str, facts: os.stat_result) -> str:
        """Why no tree can keep it; empty where one can, as far as can be said without reading it."""
        try:
            check_path(path, "path")
            check_not_reserved(path, "path")
        except InvalidArgumentError as error:
            return error.violations[0].description
        mode = stat.S_IMODE(facts.st_mode)
        match stat.S_IFMT(facts.st_mode):
            case _ if facts.st_dev != self._device:
                return "is on another file system"
            case stat.S_IFLNK:
                return ""
            case stat.S_IFREG if mode & ~PERMISSIONS:
                return f"has the mode {mode:04o}, with more than permission bits"
            case stat.S_IFREG:
                return ""
            case kind:
                return f"is {KINDS.get(kind, 'no plain file')}"


def _facts(facts: os.stat_result) -> Facts:
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_mode
