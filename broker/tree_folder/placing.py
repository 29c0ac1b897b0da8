"""Puts an effect into a folder of the host: what was made ready takes its place, one path in one step after the other.

What is found is compared by its content before it counts; what was taken out of its place is compared once more, and put
back where somebody else changed it in between. So nothing is overwritten that isn't what the effect starts from. A step
that was taken before does nothing when it is taken again: what was cut half-way is gone on with.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from broker.domain.tree import Change
from broker.durable import FEW, sync_file_system_of
from broker.tree_folder.guarding import differs
from broker.tree_folder.looking import FOLDER, look, look_at
from broker.tree_folder.moving import move_new, swap
from broker.tree_folder.reading import OPEN, open_below
from broker.tree_folder.staging import Staging
from broker.tree_folder.steps import Numbered, above

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_BITS = 0o777
T = TypeVar("T")


class _StopError(Exception):
    """A step can't be taken: at which path, and why."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why


class Placing:
    """One effect, all of which lies ready.

    Args:
        staging: where.
    """

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._root = staging.root
        self._steps = staging.steps

    def place(self) -> tuple[str, str] | None:
        """Takes all steps that weren't taken yet; durable on return.

        Returns:
            At which path it stopped, and why; ``None`` where all of the effect is there now.
        """
        steps = self._steps
        try:
            for item in steps.removals:
                self._at(item.change.path, partial(self._remove, item))
            for folder in steps.yielding:
                self._at(folder, partial(self._yield, folder))
            for folder in steps.making:
                self._at(folder, partial(self._make, folder))
            for item in steps.exchanges:
                self._at(item.change.path, partial(self._exchange, item))
            for item in steps.additions:
                self._at(item.change.path, partial(self._add, item))
            for folder in steps.emptied:
                self._at(folder, partial(self._drop, folder))
            self._at("", self._sync)
            for item in steps.numbered:
                self._at(item.change.path, partial(self._check, item.change))
        except _StopError as stop:
            return stop.path, stop.why
        return None

    def _at(self, path: str, step: Callable[[], T]) -> T:
        try:
            return step()
        except OSError as error:
            raise _StopError(path, f"can't be changed: {error.strerror}") from error

    def _remove(self, item: Numbered) -> None:
        change, out = item.change, look_at(self._staging.handle, item.place)
        if out is None:
            self._as_before(change)
            parent, name = self._parent(change.path)
            try:
                move_new(parent, name, self._staging.handle, item.place)
                self._took(item, lambda: move_new(self._staging.handle, item.place, parent, name))
            finally:
                os.close(parent)
        elif out != change.before:
            parent, name = self._parent(change.path)
            try:
                self._took(item, lambda: move_new(self._staging.handle, item.place, parent, name))
            finally:
                os.close(parent)

    def _exchange(self, item: Numbered) -> None:
        change, ready = item.change, look_at(self._staging.handle, item.place)
        if ready == change.before:
            return  # whether what took its place is still there is looked at in the end
        there = look(self._root, change.path)
        parent, name = self._parent(change.path)
        try:
            if ready == change.after:
                self._as_before(change)
                swap(self._staging.handle, item.place, parent, name)
            elif ready is None or there != change.after:
                raise _StopError(change.path, "what was made ready for it is gone or was changed")
            self._took(item, lambda: swap(self._staging.handle, item.place, parent, name))
        finally:
            os.close(parent)

    def _add(self, item: Numbered) -> None:
        change, ready = item.change, look_at(self._staging.handle, item.place)
        if ready is None:
            return  # it is there already; looked at in the end
        if ready != change.after:
            raise _StopError(change.path, "what was made ready for it was changed")
        parent, name = self._parent(change.path)
        try:
            move_new(self._staging.handle, item.place, parent, name)
        except FileExistsError as error:
            raise _StopError(change.path, "something else is there") from error
        finally:
            os.close(parent)

    def _took(self, item: Numbered, put_back: Callable[[], None]) -> None:
        """What was taken out of its place is what it had to be; else it is put back."""
        if look_at(self._staging.handle, item.place) == item.change.before:
            return
        try:
            put_back()
        except OSError as error:
            kept = f"{self._staging.name}/{item.place}"
            why = (
                f"it was changed meanwhile; what was there is in {kept!a} now, and can't be put back: {error.strerror}"
            )
            raise _StopError(item.change.path, why) from error
        raise _StopError(item.change.path, "it was changed meanwhile")

    def _as_before(self, change: Change) -> None:
        if why := differs(change, look(self._root, change.path)):
            raise _StopError(change.path, why)

    def _yield(self, folder: str) -> None:
        """A folder goes for what comes in its place."""
        try:
            parent, name = self._parent(folder)
            try:
                os.rmdir(name, dir_fd=parent)
            finally:
                os.close(parent)
        except OSError as error:
            if error.errno not in _GONE:
                raise

    def _make(self, folder: str) -> None:
        """A folder is there; a new one has the permissions of the one that it lies in, less the umask."""
        parent, name = self._parent(folder)
        try:
            with suppress(FileExistsError):
                os.mkdir(name, stat.S_IMODE(os.fstat(parent).st_mode) & _BITS, dir_fd=parent)
            os.close(os.open(name, OPEN | os.O_DIRECTORY, dir_fd=parent))
        finally:
            os.close(parent)

    def _drop(self, folder: str) -> None:
        """A folder that the effect has emptied goes, if one like it would be made again when something comes into it."""
        try:
            parent, name = self._parent(folder)
            try:
                if _made_again(os.stat(name, dir_fd=parent, follow_symlinks=False), os.fstat(parent)):
                    os.rmdir(name, dir_fd=parent)
            finally:
                os.close(parent)
        except OSError as error:
            if error.errno not in {*_GONE, errno.ENOTEMPTY, errno.EEXIST}:
                raise

    def _check(self, change: Change) -> None:
        """All is there in the end, by a way through no link."""
        there = look(self._root, change.path)
        if there != change.after and not (change.after is None and there == FOLDER):
            raise _StopError(change.path, "it was changed meanwhile")

    def _sync(self) -> None:
        folders = {""} | {folder for item in self._steps.numbered for folder in above(item.change.path)[-1:]}
        if len(folders) > FEW:
            sync_file_system_of(self._root)
            return
        os.fsync(self._staging.handle)
        for folder in folders:
            with suppress(FileNotFoundError, NotADirectoryError):
                handle = open_below(self._root, folder.split("/") if folder else [], os.O_DIRECTORY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)

    def _parent(self, path: str) -> tuple[int, str]:
        *parts, name = path.split("/")
        return open_below(self._root, parts, os.O_DIRECTORY), name


def _made_again(folder: os.stat_result, outer: os.stat_result) -> bool:
    """Would the broker make a folder as it is in the one that it lies in? Otherwise its owner or permissions would be lost."""
    group = outer.st_gid if outer.st_mode & stat.S_ISGID else os.getegid()
    bits = stat.S_IMODE(outer.st_mode) & _BITS & ~_umask()
    return (folder.st_uid, folder.st_gid, stat.S_IMODE(folder.st_mode) & _BITS) == (os.geteuid(), group, bits)


def _umask() -> int:
    # Asking the kernel by setting another would be seen by all threads meanwhile.
    with Path("/proc/self/status").open(encoding="ascii", errors="replace") as lines:
        return next((int(line.split()[1], 8) for line in lines if line.startswith("Umask:")), 0o077)
