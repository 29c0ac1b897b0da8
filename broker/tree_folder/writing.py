"""Writes a tree into a new folder of the host."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from broker.domain.paths import check_path
from broker.domain.tree import Entry, TreeFile, TreeLink
from broker.durable import sync_file_system
from broker.errors import ConflictError, FailedPreconditionError, InvalidArgumentError
from broker.tree_folder.links import leaves
from broker.tree_folder.reading import OPEN, open_root, unfit

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FolderWriter:
    """A folder that a tree is written into; for a ``with`` block. Links come last: while files are written, none is there.

    What was written stays when it fails half-way: nothing is ever deleted in a folder that others may use.

    Args:
        into: a new or empty folder, and no link; the one it lies in must be there.
        entries: all that will be written, by path.
        allow_links_out: write links, too, that lead out of the tree. Whoever reads or writes through them later reaches
            what lies there.

    Raises:
        InvalidArgumentError: ``FOLDER_UNFIT``: a link leads out of the tree, or a path is none; nothing was made.
        NotFoundError, InvalidArgumentError: as ``reading.open_root``.
        ConflictError: ``FOLDER_NOT_EMPTY``.
    """

    def __init__(self, into: Path, entries: Mapping[str, Entry], *, allow_links_out: bool = False) -> None:
        _check(into, entries, allow_links_out=allow_links_out)
        self._into = into
        self._links = {path: entry.target for path, entry in entries.items() if isinstance(entry, TreeLink)}
        try:
            into.mkdir()
        except FileExistsError:
            pass
        except FileNotFoundError as error:
            raise FailedPreconditionError(f"there is no folder {into.parent}", reason="FOLDER_MISSING") from error
        self._root = open_root(into)
        with os.scandir(self._root) as found:
            taken = next(found, None) is not None
        if taken:
            os.close(self._root)
            raise ConflictError(
                f"{into} isn't empty", reason="FOLDER_NOT_EMPTY", hint="Name a new folder: nothing is overwritten."
            )
        self._at: tuple[str, ...] = ()
        self._open = [self._root]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                for path, target in sorted(self._links.items()):
                    folder, name = self._folder(path)
                    os.symlink(target, name, dir_fd=folder)
                sync_file_system(self._into)
        except OSError as failed:
            raise self._failed(failed) from failed
        finally:
            while self._open:
                os.close(self._open.pop())

    def write(self, path: str, file: TreeFile, pieces: Iterable[bytes]) -> None:
        """Writes a file; quickest in the order of the paths.

        Raises:
            ConflictError: ``FOLDER_CHANGED``: somebody else made or changed something in the folder meanwhile.
        """
        try:
            folder, name = self._folder(path)
            handle = os.open(name, _CREATE, 0o600, dir_fd=folder)
            with os.fdopen(handle, "wb") as out:
                for piece in pieces:
                    out.write(piece)
                # Last, and whatever the umask says: who made it can still write it.
                os.fchmod(out.fileno(), file.mode)
        except OSError as error:
            raise self._failed(error) from error

    def _folder(self, path: str) -> tuple[int, str]:
        """The open folder of a path, made where there is none; and its last part."""
        *parts, name = path.split("/")
        shared = 0
        while shared < min(len(parts), len(self._at)) and parts[shared] == self._at[shared]:
            shared += 1
        while len(self._open) > shared + 1:
            os.close(self._open.pop())
        self._at = tuple(parts[:shared])
        for part in parts[shared:]:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=self._open[-1])
            self._open.append(os.open(part, OPEN | os.O_DIRECTORY, dir_fd=self._open[-1]))
            self._at = (*self._at, part)
        return self._open[-1], name

    def _failed(self, error: OSError) -> ConflictError:
        return ConflictError(
            f"the folder {self._into} couldn't be written: {error.strerror}",
            reason="FOLDER_CHANGED",
            hint="It is incomplete. See that there is room and that nobody else writes there, and name another new folder.",
        )


def _check(into: Path, entries: Mapping[str, Entry], *, allow_links_out: bool) -> None:
    links = {path: entry.target for path, entry in entries.items() if isinstance(entry, TreeLink)}
    refused = {}
    for path, entry in entries.items():
        try:
            parts = check_path(path, "path")
        except InvalidArgumentError as error:
            refused[path] = error.violations[0].description
            continue
        if any("/".join(parts[:end]) in entries for end in range(1, len(parts))):
            refused[path] = "lies below a file or a link"
        elif isinstance(entry, TreeLink) and not allow_links_out and leaves(path, links):
            refused[path] = f"is a link that leads out of the tree, to {entry.target!a}"
    if refused:
        raise unfit(into, refused)
