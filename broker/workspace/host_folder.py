"""A directory of the host as a workspace's tree: what is in it now, as a state among the others.

Reading again costs a look at each name, and the bytes of what has changed. The state is of one moment: it is looked at
until two looks, one after the other, find the same.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from broker.domain.tree import Effect, Entry, TreeFile, TreeLink, bad_target
from broker.errors import (
    BrokerError,
    ConflictError,
    DataLossError,
    FailedPreconditionError,
    FieldViolation,
    InternalError,
)
from broker.private_file import PRIVATE, read_private, replace
from broker.tree_folder.memory import Memory, decode, encode
from broker.tree_folder.reading import NAMED, OPEN, FoundFile, open_below, read_found
from broker.tree_folder.scanning import Scan, scan
from broker.workspace.files import Batch
from broker.workspace.objects import Objects, in_thread
from broker.workspace.trees import Trees

_LOOKS = 6
"""How often it is looked at until two looks agree."""
_KEEP_AFTER = 256
"""What is remembered is kept in its file after so many files were read, or a twentieth of all."""
_MOST_MEMORY = 1 << 30


class HostFolder:
    """One directory. For one task at a time; each method but ``opened`` leaves the event loop to others.

    Args:
        workspace: whose tree it is.
        folder: absolute; no part of it is a link.
        kept: file in which is kept what is remembered of it.
        objects: where the bytes go.
        trees: the states.
        max_files: files and links that it may hold.
        max_bytes: bytes that they may have.
    """

    def __init__(
        self,
        workspace: str,
        folder: Path,
        kept: Path,
        objects: Objects,
        trees: Trees,
        *,
        max_files: int,
        max_bytes: int,
    ) -> None:
        self.workspace = workspace
        self.folder = folder
        self._kept = kept
        self._objects = objects
        self._trees = trees
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._pinned: tuple[int, int] | None = None
        self._memory: Memory | None = None
        self._unkept = 0

    async def read(self, known: str) -> str:
        """The state of what is there; durable.

        Args:
            known: the workspace's last known state; empty for none. A state with the same files is that very one.

        Raises:
            FailedPreconditionError: ``FOLDER_MISSING``, ``FOLDER_REPLACED``, ``FOLDER_EMPTY``; ``FOLDER_UNFIT``, where
                ``violations`` names the first paths; or ``FOLDER_BUSY``: others keep changing it.
            ResourceExhaustedError: ``FOLDER_TOO_LARGE``.
            DataLossError: ``TREE_DAMAGED``.
        """
        await in_thread(self._look)
        try:
            return await self._state(known)
        except (ConflictError, DataLossError):
            # What is remembered isn't what the state holds, or its bytes are no longer kept.
            self._memory = None
        await in_thread(self._look)
        return await self._state(known)

    async def applied(self, state: str, effect: Effect) -> None:
        """The broker itself has put an effect there, on the state that was read last, and that made this state."""
        if self._memory is not None:
            self._memory.applied(state, effect)
            await in_thread(self._keep, enough=_KEEP_AFTER)

    async def close(self) -> None:
        """Keeps what is remembered, for the next start."""
        await in_thread(self._keep, enough=1)

    @contextmanager
    def opened(self) -> Iterator[int]:
        """The directory, open; it is the very one that was opened the first time.

        Raises:
            FailedPreconditionError: ``FOLDER_MISSING``, ``FOLDER_REPLACED``.
        """
        try:
            slash = os.open("/", OPEN | os.O_DIRECTORY)
            try:
                root = open_below(slash, list(self.folder.parts[1:]), os.O_DIRECTORY)
            finally:
                os.close(slash)
        except OSError as error:
            raise self._failed("FOLDER_MISSING", f"can't be opened: {error.strerror}") from error
        try:
            self._pin(os.fstat(root))
            yield root
        finally:
            os.close(root)

    def _pin(self, facts: os.stat_result) -> None:
        found = facts.st_dev, facts.st_ino
        if self._pinned is None:
            self._pinned = found
        if self._pinned != found:
            raise self._failed(
                "FOLDER_REPLACED",
                "is another one than when the broker started",
                "If a file system should be mounted there, mount it. If the other one is meant, restart the broker.",
            )

    def _look(self) -> None:
        with self.opened() as root:
            facts = os.fstat(root)
            memory = self._remembered((facts.st_dev, facts.st_ino))
            for _ in range(_LOOKS):
                now = time.time_ns()
                found = self._scan(root, memory)
                if memory.take(found, self._read(root, found, memory.suspects(found)), now):
                    self._keep(enough=max(_KEEP_AFTER, len(memory.entries) // 20))
                    return
        raise self._failed(
            "FOLDER_BUSY", "is changed all the time", "Nothing was changed. Try again when others leave it alone."
        )

    def _remembered(self, root: tuple[int, int]) -> Memory:
        if self._memory is None:
            try:
                data = read_private(self._kept, what="memory of a directory", most_bytes=_MOST_MEMORY, missing="")
                self._memory = decode(data)
            except BrokerError:
                self._memory = None  # all is read again
        if self._memory is None or self._memory.root != root:
            self._memory = Memory(root)
        return self._memory

    def _scan(self, root: int, memory: Memory) -> Scan:
        try:
            found = scan(root, memory.seen, max_files=self._max_files, max_bytes=self._max_bytes)
        except OSError as error:
            raise self._failed("FOLDER_MISSING", f"can't be read: {error.strerror}") from error
        if found.refused:
            raise self._unfit(found.refused)
        return found

    def _read(self, root: int, found: Scan, paths: list[str]) -> dict[str, Entry | None]:
        """What lies at some paths, the bytes durable; ``None`` where it was changed meanwhile."""
        entries: dict[str, Entry | None] = {}
        refused: dict[str, str] = {}
        device = os.fstat(root).st_dev
        with Batch(self._objects.files) as batch:
            for path in paths:
                inode, size, _, changed, mode = found.found[path]
                try:
                    if stat.S_ISLNK(mode):
                        target = _target(root, path)
                        entries[path] = TreeLink(target)
                        if wrong := bad_target(target):
                            refused[path] = wrong
                        continue
                    file = FoundFile(path, stat.S_IMODE(mode), size, (device, inode, changed))
                    entries[path] = TreeFile(*batch.put(read_found(root, file)), file.mode)
                except (ConflictError, OSError) as error:
                    if isinstance(error.__cause__, PermissionError):
                        refused[path] = "can't be read by the broker"
                    entries[path] = None
        if refused:
            raise self._unfit(refused)
        self._unkept += len(paths)
        return entries

    async def _state(self, known: str) -> str:
        memory, trees = self._memory, self._trees
        if memory is None:
            raise InternalError("a directory's state is asked for before it was looked at")
        if known and not memory.entries and (await trees.size(known)).files:
            raise self._failed(
                "FOLDER_EMPTY",
                "is empty, and wasn't before",
                "If a file system should be mounted there, mount it. If it is to be empty, put a file there first.",
            )
        if not known or memory.state != known:
            memory.rebase(known, await trees.select(known, ("**",)) if known else {})
        if not known:
            state = await trees.of(memory.entries)
        else:
            effect = memory.changes
            state = await trees.apply(known, effect) if effect.changes else known
        memory.settled(state)
        return state

    def _keep(self, *, enough: int) -> None:
        if self._memory is not None and self._unkept >= enough:
            replace(self._kept, encode(self._memory), mode=PRIVATE)
            self._unkept = 0

    def _unfit(self, refused: Mapping[str, str]) -> FailedPreconditionError:
        shown = {path.encode("utf-8", "backslashreplace").decode(): why for path, why in sorted(refused.items())}
        first = next(iter(shown))
        more = f", and {len(shown) - 1} more" if len(shown) > 1 else ""
        return FailedPreconditionError(
            f"the directory of workspace {self.workspace} can't be taken as it is: {first!a} {shown[first]}{more}",
            reason="FOLDER_UNFIT",
            metadata={"refused": str(len(shown))},
            hint="Only plain files and symbolic links with portable names are taken. Nothing was changed.",
            violations=tuple(FieldViolation(path, shown[path]) for path in list(shown)[:NAMED]),
        )

    def _failed(
        self, reason: str, why: str, hint: str = "`broker doctor` on its host says more."
    ) -> FailedPreconditionError:
        return FailedPreconditionError(f"the directory of workspace {self.workspace} {why}", reason=reason, hint=hint)


def _target(root: int, path: str) -> str:
    *parts, name = path.split("/")
    folder = open_below(root, parts, os.O_DIRECTORY)
    try:
        return os.readlink(name, dir_fd=folder)
    finally:
        os.close(folder)
