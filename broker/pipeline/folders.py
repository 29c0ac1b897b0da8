"""Directories of the host that are workspaces' trees: what is in one becomes the workspace's state, on record, when somebody
asks for it; and nobody else of this broker uses one while an effect is put there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import structlog

from broker.domain.canonical import JsonObject
from broker.domain.ports import Recorder, Store, Transaction
from broker.errors import BrokerError, FailedPreconditionError, InternalError
from broker.identity.names import stamp
from broker.tree_folder.journal import JournalFile
from broker.workspace.host_folder import HostFolder
from broker.workspace.trees import Trees

ENTRY_TYPE = "workspace.imported"
BY, REASON = "broker", "host directory"
"""``by`` and ``reason`` of the entry that says what was found in a directory."""

_log = structlog.get_logger(__name__)


class BoundFolder:
    """One directory, for whoever has it to themselves: see ``Folders.held``."""

    def __init__(self, folders: Folders, host: HostFolder, journal: JournalFile) -> None:
        self._folders = folders
        self.host = host
        self.journal = journal
        self.lock = asyncio.Lock()
        self.read_at = float("-inf")
        """When it was last read; by the loop's clock, before the reading."""

    @property
    def workspace(self) -> str:
        """Whose tree it is."""
        return self.host.workspace

    async def present(self, asked_at: float | None = None) -> str:
        """The workspace's state, which is that of the directory now; on record where it is another than before.

        Args:
            asked_at: a time of the loop's clock; what was read since then is not read again.

        Raises:
            FailedPreconditionError: ``FOLDER_UNSETTLED``: an effect on it was cut.
            BrokerError: as ``HostFolder.read``.
        """
        if self.journal.there:
            raise FailedPreconditionError(
                f"an effect on the directory of workspace {self.workspace} was cut half-way",
                reason="FOLDER_UNSETTLED",
                hint="The next start of the broker goes on with it; look at its log.",
            )
        folders = self._folders
        known = await folders.known(self.workspace)
        if asked_at is not None and self.read_at >= asked_at and known:
            return known
        began = asyncio.get_running_loop().time()
        found = await self.host.read(known)
        if found != known:
            await folders.found(self.workspace, known, found)
        self.read_at = began
        return found


class Folders:
    """All directories that are bound.

    Args:
        store: where states are kept.
        ledger: where what was found is recorded.
        trees: the states.
        clock: the time.
        hosts: the directories.
        journals: folder of the broker's own in which the journals lie.
    """

    def __init__(
        self,
        *,
        store: Store,
        ledger: Recorder,
        trees: Trees,
        clock: Callable[[], datetime],
        hosts: Iterable[HostFolder],
        journals: Path,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._trees = trees
        self._clock = clock
        bound = (BoundFolder(self, host, JournalFile(journals / f"{host.workspace}.journal")) for host in hosts)
        self.bound: Mapping[str, BoundFolder] = {folder.workspace: folder for folder in bound}
        """By workspace."""

    async def state(self, workspace: str) -> str:
        """A workspace's state; where its tree is a directory, as that is now. Empty where it has no tree.

        Raises:
            BrokerError: as ``BoundFolder.present``.
        """
        folder = self.bound.get(workspace)
        if folder is None:
            return await self.known(workspace)
        asked = asyncio.get_running_loop().time()
        async with folder.lock:
            return await folder.present(asked)

    async def look(self, workspace: str) -> None:
        """Brings a workspace whose tree is a directory up to date; does nothing about any other.

        Raises:
            BrokerError: as ``BoundFolder.present``.
        """
        if workspace in self.bound:
            await self.state(workspace)

    @asynccontextmanager
    async def held(self, workspace: str) -> AsyncIterator[BoundFolder | None]:
        """A workspace's directory, which nobody else uses until the block ends; ``None`` where its tree is none."""
        folder = self.bound.get(workspace)
        if folder is None:
            yield None
            return
        async with folder.lock:
            yield folder

    async def read_all(self) -> None:
        """Reads each directory, at a start; of one that can't be read the log says so, and calls are refused."""
        for workspace in sorted(self.bound):
            try:
                await self.state(workspace)
            except BrokerError as error:
                _log.error("folder.unread", workspace=workspace, reason=error.reason, error=error.message)

    async def close(self) -> None:
        """Keeps what is remembered of each, for the next start."""
        for folder in self.bound.values():
            async with folder.lock:
                await folder.host.close()

    async def known(self, workspace: str) -> str:
        """A workspace's last known state; empty where it has none."""
        return await self._store.read(lambda tx: tx.trees.state(workspace))

    async def found(self, workspace: str, known: str, found: str) -> None:
        """Puts on record that a directory isn't as it was known."""
        size = await self._trees.size(found)

        def work(tx: Transaction) -> None:
            if tx.trees.state(workspace) != known:
                raise InternalError(f"the state of workspace {workspace} was changed by somebody else of this broker")
            now = self._clock()
            body: JsonObject = {
                "workspace": workspace,
                "by": BY,
                "reason": REASON,
                "base": known,
                "after": found,
                "files": size.files,
                "bytes": size.bytes,
                "at": stamp(now),
            }
            tx.trees.move(workspace, known, found, self._ledger.append(tx, ENTRY_TYPE, body), now)

        await self._store.write(work)
        _log.info("folder.changed", workspace=workspace, files=size.files, bytes=size.bytes)
