"""Looks, before an effect on a folder counts, whether all is there that it starts from and each step could be taken."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from broker.domain.tree import Change
from broker.tree_folder.looking import FOLDER, Found, Odd, look
from broker.tree_folder.reading import OPEN, open_below
from broker.tree_folder.steps import Steps, above

_NO_WAY = frozenset({errno.ENOTDIR, errno.ELOOP})


def conflicts(root: int, steps: Steps) -> dict[str, str]:
    """The paths at which an effect can't begin, each with why; empty where it can. Reads every file that it replaces or
    removes.

    Args:
        root: the folder, open.
        steps: of the effect.
    """
    found = {}
    going = {item.change.path for item in steps.removals}
    yielding = set(steps.yielding)
    mount = _mount_of(root)
    for item in steps.numbered:
        path = item.change.path
        try:
            there = look(root, path)
            gives_way = item.change.before is None and there == FOLDER and path in yielding
            why = "" if gives_way else differs(item.change, there)
            why = why or (_left_in(root, path, going, yielding) if gives_way else "")
            found[path] = why or _way(root, above(path), going, mount)
        except OSError as error:
            found[path] = f"can't be read: {error.strerror}"
    return {path: why for path, why in found.items() if why}


def differs(change: Change, found: Found) -> str:
    """Why a path isn't as a change starts from; empty where it is."""
    if found == change.before:
        return ""
    match found:
        case None:
            return "it isn't there any more"
        case Odd(what):
            return f"{what} is there"
        case _:
            return "something else is there" if change.before is None else "it has changed"


def _way(root: int, folders: list[str], going: set[str], mount: str) -> str:
    """Why nothing can be changed in the innermost of some folders; empty where it can, or where they are made."""
    handle = os.dup(root)
    try:
        for folder in folders:
            try:
                inner = os.open(folder.rpartition("/")[2], OPEN | os.O_DIRECTORY, dir_fd=handle)
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno in _NO_WAY:
                    return "" if folder in going else f"{folder!a} is no folder"
                raise
            os.close(handle)
            handle = inner
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=handle, effective_ids=True):
            return "the broker may not write in its folder"
        return "" if _mount_of(handle) == mount else "it lies on another file system"
    finally:
        os.close(handle)


def _left_in(root: int, path: str, going: set[str], yielding: set[str]) -> str:
    """Why a folder can't give way to what comes in its place; empty where all that is in it goes."""
    handle = open_below(root, path.split("/"), os.O_DIRECTORY)
    try:
        with os.scandir(handle) as entries:
            for entry in entries:
                inner = f"{path}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if inner not in yielding:
                        return f"a folder is there, with the folder {entry.name!a} in it"
                    if why := _left_in(root, inner, going, yielding):
                        return why
                elif inner not in going:
                    return f"a folder is there, with {entry.name!a} in it"
    finally:
        os.close(handle)
    return ""


def _mount_of(handle: int) -> str:
    """By what the kernel knows the mount that something open lies on."""
    with Path(f"/proc/self/fdinfo/{handle}").open(encoding="ascii") as lines:
        return next((line for line in lines if line.startswith("mnt_id:")), "")
