"""Checkpoints and proofs for the Ledger service: which checkpoint is meant, and what is proved in its tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from broker.domain.canonical import JsonObject
from broker.domain.ports import EntryQuery, Head, LedgerTable
from broker.errors import DataLossError, FailedPreconditionError, NotFoundError
from broker.ledger.reading import ReadEntry, heads_at, newest
from broker.ledger.tree import Tree
from broker.rpc import wire
from broker.tlog.agent_map import AgentMap
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import Note, NoteError
from broker.tlog.proof import TlogProof


class CheckpointReader(Protocol):
    """Where the log's checkpoints are kept, apart from the ledger."""

    async def latest(self) -> Note | None:
        """The newest; ``None`` where there is none yet."""

    async def at(self, size: int) -> Note | None:
        """That of a size; ``None`` where there is none, or none any more."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """The checkpoint that a proof leads to."""

    note: Note
    checkpoint: Checkpoint

    @property
    def size(self) -> int:
        """Number of entries that it covers."""
        return self.checkpoint.size


@dataclass(frozen=True, slots=True)
class AgentHead:
    """Where an agent's chain ends by a ``heads`` entry, and the map's proof of it; no head where it has no entry."""

    heads: ReadEntry
    head: Head | None
    proof: JsonObject


async def anchor(checkpoints: CheckpointReader, size: int | None) -> Anchor:
    """The checkpoint of a size, or the latest.

    Raises:
        NotFoundError: ``CHECKPOINT_NOT_FOUND``; the hint says for which size there is one.
        DataLossError: ``CHECKPOINT_DAMAGED``.
    """
    latest = await checkpoints.latest()
    note = latest if size is None else await checkpoints.at(size)
    if note is None:
        if latest is None:
            raise NotFoundError(
                "the ledger has no checkpoint yet",
                reason="CHECKPOINT_NOT_FOUND",
                hint="The broker signs the first soon after its start; ask again.",
            )
        last = _parse(latest).size
        raise NotFoundError(
            f"there is no checkpoint of {size} entries, and nothing is proved for a size without one",
            reason="CHECKPOINT_NOT_FOUND",
            hint=f"The latest is checkpoints/{last}; GetCheckpoint gives it.",
            metadata={"latest_size": str(last)},
        )
    return Anchor(note, _parse(note))


def _parse(note: Note) -> Checkpoint:
    try:
        return Checkpoint.parse(note.text)
    except NoteError as error:
        raise DataLossError(f"a kept checkpoint can't be read: {error}", reason="CHECKPOINT_DAMAGED") from error


def tree_of(table: LedgerTable, found: Anchor) -> Tree:
    """The tree that a checkpoint is about.

    Raises:
        DataLossError: ``LEDGER_BEHIND_CHECKPOINT``: the ledger has fewer entries.
    """
    head = table.head()
    entries = 0 if head is None else head.seq + 1
    if entries < found.size:
        raise DataLossError(
            f"the ledger has {entries} entries, and a checkpoint covers {found.size}: entries were lost",
            reason="LEDGER_BEHIND_CHECKPOINT",
            hint="Run `broker ledger verify` on the broker's host; an old backup may be in its place.",
        )
    return Tree(table, found.size)


def inclusion(table: LedgerTable, found: Anchor, seq: int) -> TlogProof:
    """The proof that an entry is in a checkpoint's tree.

    Raises:
        FailedPreconditionError: ``ENTRY_NOT_COVERED``: the entry is newer than the checkpoint.
        DataLossError: as ``tree_of``.
    """
    if seq >= found.size:
        raise FailedPreconditionError(
            f"entry {seq} is not covered by the checkpoint of {found.size} entries",
            reason="ENTRY_NOT_COVERED",
            hint="Ask again once a later checkpoint has been signed.",
            metadata={"checkpoint_size": str(found.size)},
        )
    return TlogProof(seq, tree_of(table, found).inclusion_proof(seq), found.note)


def consistency(table: LedgerTable, found: Anchor, old_size: int) -> tuple[bytes, ...]:
    """The hashes that show that the first ``old_size`` entries are the beginning of a checkpoint's tree.

    Raises:
        InvalidArgumentError: the old size is none, or is larger than the checkpoint's.
        DataLossError: as ``tree_of``.
    """
    if not 1 <= old_size <= found.size:
        raise wire.refuse("old_size", f"must be from 1 to {found.size}, the size of the checkpoint")
    return tree_of(table, found).consistency_proof(old_size)


class AgentHeads:
    """Proofs of where agents' chains end; the map of one ``heads`` entry is kept for the next question."""

    def __init__(self) -> None:
        self._kept: tuple[int, AgentMap, dict[str, Head]] | None = None

    def prove(self, table: LedgerTable, found: Anchor, agent: str) -> AgentHead:
        """Where an agent's chain ends by the last ``heads`` entry that a checkpoint covers.

        Raises:
            NotFoundError: ``HEADS_NOT_FOUND``: the checkpoint covers no such entry.
            DataLossError: ``LEDGER_DAMAGED``: the entries give another root than the ``heads`` entry holds.
        """
        heads = newest(table, EntryQuery(types=frozenset({"heads"}), before=found.size))
        if heads is None:
            raise NotFoundError(
                f"no `heads` entry is among the {found.size} entries of the checkpoint",
                reason="HEADS_NOT_FOUND",
                hint="The broker writes one before each checkpoint; ask for the latest.",
            )
        agents, known = self._map(table, heads)
        return AgentHead(heads, known.get(agent), agents.prove(agent))

    def _map(self, table: LedgerTable, heads: ReadEntry) -> tuple[AgentMap, dict[str, Head]]:
        kept = self._kept
        if kept is not None and kept[0] == heads.row.seq:
            return kept[1], kept[2]
        known, agents = heads_at(table, heads.row.seq), AgentMap()
        for agent, head in known.items():
            agents.set(agent, head.seq, head.leaf)
        said = heads.body.get("heads")
        if not isinstance(said, dict) or said.get("root") != agents.root().hex():
            raise DataLossError(
                f"entry {heads.row.seq} holds another map of agents than the entries before it give",
                reason="LEDGER_DAMAGED",
                hint="Run `broker ledger verify` on the broker's host.",
            )
        # `root` has hashed all of it: from here on the map is only read, by any thread.
        self._kept = (heads.row.seq, agents, known)
        return agents, known
