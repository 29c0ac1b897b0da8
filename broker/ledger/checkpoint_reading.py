"""Checkpoints by size, for those who prove something to a client."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.errors import DataLossError, UnavailableError
from broker.ledger.checkpoint_store import DirectoryCheckpoints
from broker.ledger.whole_file import NotWholeError, read_whole
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import Note, NoteError


class CheckpointsBySize:
    """Reads the folder of a ``DirectoryCheckpoints``; nothing is ever written.

    Args:
        folder: as that of the store.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = DirectoryCheckpoints(folder)

    async def latest(self) -> Note | None:
        """The newest checkpoint; errors are those of ``CheckpointStore.latest``."""
        return await self._store.latest()

    async def at(self, size: int) -> Note | None:
        """The checkpoint of a size; ``None`` where there is none.

        Raises:
            DataLossError: ``CHECKPOINT_DAMAGED``.
            UnavailableError: ``CHECKPOINT_STORE_FAILED``.
        """
        return await asyncio.to_thread(self._read, self._folder / f"{size:016d}.note", size)

    def _read(self, path: Path, size: int) -> Note | None:
        try:
            data = read_whole(path)
            if data is None:
                return None
            note = Note.parse(data)
            found = Checkpoint.parse(note.text)
        except (NoteError, NotWholeError) as error:
            raise _damaged(path, str(error)) from error
        except OSError as error:
            raise UnavailableError(
                f"the checkpoint {path} can't be read: {error.strerror or type(error).__name__}",
                reason="CHECKPOINT_STORE_FAILED",
                hint="Look at the folder, its owner and its disk; the setting checkpoint_dir names another.",
            ) from error
        if found.size != size:
            raise _damaged(path, f"it is of {found.size} entries")
        return note


def _damaged(path: Path, why: str) -> DataLossError:
    return DataLossError(
        f"the checkpoint {path} is damaged: {why}",
        reason="CHECKPOINT_DAMAGED",
        hint="Keep the folder as it is and restore it from a copy; outside holders have the checkpoints too.",
    )
