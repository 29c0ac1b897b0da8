"""The ledger as the client gives it: entries, checkpoints and proofs, as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from broker.domain.canonical import JsonObject, parse_object
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import Note
from broker.tlog.proof import TlogProof

_MAX_ENTRY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One entry, as the broker showed it; only ``AsyncLedger.prove`` shows that it is in the log."""

    seq: int
    leaf: bytes
    """SHA-256(0x00 || data), 32 bytes; checked."""
    data: bytes
    """The very bytes that were hashed: RFC 8785 text."""
    type: str
    time: datetime | None
    """``None`` where the entry's own time can't be read."""
    agent: str
    """By id; empty where the entry is about no agent."""
    call: str
    """``calls/...``; empty where the entry is about none."""

    @property
    def body(self) -> JsonObject:
        """All members.

        Raises:
            InvalidArgumentError: the bytes are no JSON object.
        """
        return parse_object(self.data, field="entry", max_bytes=_MAX_ENTRY_BYTES)


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries; all the fields that are set must fit. Times need a zone."""

    types: tuple[str, ...] = ()
    """Any of these."""
    agent: str = ""
    """By id or by name."""
    call: str = ""
    workspace: str = ""
    tool: str = ""
    time_from: datetime | None = None
    time_before: datetime | None = None
    first_seq: int = 0
    before_seq: int = 0
    """0 sets no bound."""


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """A checkpoint that the ledger's key signed, of the same history as all that this client has seen."""

    note: Note
    checkpoint: Checkpoint

    @property
    def size(self) -> int:
        """Number of entries that it covers."""
        return self.checkpoint.size

    @property
    def text(self) -> str:
        """The note as it is published."""
        return self.note.encode().decode()


@dataclass(frozen=True, slots=True)
class ProvenEntry:
    """An entry that is in the log of a checkpoint; verified."""

    entry: LedgerEntry
    proof: TlogProof
    checkpoint: Checkpoint

    @property
    def file(self) -> bytes:
        """The proof as a ``.tlog-proof`` file, which any C2SP tool can check."""
        return self.proof.encode()


@dataclass(frozen=True, slots=True)
class ProvenGrowth:
    """That the log of a checkpoint begins with all that it held at an earlier size; verified."""

    old_size: int
    old_root: bytes
    hashes: tuple[bytes, ...]
    checkpoint: VerifiedCheckpoint


@dataclass(frozen=True, slots=True)
class ProvenAgentHead:
    """With which entry an agent's own chain ended before a ``heads`` entry; verified."""

    agent: str
    """By id."""
    seq: int | None
    """Number of that entry in the agent's own chain; ``None``: it had none."""
    leaf: bytes | None
    """Its leaf hash, 32 bytes."""
    heads: ProvenEntry
