"""The scratch folder of one replay, and the objects in it: copies of what it needs of a workspace, and all that it makes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from broker.private_file import make_private_dir
from broker.replay.obstacles import doctored
from broker.workspace.files import PIECE, ObjectFiles
from broker.workspace.objects import Objects

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_LOCK = "lock"


class Room:
    """Where replays of one state directory have their scratch folders.

    Who is killed leaves his folder, and perhaps a container. The next replay, or ``broker sandbox gc``, takes both away where no
    other replay is at work: each holds a lock that a killed process leaves free.

    Args:
        place: the folder for them all.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        make_private_dir(place)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._handle = os.open(place / _LOCK, flags, 0o600)

    def alone(self) -> bool:
        """Takes the room for oneself, where no replay is at work; until ``share`` or ``leave``."""
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def share(self) -> None:
        """Is at work from now on, beside others."""
        fcntl.flock(self._handle, fcntl.LOCK_SH)

    def leave(self) -> None:
        """Isn't any more."""
        os.close(self._handle)

    def leftovers(self) -> tuple[Path, ...]:
        """Scratch folders; those of replays that are at work among them, unless one is ``alone``."""
        return tuple(sorted(item for item in self.place.iterdir() if item.name != _LOCK))

    def sweep(self) -> tuple[Path, ...]:
        """Removes all scratch folders; only for one who is ``alone``. Gives what there was."""
        found = self.leftovers()
        for item in found:
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink()
        return found

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A scratch folder of mode 0700, until the block ends."""
        path = self.place / secrets.token_hex(8)
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            with suppress(FileNotFoundError):
                shutil.rmtree(path)


class BorrowingFiles(ObjectFiles):
    """Objects in a scratch folder, to which those of a workspace are copied when they are asked for; these stay untouched.

    Args:
        folder: of the scratch objects.
        kept: of the workspace's; nothing is ever made, changed or touched there.
    """

    def __init__(self, folder: Path, kept: Path) -> None:
        super().__init__(folder)
        self._kept = kept

    def place(self, digest: str) -> Path:
        """See ``ObjectFiles.place``.

        Raises:
            DataLossError: the workspace's object has other bytes than its name says (``TREE_DOCTORED``).
        """
        path = super().place(digest)
        if not path.exists():
            self._borrow(digest, path)
        return path

    def _borrow(self, digest: str, path: Path) -> None:
        try:
            source = os.fdopen(os.open(self._kept / path.parent.name / path.name, _READ), "rb", buffering=0)
        except FileNotFoundError:
            return
        except OSError as error:
            why = f"can't be read: {error.strerror}"
            raise doctored("TREE_DOCTORED", f"the object {digest} of a workspace's tree {why}") from error
        draft, found = self.drafts / secrets.token_hex(16), hashlib.sha256()
        with source, draft.open("xb") as target:
            if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
                raise doctored("TREE_DOCTORED", f"the object {digest} of a workspace's tree is no plain file")
            while piece := source.read(PIECE):
                found.update(piece)
                target.write(piece)
        if f"sha256:{found.hexdigest()}" != digest:
            draft.unlink()
            raise doctored("TREE_DOCTORED", f"the object {digest} of a workspace's tree has other bytes")
        path.parent.mkdir(mode=0o700, exist_ok=True)
        draft.replace(path)


class BorrowedObjects(Objects):
    """Implements ``broker.workspace.objects.Objects`` on ``BorrowingFiles``.

    Args:
        folder: a scratch folder.
        kept: the folder of the workspaces' objects.
    """

    def __init__(self, folder: Path, kept: Path) -> None:
        super().__init__(folder)
        self.files = BorrowingFiles(folder, kept)
