"""Compares a ledger with its newest checkpoint: is it what was signed, and has it only grown since?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from broker.domain.canonical import JsonObject
from broker.domain.ports import LedgerTable, Transaction
from broker.errors import DataLossError
from broker.ledger.encoding import NotCanonicalError, decode
from broker.ledger.tree import Tree
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.key_history import KEY_ENTRIES, KeyHistory, KeyHistoryError, Recovered
from broker.tlog.note import Note, NoteError, VerifierKey

_PAGE: Final = 1000
_TYPES: Final = KEY_ENTRIES | {"heads"}
_LIKELY = re.compile(rb'"type":"(?:' + "|".join(map(re.escape, sorted(_TYPES))).encode() + rb')"')
Root = Callable[[int], bytes]
MOST_KEPT: Final = 10_000
"""Checkpoints of a store, newest first, that are compared where part of a history is given up."""
_RECOVER = (
    "Restore the newer one. If it is lost for good, `broker ledger recover` takes this ledger into service and puts the"
    " loss on record."
)


class Course:
    """What a ledger says of its own checkpoints, read once and then only what is new: keys, recoveries, last heads.

    Feed it from transactions whose entries are durable: what it has read it never forgets.
    """

    def __init__(self) -> None:
        self.keys = KeyHistory()
        self.size = 0
        """Entries read."""
        self.heads: tuple[int, ...] = ()
        """Numbers of the last two ``heads`` entries, the later one last."""
        self.due = 0
        """Of at least so many entries a checkpoint was kept, by what the ledger says; 0: it says of none.

        ``heads`` begins a checkpoint, and the one begun before was kept first. A key is replaced or revoked only right
        after a checkpoint was kept. A recovery ends with one of its own entry.
        """
        self._since = 0

    @property
    def recovered(self) -> Recovered | None:
        """The last recovery."""
        return self.keys.recovered[-1] if self.keys.recovered else None

    def read(self, tx: Transaction) -> None:
        """Reads the entries that are new.

        Raises:
            DataLossError: ``LEDGER_DAMAGED``, ``KEY_HISTORY_BROKEN``.
        """
        while page := tx.ledger.entries(self.size, _PAGE):
            for row in page:
                if _LIKELY.search(row.data):
                    self._take(tx.ledger, row.seq, _decoded(row.seq, row.data))
                self.size = row.seq + 1

    @property
    def gone_on(self) -> bool:
        """Was a checkpoint kept since the last recovery, by what the ledger says?"""
        return self.recovered is not None and self._since > self.recovered.seq

    def pending(self, after: int) -> int | None:
        """The last ``heads`` entry, if no checkpoint of ``after`` entries covers it."""
        return next((seq for seq in self.heads[-1:] if seq >= after), None)

    def _take(self, table: LedgerTable, seq: int, entry: JsonObject) -> None:
        kind = entry.get("type")
        if kind == "heads":
            self._kept(self.heads[-1] + 1 if self.heads else 0)
            self.heads = (*self.heads[-1:], seq)
        elif kind in KEY_ENTRIES:
            try:
                self.keys.entry(entry, Tree(table, seq).root)
            except KeyHistoryError as error:
                raise DataLossError(
                    f"entry {seq} of the ledger, {kind}, breaks the history of its keys: {error}",
                    reason="KEY_HISTORY_BROKEN",
                    hint="Run `broker ledger verify`, keep the file and restore a backup.",
                ) from error
            if kind == "recovered":
                # Not ``_since``: one that was cut off has its entry, and not its checkpoint.
                self.due = seq + 1
            elif kind != "genesis":
                self._kept(seq)

    def _kept(self, size: int) -> None:
        self._since = max(self._since, size)
        self.due = max(self.due, size)


def new_heads(tx: Transaction, first: int) -> int | None:
    """Number of a ``heads`` entry from ``first`` on; reads, and remembers nothing.

    Raises:
        DataLossError: ``LEDGER_DAMAGED``.
    """
    while page := tx.ledger.entries(first, _PAGE):
        for row in page:
            if _LIKELY.search(row.data) and _decoded(row.seq, row.data).get("type") == "heads":
                return row.seq
        first = page[-1].seq + 1
    return None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a ledger stands to its newest checkpoint, which fits it."""

    size: int
    """Entries of the ledger."""
    checkpoint: Checkpoint | None
    """The newest; ``None`` where there is none yet."""
    lost_from: int | None
    """The newest is of a history that was given up from this entry on, by a recovery on record."""
    pending: int | None
    """A ``heads`` entry for which a checkpoint was begun and not kept."""

    @property
    def covered(self) -> bool:
        """Is nothing to be done?"""
        return self.lost_from is None and self.size == (0 if self.checkpoint is None else self.checkpoint.size)


def compare(
    tx: Transaction,
    course: Course,
    note: Note | None,
    own: VerifierKey,
    root: Root | None = None,
    *,
    kept: Sequence[Note] = (),
) -> Standing:
    """Compares, in O(log n) beside what is new in the ledger, and that for each of ``kept``.

    Args:
        tx: a transaction.
        course: of this ledger; it is read up to its end.
        note: the newest checkpoint, read before ``tx`` began.
        own: the key that this broker signs with.
        root: gives the root of the ledger's first so many entries; by default from the tree kept beside them.
        kept: the other checkpoints of the store, read before ``tx`` began: those of what isn't lost must fit as well.

    Raises:
        DataLossError: ``LEDGER_BEHIND_CHECKPOINT``, ``LEDGER_FORKED``, ``CHECKPOINT_KEY``, ``CHECKPOINT_FOREIGN``,
            ``CHECKPOINTS_MISSING``, ``LEDGER_DAMAGED``, ``KEY_HISTORY_BROKEN``.
    """
    course.read(tx)
    root = cache(root or (lambda size: Tree(tx.ledger, size).root()))
    checkpoint = None if note is None else _parsed(note)
    asked = {_parsed(item).size for item in kept} | ({checkpoint.size} if checkpoint is not None and kept else set())
    for size in sorted(asked):
        if 0 < size <= course.size:
            root(size)  # in growing order: some can only be asked so
    recovered = course.recovered
    lost = recovered if recovered is not None and names(recovered, checkpoint) else None
    _check_kept(course, kept, own, checkpoint, root)
    if lost is not None:
        _check_own(course, own)
        if course.gone_on:
            raise _missing(course.size, checkpoint)
        return Standing(course.size, checkpoint, lost.first, course.pending(lost.seq + 1))
    if note is not None and checkpoint is not None:
        _check_fits(course, note, checkpoint, own, root)
    base = 0 if checkpoint is None else checkpoint.size
    if base < course.due:
        raise _missing(course.size, checkpoint)
    return Standing(course.size, checkpoint, None, course.pending(base))


def names(recovered: Recovered, checkpoint: Checkpoint | None) -> bool:
    """Is it the very checkpoint that a recovery gives as proof of the loss?"""
    # Where nothing proved the loss, the recovery's checkpoint is of the ledger itself, which must fit like any other.
    return not recovered.unproved and recovered.checkpoint == checkpoint


def _check_own(course: Course, own: VerifierKey) -> None:
    if own in {item.key for item in course.keys.keys if not item.revoked}:
        return
    raise DataLossError(
        f"the ledger says that its newest checkpoint is lost, but never names this broker's key, {own}, or as one revoked",
        reason="CHECKPOINT_KEY",
        hint="Ledger and keys belong together: look at both (`broker ledger keys`), and restore those of one backup.",
    )


def _check_kept(course: Course, kept: Sequence[Note], own: VerifierKey, newest: Checkpoint | None, root: Root) -> None:
    """Those that were kept are not given up with what came after them, and none is larger than the newest."""
    recovered = course.recovered
    lost = recovered if recovered is not None and names(recovered, newest) else None
    until = course.size if lost is None else lost.first
    for note in kept:
        checkpoint = _parsed(note)
        try:
            course.keys.check(note, (own,))
        except NoteError:
            continue  # signed by somebody else, or only by a key that was revoked since: it says nothing
        if newest is None or checkpoint.size > newest.size:
            raise _missing(course.size, newest)
        if 0 < checkpoint.size <= until and root(checkpoint.size) != checkpoint.root:
            raise forked(course.size, checkpoint)


def _check_fits(course: Course, note: Note, checkpoint: Checkpoint, own: VerifierKey, root: Root) -> None:
    size = course.size
    sizes = {"ledger_size": str(size), "checkpoint_size": str(checkpoint.size)}
    if checkpoint.origin != course.keys.origin:
        raise DataLossError(
            f"the newest checkpoint is of another ledger, {checkpoint.origin!a}, not of {course.keys.origin!a}",
            reason="CHECKPOINT_FOREIGN",
            hint="Give each ledger a folder of its own (setting checkpoint_dir), and restore the right one.",
            metadata=sizes,
        )
    try:
        course.keys.check(note, (own,))
    except NoteError as error:
        behind = "; the ledger may be of before a change of keys" if checkpoint.size > size else ""
        raise DataLossError(
            f"the newest checkpoint, of {checkpoint.size} entries, isn't signed as this ledger of {size} entries demands:"
            f" {error}{behind}",
            reason="CHECKPOINT_KEY",
            hint=f"Look who wrote it, and which key this broker has (`broker ledger keys`). {_RECOVER}",
            metadata=sizes,
        ) from error
    if checkpoint.size > size:
        raise DataLossError(
            f"the ledger has {size} entries, but a checkpoint of {checkpoint.size} was signed: the last"
            f" {checkpoint.size - size} are missing. Probably an older backup was restored.",
            reason="LEDGER_BEHIND_CHECKPOINT",
            hint=_RECOVER,
            metadata=sizes,
        )
    if root(checkpoint.size) != checkpoint.root:
        raise forked(size, checkpoint)


def forked(size: int, checkpoint: Checkpoint) -> DataLossError:
    """The error of a ledger that isn't what was signed."""
    return DataLossError(
        f"the first {checkpoint.size} of the ledger's {size} entries are not those that a checkpoint was signed over."
        " Probably an older backup was restored and written to, or entries were changed.",
        reason="LEDGER_FORKED",
        hint=_RECOVER,
        metadata={"ledger_size": str(size), "checkpoint_size": str(checkpoint.size)},
    )


def _missing(size: int, checkpoint: Checkpoint | None) -> DataLossError:
    there = "there is none" if checkpoint is None else f"the newest has {checkpoint.size} entries"
    return DataLossError(
        f"the ledger of {size} entries has later checkpoints on record than are kept: {there}. Probably their folder was"
        " lost, isn't mounted, or was restored from an older backup.",
        reason="CHECKPOINTS_MISSING",
        hint="Restore the folder of checkpoints (setting checkpoint_dir; outside holders have them too), or run"
        " `broker ledger recover`.",
        metadata={"ledger_size": str(size), "checkpoint_size": "" if checkpoint is None else str(checkpoint.size)},
    )


def _parsed(note: Note) -> Checkpoint:
    try:
        return Checkpoint.parse(note.text)
    except NoteError as error:
        raise DataLossError(f"the newest checkpoint is none: {error}", reason="CHECKPOINT_DAMAGED") from error


def _decoded(seq: int, data: bytes) -> JsonObject:
    try:
        return decode(data)
    except NotCanonicalError as error:
        raise DataLossError(
            f"entry {seq} of the ledger can't be read: {error}",
            reason="LEDGER_DAMAGED",
            hint="Run `broker ledger verify`, keep the file and restore a backup.",
        ) from error
