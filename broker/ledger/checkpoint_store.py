"""Where the broker keeps its checkpoints, apart from the ledger: a folder whose newest note moves by compare-and-swap.

    latest.note                  the newest checkpoint
    <size, 16 digits>.note       each checkpoint that was ever the newest
    next.note                    one that is being made the newest; whoever comes next finishes that
    <size>.lost-<number>.note    of a history that was given up by ``broker ledger recover``

A note is staged before it becomes the newest, and all of it happens under a lock between processes. So a process that
is killed anywhere leaves the old note or the new one, never a part and never two of one size.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from heapq import nlargest
from pathlib import Path
from typing import Final, Protocol, TypeVar

from broker.errors import BrokerError, ConflictError, DataLossError, InternalError, UnavailableError
from broker.ledger.whole_file import NotWholeError, move, read_whole, sync_folder, write_whole
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import Note, NoteError

T = TypeVar("T")

_LOCK_S: Final = 30.0
_LOCK_POLL_S: Final = 0.01
_HISTORY = re.compile(r"([0-9]{16})\.note")
_KNOWN = re.compile(r"latest\.note|next\.note|[0-9]{16}(\.lost-[0-9]+)?\.note")


class CheckpointStore(Protocol):
    """Keeps signed checkpoints. What ``swap`` has taken is durable and never goes back."""

    async def latest(self) -> Note | None:
        """The newest checkpoint; ``None`` where there has never been one.

        Raises:
            DataLossError: ``CHECKPOINT_DAMAGED``: something is there that is no checkpoint.
            UnavailableError: ``CHECKPOINT_STORE_FAILED``, ``CHECKPOINT_STORE_BUSY``.
        """

    async def swap(self, old: Note | None, new: Note, *, lost_from: int | None = None) -> None:
        """Makes ``new`` the newest if ``old`` still is, byte for byte; durable on return.

        Args:
            old: what ``latest`` gave.
            new: a checkpoint of a larger size.
            lost_from: number of the first entry of a history that was given up: ``new`` may be smaller then, and the
                notes over that history are set aside.

        Raises:
            ConflictError: ``CHECKPOINT_MOVED``: somebody else was first; nothing was changed.
            DataLossError: ``CHECKPOINT_FORKED``: a checkpoint of that size, but over another tree, has been there;
                ``CHECKPOINT_DAMAGED``.
            InternalError: ``CHECKPOINT_SMALLER``.
            UnavailableError: ``CHECKPOINT_STORE_FAILED``: it may have been done or not: read before anything else.
        """

    async def replace_cosigned(self, note: Note) -> Note | None:
        """Adds the signatures of ``note`` to the kept one with the same text; none is taken away.

        Returns:
            What is kept now; ``None`` where there is no note with that text.

        Raises:
            DataLossError: ``CHECKPOINT_DAMAGED``.
            UnavailableError: ``CHECKPOINT_STORE_FAILED``, ``CHECKPOINT_STORE_BUSY``.
        """

    async def history(self, limit: int) -> Sequence[Note]:
        """Up to ``limit`` checkpoints, the largest first.

        Raises:
            DataLossError: ``CHECKPOINT_DAMAGED``.
            UnavailableError: ``CHECKPOINT_STORE_FAILED``, ``CHECKPOINT_STORE_BUSY``.
        """


class DirectoryCheckpoints:
    """A ``CheckpointStore`` in a folder, which is made at the first ``swap``. Several processes may use it.

    Args:
        folder: its own; on another file system, or another machine's, it survives what happens to the ledger.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._latest = folder / "latest.note"
        self._next = folder / "next.note"

    async def latest(self) -> Note | None:
        """See ``CheckpointStore``."""
        return await asyncio.to_thread(self.latest_sync)

    async def swap(self, old: Note | None, new: Note, *, lost_from: int | None = None) -> None:
        """See ``CheckpointStore``."""
        await asyncio.to_thread(self.swap_sync, old, new, lost_from=lost_from)

    async def replace_cosigned(self, note: Note) -> Note | None:
        """See ``CheckpointStore``."""
        return await asyncio.to_thread(self._locked, lambda: self._add_signatures(note), None)

    async def history(self, limit: int) -> Sequence[Note]:
        """See ``CheckpointStore``."""
        return await asyncio.to_thread(self._locked, lambda: self._newest(limit), ())

    def latest_sync(self) -> Note | None:
        """Like ``latest``, for programs without an event loop."""
        return self._locked(self._read_latest, None)

    def swap_sync(self, old: Note | None, new: Note, *, lost_from: int | None = None) -> None:
        """Like ``swap``, for programs without an event loop."""
        with _translated(self._folder):
            if not self._folder.is_dir():
                self._folder.mkdir(mode=0o700)
                sync_folder(self._folder.parent)
        self._locked(lambda: self._swap(old, new, lost_from), None)

    def _locked(self, work: Callable[[], T], without: T) -> T:
        with _translated(self._folder):
            if not self._folder.exists():
                return without
            with _lock(self._folder):
                return work()

    def _read_latest(self) -> Note | None:
        self._finish()
        found = self._read(self._latest)
        if found is None and any(_HISTORY.fullmatch(name) for name in self._names()):
            raise _damaged(
                self._folder,
                "it holds checkpoints, but no latest.note",
                "Copy the one with the largest number to latest.note, or restore the folder.",
            )
        return found

    def _swap(self, old: Note | None, new: Note, lost_from: int | None) -> None:
        current = self._read_latest()
        if (None if current is None else current.encode()) != (None if old is None else old.encode()):
            raise ConflictError("another checkpoint became the newest in between", reason="CHECKPOINT_MOVED")
        size = _size(new)
        if old is not None and lost_from is None and size <= _size(old):
            raise InternalError(
                f"a checkpoint of {size} entries can't follow one of {_size(old)}", reason="CHECKPOINT_SMALLER"
            )
        if lost_from is not None:
            self._set_aside(lost_from)
        kept = self._read(self._path(size))
        if kept is not None and kept.text != new.text:
            raise DataLossError(
                f"another checkpoint of {size} entries was signed before, over other entries",
                reason="CHECKPOINT_FORKED",
                hint="Keep both: together they prove that the history was rewritten. Restore the ledger that the "
                "first belongs to, or run `broker ledger recover`.",
            )
        self._write(self._next, new)
        self._finish()

    def _finish(self) -> None:
        """Ends a move that was begun, by this process or by one that was killed."""
        staged = self._read(self._next)
        if staged is None:
            return
        path = self._path(_size(staged))
        if self._read(path) is None:
            self._write(path, staged)
        move(self._next, self._latest)

    def _add_signatures(self, note: Note) -> Note | None:
        self._finish()
        path = self._path(_size(note))
        latest, kept = self._read(self._latest), self._read(path)
        result = None
        for where, found in ((path, kept), (self._latest, latest)):
            if found is None or found.text != note.text:
                continue
            result = _union(found, note)
            if result.encode() != found.encode():
                self._write(where, result)
        return result

    def _newest(self, limit: int) -> Sequence[Note]:
        self._finish()
        names = nlargest(max(limit, 0), (name for name in self._names() if _HISTORY.fullmatch(name)))
        notes = ((name, self._read(self._folder / name)) for name in names)
        result = []
        for name, note in notes:
            if note is None or self._path(_size(note)).name != name:
                raise _damaged(self._folder, f"{name} holds a checkpoint of another size")
            result.append(note)
        return result

    def _set_aside(self, lost_from: int) -> None:
        for name in self._names():
            found = _HISTORY.fullmatch(name)
            if found is None or int(found[1]) <= lost_from:
                continue
            number = 1
            while (aside := self._folder / f"{found[1]}.lost-{number}.note").exists():
                number += 1
            move(self._folder / name, aside)

    def _names(self) -> Sequence[str]:
        names = [path.name for path in self._folder.iterdir()]
        for name in names:
            if name.endswith(".note") and not name.startswith(".") and not _KNOWN.fullmatch(name):
                raise _damaged(self._folder, f"{name!r} is no file of the broker's")
        return names

    def _path(self, size: int) -> Path:
        return self._folder / f"{size:016d}.note"

    def _write(self, path: Path, note: Note) -> None:
        write_whole(path, note.encode(), beside=".draft")

    def _read(self, path: Path) -> Note | None:
        try:
            data = read_whole(path)
            if data is None:
                return None
            note = Note.parse(data)
            Checkpoint.parse(note.text)
        except (NoteError, NotWholeError) as error:
            raise _damaged(self._folder, f"{path.name} is no checkpoint: {error}") from error
        return note


def _size(note: Note) -> int:
    try:
        return Checkpoint.parse(note.text).size
    except NoteError as error:
        raise InternalError(f"what should be kept is no checkpoint: {error}", reason="CHECKPOINT_INVALID") from error


def _union(kept: Note, more: Note) -> Note:
    # One of each key: a witness that is asked again signs a later time, which says nothing more.
    result, there = kept, {(one.name, one.key_id) for one in kept.signatures}
    for signature in more.signatures:
        if (signature.name, signature.key_id) not in there:
            result = result.with_signature(signature)
    return result


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keeps other processes and threads out; a killed one lets go by itself."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        give_up = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > give_up:
                    raise UnavailableError(
                        f"another process holds the checkpoints in {folder}", reason="CHECKPOINT_STORE_BUSY"
                    ) from error
                time.sleep(_LOCK_POLL_S)
            else:
                break
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except BrokerError:
        raise
    except OSError as error:
        raise UnavailableError(
            f"the checkpoints in {folder} can't be read or written: {error.strerror or type(error).__name__}",
            reason="CHECKPOINT_STORE_FAILED",
            hint="Look at the folder, its owner and its disk; the setting checkpoint_dir names another.",
        ) from error


def _damaged(folder: Path, why: str, hint: str = "") -> DataLossError:
    return DataLossError(
        f"the checkpoints in {folder} are damaged: {why}",
        reason="CHECKPOINT_DAMAGED",
        hint=hint or "Keep the folder as it is and restore it from a copy; outside holders have the checkpoints too.",
    )
