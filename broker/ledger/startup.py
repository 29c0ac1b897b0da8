"""Checks before a broker takes calls: every entry of the ledger, and the ledger against its newest checkpoint.

None is recorded on top of something broken, and none on top of an old backup.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from broker.domain.ports import LedgerTable, Store, Transaction
from broker.errors import DataLossError
from broker.ledger.checkpoint_check import MOST_KEPT, Course, Standing, compare
from broker.ledger.checkpoint_store import CheckpointStore
from broker.ledger.tree import Tree
from broker.ledger.verdict import Report, Verdict
from broker.ledger.verifier import Row, verify
from broker.tlog.merkle import CompactRange
from broker.tlog.note import Note, VerifierKey

_PAGE = 2000
_LEAVES = 50_000
_ATTEMPTS = 3


async def verify_store(store: Store) -> Report:
    """Checks every entry of a store's ledger, off the event loop.

    Raises:
        DataLossError: ``LEDGER_NOT_VERIFIED``; names verdict and place.
    """
    report = await store.read(lambda tx: verify(_rows(tx)))
    if report.verdict not in {Verdict.OK, Verdict.RECOVERED}:  # what was lost in the open is no reason to stop
        place = report.place
        where = "" if place is None else f" at entry {place.seq}, {place.field}: {place.why}"
        raise DataLossError(
            f"the ledger doesn't verify: {report.verdict.value}{where}",
            reason="LEDGER_NOT_VERIFIED",
            hint="Keep the file as it is, look with `broker ledger verify`, and restore a backup.",
            metadata={"verdict": report.verdict.value},
        )
    return report


async def verify_checkpoints(store: Store, checkpoints: CheckpointStore, own: VerifierKey) -> Standing:
    """Compares a ledger that has verified with the newest checkpoint. Reads all leaves: what the tiles say is checked too.

    Args:
        store: of the ledger.
        checkpoints: where its checkpoints are kept.
        own: the key that this broker signs checkpoints with.

    Raises:
        DataLossError: ``LEDGER_BEHIND_CHECKPOINT``, ``LEDGER_FORKED``, ``CHECKPOINT_KEY``, ``CHECKPOINT_FOREIGN``,
            ``CHECKPOINTS_MISSING``, ``CHECKPOINT_DAMAGED``, ``LEDGER_TREE_WRONG``, ``LEDGER_DAMAGED``,
            ``KEY_HISTORY_BROKEN``.
        UnavailableError: the checkpoints can't be read.
    """
    for _ in range(_ATTEMPTS):
        note = await checkpoints.latest()
        try:
            return await _compared(store, checkpoints, note, own)
        except DataLossError:
            # Another process may have moved both between the two readings.
            if await checkpoints.latest() == note:
                raise
    return await _compared(store, checkpoints, await checkpoints.latest(), own)


async def _compared(store: Store, checkpoints: CheckpointStore, note: Note | None, own: VerifierKey) -> Standing:
    standing = await store.read(partial(_verify, note, (), own))
    if standing.lost_from is None:
        return standing
    # Part of the history is about to be given up: what was kept of the rest must stand.
    return await store.read(partial(_verify, note, tuple(await checkpoints.history(MOST_KEPT)), own))


def _verify(note: Note | None, kept: Sequence[Note], own: VerifierKey, tx: Transaction) -> Standing:
    roots = _Roots(tx.ledger)
    standing = compare(tx, Course(), note, own, roots, kept=kept)
    # What is signed from now on rests on the tiles: they must say what the leaves say.
    checked = {standing.size} if standing.checkpoint is None else {standing.size, standing.checkpoint.size}
    for size in sorted(checked):
        if size <= standing.size and roots(size) != Tree(tx.ledger, size).root():
            raise DataLossError(
                f"the tree that is kept beside the ledger isn't that of its first {size} entries",
                reason="LEDGER_TREE_WRONG",
                hint="Make it anew from the entries: broker ledger rebuild",
            )
    return standing


class _Roots:
    """Roots of the first so many leaves, from the leaves alone; ask for growing sizes."""

    def __init__(self, table: LedgerTable) -> None:
        self._table = table
        self._tree = CompactRange()
        self._known: dict[int, bytes] = {}

    def __call__(self, size: int) -> bytes:
        while self._tree.size < size:
            page = self._table.leaves(self._tree.size, min(_LEAVES, size - self._tree.size))
            if not page:
                raise DataLossError(f"the ledger has no leaf {self._tree.size}", reason="LEDGER_LEAVES_MISSING")
            for leaf in page:
                self._tree.append(leaf)
        if self._tree.size == size:
            self._known[size] = self._tree.root()
        return self._known[size]


def _rows(tx: Transaction) -> Iterator[Row]:
    first = 0
    while page := tx.ledger.entries(first, _PAGE):
        yield from (Row(item.seq, item.prev, item.leaf, item.data) for item in page)
        first = page[-1].seq + 1
