"""Brings a tree into a workspace: whole, in place of the state that its sender has seen, and on record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from broker.approvals.freezing import check_frozen
from broker.domain.canonical import JsonObject
from broker.domain.identity import Caller, IdentityKind
from broker.domain.ports import Transaction
from broker.domain.tree import Effect, Entry, TreeFile
from broker.domain.tree_ports import TreeState
from broker.domain.tree_stream import MAX_PIECE, Announced, Bound, Intake, Piece, Total
from broker.errors import (
    ConflictError,
    DataLossError,
    DeadlineError,
    FailedPreconditionError,
    InvalidArgumentError,
    PermissionDeniedError,
)
from broker.identity.names import stamp
from broker.pipeline.parts import Parts
from broker.workspace.objects import ObjectBatch

IMPORT_S = 1800.0
"""How long an import may take: what nothing names yet is swept away an hour after it came."""
ENTRY_TYPE = "workspace.imported"

Incoming = AsyncIterator[Piece | Total]
"""Pieces, and last what they add up to."""


class Importer:
    """Takes trees from people.

    Args:
        parts: the broker's.
        over_tree: may an import replace a tree once the two-person rule is in force?
    """

    def __init__(self, parts: Parts, *, over_tree: bool) -> None:
        self._parts = parts
        self._over_tree = over_tree

    async def replace(self, caller: Caller, workspace: str, *, expected: str, incoming: Incoming) -> TreeState:
        """Puts a tree in place of ``expected`` (empty: the workspace has none yet), and gives what stands then. Where it
        is the very tree that stands already, nothing changes and nothing is recorded.

        Raises:
            PermissionDeniedError: not a human (``NOT_A_HUMAN``); ``IMPORT_OVER_TREE``.
            ConflictError: ``STATE_MOVED``; ``metadata`` has ``expected`` and ``present``.
            FailedPreconditionError: ``FROZEN``; ``FOLDER_BOUND``: the tree is a directory of the host.
            InvalidArgumentError, ResourceExhaustedError: what came is no sound tree, as ``Intake`` says, or didn't come
                whole (``IMPORT_INCOMPLETE``).
            DeadlineError: it took too long (``IMPORT_TOO_SLOW``).
        """
        if caller.identity.kind is not IdentityKind.HUMAN:
            raise PermissionDeniedError(
                "only people import trees; an agent changes files by calls",
                reason="NOT_A_HUMAN",
                hint="Let one of those who look after the workspace import it.",
            )
        if workspace in self._parts.folders.bound:
            raise FailedPreconditionError(
                f"the files of {workspace} are a directory of the broker's host: nothing is imported over them",
                reason="FOLDER_BOUND",
                hint="Change them there, or by calls. The setting `workspace_folders` binds it.",
            )
        # Asked now, so that nobody sends gigabytes in vain, and again in the step that counts.
        await self._parts.store.read(self._parts.desk.agreement.read_on)
        await self._parts.store.read(lambda tx: self._check(tx, caller, workspace, expected))
        try:
            async with asyncio.timeout(IMPORT_S):
                made = await self._make(expected, incoming)
        except TimeoutError as error:
            raise DeadlineError(
                f"the import took longer than {IMPORT_S:g} seconds; nothing of it counts",
                reason="IMPORT_TOO_SLOW",
                hint="Import it from nearer by, or a smaller tree.",
            ) from error
        size = await self._parts.trees.size(made)
        body: JsonObject = {"workspace": workspace, "by": caller.identity.id, "base": expected, "after": made}

        def work(tx: Transaction) -> TreeState:
            standing = self._check(tx, caller, workspace, expected)
            if standing is not None and standing.state == made:
                return standing
            now = self._parts.clock()
            whole: JsonObject = {**body, "files": size.files, "bytes": size.bytes, "at": stamp(now)}
            seq = self._parts.ledger.append(tx, ENTRY_TYPE, whole)
            tx.trees.move(workspace, expected, made, seq, now)
            return TreeState(workspace, made, seq, now)

        return await self._parts.store.write(work)

    def _check(self, tx: Transaction, caller: Caller, workspace: str, expected: str) -> TreeState | None:
        """Lets an import begin, or count, and gives what it replaces."""
        check_frozen(
            tx,
            agent=caller.identity.id,
            tool="",
            workspace=workspace,
            known=self._parts.desk.agreement.frozen(),
        )
        standing = tx.trees.get(workspace)
        found = "" if standing is None else standing.state
        if found != expected:
            raise _moved(workspace, expected, found)
        if standing is not None and not self._over_tree and self._parts.desk.founded(tx):
            raise PermissionDeniedError(
                f"{workspace} has a tree, and the two-person rule is in force: an import would change all of it on one"
                " person's word",
                reason="IMPORT_OVER_TREE",
                hint="Change it by calls, which people approve. The setting `unsafe_import_over_tree` lifts this.",
                metadata={"setting": "unsafe_import_over_tree", "present": found},
            )
        return standing

    async def _make(self, expected: str, incoming: Incoming) -> str:
        bounds = self._parts.bounds
        intake = Intake(Bound(bounds.workspace_max_files, bounds.workspace_max_bytes))
        async with self._parts.objects.batch() as batch:
            entries = await _take(intake, incoming, batch)
        trees = self._parts.trees
        if not expected:
            return await trees.of(entries)
        effect = await asyncio.to_thread(Effect.between, await trees.select(expected, ("**",)), entries)
        return await trees.apply(expected, effect)


async def _take(intake: Intake, incoming: Incoming, batch: ObjectBatch) -> Mapping[str, Entry]:
    async for item in incoming:
        match item:
            case Announced(path, entry):
                intake.announce(item)
                if isinstance(entry, TreeFile):
                    await _store(intake, path, entry.size, incoming, batch)
            case Total():
                entries = await asyncio.to_thread(intake.end, item)
                async for _ in incoming:  # nothing may follow; its source refuses what does
                    pass
                return entries
            case _:
                intake.take(item)  # bytes of no file: refused there
    raise _incomplete()


async def _store(intake: Intake, path: str, size: int, incoming: Incoming, batch: ObjectBatch) -> None:
    """Stores the bytes of the file that was announced last."""
    content = _content(intake, incoming)
    if size <= MAX_PIECE:
        digest, _ = await batch.put_bytes(b"".join([piece async for piece in content]))
    else:
        digest, _ = await batch.put(content)
    found = intake.entries.get(path)
    if not isinstance(found, TreeFile) or found.digest != digest:
        raise DataLossError(f"the bytes of {path!a} are stored as others than came", reason="TREE_DAMAGED")


async def _content(intake: Intake, incoming: Incoming) -> AsyncGenerator[bytes, None]:
    while intake.missing:
        match item := await anext(incoming, None):
            case None:
                raise _incomplete()
            case Announced():
                intake.announce(item)  # before the file is whole: refused there
            case Total():
                intake.end(item)
            case _:
                intake.take(item)
                yield item


def _moved(workspace: str, expected: str, found: str) -> ConflictError:
    now = f"is {found}" if found else "has no tree"
    seen = f"not {expected}" if expected else "and was to have none yet"
    return ConflictError(
        f"{workspace} {now}, {seen}; nothing was imported",
        reason="STATE_MOVED",
        hint="Look at what is there now: broker workspaces show; then name the present state.",
        metadata={"expected": expected, "present": found},
    )


def _incomplete() -> InvalidArgumentError:
    return InvalidArgumentError(
        "the import ended before its end came; nothing of it counts",
        reason="IMPORT_INCOMPLETE",
        hint="Send all pieces, then ImportWorkspaceRequest.end, then half-close.",
    )
