"""What lies at one path of a folder now, read anew: nothing that is remembered is believed here."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from typing import TypeAlias

from broker.domain.tree import PERMISSIONS, Entry, TreeFile, TreeLink
from broker.tree_folder.reading import KINDS, OPEN, PIECE, open_below

_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


@dataclass(frozen=True, slots=True)
class Odd:
    """Something that is no part of a state: what it is, such as ``a folder``."""

    what: str


FOLDER = Odd("a folder")
Found: TypeAlias = Entry | Odd | None
"""``None`` where nothing is, or nothing that can be come by through folders alone."""


def look(root: int, path: str) -> Found:
    """What lies at a path below an open folder. No link is followed, neither there nor on the way.

    Raises:
        OSError: it can't be read.
    """
    *parts, name = path.split("/")
    try:
        folder = open_below(root, parts, os.O_DIRECTORY)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise
    try:
        return look_at(folder, name)
    finally:
        os.close(folder)


def look_at(folder: int, name: str) -> Found:
    """The same for a name right in an open folder.

    Raises:
        OSError: it can't be read.
    """
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    match stat.S_IFMT(facts.st_mode):
        case stat.S_IFDIR:
            return FOLDER
        case stat.S_IFLNK:
            return TreeLink(os.readlink(name, dir_fd=folder))
        case stat.S_IFREG:
            return _file(folder, name)
        case kind:
            return Odd(KINDS.get(kind, "no plain file"))


def _file(folder: int, name: str) -> Found:
    handle = os.open(name, OPEN, dir_fd=folder)
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            return Odd("no plain file")
        if facts.st_nlink > 1:
            return Odd("a file that has other names, too")
        mode = stat.S_IMODE(facts.st_mode)
        if mode & ~PERMISSIONS:
            return Odd(f"a file with the mode {mode:04o}")
        found, size = hashlib.sha256(), 0
        while piece := os.read(handle, PIECE):
            found.update(piece)
            size += len(piece)
        after = os.fstat(handle)
    finally:
        os.close(handle)
    if (facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size) != (after.st_mtime_ns, after.st_ctime_ns, size):
        return Odd("a file that is being changed")
    return TreeFile(f"sha256:{found.hexdigest()}", size, mode)
