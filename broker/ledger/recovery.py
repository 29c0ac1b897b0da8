"""Takes a ledger into service again that has lost entries: a restored backup, or a history that was replaced.

The checkpoint store remembers what was signed. What the ledger lacks of it, or has otherwise, is named by an entry
``recovered``, together with the checkpoint that shows the loss; then a checkpoint of the ledger as it is now takes the
lost one's place. From then on the verifier says ``recovered``, and never ``ok`` again.

Where the checkpoints themselves are lost, nobody can say what is: the entry then names all that no kept checkpoint covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from broker.domain.canonical import JsonObject
from broker.domain.ports import Recorder, Store, Transaction
from broker.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from broker.ledger.checkpoint_check import Course, compare
from broker.ledger.checkpoint_store import CheckpointStore
from broker.ledger.rotation import check_signer, read_history, sign_tree
from broker.ledger.signer import Signer
from broker.ledger.tree import Tree
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.key_history import KeyHistory
from broker.tlog.note import Note, NoteError, VerifierKey, encode_base64, verify_note

CONFIRMED_BY = 6
"""Characters of the lost checkpoint's root that confirm a recovery."""

_TOO_MANY_PENDING = 2
"""A checkpoint that was begun is finished before the next: so many without one, and some were kept that are gone."""
_KEPT = 10_000
"""Checkpoints, newest first, that are asked where the histories part."""


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
    this loss, once there is one. ``unproved``: the checkpoints are lost, so that nobody knows whether the entries are those
    that were signed; ``checkpoint`` is then of the ledger as it is.
    """

    first: int
    last: int
    size: int
    forked: bool
    checkpoint: Checkpoint
    lost_key: VerifierKey | None = None
    entry: int | None = None
    unproved: bool = False

    @property
    def confirmation(self) -> str:
        """The last characters of the lost checkpoint's root, as its note has it (base64)."""
        return encode_base64(self.checkpoint.root)[-CONFIRMED_BY:]

    def __str__(self) -> str:
        span = f"{self.first} to {self.last}" if self.last > self.first else str(self.last)
        if self.unproved:
            return f"checkpoints on record are gone from their store: no proof is left that entries {span} are those signed"
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

    No loss: the checkpoint that was given showed that the ledger is whole, and only the store had lost it.
    """

    loss: Loss | None
    note: Note


def find_loss(
    tx: Transaction, latest: Note | None, kept: Iterable[Note], pinned: Iterable[VerifierKey] = ()
) -> Loss | None:
    """Compares a ledger with the checkpoints that were signed for it; ``None``: nothing is lost.

    Args:
        tx: a transaction.
        latest: the newest checkpoint of the checkpoint store, or a newer one that somebody else has kept.
        kept: further ones of the store: they tell where the histories part.
        pinned: keys known from elsewhere, for a checkpoint whose key is lost with the entries.

    Raises:
        FailedPreconditionError: the checkpoint is of another ledger (``CHECKPOINT_FOREIGN``), or signed by no key that
            this ledger knows (``CHECKPOINT_KEY_UNKNOWN``).
        DataLossError: ``LEDGER_DAMAGED``, ``KEY_HISTORY_BROKEN``.
    """
    course = Course()
    course.read(tx)
    history, size = course.keys, course.size
    newest = None if latest is None else _parse(latest, history.origin)
    if newest is None or latest is None or _stands(tx, newest, size):
        covered = 0 if newest is None else newest.size
        if len(course.pending(covered)) < _TOO_MANY_PENDING:
            return None
        whole = Checkpoint(history.origin, size, Tree(tx.ledger, size).root())
        return Loss(covered, size - 1, size, forked=True, checkpoint=whole, unproved=True)
    lost_key = _lost_key(history, latest, pinned)
    for done in history.recovered:
        if done.checkpoint == newest:
            return Loss(done.first, done.last, size, done.forked, newest, lost_key, done.seq)
    here = [item for item in (newest, *(_parse(note, history.origin) for note in kept)) if item.size <= size]
    parted = min((item.size for item in here if not _stands(tx, item, size)), default=None)
    first = size
    if parted is not None:
        first = max((item.size for item in here if item.size < parted), default=0)
    return Loss(first, newest.size - 1, size, parted is not None, newest, lost_key)


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
    kept = () if latest is None else await checkpoints.history(_KEPT)

    def work(tx: Transaction) -> Recovery:
        history = read_history(tx)
        check_signer(history, signer)
        loss = find_loss(tx, seen or latest, (*kept, *(() if latest is None else (latest,))), pinned)
        if loss is None:
            _check_adoptable(history, latest, seen)
            return Recovery(None, sign_tree(tx, history.origin, signer))
        _check_confirmation(loss, confirmation)
        if loss.entry is None:
            proof = seen or latest
            if loss.unproved or proof is None:
                proof = sign_tree(tx, history.origin, signer)
            loss = _record(tx, recorder, loss, proof, by)
        return Recovery(loss, sign_tree(tx, history.origin, signer))

    done = await store.write(work)
    await checkpoints.swap(latest, done.note, lost_from=None if done.loss is None else done.loss.first)
    return done


async def keep_checkpoint(store: Store, checkpoints: CheckpointStore, signer: Signer) -> Note:
    """Signs the ledger as it is now and makes that the newest checkpoint, for commands that a broker doesn't run beside.

    Raises:
        FailedPreconditionError: ``KEY_NOT_CURRENT``.
        ConflictError: ``CHECKPOINT_MOVED``.
        DataLossError: the ledger isn't what was signed, see ``broker.ledger.checkpoint_check.compare``.
        UnavailableError: ledger or checkpoint store can't be read.
    """
    latest = await checkpoints.latest()

    def work(tx: Transaction) -> tuple[Note, int | None]:
        course = Course()
        standing = compare(tx, course, latest, signer.key)
        check_signer(course.keys, signer)
        return sign_tree(tx, course.keys.origin, signer), standing.lost_from

    note, lost_from = await store.read(work)
    if latest is not None and latest.text == note.text:
        return await checkpoints.replace_cosigned(note) or latest
    await checkpoints.swap(latest, note, lost_from=lost_from)
    return note


def _record(tx: Transaction, recorder: Recorder, loss: Loss, proof: Note, by: str) -> Loss:
    body: JsonObject = {
        "lost": {"from": loss.first, "to": loss.last},
        "checkpoint": proof.encode().decode(),
        "forked": loss.forked,
        "votes": [],
        "by": by,
    }
    if loss.lost_key is not None:
        body["lost_key"] = str(loss.lost_key)
    if loss.unproved:
        body["unproved"] = True
    seq = recorder.append(tx, "recovered", body)
    return replace(loss, entry=seq)


def _check_adoptable(history: KeyHistory, latest: Note | None, seen: Note | None) -> None:
    """Lets a checkpoint pass that fits the ledger, counts, and is newer than what the store has."""
    known = 0 if latest is None else _parse(latest, history.origin).size
    if seen is None or _parse(seen, history.origin).size <= known:
        raise FailedPreconditionError(
            "nothing is lost: the ledger holds all that was signed",
            reason="NOTHING_LOST",
            hint="Check it with: broker ledger verify",
        )
    try:
        history.check(seen)
    except NoteError as error:
        raise FailedPreconditionError(
            f"the checkpoint that was given doesn't count: {error}", reason="CHECKPOINT_KEY_UNKNOWN"
        ) from error


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
