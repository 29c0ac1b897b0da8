"""What the program gets that puts pre-images back: the shipped tool ``workspace.undo``.

It runs when an artifact is tried, before that counts, and again in each undo: what was rehearsed is what runs. It works on a
copy and decides nothing; what it changed is compared with what it had to change.
"""

from __future__ import annotations

from broker.domain.canonical import canonical
from broker.domain.tree import RESERVED, Effect, Entry, TreeFile

UNDO_TOOL = "workspace.undo"
"""The shipped tool."""

KEPT = RESERVED
"""Folder in the sandbox with the pre-images, each under the hexadecimal digits of its digest; no tree may have it."""

CHANGES = f"{KEPT}/changes"
"""The file with what is to be changed."""


def changes_file(back: Effect) -> bytes:
    """What ``CHANGES`` holds."""
    return canonical(back.body())


def restore_entries(back: Effect) -> dict[str, Entry]:
    """What has to lie in the working folder beside ``CHANGES``: what is to be changed as it is now, and the pre-images."""
    found: dict[str, Entry] = {change.path: change.before for change in back.changes if change.before is not None}
    for change in back.changes:
        if isinstance(change.after, TreeFile):
            content = change.after
            found[f"{KEPT}/{content.digest.partition(':')[2]}"] = TreeFile(content.digest, content.size, 0o444)
    return found
