"""Folders of the broker's host in and out of the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from broker.domain.tree import Entry, TreeFile, TreeLink
from broker.errors import NotFoundError
from broker.tree_folder.reading import MAX_BYTES, MAX_FILES, FolderReader, FoundLink
from broker.tree_folder.writing import FolderWriter
from broker.workspace.files import Batch, ObjectFiles
from broker.workspace.objects import Objects, in_thread
from broker.workspace.trees import Trees


@dataclass(frozen=True, slots=True)
class Imported:
    """What a folder held, its bytes durable in the store; and its empty folders, which no tree keeps."""

    entries: Mapping[str, Entry]
    empty: tuple[str, ...]


async def import_folder(
    objects: Objects, folder: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES
) -> Imported:
    """Takes all that is in a folder into the store; ``Trees.of`` makes a state of it.

    Args:
        objects: where the bytes go.
        folder: the folder itself, not a link to it.
        max_files: files and links that it may hold.
        max_bytes: bytes that they may have.

    Raises:
        NotFoundError: ``FOLDER_MISSING``.
        InvalidArgumentError: ``FOLDER_UNFIT``: something in it can't be kept; ``violations`` names the first paths.
        ResourceExhaustedError: ``FOLDER_TOO_LARGE``.
        ConflictError: ``FOLDER_CHANGED``: it was changed while it was read.
    """
    return await in_thread(_import, objects.files, folder, max_files, max_bytes)


async def export(
    objects: Objects, root: str, into: Path, *, under: str = "", allow_links_out: bool = False
) -> Mapping[str, Entry]:
    """Writes a state into a new or empty folder; gives what was written.

    Args:
        objects: where the state is.
        root: the state.
        into: a new or empty folder, and no link.
        under: write only what fits this pattern; empty for all.
        allow_links_out: write links, too, that lead out of the tree; see ``FolderWriter``.

    Raises:
        NotFoundError: ``PATH_MISSING``: nothing fits ``under``.
        DataLossError: ``TREE_DAMAGED``.
        InvalidArgumentError, ConflictError: as ``FolderWriter``.
    """
    entries = await Trees(objects).select(root, [under or "**"])
    if under and not entries:
        raise NotFoundError(f"nothing in the tree fits {under!a}", reason="PATH_MISSING")
    await in_thread(_export, objects.files, entries, into, allow_links_out=allow_links_out)
    return entries


def _import(files: ObjectFiles, folder: Path, max_files: int, max_bytes: int) -> Imported:
    entries: dict[str, Entry] = {}
    with FolderReader(folder, max_files=max_files, max_bytes=max_bytes) as reader, Batch(files) as batch:
        survey = reader.survey()
        for item in survey.found:
            if isinstance(item, FoundLink):
                entries[item.path] = TreeLink(item.target)
            else:
                entries[item.path] = TreeFile(*batch.put(reader.read(item)), item.mode)
    return Imported(entries, survey.empty)


def _export(files: ObjectFiles, entries: Mapping[str, Entry], into: Path, *, allow_links_out: bool) -> None:
    with FolderWriter(into, entries, allow_links_out=allow_links_out) as writer:
        for path, entry in entries.items():
            if isinstance(entry, TreeFile):
                writer.write(path, entry, files.pieces(entry.digest))
