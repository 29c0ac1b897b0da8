"""Who may sign a ledger's checkpoints: the keys from the genesis on, as the ledger's own entries tell it. Pure.

The genesis names the first key. Each later one comes by an entry ``signer.rotated``: a checkpoint of the tree before that
entry which names the new key and is signed by both, so that whoever trusts the old key can trust the new one. A key that
was replaced can be revoked; what it alone has signed counts for nothing from then on.

An entry ``recovered`` says that part of an earlier history is lost. What it excuses, the key in force has signed: whoever
can write entries, and has no key, can't make a loss up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from broker.domain.canonical import JsonObject, JsonValue
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.merkle import HASH_BYTES
from broker.tlog.note import ED25519, Note, NoteError, VerifierKey, encode_base64, verify_note

GENESIS_KEY = "checkpoint_key"
"""Member of the genesis that names the first key, as a ``vkey``."""
KEY_ENTRIES = frozenset({"genesis", "signer.rotated", "signer.revoked", "recovered"})
"""Types of the entries that a history is made of; ``KeyHistory.entry`` passes over all others."""
NEXT_KEY = "next-key "
"""Beginning of the checkpoint's extension line that names the new key."""
UNPROVED_ROOT = bytes(HASH_BYTES)
"""Stands in a recovery's statement for the root of the lost checkpoint, where there is none."""

_COMMITMENT = re.compile(r"[0-9a-f]{64}")


class KeyHistoryError(ValueError):
    """An entry of the history is not what it must be; the text says what is wrong, the caller knows the entry."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key, and the sizes of tree whose checkpoints it signs; ``until_size`` is the last one, ``None`` for now."""

    key: VerifierKey
    from_size: int
    until_size: int | None = None
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Recovered:
    """One recovery: entry ``seq`` says that the entries ``first`` to ``last`` of an earlier history are lost.

    ``checkpoint`` is what shows that they existed. ``forked``: others stand, or may stand, in the place of some.
    ``unproved``: no checkpoint of theirs was left; ``checkpoint`` is then of the ledger as it was.
    """

    seq: int
    first: int
    last: int
    checkpoint: Checkpoint
    forked: bool
    unproved: bool = False

    def covers(self, size: int) -> bool:
        """May a checkpoint of this size be of the lost history, as the key in force has signed?"""
        return self.first < size <= self.last + 1


def recovered_line(first: int, last: int, checkpoint: Checkpoint | None) -> str:
    """The extension line of a recovery's statement; without a checkpoint: nothing is left that proves the loss."""
    root = UNPROVED_ROOT if checkpoint is None else checkpoint.root
    return f"recovered {first} {last} {encode_base64(root)}"


class KeyHistory:
    """Reads the entries in their order, and then says which checkpoints count."""

    def __init__(self) -> None:
        self._origin = ""
        self._seq = -1
        self._keys: list[SigningKey] = []
        self._recovered: list[Recovered] = []
        self._anchored = False

    @property
    def origin(self) -> str:
        """The ledger's origin, which is the name of each of its keys; empty before the genesis."""
        return self._origin

    @property
    def keys(self) -> tuple[SigningKey, ...]:
        """All keys, oldest first."""
        return tuple(self._keys)

    @property
    def current(self) -> VerifierKey | None:
        """The key that signs now; ``None`` where the ledger names none."""
        return self._keys[-1].key if self._keys else None

    @property
    def anchored(self) -> bool:
        """Does the genesis name the first key? If not, only a key that the reader knows from elsewhere is proof."""
        return self._anchored

    @property
    def recovered(self) -> tuple[Recovered, ...]:
        """The recoveries, oldest first."""
        return tuple(self._recovered)

    def entry(self, entry: JsonObject, root: Callable[[], bytes] | None = None) -> None:
        """Takes in the next entry; one of a type that is not in ``KEY_ENTRIES`` changes nothing.

        Args:
            entry: all its members.
            root: gives the root of the tree before this entry. Without it what a rotation or recovery has signed is not
                compared with the tree; whoever has the tree must give it.

        Raises:
            KeyHistoryError: the entry is not what its type demands, or comes in the wrong order.
        """
        kind = entry.get("type")
        if not isinstance(kind, str) or kind not in KEY_ENTRIES:
            return
        seq = entry.get("seq")
        if type(seq) is not int or seq <= self._seq:
            raise KeyHistoryError("its number doesn't follow that of the entry before it")
        if (kind == "genesis") != (self._seq < 0):
            raise KeyHistoryError("the first entry of a key history, and only it, is the genesis")
        if kind == "genesis":
            self._genesis(entry, seq)
        elif kind == "signer.rotated":
            self._rotated(entry, seq, root)
        elif kind == "signer.revoked":
            self._revoked(entry)
        else:
            self._recover(entry, seq, root)
        self._seq = seq

    def key_for(self, size: int) -> VerifierKey:
        """Who must sign a checkpoint of ``size`` entries: the key in force once all of them were taken in.

        Raises:
            NoteError: there is no such key: the ledger is empty at that size, or names none.
        """
        return self._key_at(size).key

    def check(self, note: Note, pinned: Iterable[VerifierKey] = ()) -> Checkpoint:
        """The checkpoint of a note, if it is signed as this history demands.

        The key in force at the checkpoint's size must have signed it. Where that key is revoked, a later one that isn't
        must have signed it too.

        Args:
            note: what claims to be a checkpoint of this ledger.
            pinned: keys that the reader knows from elsewhere. If there are any, one must be in the history, and not be
                revoked: whoever stole that key could have signed all that follows.

        Raises:
            NoteError: it doesn't count, and why.
        """
        checkpoint = Checkpoint.parse(note.text)
        if checkpoint.origin != self._origin:
            raise NoteError(f"the checkpoint is of the ledger {checkpoint.origin!a}, not of {self._origin!a}")
        known = frozenset(pinned)
        if not self._keys and known:
            # No key stands in the ledger: all that is known is what the reader brought along.
            verify_note(note, known)
            return checkpoint
        self._check_pinned(known)
        if not known and not self._anchored:
            raise NoteError("the genesis names no checkpoint key: its checkpoints can't be judged without a known key")
        required = self._key_at(checkpoint.size)
        signers = frozenset(verify_note(note, (item.key for item in self._keys)))
        if required.key not in signers:
            raise NoteError(f"the checkpoint of {checkpoint.size} entries must be signed by {required.key}")
        if required.revoked and not any(
            item.key in signers and not item.revoked for item in self._keys if item.from_size > required.from_size
        ):
            raise NoteError(f"the checkpoint is signed by a key that was revoked, and by no later one: {required.key}")
        return checkpoint

    def _check_pinned(self, known: frozenset[VerifierKey]) -> None:
        if not known:
            return
        found = [item for item in self._keys if item.key in known]
        if not found:
            raise NoteError("none of the given keys is in the ledger's key history: this is another history")
        if all(item.revoked for item in found):
            raise NoteError("the given key was revoked: it shows no longer whose history this is")

    def _key_at(self, size: int) -> SigningKey:
        for item in reversed(self._keys):
            if item.from_size <= size:
                return item
        if self._keys or size < 1:
            raise NoteError(f"no key signs checkpoints of {size} entries: the first is of the genesis")
        raise NoteError("the genesis names no checkpoint key: its checkpoints can't be judged without a known key")

    def _genesis(self, entry: JsonObject, seq: int) -> None:
        if seq != 0:
            raise KeyHistoryError("the genesis is not the first entry")
        self._origin = _text(entry, "origin")
        if GENESIS_KEY not in entry:
            return
        self._keys.append(SigningKey(self._key(entry, GENESIS_KEY), from_size=1))
        self._anchored = True

    def _rotated(self, entry: JsonObject, seq: int, root: Callable[[], bytes] | None) -> None:
        old, new = self._key(entry, "old"), self._key(entry, "new")
        if self._keys and old != self._keys[-1].key:
            raise KeyHistoryError(f"old is not the key in force, which is {self._keys[-1].key}")
        if new == old or any(new.key_id == item.key.key_id for item in self._keys):
            raise KeyHistoryError("new was a key of this ledger before; a key is never taken twice")
        checkpoint, signers = _signed(entry, (old, new))
        if {old, new} - signers:
            missing = " and ".join(name for name, key in (("old", old), ("new", new)) if key not in signers)
            raise KeyHistoryError(f"checkpoint is not signed by the {missing} key; it must be by both")
        if checkpoint.origin != self._origin:
            raise KeyHistoryError(f"checkpoint is of another ledger, {checkpoint.origin!a}")
        if checkpoint.size != seq:
            raise KeyHistoryError(f"checkpoint is of {checkpoint.size} entries, not of the {seq} before this one")
        if root is not None and checkpoint.root != root():
            raise KeyHistoryError("checkpoint has another root than the tree before this entry")
        named = [line for line in checkpoint.extensions if line.startswith(NEXT_KEY)]
        if named != [f"{NEXT_KEY}{new}"]:
            raise KeyHistoryError("checkpoint's line next-key doesn't name exactly the new key")
        if not self._keys:
            self._keys.append(SigningKey(old, from_size=1))
        self._keys[-1] = replace(self._keys[-1], until_size=seq)
        self._keys.append(SigningKey(new, from_size=seq + 1))

    def _revoked(self, entry: JsonObject) -> None:
        key = self._key(entry, "key")
        if not _COMMITMENT.fullmatch(_text(entry, "reason_commit")):
            raise KeyHistoryError("reason_commit is not 64 hexadecimal digits")
        place = next((at for at, item in enumerate(self._keys) if item.key == key), None)
        if place is None:
            raise KeyHistoryError("key is none of this ledger's keys")
        if place == len(self._keys) - 1:
            raise KeyHistoryError("key is the one in force: it must be replaced before it is revoked")
        if self._keys[place].revoked:
            raise KeyHistoryError("key was revoked before")
        self._keys[place] = replace(self._keys[place], revoked=True)

    def _recover(self, entry: JsonObject, seq: int, root: Callable[[], bytes] | None) -> None:
        lost = entry.get("lost")
        if not isinstance(lost, dict):
            raise KeyHistoryError("lost is missing, or no object")
        first, last = _number(lost, "from"), _number(lost, "to")
        if not (first <= seq and first <= last):
            raise KeyHistoryError(f"lost goes from {first} to {last}, which can't be lost before entry {seq}")
        if self._recovered and first < self._recovered[-1].seq:
            # The tree before that entry was signed as what stands: nothing of it can be of another history now.
            stood = self._recovered[-1].seq
            raise KeyHistoryError(
                f"lost begins at {first}, but the recovery {stood} signed that what is before it stands"
            )
        if type(entry.get("votes")) is not list:
            raise KeyHistoryError("votes is missing, or no list")
        # The lost entries may have brought another key: then no key of what is left has signed their checkpoint.
        extra = self._lost_key(entry)
        if not self._keys:
            raise KeyHistoryError("statement can't be signed: the ledger names no key before this entry")
        # A key that was revoked proves nothing: whoever has it could have made up the loss.
        checkpoint, _ = _signed(entry, (*(item.key for item in self._keys if not item.revoked), *extra))
        if checkpoint.origin != self._origin:
            raise KeyHistoryError(f"checkpoint is of another ledger, {checkpoint.origin!a}")
        if checkpoint.size != last + 1:
            raise KeyHistoryError(f"checkpoint is of {checkpoint.size} entries: it doesn't show that {last} is lost")
        forked, unproved = _flag(entry, "forked"), _flag(entry, "unproved")
        line = recovered_line(first, last, None if unproved else checkpoint)
        self._check_statement(entry, seq, line, root)
        self._recovered.append(Recovered(seq, first, last, checkpoint, forked or checkpoint.size <= seq, unproved))

    def _lost_key(self, entry: JsonObject) -> tuple[VerifierKey, ...]:
        if "lost_key" not in entry:
            return ()
        key = self._key(entry, "lost_key")
        if any(key.key_id == item.key.key_id for item in self._keys):
            raise KeyHistoryError("lost_key is a key of this ledger: that one is not lost, or was revoked")
        return (key,)

    def _check_statement(self, entry: JsonObject, seq: int, line: str, root: Callable[[], bytes] | None) -> None:
        """Has the key in force signed just this loss, of just this ledger?"""
        # The lost checkpoint is public: that it is quoted shows nothing of who wrote the entry.
        stated, _ = _signed(entry, (self._keys[-1].key,), "statement")
        if stated.origin != self._origin:
            raise KeyHistoryError(f"statement is of another ledger, {stated.origin!a}")
        if stated.size != seq:
            raise KeyHistoryError(f"statement is of {stated.size} entries, not of the {seq} before this one")
        if stated.extensions != (line,):
            raise KeyHistoryError(f"statement doesn't say just: {line}")
        if root is not None and stated.root != root():
            raise KeyHistoryError("statement has another root than the tree before this entry")

    def _key(self, entry: JsonObject, name: str) -> VerifierKey:
        try:
            key = VerifierKey.parse(_text(entry, name))
        except NoteError as error:
            raise KeyHistoryError(f"{name} is no key: {error}") from error
        if key.algorithm != ED25519:
            raise KeyHistoryError(f"{name} is no Ed25519 key for checkpoints, but one for cosignatures")
        if key.name != self._origin:
            raise KeyHistoryError(f"{name} is named {key.name!a}, not as the ledger, {self._origin!a}")
        return key


def _signed(
    entry: JsonObject, keys: Iterable[VerifierKey], name: str = "checkpoint"
) -> tuple[Checkpoint, frozenset[VerifierKey]]:
    try:
        note = Note.parse(_text(entry, name).encode())
        return Checkpoint.parse(note.text), frozenset(verify_note(note, keys))
    except (NoteError, UnicodeEncodeError) as error:
        raise KeyHistoryError(f"{name} can't be taken: {error}") from error


def _text(entry: Mapping[str, JsonValue], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value:
        raise KeyHistoryError(f"{name} is missing, or no text")
    return value


def _flag(entry: Mapping[str, JsonValue], name: str) -> bool:
    value = entry.get(name, False)
    if not isinstance(value, bool):
        raise KeyHistoryError(f"{name} is neither true nor false")
    return value


def _number(entry: Mapping[str, JsonValue], name: str) -> int:
    value = entry.get(name)
    if type(value) is not int or value < 0:
        raise KeyHistoryError(f"lost.{name} is no number of an entry")
    return value
