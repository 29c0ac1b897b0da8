"""Writes an evidence bundle: what a stranger needs to check a ledger, or a part of it, without the broker.

All of it is read in one transaction, and ends at the newest checkpoint: entries after that are not yet proved by anything,
so none is in a bundle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from typing import IO

from broker.domain.canonical import JsonObject, JsonValue, canonical
from broker.domain.ports import StoredEntry, Transaction, Vault
from broker.errors import DataLossError, FailedPreconditionError, NotFoundError
from broker.ledger import bundle_evidence, dsse
from broker.ledger.bundle_approvals import ApprovalTexts, Disclose
from broker.ledger.bundle_evidence import CUSTODY, NAMES, Evidence
from broker.ledger.bundle_format import (
    CONSISTENCY,
    ENTRIES,
    ENVELOPE,
    FORMAT,
    HEADS,
    KEYS,
    MANIFEST,
    MAX_EXTRACT,
    PAYLOAD_TYPE,
    README,
    VERIFIER,
    Selection,
    is_key_entry,
    keys_file,
    readme,
)
from broker.ledger.bundle_heads import find_heads, heads_file
from broker.ledger.bundle_texts import NamedTexts, kept_texts
from broker.ledger.bundle_zip import BundleZip
from broker.ledger.encoding import encode
from broker.ledger.entry import timestamp
from broker.ledger.signer import Signer
from broker.ledger.tree import Tree
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.key_history import KeyHistory, KeyHistoryError
from broker.tlog.merkle import CompactRange, leaf_hash
from broker.tlog.note import Note, NoteError, encode_base64
from broker.tlog.proof import TlogProof

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Kept:
    """What is exported beside the ledger itself.

    ``notes`` are the kept checkpoints, largest first; ``older_left_out``: there are more of them.
    """

    notes: Sequence[Note]
    vault: Vault
    signer: Signer
    software: str
    made: datetime
    older_left_out: bool = False
    approvals: Disclose | None = None
    """Gives what is kept of an approval; ``None`` where that isn't to be in the bundle."""
    evidence: Evidence | None = None
    """What an incident's bundle has beside the selected entries; ``None`` for a bundle of the ledger."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a bundle holds. ``not_proved`` are entries of the ledger after the checkpoint, which are in no bundle."""

    kind: str
    origin: str
    entries: int
    selected: int
    first: int | None
    last: int | None
    size: int
    root: str
    files: int
    not_proved: int
    absent: dict[str, list[str]]


def write_bundle(stream: IO[bytes], tx: Transaction, selection: Selection, kept: Kept) -> Written:
    """Writes a bundle as a ZIP file, in one transaction.

    Args:
        stream: a new file, open for writing.
        tx: a transaction.
        selection: which entries.
        kept: checkpoints, vault, and who signs.

    Raises:
        FailedPreconditionError: ``NO_CHECKPOINT``, ``CHECKPOINT_KEY_OTHER``, ``NO_HEADS``, ``EXTRACT_TOO_LARGE``,
            ``RANGE_NOT_PROVED``, and why.
        NotFoundError: ``NOTHING_SELECTED``.
        DataLossError: ``LEDGER_BEHIND``, ``LEDGER_FORKED``: the ledger isn't the one that its checkpoint is of;
            ``LEDGER_DAMAGED``.
    """
    _check_notes(kept)
    archive = BundleZip(stream)
    with closing(archive):
        return _Writer(archive, tx, selection, kept).write()


@dataclass(slots=True)
class _Counts:
    entries: int = 0
    selected: int = 0
    first: int | None = None
    last: int | None = None
    selected_seqs: set[int] = field(default_factory=set)


class _Writer:
    def __init__(self, archive: BundleZip, tx: Transaction, selection: Selection, kept: Kept) -> None:
        self._zip = archive
        self._tx = tx
        self._selection = selection
        self._kept = kept
        self._newest = kept.notes[0]
        self._checkpoint = Checkpoint.parse(self._newest.text)
        self._tree = Tree(tx.ledger, self._checkpoint.size)
        self._history = KeyHistory()
        self._named = NamedTexts()
        self._counts = _Counts()
        self._absent: dict[str, list[str]] = {"policy": [], "specs": [], "files": []}
        self._approvals = None if kept.approvals is None else ApprovalTexts(kept.approvals)
        evidence = kept.evidence
        self._beside_selected = frozenset[int]() if evidence is None else evidence.numbers
        """Numbers of entries that are there though they aren't selected."""
        self._told = frozenset[int]() if evidence is None else evidence.told
        self._head_of = selection.agent
        if evidence is not None and evidence.span is not None and evidence.span.heads:
            self._head_of = evidence.span.agent

    def write(self) -> Written:
        head = self._tx.ledger.head()
        ahead = 0 if head is None else head.seq + 1 - self._checkpoint.size
        if head is None or ahead < 0:
            raise _other_ledger("LEDGER_BEHIND", f"has fewer entries than its checkpoint of {self._checkpoint.size}")
        if self._tree.root() != self._checkpoint.root:
            raise _other_ledger("LEDGER_FORKED", f"isn't the one of its checkpoint of {self._checkpoint.size} entries")
        if self._selection.last is not None and self._selection.last >= self._checkpoint.size:
            raise FailedPreconditionError(
                f"entry {self._selection.last} is not proved by a checkpoint yet: the newest has "
                f"{self._checkpoint.size} entries",
                reason="RANGE_NOT_PROVED",
                hint=f"End the range at entry {self._checkpoint.size - 1}, or wait for the next checkpoint.",
            )
        if self._selection.full:
            self._whole()
        else:
            self._extract()
        self._check_keys()
        self._beside()
        self._sealed()
        counts = self._counts
        return Written(
            kind=self._kind,
            origin=self._checkpoint.origin,
            entries=counts.entries,
            selected=counts.selected,
            first=counts.first,
            last=counts.last,
            size=self._checkpoint.size,
            root=self._checkpoint.root.hex(),
            files=len(self._zip.files) + 2,
            not_proved=ahead,
            absent=self._absent,
        )

    @property
    def _kind(self) -> str:
        return "full" if self._selection.full else "extract"

    def _whole(self) -> None:
        tree = CompactRange()
        with self._zip.member(ENTRIES) as member:
            for row in self._rows():
                self._take(row, selected=True)
                tree.append(leaf_hash(row.data))
                member.write(row.data + b"\n")
        if tree.root() != self._checkpoint.root:
            raise _other_ledger("LEDGER_FORKED", "has entries whose bytes aren't those of its checkpoint")

    def _extract(self) -> None:
        heads = find_heads(self._tx.ledger, self._checkpoint.size) if self._head_of else None
        found = self._selection.finder(-1 if heads is None else heads.seq)
        selected: dict[int, bool] = {}
        for row in self._rows():
            hit = found(row.seq, row.data) and (heads is None or row.seq < heads.seq)
            if (
                hit
                or row.seq in self._beside_selected
                or is_key_entry(row.data)
                or (heads is not None and row.seq == heads.seq)
            ):
                selected[row.seq] = hit
            if len(selected) > MAX_EXTRACT:
                raise FailedPreconditionError(
                    f"the extract would have more than {MAX_EXTRACT} entries",
                    reason="EXTRACT_TOO_LARGE",
                    hint="Export the whole ledger, or a smaller range.",
                )
        if not self._head_of and not any(selected.values()):
            raise NotFoundError(
                "no entry that a checkpoint proves is about that",
                reason="NOTHING_SELECTED",
                hint="Look for it with: broker ledger show; the newest entries are proved by the next checkpoint.",
            )
        with self._zip.member(ENTRIES) as member:
            for row in self._some(selected):
                self._take(row, selected=selected[row.seq])
                member.write(row.data + b"\n")
        for seq in selected:
            proof = TlogProof(seq, self._tree.inclusion_proof(seq), self._newest)
            self._zip.add(f"proofs/{seq}.tlog-proof", proof.encode())
        self._zip.add(CONSISTENCY, canonical(self._consistency()))
        if heads is not None:
            file = heads_file(self._tx.ledger, heads, self._head_of)
            self._zip.add(HEADS, canonical(file))

    def _consistency(self) -> JsonObject:
        """Proofs that older checkpoints, kept or in an entry of the key history, are beginnings of the newest."""
        sizes = {Checkpoint.parse(note.text).size for note in self._kept.notes[1:]}
        sizes |= {item.from_size - 1 for item in self._history.keys[1:]}  # the ones of a handing over
        sizes |= {item.seq for item in self._history.recovered}  # and those of a recovery's statement
        return {
            str(size): [encode_base64(item) for item in self._tree.consistency_proof(size)] for size in sorted(sizes)
        }

    def _take(self, row: StoredEntry, *, selected: bool) -> None:
        entry: JsonObject = json.loads(row.data)
        self._named.entry(entry)
        if self._approvals is not None:
            self._approvals.entry(entry, told=selected or row.seq in self._told)
        if is_key_entry(row.data):
            try:
                self._history.entry(entry)
            except KeyHistoryError as error:
                raise _damaged(f"entry {row.seq} breaks the key history: {error}") from error
        counts = self._counts
        counts.entries += 1
        if selected:
            counts.selected += 1
            counts.first = row.seq if counts.first is None else counts.first
            counts.last = row.seq

    def _check_keys(self) -> None:
        signer = self._kept.signer.key
        try:
            if self._history.keys:
                self._history.check(self._newest)
                right = self._history.key_for(self._checkpoint.size) == signer
            else:
                right = True
        except NoteError as error:
            raise _damaged(f"its newest checkpoint doesn't count: {error}") from error
        if not right:
            raise FailedPreconditionError(
                "the signer's key isn't the one that the newest checkpoint must be signed by",
                reason="CHECKPOINT_KEY_OTHER",
                hint="The broker publishes one after a rotation; start it, then try again.",
            )

    def _beside(self) -> None:
        for note in reversed(self._kept.notes):
            size = Checkpoint.parse(note.text).size
            self._zip.add(f"checkpoints/{size:016d}.note", note.encode())
        self._zip.add(KEYS, canonical(keys_file(self._history)))
        for name, text in kept_texts(self._tx, self._kept.vault, self._named, self._absent):
            self._zip.add(name, text)
        if self._approvals is not None:
            evidence = self._kept.evidence
            for name, text in self._approvals.members(self._tx, () if evidence is None else evidence.redacted):
                self._zip.add(name, text)
            self._absent["approvals"] = self._approvals.absent
        self._zip.add(VERIFIER, resources.files("broker.ledger").joinpath(VERIFIER).read_bytes())
        self._zip.add(README, readme(self._checkpoint.origin, full=self._selection.full))

    def _evidence(self, checkpoint: JsonObject, made: JsonObject) -> JsonObject:
        """Writes what only an incident's bundle has; returns what its manifest says more."""
        evidence = self._kept.evidence
        if evidence is None:
            return {}
        if evidence.names is not None:
            self._zip.add(NAMES, canonical(evidence.names))
        custody = evidence.custody(
            origin=self._checkpoint.origin, checkpoint=checkpoint, at=str(made["at"]), software=str(made["by"])
        )
        self._zip.add(CUSTODY, canonical(custody))
        withheld: list[JsonValue] = [] if self._approvals is None else [*self._approvals.withheld]
        return {**evidence.members(), "withheld": withheld}

    def _sealed(self) -> None:
        counts, checkpoint = self._counts, self._checkpoint
        signed: JsonObject = {"size": checkpoint.size, "root": checkpoint.root.hex()}
        made: JsonObject = {"at": timestamp(self._kept.made), "by": self._kept.software}
        ours = self._kept.evidence is not None
        manifest: JsonObject = {
            **self._evidence(signed, made),
            "format": bundle_evidence.FORMAT if ours else FORMAT,
            "kind": self._kind,
            "origin": checkpoint.origin,
            "selected": self._selection.members(),
            "entries": {
                "count": counts.entries,
                "selected": counts.selected,
                "first": counts.first,
                "last": counts.last,
            },
            "checkpoint": {**signed, "older_left_out": self._kept.older_left_out},
            "absent": {kind: list(digests) for kind, digests in self._absent.items()},
            "files": dict(self._zip.files),
            "made": made,
        }
        data = encode(manifest)
        signer = self._kept.signer
        self._zip.add(MANIFEST, data)
        self._zip.add(
            ENVELOPE, dsse.seal(bundle_evidence.PAYLOAD_TYPE if ours else PAYLOAD_TYPE, data, signer.key, signer.sign)
        )

    def _rows(self) -> Iterator[StoredEntry]:
        """The entries that the checkpoint proves."""
        first, size = 0, self._checkpoint.size
        while first < size:
            page = self._tx.ledger.entries(first, min(_PAGE, size - first))
            for row in page:
                if row.seq != first:
                    raise _damaged(f"entry {first} is missing")
                yield row
                first += 1
            if not page:
                raise _damaged(f"entry {first} is missing")

    def _some(self, seqs: dict[int, bool]) -> Iterator[StoredEntry]:
        """The entries of these numbers (ascending); neighbours are read together."""
        wanted = list(seqs)
        at = 0
        while at < len(wanted):
            end = at + 1
            while end < len(wanted) and end - at < _PAGE and wanted[end] == wanted[end - 1] + 1:
                end += 1
            yield from self._tx.ledger.entries(wanted[at], end - at)
            at = end


def _check_notes(kept: Kept) -> None:
    if not kept.notes:
        raise FailedPreconditionError(
            "the ledger has no checkpoint yet, so nothing in it can be proved",
            reason="NO_CHECKPOINT",
            hint="Start the broker: it publishes one at once, and then in its interval.",
        )


def _other_ledger(reason: str, why: str) -> DataLossError:
    return DataLossError(
        f"the ledger {why}",
        reason=reason,
        hint="Run `broker ledger verify`; keep the ledger and its checkpoints as they are.",
    )


def _damaged(why: str) -> DataLossError:
    return DataLossError(
        f"the ledger is damaged: {why}",
        reason="LEDGER_DAMAGED",
        hint="Run `broker ledger verify`, then restore a backup.",
    )
