"""The trees of workspaces: people bring them in and take them out; whoever may see one looks at it.

An import is taken whole or not at all: what came of one that ended early is named by nothing, and swept away later. It
replaces the state that its sender has seen, and no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from broker.domain.call import PolicyRequest
from broker.domain.identity import Caller
from broker.domain.paths import check_path
from broker.domain.ports import Transaction
from broker.domain.tier import Tier
from broker.domain.tree import Effect, Entry, TreeFile
from broker.domain.tree_ports import TreeState
from broker.domain.tree_stream import MAX_PIECE, Announced, Piece, Total
from broker.errors import DataLossError, NotFoundError
from broker.pipeline.drilling import Drill, drill
from broker.pipeline.parts import Parts
from broker.pipeline.taking_back import Preview, preview

_ALL = ("**",)


@dataclass(frozen=True, slots=True)
class Standing:
    """A workspace's tree as it stands."""

    workspace: str
    state: str
    files: int
    size: int
    """Bytes of all files."""
    seq: int
    """Number of the ledger entry of its last change."""
    changed: datetime
    call: str
    """The call that changed it last; empty where it was brought in, or found changed."""
    in_place: bool
    """Is it a directory of the broker's host?"""


@dataclass(frozen=True, slots=True)
class Difference:
    """Two states, and what makes the second one of the first."""

    before: str
    after: str
    effect: Effect
    renames: Mapping[str, str]
    """New path -> old path."""


@dataclass(frozen=True, slots=True)
class Export:
    """What is taken out of a tree."""

    state: str
    entries: Mapping[str, Entry]
    """In the order of the paths' bytes."""
    total: Total


class WorkspaceTrees:
    """Looks at trees and takes them out. Who may use it in which workspace is decided before it is asked.

    Args:
        parts: the broker's.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._seen: tuple[tuple[str, tuple[str, ...]], Mapping[str, Entry]] | None = None
        self._compared: Difference | None = None

    async def list(self, caller: Caller, method: str, *, after: str, limit: int) -> Sequence[Standing]:
        """Trees of the workspaces in which the policy lets the caller use ``method``, by the names that follow ``after``."""
        snapshot = self._parts.policy.snapshot

        def may(workspace: str) -> bool:
            return snapshot.decide(PolicyRequest(caller.subject, workspace, method, "rpc", Tier.INTERNAL)).allowed

        def work(tx: Transaction) -> list[tuple[TreeState, str]]:
            states = (item for item in tx.trees.all() if item.workspace > after and may(item.workspace))
            return [(item, _last_call(tx, item)) for item, _ in zip(states, range(limit), strict=False)]

        return [await self.standing(item, call) for item, call in await self._parts.store.read(work)]

    async def get(self, workspace: str) -> Standing:
        """A tree as it stands.

        Raises:
            NotFoundError: the workspace has none (``TREE_UNKNOWN``).
        """
        await self._parts.folders.look(workspace)

        def work(tx: Transaction) -> tuple[TreeState, str]:
            found = present(tx, workspace)
            return found, _last_call(tx, found)

        return await self.standing(*await self._parts.store.read(work))

    async def standing(self, item: TreeState, call: str) -> Standing:
        """A row of the table with the size of its tree."""
        size = await self._parts.trees.size(item.state)
        in_place = item.workspace in self._parts.folders.bound
        return Standing(item.workspace, item.state, size.files, size.bytes, item.seq, item.changed, call, in_place)

    async def entries(self, workspace: str, state: str, patterns: Sequence[str]) -> tuple[str, Mapping[str, Entry]]:
        """The state that was looked at, and what of it fits patterns (none: all), in the order of the paths' bytes.

        Raises:
            InvalidArgumentError: a pattern is none (``PATH_INVALID``).
            NotFoundError: ``TREE_UNKNOWN``, ``STATE_UNKNOWN``.
        """
        for number, pattern in enumerate(patterns):
            check_path(pattern, f"patterns[{number}]")
        if not state:
            await self._parts.folders.look(workspace)
        chosen = await self._parts.store.read(lambda tx: _state(tx, workspace, state))
        key = (chosen, tuple(patterns) or _ALL)
        if self._seen is None or self._seen[0] != key:  # a list is asked for page by page, and a state never changes
            self._seen = key, await self._parts.trees.select(*key)
        return chosen, self._seen[1]

    async def diff(self, workspace: str, before: str, after: str) -> Difference:
        """What differs between two states; an empty one is the present state.

        Raises:
            NotFoundError: ``TREE_UNKNOWN``, ``STATE_UNKNOWN``.
        """

        def work(tx: Transaction) -> tuple[str, str]:
            return _state(tx, workspace, before), _state(tx, workspace, after)

        if not (before and after):
            await self._parts.folders.look(workspace)
        key = await self._parts.store.read(work)
        found = self._compared  # asked for page by page, as a list is
        if found is None or (found.before, found.after) != key:
            effect = await self._parts.trees.diff(*key)
            self._compared = found = Difference(*key, effect, await asyncio.to_thread(effect.renames))
        return found

    async def export(self, workspace: str, state: str, patterns: Sequence[str]) -> Export:
        """What there is to be taken out.

        Raises:
            BrokerError: as ``entries``.
        """
        chosen, entries = await self.entries(workspace, state, patterns)
        return Export(chosen, entries, await asyncio.to_thread(Total.of, entries))

    async def pieces(self, export: Export) -> AsyncGenerator[Piece, None]:
        """All of an export, in order.

        Raises:
            DataLossError: ``TREE_DAMAGED``: a file's bytes are missing, or others.
        """
        for path, entry in export.entries.items():
            yield Announced(path, entry)
            if isinstance(entry, TreeFile) and entry.size:
                size = 0
                async for data in self._parts.objects.open(entry.digest):
                    size += len(data)
                    for piece in _cut(data):
                        yield piece
                if size != entry.size:
                    raise DataLossError(
                        f"the file {path!a} has {size} bytes instead of {entry.size}", reason="TREE_DAMAGED"
                    )

    async def plan_undo(self, workspace: str, call: str, *, cascade: bool) -> Preview:
        """What taking a call back would do now; see ``taking_back.preview``."""
        return await preview(self._parts, workspace, call, cascade=cascade)

    async def drill(self, caller: Caller, workspace: str, sample: int) -> Drill:
        """Tries rollback artifacts; see ``drilling.drill``."""
        return await drill(self._parts, caller, workspace, sample)


def present(tx: Transaction, workspace: str) -> TreeState:
    """A workspace's state.

    Raises:
        NotFoundError: it has no tree (``TREE_UNKNOWN``).
    """
    found = tx.trees.get(workspace)
    if found is None:
        raise NotFoundError(
            f"the workspace {workspace} has no tree",
            reason="TREE_UNKNOWN",
            hint="Bring one in: broker workspaces import --help",
        )
    return found


def _state(tx: Transaction, workspace: str, state: str) -> str:
    """A state that this workspace has, or had before or after an effect; no other workspace's is told from none."""
    now = present(tx, workspace).state
    if state in {"", now} or tx.trees.knows(workspace, state):
        return state or now
    raise NotFoundError(
        f"{state[:80]!a} is no state of {workspace} that an effect names",
        reason="STATE_UNKNOWN",
        hint="`broker workspaces show` has the present one.",
    )


def _last_call(tx: Transaction, item: TreeState) -> str:
    """The call whose effect was the last change; empty where that was an import."""
    return next(
        (effect.call for effect in tx.trees.effects(item.workspace, item.seq - 1) if effect.seq == item.seq), ""
    )


def _cut(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), MAX_PIECE):
        yield data[start : start + MAX_PIECE]
