"""Takes a ledger into service again that has lost entries: a restored backup, or a history that was replaced.

The checkpoint store remembers what was signed. What the ledger lacks of it, or has otherwise, is named by an entry
``recovered``, together with the checkpoint that shows the loss, and with a statement of it that the key in force has signed:
nobody who can only write entries gives part of a history up. Then a checkpoint of the ledger as it is now takes the
lost one's place. From then on the verifier says ``recovered``, and never ``ok`` again.

Where the checkpoints themselves are lost, nobody can say what is: the entry then names all that no kept checkpoint covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from broker.domain.canonical import JsonObject
from broker.domain.ports import Recorder, Store, Transaction
from broker.errors import FailedPreconditionError, FieldViolation, InternalError, InvalidArgumentError
from broker.ledger.checkpoint_check import MOST_KEPT, Course, compare, names
from broker.ledger.checkpoint_store import CheckpointStore
from broker.ledger.rotation import check_signer, read_history, sign_tree
from broker.ledger.signer import Signer
from broker.ledger.tree import Tree
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.key_history import KeyHistory, Recovered, recovered_line
from broker.tlog.note import Note, NoteError, VerifierKey, encode_base64, verify_note

CONFIRMED_BY = 6
"""Characters of the lost checkpoint's root that confirm a recovery."""


_LOST_HINT = (
    "Look first for a younger backup. If there is none, take the root of the lost checkpoint from its note (latest.note in "
    "the checkpoint store, or whoever else holds it) and give its last characters as --checkpoint-root."
)
_UNPROVED_HINT = (
    "Restore the checkpoints, or give the newest that somebody else holds by --checkpoint. If nobody has one:"
)


@dataclass(frozen=True, slots=True)
class Loss:
    """What a ledger has lost: entries ``first`` to ``last`` of the history that ``checkpoint`` is of.

    ``size`` is the ledger's number of entries. ``forked``: others may stand in the place of some that are lost.
    ``lost_key`` signed the checkpoint, and is lost with the entries. ``entry`` is the number of the entry that tells of
    this loss, once there is one. ``unproved``: the checkpoints are lost, or count no more, so that nobody knows whether the
    entries are those that were signed; ``checkpoint`` is then of the ledger as it is. ``proof`` is its note, where there is
    one.
    """

    first: int
    last: int
    size: int
    forked: bool
    checkpoint: Checkpoint
    lost_key: VerifierKey | None = None
    entry: int | None = None
    unproved: bool = False
    proof: Note | None = None

    @property
    def confirmation(self) -> str:
        """The last characters of the lost checkpoint's root, as its note has it (base64)."""
        return encode_base64(self.checkpoint.root)[-CONFIRMED_BY:]

    def __str__(self) -> str:
        span = f"{self.first} to {self.last}" if self.last > self.first else str(self.last)
        if self.unproved:
            gone = "checkpoints on record are gone from their store, or count no more"
            return f"{gone}: no proof is left that entries {span} are those signed"
        signed = f"a checkpoint of {self.checkpoint.size} entries was signed"
        what = f"{signed}, and the ledger has {self.size}: of what was signed, lost are the entries {span}"
        if not self.forked:
            return what
        same = (
            f"only entries 0 to {self.first - 1} are known to be the same"
            if self.first
            else "none is known to be the same"
        )
        return f"{signed} over a history that isn't this one ({same}): of what was signed, lost are the entries {span}"


@dataclass(frozen=True, slots=True)
class Recovery:
    """A recovery that was done: the loss, with the entry that tells of it, and the checkpoint that is newest now.

    No loss: the checkpoint that was given showed that the ledger is whole, and only the store had lost it. ``lost_from``:
    checkpoints of more entries, of those in the store, are of what is given up.
    """

    loss: Loss | None
    note: Note
    lost_from: int | None = None


def find_loss(
    tx: Transaction,
    latest: Note | None,
    kept: Iterable[Note],
    pinned: Iterable[VerifierKey] = (),
    seen: Note | None = None,
) -> Loss | None:
    """Compares a ledger with the checkpoints that were signed for it; ``None``: nothing is lost that they could show.

    Args:
        tx: a transaction.
        latest: the newest checkpoint of the checkpoint store.
        kept: further ones of the store: those that count tell where the histories part.
        pinned: keys known from elsewhere, for a checkpoint whose key is lost with the entries.
        seen: one that somebody else has kept. It can show a greater loss than the store does, and never a smaller one.

    Raises:
        FailedPreconditionError: a checkpoint is of another ledger (``CHECKPOINT_FOREIGN``), signed by no key that
            this ledger knows (``CHECKPOINT_KEY_UNKNOWN``), or shows that what a recovery on record has signed as standing
            was signed otherwise, too (``CHECKPOINT_CONTRADICTS``).
        DataLossError: ``LEDGER_DAMAGED``, ``KEY_HISTORY_BROKEN``.
    """
    course = Course()
    course.read(tx)
    return _Search(tx, course, tuple(pinned)).loss(latest, tuple(kept), seen)


class _Search:
    """One comparison of a ledger with checkpoints."""

    def __init__(self, tx: Transaction, course: Course, pinned: tuple[VerifierKey, ...]) -> None:
        self._tx = tx
        self._course = course
        self._history = course.keys
        self._pinned = pinned

    def loss(self, latest: Note | None, kept: tuple[Note, ...], seen: Note | None) -> Loss | None:
        gone = [note for note in (latest, seen) if note is not None and not self._stands(note)]
        if seen in gone and seen != latest and self._excused(self._parse(seen)) is not None:
            gone.remove(seen)
        if not gone:
            standing = (note for note in (latest, seen, *kept) if note is not None and self._stands(note))
            return self._unproved(max((self._size(note) for note in standing if self._counts(note)), default=0))
        proof = max(gone, key=self._size)  # of equal ones the store's own, which comes first
        newest = self._parse(proof)
        lost_key = _lost_key(self._history, proof, self._pinned)
        done = next((item for item in self._history.recovered if names(item, newest)), None)
        size = self._course.size
        if done is not None:
            return Loss(done.first, done.last, size, done.forked, newest, lost_key, done.seq, proof=proof)
        first, forked = self._parting(proof, (*gone, *kept), lost_key)
        return Loss(first, newest.size - 1, size, forked, newest, lost_key, proof=proof)

    def _parting(self, proof: Note, notes: Iterable[Note], lost_key: VerifierKey | None) -> tuple[int, bool]:
        """The first entry that is lost; and stands, or may stand, another in its place?"""
        # Anybody who can write to the store could else move the place with a note of his own making.
        counted = [note for note in notes if note == proof or self._counts(note, lost_key)]
        here = [note for note in counted if self._size(note) <= self._course.size]
        away = [self._parse(note) for note in here if not self._stands(note)]
        parted = min(
            (item.size for item in away if item == self._parse(proof) or not self._excused(item)), default=None
        )
        stated = self._history.recovered[-1].seq if self._history.recovered else 0
        if parted is None:
            return self._course.size, False
        if parted <= stated:
            raise FailedPreconditionError(
                f"a checkpoint of {parted} entries is not of this ledger, whose entry {stated}, a recovery, has signed"
                " that they stand: two histories were signed",
                reason="CHECKPOINT_CONTRADICTS",
                hint="Keep the checkpoint and the ledger: together they prove it. No recovery can put that right.",
            )
        standing = (self._size(note) for note in here if self._stands(note))
        return max((size for size in (stated, *standing) if size < parted), default=0), True

    def _unproved(self, covered: int) -> Loss | None:
        """What no checkpoint covers that counts, if more of them were kept once."""
        if covered >= self._course.due:
            return None
        size, last = self._course.size, self._history.recovered[-1:]
        whole = Checkpoint(self._history.origin, size, Tree(self._tx.ledger, size).root())
        for done in last:
            if done.unproved and done.seq == size - 1:
                # Cut off between its entry and its checkpoint.
                return Loss(done.first, done.last, size, done.forked, done.checkpoint, entry=done.seq, unproved=True)
        first = max(covered, *(done.seq for done in last)) if last else covered
        return Loss(first, size - 1, size, forked=True, checkpoint=whole, unproved=True)

    def _excused(self, checkpoint: Checkpoint) -> Recovered | None:
        return _excuse(self._history, checkpoint)

    def _stands(self, note: Note) -> bool:
        return _stands(self._tx, self._parse(note), self._course.size)

    def _counts(self, note: Note, lost_key: VerifierKey | None = None) -> bool:
        return _counts(self._history, note, self._pinned, lost_key)

    def _size(self, note: Note) -> int:
        return self._parse(note).size

    def _parse(self, note: Note) -> Checkpoint:
        return _parse(note, self._history.origin)


async def recover(
    store: Store,
    recorder: Recorder,
    checkpoints: CheckpointStore,
    signer: Signer,
    *,
    confirmation: str,
    by: str,
    seen: Note | None = None,
    pinned: Sequence[VerifierKey] = (),
) -> Recovery:
    """Records a loss and makes the ledger's present state the newest checkpoint; durable on return.

    Cut off anywhere, it can be called again: what was done isn't done twice.

    Args:
        store: the ledger's.
        recorder: the ledger.
        checkpoints: where the signed checkpoints are.
        signer: has the key in force.
        confirmation: the last ``CONFIRMED_BY`` characters of the lost checkpoint's root, in base64.
        by: id of the human who does it.
        seen: a checkpoint that somebody else has kept, where the store doesn't have the newest any more.
        pinned: keys known from elsewhere.

    Raises:
        InvalidArgumentError: ``CONFIRMATION_MISSING``, ``CONFIRMATION_WRONG``: the text says what is lost.
        FailedPreconditionError: ``NOTHING_LOST``, and as ``find_loss`` and ``check_signer`` say.
        ConflictError: ``CHECKPOINT_MOVED``.
        DataLossError, UnavailableError: ledger or checkpoint store can't be read.
    """
    latest = await checkpoints.latest()
    kept = () if latest is None else await checkpoints.history(MOST_KEPT)

    def work(tx: Transaction) -> Recovery:
        history = read_history(tx)
        check_signer(history, signer)
        loss = find_loss(tx, latest, kept, (*pinned, signer.key), seen)
        if loss is None:
            _check_adoptable(tx, history, latest, seen, (*pinned, signer.key))
            return Recovery(None, sign_tree(tx, history.origin, signer))
        _check_statable(history)
        _check_confirmation(loss, confirmation)
        if loss.entry is None:
            loss = _record(tx, recorder, signer, loss, by)
        return Recovery(loss, sign_tree(tx, history.origin, signer), _given_up_from(tx, history, loss, latest))

    done = await store.write(work)
    await checkpoints.swap(latest, done.note, lost_from=done.lost_from)
    return done


async def keep_checkpoint(store: Store, checkpoints: CheckpointStore, signer: Signer) -> Note:
    """Signs the ledger as it is now and makes that the newest checkpoint, for commands that a broker doesn't run beside.

    All that the store keeps of what isn't lost must fit the ledger first.

    Raises:
        FailedPreconditionError: ``KEY_NOT_CURRENT``.
        ConflictError: ``CHECKPOINT_MOVED``.
        DataLossError: the ledger isn't what was signed, see ``broker.ledger.checkpoint_check.compare``.
        UnavailableError: ledger or checkpoint store can't be read.
    """
    latest = await checkpoints.latest()
    kept = () if latest is None else await checkpoints.history(MOST_KEPT)

    def work(tx: Transaction) -> tuple[Note, int | None]:
        course = Course()
        standing = compare(tx, course, latest, signer.key, kept=kept)
        check_signer(course.keys, signer)
        return sign_tree(tx, course.keys.origin, signer), standing.lost_from

    note, lost_from = await store.read(work)
    if latest is not None and latest.text == note.text:
        return await checkpoints.replace_cosigned(note) or latest
    await checkpoints.swap(latest, note, lost_from=lost_from)
    return note


def _record(tx: Transaction, recorder: Recorder, signer: Signer, loss: Loss, by: str) -> Loss:
    origin = signer.key.name
    unproved = loss.unproved or loss.proof is None
    proof = sign_tree(tx, origin, signer) if unproved or loss.proof is None else loss.proof
    line = recovered_line(loss.first, loss.last, None if unproved else loss.checkpoint)
    statement = sign_tree(tx, origin, signer, line)
    body: JsonObject = {
        "lost": {"from": loss.first, "to": loss.last},
        "checkpoint": proof.encode().decode(),
        "statement": statement.encode().decode(),
        "forked": loss.forked,
        "votes": [],
        "by": by,
    }
    if loss.lost_key is not None:
        body["lost_key"] = str(loss.lost_key)
    if unproved:
        body["unproved"] = True
    seq = recorder.append(tx, "recovered", body)
    if seq != Checkpoint.parse(statement.text).size:
        raise InternalError("an entry came between a recovery's statement and its entry", reason="LEDGER_MOVED")
    return replace(loss, entry=seq)


def _given_up_from(tx: Transaction, history: KeyHistory, loss: Loss, latest: Note | None) -> int:
    """From where on the store's checkpoints are given up: also those of an earlier recovery that was cut off."""
    size = loss.size
    newest = None if latest is None else _parse(latest, history.origin)
    if newest is None or _stands(tx, newest, size):
        return loss.first
    return min((loss.first, *(done.first for done in history.recovered if done.covers(newest.size))))


def _check_statable(history: KeyHistory) -> None:
    """Lets a ledger pass whose own entries say who signs: nobody could tell else who gave the entries up."""
    if history.current is not None:
        return
    raise FailedPreconditionError(
        "the ledger names no key, so that a recovery could be signed by anybody and would count for nothing",
        reason="LEDGER_KEY_UNKNOWN",
        hint="Restore a younger backup. To keep on record what there is, export it with `broker ledger export`.",
    )


def _check_adoptable(
    tx: Transaction, history: KeyHistory, latest: Note | None, seen: Note | None, pinned: tuple[VerifierKey, ...]
) -> None:
    """Lets a checkpoint pass that fits the ledger, counts, and is newer than what the store has."""
    known = 0 if latest is None else _parse(latest, history.origin).size
    given = None if seen is None else _parse(seen, history.origin)
    head = tx.ledger.head()
    fits = given is not None and head is not None and _stands(tx, given, head.seq + 1)
    if seen is None or given is None or given.size <= known or not fits:
        excused = None if given is None or fits else _excuse(history, given)
        why = (
            "the ledger fits every checkpoint that is known and counts"
            if excused is None
            else f"the checkpoint that was given can be of what the recovery {excused.seq} says is lost"
        )
        raise FailedPreconditionError(
            f"nothing is lost that isn't on record: {why}",
            reason="NOTHING_LOST",
            hint="Check it with: broker ledger verify",
        )
    if not _counts(history, seen, pinned):
        raise FailedPreconditionError(
            "the checkpoint that was given doesn't count: it isn't signed as the ledger's history of keys demands",
            reason="CHECKPOINT_KEY_UNKNOWN",
            hint="See who must sign it: broker ledger keys",
        )


def _check_confirmation(loss: Loss, confirmation: str) -> None:
    # Whoever confirms shall have looked at what else there is.
    if confirmation == loss.confirmation:
        return
    why = f"must be the last {CONFIRMED_BY} characters of the lost checkpoint's root" if confirmation else "is missing"
    raise InvalidArgumentError(
        f"{loss}. If you go on, the ledger will say so for ever",
        reason="CONFIRMATION_WRONG" if confirmation else "CONFIRMATION_MISSING",
        violations=(FieldViolation("--checkpoint-root", why),),
        hint=_UNPROVED_HINT + f" --checkpoint-root {loss.confirmation}" if loss.unproved else _LOST_HINT,
    )


def _lost_key(history: KeyHistory, note: Note, pinned: Iterable[VerifierKey]) -> VerifierKey | None:
    own = [item.key for item in history.keys if not item.revoked]
    try:
        verify_note(note, own)
    except NoteError as error:
        strange = [
            key for key in pinned if key.name == history.origin and key not in {item.key for item in history.keys}
        ]
        try:
            return verify_note(note, strange)[0]
        except NoteError:
            raise FailedPreconditionError(
                f"the newest checkpoint proves nothing here: {error}",
                reason="CHECKPOINT_KEY_UNKNOWN",
                hint="If its key was brought in by entries that are lost, name it by --known-key, as you know it from elsewhere.",
            ) from error
    return None


def _excuse(history: KeyHistory, checkpoint: Checkpoint) -> Recovered | None:
    return next((item for item in history.recovered if item.covers(checkpoint.size)), None)


def _counts(
    history: KeyHistory, note: Note, pinned: tuple[VerifierKey, ...], lost_key: VerifierKey | None = None
) -> bool:
    """Is it signed as the ledger demands, or by the key that was lost with the entries?"""
    try:
        # The key in force is the broker's own: it needn't be told by the genesis.
        history.check(note, pinned if history.current is None else (history.current,))
    except NoteError:
        return lost_key is not None and _signed_by(note, lost_key)
    return True


def _signed_by(note: Note, key: VerifierKey) -> bool:
    try:
        return bool(verify_note(note, (key,)))
    except NoteError:
        return False


def _stands(tx: Transaction, checkpoint: Checkpoint, size: int) -> bool:
    return checkpoint.size <= size and Tree(tx.ledger, checkpoint.size).root() == checkpoint.root


def _parse(note: Note, origin: str) -> Checkpoint:
    try:
        checkpoint = Checkpoint.parse(note.text)
    except NoteError as error:
        raise FailedPreconditionError(
            f"the checkpoint store holds something else than checkpoints: {error}", reason="CHECKPOINT_FOREIGN"
        ) from error
    if checkpoint.origin != origin:
        raise FailedPreconditionError(
            f"the checkpoint store is that of the ledger {checkpoint.origin!a}, not of {origin!a}",
            reason="CHECKPOINT_FOREIGN",
            hint="Check the setting checkpoint_dir.",
        )
    return checkpoint
