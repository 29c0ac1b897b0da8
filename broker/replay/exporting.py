"""Writes a scratch tree into a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from broker.domain.tree import Entry, TreeFile
from broker.errors import ConflictError
from broker.replay.rebuilding import Sources
from broker.tree_folder.writing import FolderWriter
from broker.workspace.files import ObjectFiles
from broker.workspace.objects import in_thread


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: files and links, and bytes of the files."""

    files: int
    bytes: int


def check_empty(folder: Path) -> None:
    """Refuses early a folder that isn't empty; it is looked at again when it is written.

    Raises:
        ConflictError: ``FOLDER_NOT_EMPTY``: something is there, or in it.
    """
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ConflictError(
            f"{folder} isn't a new or an empty folder",
            reason="FOLDER_NOT_EMPTY",
            hint="Name a new folder: nothing is overwritten.",
        )


async def export(sources: Sources, state: str, folder: Path, *, unsafe_links: bool = False) -> Exported:
    """Writes a state of a tree into a new or empty folder; links come last, and none that leads out of the tree.

    Args:
        sources: has the scratch objects.
        state: the state.
        folder: where to.
        unsafe_links: write links, too, that lead out of the tree.

    Raises:
        ConflictError, InvalidArgumentError, NotFoundError: as ``FolderWriter``.
        DataLossError: a part of the tree is missing or has other bytes.
    """
    entries = await sources.trees.select(state, ("**",))
    await in_thread(_write, sources.objects.files, entries, folder, unsafe_links)
    size = sum(entry.size for entry in entries.values() if isinstance(entry, TreeFile))
    return Exported(len(entries), size)


def _write(files: ObjectFiles, entries: dict[str, Entry], folder: Path, unsafe_links: bool) -> None:  # noqa: FBT001 - by position through a thread
    with FolderWriter(folder, entries, allow_links_out=unsafe_links) as writer:
        for path, entry in entries.items():
            if isinstance(entry, TreeFile):
                writer.write(path, entry, files.pieces(entry.digest))
