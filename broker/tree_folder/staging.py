"""The folder in which what an effect brings is made ready, and where what it takes away goes: in the folder that it is
about, since a name can change its place in one step only within one file system, and of mode 0700.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress

from broker.domain.tree import STAGED, TreeFile, TreeLink
from broker.durable import FEW, sync_file_system_of
from broker.errors import FailedPreconditionError
from broker.tree_folder.looking import look_at
from broker.tree_folder.moving import swap
from broker.tree_folder.reading import OPEN
from broker.tree_folder.steps import Numbered, Steps

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIED = ("one", "other")
"""Names that are exchanged once, to see whether the file system can do it."""

Content = Callable[[str], Iterable[bytes]]
"""The bytes of a digest; the last of them only where all of them have it."""


def staging_name() -> str:
    """A name for a new one, which nobody can guess."""
    return f"{STAGED}{secrets.token_hex(16)}"


class Staging:
    """A staging folder, open.

    Args:
        root: the folder that the effect is about, open; it stays open.
        name: of the staging folder.
        steps: those of the effect.
        handle: the staging folder.
    """

    def __init__(self, root: int, name: str, steps: Steps, handle: int) -> None:
        self.root = root
        self.name = name
        self.steps = steps
        self.handle = handle

    @classmethod
    def make(cls, root: int, name: str, steps: Steps) -> Staging:
        """A new one.

        Raises:
            OSError: it can't be made.
        """
        os.mkdir(name, 0o700, dir_fd=root)
        return cls(root, name, steps, _opened(root, name))

    @classmethod
    def find(cls, root: int, name: str, steps: Steps) -> Staging | None:
        """One that was made before; ``None`` where it isn't there.

        Raises:
            OSError: it can't be opened, or isn't the broker's own.
        """
        try:
            handle = _opened(root, name)
        except FileNotFoundError:
            return None
        return cls(root, name, steps, handle)

    def close(self) -> None:
        """It stays where it is."""
        os.close(self.handle)

    def fill(self, content: Content) -> None:
        """Makes all ready that the effect brings; durable on return.

        Raises:
            FailedPreconditionError: ``FOLDER_UNFIT``: the file system can't exchange two names in one step.
            BrokerError: a content can't be read.
            OSError: it can't be written.
        """
        bringing = [item for item in self.steps.numbered if item.change.after is not None]
        few = len(bringing) <= FEW
        self._try()
        for item in bringing:
            self._put(item, content, sync=few)
        if few:
            os.fsync(self.handle)
            os.fsync(self.root)
        else:
            sync_file_system_of(self.root)

    def _try(self) -> None:
        """Finds out before anything counts, and not half-way."""
        for name in _TRIED:
            os.close(os.open(name, _CREATE, 0o600, dir_fd=self.handle))
        try:
            swap(self.handle, _TRIED[0], self.handle, _TRIED[1])
        except OSError as error:
            raise FailedPreconditionError(
                f"the file system of the workspace's directory can't exchange two files in one step: {error.strerror}",
                reason="FOLDER_UNFIT",
                hint="Nothing was changed. Put the directory on a local file system, such as ext4, XFS or Btrfs.",
            ) from error
        for name in _TRIED:
            os.unlink(name, dir_fd=self.handle)

    def _put(self, item: Numbered, content: Content, *, sync: bool) -> None:
        match item.change.after:
            case TreeLink(target):
                os.symlink(target, item.place, dir_fd=self.handle)
            case TreeFile(digest, _, mode):
                with os.fdopen(os.open(item.place, _CREATE, 0o600, dir_fd=self.handle), "wb") as out:
                    for piece in content(digest):
                        out.write(piece)
                    out.flush()
                    os.fchmod(out.fileno(), mode)
                    if sync:
                        os.fsync(out.fileno())

    def clean(self, *, begun: bool) -> tuple[str, ...]:
        """Removes it with all that is the effect's own; durable on return.

        Args:
            begun: may something have been taken out of its place already? Then what is neither what the effect brings nor
                what it replaces stays: it is somebody else's.

        Returns:
            Where what stays lies, by path.
        """
        left = []
        for item in self.steps.numbered:
            if begun and look_at(self.handle, item.place) not in {None, item.change.before, item.change.after}:
                left.append(f"{self.name}/{item.place}")
                continue
            with suppress(FileNotFoundError):
                os.unlink(item.place, dir_fd=self.handle)
        for name in _TRIED:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.handle)
        if not left:
            try:
                os.rmdir(self.name, dir_fd=self.root)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                left.append(self.name)
        os.fsync(self.root)
        return tuple(left)


def _opened(root: int, name: str) -> int:
    handle = os.open(name, OPEN | os.O_DIRECTORY, dir_fd=root)
    facts = os.fstat(handle)
    if facts.st_uid != os.geteuid() or stat.S_IMODE(facts.st_mode) & 0o077:
        os.close(handle)
        raise PermissionError(errno.EPERM, "the staging folder isn't the broker's own", name)
    return handle
