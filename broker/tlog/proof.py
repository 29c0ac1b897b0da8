"""Proofs that an entry is in a log, as c2sp.org/tlog-proof has them: one text to verify offline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from broker.tlog.checkpoint import Checkpoint
from broker.tlog.merkle import HASH_BYTES, MAX_SIZE, verify_inclusion
from broker.tlog.note import (
    ED25519,
    MAX_NOTE_BYTES,
    Note,
    NoteError,
    VerifierKey,
    decode_base64,
    encode_base64,
    parse_decimal,
    verify_note,
)

MAX_EXTRA_BYTES = 65_536
"""Longest extra data."""

_MAGIC = "c2sp.org/tlog-proof@v1"
_MAX_HASHES = MAX_SIZE.bit_length()
_MAX_HEADER = 2 * MAX_EXTRA_BYTES + 100 * _MAX_HASHES


@dataclass(frozen=True, slots=True)
class TlogProof:
    """That the leaf ``index`` is in the tree of a checkpoint.

    Raises:
        NoteError: a field is none that a proof may have, or the note is no checkpoint.
    """

    index: int
    """From 0."""
    hashes: tuple[bytes, ...]
    """The leaf's sibling first; 32 bytes each."""
    checkpoint: Note
    extra: bytes | None = None
    """Whatever the application adds; nothing vouches for it."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < MAX_SIZE:
            raise NoteError(f"a tree can't have a leaf {self.index}")
        if len(self.hashes) > _MAX_HASHES or any(len(item) != HASH_BYTES for item in self.hashes):
            raise NoteError(f"a proof has at most {_MAX_HASHES} hashes of {HASH_BYTES} bytes")
        if self.extra is not None and not 0 < len(self.extra) <= MAX_EXTRA_BYTES:
            raise NoteError(f"extra data is 1 to {MAX_EXTRA_BYTES} bytes long")
        Checkpoint.parse(self.checkpoint.text)

    def encode(self) -> bytes:
        """The file's bytes; its name should end in ``.tlog-proof``.

        Raises:
            NoteError: the checkpoint is not signed.
        """
        lines = [_MAGIC]
        if self.extra is not None:
            lines.append(f"extra {encode_base64(self.extra)}")
        lines.append(f"index {self.index}")
        lines.extend(encode_base64(item) for item in self.hashes)
        return "".join(f"{line}\n" for line in lines).encode("ascii") + b"\n" + self.checkpoint.encode()

    @classmethod
    def parse(cls, data: bytes) -> TlogProof:
        """Reads a proof; nothing is verified.

        Raises:
            NoteError: it is not one.
        """
        if len(data) > _MAX_HEADER + MAX_NOTE_BYTES:
            raise NoteError(f"the proof is {len(data)} bytes long; the limit is {_MAX_HEADER + MAX_NOTE_BYTES}")
        header, blank, checkpoint = data.partition(b"\n\n")
        if not blank or len(header) > _MAX_HEADER or not header.isascii():
            raise NoteError("the proof has no checkpoint after an empty line")
        magic, *lines = header.decode("ascii").split("\n", _MAX_HASHES + 3)
        if magic != _MAGIC:
            raise NoteError(f"a proof's first line is {_MAGIC}")
        extra = None
        if lines and lines[0].startswith("extra "):
            extra = decode_base64(lines.pop(0).removeprefix("extra "), "the extra data")
        if not lines or not lines[0].startswith("index "):
            raise NoteError("the proof has no line with the index")
        index = parse_decimal(lines.pop(0).removeprefix("index "), "the index", MAX_SIZE - 1)
        hashes = tuple(decode_base64(line, "a hash of the proof") for line in lines)
        return cls(index, hashes, Note.parse(checkpoint), extra)

    def verify(self, leaf: bytes, keys: Iterable[VerifierKey]) -> Checkpoint:
        """The checkpoint, once it is shown that the log signed it and that it holds the leaf hash ``leaf`` at ``index``.

        A log's key is named like its origin; cosignatures count beside its signature, never in place of it.

        Raises:
            NoteError: the checkpoint is not signed by a key of its log.
            ProofError: the leaf isn't shown to be there.
        """
        verified = verify_note(self.checkpoint, keys)
        checkpoint = Checkpoint.parse(self.checkpoint.text)
        if not any(key.algorithm == ED25519 and key.name == checkpoint.origin for key in verified):
            raise NoteError(f"no key of the log {checkpoint.origin} signed the checkpoint")
        verify_inclusion(leaf, self.index, checkpoint.size, self.hashes, checkpoint.root)
        return checkpoint
