"""Keys for tests that sign checkpoints: made from a number, so that each run has the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.domain.canonical import JsonObject
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.key_history import recovered_line
from broker.tlog.note import ED25519, Note, VerifierKey, sign

ORIGIN = "brk_01m7z000000000000000000000"


class NumberedSigner:
    """Implements ``broker.ledger.signer.Signer``."""

    def __init__(self, number: int, name: str = ORIGIN) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"key {number}".encode()).digest())
        self._key = VerifierKey(name, ED25519, self._private.public_key().public_bytes_raw())

    @property
    def key(self) -> VerifierKey:
        return self._key

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)


def root_of(size: int, history: str = "") -> bytes:
    """Stands for the root of a tree: another for each size, and for each history."""
    return hashlib.sha256(f"{history}{size}".encode()).digest()


def signed(checkpoint: Checkpoint, *signers: NumberedSigner) -> Note:
    """The note of a checkpoint under some signatures."""
    text = checkpoint.text()
    return Note(text, tuple(sign(text, signer.key, signer.sign) for signer in signers))


def note_of(size: int, *signers: NumberedSigner, extensions: Iterable[str] = (), history: str = "") -> Note:
    """A signed checkpoint of the stand-in tree."""
    return signed(Checkpoint(ORIGIN, size, root_of(size, history), tuple(extensions)), *signers)


def text_of(note: Note) -> str:
    """A note as an entry holds it."""
    return note.encode().decode()


def genesis(signer: NumberedSigner | None, origin: str = ORIGIN) -> JsonObject:
    """A first entry."""
    entry: JsonObject = {"type": "genesis", "seq": 0, "origin": origin}
    return entry if signer is None else {**entry, "checkpoint_key": str(signer.key)}


def rotated(seq: int, old: NumberedSigner, new: NumberedSigner, note: Note | None = None) -> JsonObject:
    """A rotation at its right place, unless another note is given."""
    if note is None:
        note = note_of(seq, old, new, extensions=(f"next-key {new.key}",))
    return {
        "type": "signer.rotated",
        "seq": seq,
        "old": str(old.key),
        "new": str(new.key),
        "checkpoint": text_of(note),
    }


def revoked(seq: int, signer: NumberedSigner) -> JsonObject:
    """A revocation."""
    return {"type": "signer.revoked", "seq": seq, "key": str(signer.key), "reason_commit": "ab" * 32}


def statement_of(
    seq: int, first: int, note: Note, *signers: NumberedSigner, unproved: bool = False, history: str = ""
) -> Note:
    """What the key in force signs of a recovery."""
    lost = Checkpoint.parse(note.text)
    line = recovered_line(first, lost.size - 1, None if unproved else lost)
    return note_of(seq, *signers, extensions=(line,), history=history)


def recovered(
    seq: int, first: int, note: Note, by: NumberedSigner, **more: JsonObject | str | bool | None
) -> JsonObject:
    """A recovery of what a note shows, stated by the key in force."""
    last = Checkpoint.parse(note.text).size - 1
    return {
        "type": "recovered",
        "seq": seq,
        "lost": {"from": first, "to": last},
        "checkpoint": text_of(note),
        "statement": text_of(statement_of(seq, first, note, by, unproved=more.get("unproved") is True)),
        "votes": [],
        **more,
    }
