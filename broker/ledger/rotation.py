"""Hands the ledger's signing over to another key, revokes one, and keeps the key files in step with the ledger.

    keys/checkpoint.key         the key in force
    keys/checkpoint.key.next    one that is being brought in

The ledger decides which key is in force. A rotation writes the new key's file first, then the entry, then moves the file
into its place: wherever that is cut off, ``settle_key_files`` ends it or takes it back at the next start.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from broker.domain.canonical import JsonObject
from broker.domain.ids import new_id
from broker.domain.ports import Recorder, Store, Transaction, Vault
from broker.domain.secret import Secret
from broker.errors import (
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
)
from broker.ledger.checkpoint_check import Course
from broker.ledger.signer import FileSigner, Signer, read_public_key
from broker.ledger.tree import Tree
from broker.private_file import sync_dir
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.key_history import NEXT_KEY, KeyHistory
from broker.tlog.note import Note, VerifierKey, sign

MOST_REASON = 4096
"""Bytes of the reason for a revocation."""

_REASON_KIND = "ledger.reason"


def read_history(tx: Transaction) -> KeyHistory:
    """The key history of the whole ledger, from its entries; the rotations are compared with the tree.

    Raises:
        DataLossError: ``KEY_HISTORY_BROKEN``: an entry of it is not what it must be; ``LEDGER_DAMAGED``.
    """
    course = Course()
    course.read(tx)
    return course.keys


def sign_tree(tx: Transaction, origin: str, signer: Signer, *extensions: str) -> Note:
    """A checkpoint of all entries of the ledger, signed.

    Raises:
        FailedPreconditionError: ``LEDGER_EMPTY``.
        NoteError: the signer's signature isn't one by its key.
    """
    head = tx.ledger.head()
    if head is None:
        raise FailedPreconditionError("the ledger is empty", reason="LEDGER_EMPTY", hint="Run `broker init` first.")
    size = head.seq + 1
    text = Checkpoint(origin, size, Tree(tx.ledger, size).root(), extensions).text()
    return Note(text, (sign(text, signer.key, signer.sign),))


def check_signer(history: KeyHistory, signer: Signer) -> None:
    """Lets a signer pass whose key is the one in force.

    Raises:
        FailedPreconditionError: ``KEY_NOT_CURRENT``.
    """
    if signer.key.name != history.origin or history.current not in {None, signer.key}:
        raise _not_current(f"the signer's key is {signer.key}", history.current)


async def rotate(store: Store, recorder: Recorder, old: Signer, new: Signer, *, by: str) -> Note:
    """Makes the key of ``new`` the one in force; durable on return.

    Args:
        store: the ledger's.
        recorder: the ledger.
        old: signs now.
        new: its key must never have been one of this ledger's. The key must be durable already.
        by: id of the human who does it.

    Returns:
        The checkpoint of the tree before the entry, which names the new key and is signed by both.

    Raises:
        FailedPreconditionError: ``KEY_NOT_CURRENT``: the key of ``old`` isn't in force, or ``new`` is no key for this
            ledger.
        DataLossError: ``KEY_HISTORY_BROKEN``, ``LEDGER_DAMAGED``.
    """
    return await store.write(lambda tx: _rotate(tx, recorder, old, new, by))


async def revoke(
    store: Store, recorder: Recorder, vault: Vault, key: VerifierKey, *, reason: str, by: str, now: datetime
) -> int:
    """Revokes a key that was replaced: what it alone has signed counts for nothing. Returns the entry's number.

    Args:
        store: the ledger's.
        recorder: the ledger.
        vault: keeps the reason, encrypted; the ledger has its commitment.
        key: which.
        reason: why, at most ``MOST_REASON`` bytes.
        by: id of the human who does it.
        now: the time, with a zone.

    Raises:
        InvalidArgumentError: the reason is empty or too long.
        NotFoundError: ``KEY_UNKNOWN``: no key of this ledger.
        FailedPreconditionError: it is in force (``KEY_IN_FORCE``), or revoked already (``KEY_REVOKED``).
        DataLossError: ``KEY_HISTORY_BROKEN``, ``LEDGER_DAMAGED``.
    """
    text = reason.encode("utf-8", "surrogatepass")
    if not 0 < len(text) <= MOST_REASON:
        why = f"must have 1 to {MOST_REASON} bytes"
        raise InvalidArgumentError(
            f"reason {why}",
            reason="REASON_UNFIT",
            violations=(FieldViolation("reason", why),),
            hint="Say why, shortly.",
        )

    def work(tx: Transaction) -> int:
        _check_revocable(read_history(tx), key)
        object_id = new_id("rsn")
        sealed = vault.create(tx, object_id=object_id, owner=by, kind=_REASON_KIND, now=now, expires=None)
        sealed.put(tx, {0: text})
        body: JsonObject = {
            "key": str(key),
            "reason_commit": sealed.commit("signer.revoked", text),
            "reason_id": object_id,
            "by": by,
        }
        return recorder.append(tx, "signer.revoked", body)

    return await store.write(work)


def settle_key_files(path: Path, next_path: Path, current: VerifierKey | None) -> None:
    """Ends a rotation that was cut off, or takes it back: afterwards ``path`` holds the key in force, and no other is there.

    Call it at each start and while nobody rotates, that is, under the lock of the state directory.

    Args:
        path: file of the key in force.
        next_path: file of one that is being brought in.
        current: the key in force by the ledger, see ``read_history``; ``None`` where the ledger names none.

    Raises:
        FailedPreconditionError: neither file holds the key in force (``KEY_NOT_CURRENT``), or there is none at all or one
            that can't be used (``KEY_MISSING``, ``KEY_UNREADABLE``, ``KEY_EXPOSED``).
        DataLossError: ``KEY_DAMAGED``.
    """
    following = _key_if_there(next_path)
    if following is not None and following == current:
        next_path.replace(path)
        sync_dir(path.parent)
        return
    found = read_public_key(path)
    if current is not None and found != current:
        raise _not_current(f"the key in {path} is {found}", current)
    if following is not None:
        # Its entry was never written, so nothing that it signed counts or ever will.
        next_path.unlink()
        sync_dir(path.parent)


def open_signer(path: Path, next_path: Path, current: VerifierKey | None, passphrase: Secret) -> FileSigner:
    """The signer whose key is in force, once ``settle_key_files`` has put the files in order; blocks for about 0.1 s.

    Raises:
        FailedPreconditionError, DataLossError: as ``settle_key_files`` and ``FileSigner.load`` say.
    """
    settle_key_files(path, next_path, current)
    return FileSigner.load(path, passphrase)


def _rotate(tx: Transaction, recorder: Recorder, old: Signer, new: Signer, by: str) -> Note:
    history = read_history(tx)
    check_signer(history, old)
    if new.key.name != history.origin or any(item.key.key_id == new.key.key_id for item in history.keys):
        raise FailedPreconditionError(
            f"{new.key} can't be this ledger's next key: it was one before, or has another name than {history.origin}",
            reason="KEY_NOT_CURRENT",
            hint="Make a fresh key.",
        )
    note = sign_tree(tx, history.origin, old, f"{NEXT_KEY}{new.key}")
    note = note.with_signature(sign(note.text, new.key, new.sign))
    body: JsonObject = {
        "old": str(old.key),
        "new": str(new.key),
        "checkpoint": note.encode().decode(),
        "by": by,
    }
    seq = recorder.append(tx, "signer.rotated", body)
    if seq != Checkpoint.parse(note.text).size:
        raise InternalError("an entry came between a rotation's checkpoint and its entry", reason="LEDGER_MOVED")
    return note


def _check_revocable(history: KeyHistory, key: VerifierKey) -> None:
    found = next((item for item in history.keys if item.key == key), None)
    if found is None:
        raise NotFoundError(
            f"{key} is no key of this ledger",
            reason="KEY_UNKNOWN",
            hint="List them with: broker ledger keys",
        )
    if found.revoked:
        raise FailedPreconditionError(f"{key} was revoked before", reason="KEY_REVOKED")
    if key == history.current:
        raise FailedPreconditionError(
            f"{key} is in force: nothing could be signed without it",
            reason="KEY_IN_FORCE",
            hint="Replace it first: broker ledger rotate-key",
        )


def _key_if_there(path: Path) -> VerifierKey | None:
    try:
        return read_public_key(path)
    except FailedPreconditionError as error:
        if error.reason == "KEY_MISSING":
            return None
        raise


def _not_current(what: str, current: VerifierKey | None) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"{what}, but the ledger's key in force is {current or 'of another ledger'}",
        reason="KEY_NOT_CURRENT",
        hint="Ledger and keys belong together: after restoring the one from a backup, restore the other from the same.",
    )
