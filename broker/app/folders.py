"""Which directories of the host are workspaces' trees: what may be one, and the parts that read and write them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from broker.app.log import checkpoints_folder
from broker.app.place import workspaces_folder
from broker.domain.ports import Recorder, Store
from broker.errors import FieldViolation, InvalidArgumentError
from broker.pipeline.folders import Folders
from broker.private_file import make_private_dir
from broker.settings import Settings, StatePaths
from broker.workspace.host_folder import HostFolder
from broker.workspace.objects import Objects
from broker.workspace.trees import Trees

SETTING = "workspace_folders"


def check_folders(paths: StatePaths, settings: Settings, folders: Mapping[str, str]) -> None:
    """Lets directories pass that have nothing to do with the broker's own. Links above them are followed for that.

    Args:
        paths: the state directory.
        settings: they name the broker's other folders.
        folders: workspace -> directory.

    Raises:
        InvalidArgumentError: ``SETTINGS_INVALID``: one lies in a folder of the broker's own, or holds it.
    """
    own = {
        "the state directory": paths.root,
        "workspaces_dir": workspaces_folder(paths, settings),
        "checkpoint_dir": checkpoints_folder(paths, settings),
    }
    if settings.checkpoint_publish_dir:
        own["checkpoint_publish_dir"] = Path(settings.checkpoint_publish_dir)
    for workspace, text in sorted(folders.items()):
        for what, path in own.items():
            if _nested(Path(os.path.realpath(text)), Path(os.path.realpath(path))):
                wrong = f"binds {workspace} to {text}, which lies in {what} ({path}) or holds it"
                raise InvalidArgumentError(
                    f"the setting {SETTING} {wrong}",
                    reason="SETTINGS_INVALID",
                    violations=(FieldViolation(f"{SETTING}.{workspace}", wrong),),
                    hint="Calls would change the broker's own files. Bind another directory.",
                )


def bound_folders(
    paths: StatePaths,
    settings: Settings,
    folders: Mapping[str, str],
    *,
    store: Store,
    ledger: Recorder,
    objects: Objects,
    trees: Trees,
    clock: Callable[[], datetime],
) -> Folders:
    """The directories that are in force.

    Raises:
        InvalidArgumentError: as ``check_folders``.
    """
    check_folders(paths, settings, folders)
    kept = paths.workspace_folders
    if folders:
        make_private_dir(kept)
    hosts = [
        HostFolder(
            workspace,
            Path(folder),
            kept / f"{workspace}.memory",
            objects,
            trees,
            max_files=settings.workspace_max_files,
            max_bytes=settings.workspace_max_bytes,
        )
        for workspace, folder in sorted(folders.items())
    ]
    return Folders(store=store, ledger=ledger, trees=trees, clock=clock, hosts=hosts, journals=kept)


def _nested(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)
