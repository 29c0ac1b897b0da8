"""The ledger for code without an event loop."""

from __future__ import annotations

from collections.abc import Iterator

from broker.client.ledger import AsyncLedger
from broker.client.ledger_models import (
    EntryFilter,
    LedgerEntry,
    ProvenAgentHead,
    ProvenEntry,
    ProvenGrowth,
    VerifiedCheckpoint,
)
from broker.client.loop import LoopThread
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import VerifierKey


class Ledger:
    """The ledger of a broker; ``Broker.ledger`` is one. Methods, values and errors are those of ``AsyncLedger``."""

    def __init__(self, ledger: AsyncLedger, loop: LoopThread) -> None:
        self._ledger = ledger
        self._loop = loop

    def key_for(self, size: int) -> VerifierKey:
        """The key that signs checkpoints of a size."""
        return self._ledger.key_for(size)

    def get(self, seq: int, *, timeout_s: float | None = None) -> LedgerEntry:
        """One entry by its number."""
        return self._loop.run(self._ledger.get(seq, timeout_s=timeout_s))

    def list(
        self,
        chosen: EntryFilter | None = None,
        *,
        newest_first: bool = False,
        page_size: int = 0,
        timeout_s: float | None = None,
    ) -> Iterator[LedgerEntry]:
        """Entries that the caller may see."""
        return self._loop.iterate(
            self._ledger.list(chosen, newest_first=newest_first, page_size=page_size, timeout_s=timeout_s)
        )

    def watch(self, chosen: EntryFilter | None = None, *, timeout_s: float | None = None) -> Iterator[LedgerEntry]:
        """Entries from ``first_seq`` on, and each further one once it is durable; leaving the iterator ends it."""
        return self._loop.iterate(self._ledger.watch(chosen, timeout_s=timeout_s))

    def checkpoint(self, size: int | None = None, *, timeout_s: float | None = None) -> VerifiedCheckpoint:
        """The latest checkpoint, or that of a size, verified."""
        return self._loop.run(self._ledger.checkpoint(size, timeout_s=timeout_s))

    def prove(self, seq: int, size: int | None = None, *, timeout_s: float | None = None) -> ProvenEntry:
        """An entry with the proof that it is in the log, verified."""
        return self._loop.run(self._ledger.prove(seq, size, timeout_s=timeout_s))

    def consistency(self, old: Checkpoint, size: int | None = None, *, timeout_s: float | None = None) -> ProvenGrowth:
        """That the log begins with the tree of an earlier checkpoint, verified."""
        return self._loop.run(self._ledger.consistency(old, size, timeout_s=timeout_s))

    def agent_head(
        self, agent: str = "", size: int | None = None, *, timeout_s: float | None = None
    ) -> ProvenAgentHead:
        """With which entry an agent's chain ends, verified."""
        return self._loop.run(self._ledger.agent_head(agent, size, timeout_s=timeout_s))
