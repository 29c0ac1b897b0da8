"""The folder of workspaces' trees: is it the broker's alone, and can it write there?"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from broker.app.place import workspaces_folder
from broker.doctor.directory import Node
from broker.doctor.finding import Finding, fail, ok
from broker.settings import Settings, StatePaths

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
NAME = "workspaces"


def judge_folder(node: Node | None, *, path: Path, user: int, writable: bool) -> Finding:
    """What is to be said of the folder.

    Args:
        node: the folder as the file system describes it; ``None`` where nothing is there.
        path: where it is to be.
        user: the user id that would run the broker.
        writable: can that user make files there? Of a folder that isn't there: make it?
    """
    if node is None:
        if writable:
            return ok(NAME, f"{path} isn't there yet; the broker makes it")
        return fail(NAME, f"{path} isn't there, and can't be made", f"mkdir -m 0700 {path}; chown {user} {path}")
    wrong, mend = "", ""
    if not node.directory:
        wrong, mend = "is no folder", "Name a folder with the setting workspaces_dir."
    elif node.mode & _OTHERS:
        wrong = f"is open to others (mode {stat.S_IMODE(node.mode):04o})"
        mend = f"chmod 0700 {path}; then ask who may have read it."
    elif node.owner not in (user, 0):
        wrong, mend = f"belongs to user {node.owner}, not to {user}", f"chown -R {user} {path}"
    elif not writable:
        wrong, mend = "can't be written to", "Mend its permissions, or mount its disk for writing."
    return fail(NAME, f"{path} {wrong}", mend) if wrong else ok(NAME, f"{path} is private and can be written to")


def probe_folder(state: Path, settings: Settings) -> Finding:
    """Looks at the folder that the settings name; a link is followed, as the broker follows it."""
    path = workspaces_folder(StatePaths(state), settings)
    if not path.exists():
        return judge_folder(None, path=path, user=os.geteuid(), writable=os.access(path.parent, os.W_OK | os.X_OK))
    status = path.stat()
    node = Node(path, status.st_mode, status.st_uid, stat.S_ISDIR(status.st_mode))
    return judge_folder(node, path=path, user=os.geteuid(), writable=os.access(path, os.W_OK | os.X_OK))
