"""Directories of this host that are workspaces' trees: may they be, are they there, and can the broker work in them?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from broker.app.folders import check_folders
from broker.doctor.finding import Finding, fail, ok, warn
from broker.errors import BrokerError
from broker.settings import Settings, StatePaths
from broker.tree_folder.reading import OPEN, open_below

NAME = "folders"


@dataclass(frozen=True, slots=True)
class Seen:
    """A directory as it was found."""

    workspace: str
    path: str
    missing: str = ""
    """Why it can't be opened; empty where it can."""
    writable: bool = False
    journal: bool = False
    """Is an effect on its way, or was one cut?"""
    aside: int = 0
    """Journals that could not be gone on with."""


def judge_folder(seen: Seen, *, running: bool) -> Finding:
    """What is to be said of one.

    Args:
        seen: what was found.
        running: does a broker run on the state directory?
    """
    what = f"{seen.path}, the tree of workspace {seen.workspace},"
    if seen.missing:
        return fail(
            NAME,
            f"{what} can't be opened: {seen.missing}",
            "Make or mount it; name the directory itself, since no link on the way is followed.",
        )
    if not seen.writable:
        return fail(NAME, f"{what} can't be written to by the broker's user", f"Mend its permissions: {seen.path}")
    if seen.aside:
        return warn(
            NAME,
            f"{what} has {seen.aside} journal(s) of effects that could not be gone on with",
            "Look at the broker's log and at the calls that are UNKNOWN; then remove the `.left-` files in workspace_folders.",
        )
    if seen.journal and not running:
        return warn(NAME, f"{what} has an effect that was cut half-way", "Start the broker: it goes on with it.")
    return ok(NAME, f"{what} is there and can be written to")


def probe_folders(state: Path, settings: Settings, *, running: bool) -> tuple[Finding, ...]:
    """Looks at each directory that the settings name; none where they name none."""
    paths = StatePaths(state)
    try:
        check_folders(paths, settings, settings.workspace_folders)
    except BrokerError as error:
        return (fail(NAME, error.message, error.hint),)
    found = (_look(paths.workspace_folders, name, path) for name, path in sorted(settings.workspace_folders.items()))
    return tuple(judge_folder(seen, running=running) for seen in found)


def _look(kept: Path, workspace: str, path: str) -> Seen:
    journal, aside = (kept / f"{workspace}.journal").exists(), len(list(kept.glob(f"{workspace}.left-*")))
    try:
        slash = os.open("/", OPEN | os.O_DIRECTORY)
        try:
            handle = open_below(slash, list(Path(path).parts[1:]), os.O_DIRECTORY)
        finally:
            os.close(slash)
    except OSError as error:
        return Seen(workspace, path, error.strerror or "unknown", journal=journal, aside=aside)
    try:
        writable = os.access(".", os.R_OK | os.W_OK | os.X_OK, dir_fd=handle, effective_ids=True)
    finally:
        os.close(handle)
    return Seen(workspace, path, writable=writable, journal=journal, aside=aside)
