"""Checkpoints, as c2sp.org/tlog-checkpoint has them: the text of the note by which a log commits to its tree."""

from __future__ import annotations

from dataclasses import dataclass

from broker.tlog.merkle import HASH_BYTES, MAX_SIZE
from broker.tlog.note import NoteError, check_text, decode_base64, encode_base64, parse_decimal

MAX_EXTENSIONS = 64
"""Most extension lines that are read or written."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's tree at one size.

    Raises:
        NoteError: a field is none that a checkpoint may have.
    """

    origin: str
    """Which log: one line."""
    size: int
    """Number of leaves."""
    root: bytes
    """32 bytes."""
    extensions: tuple[str, ...] = ()
    """Further lines, none of them empty."""

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_SIZE:
            raise NoteError(f"a tree can't have {self.size} leaves")
        if len(self.root) != HASH_BYTES:
            raise NoteError(f"a root is {HASH_BYTES} bytes long, not {len(self.root)}")
        if len(self.extensions) > MAX_EXTENSIONS:
            raise NoteError(f"the checkpoint has more than {MAX_EXTENSIONS} extension lines")
        for line in (self.origin, *self.extensions):
            if not line or "\n" in line:
                raise NoteError("the origin and each extension of a checkpoint are one line that isn't empty")
            check_text(line + "\n")

    def text(self) -> str:
        """The note's text."""
        lines = (self.origin, str(self.size), encode_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Reads a note's text; nothing is verified.

        Raises:
            NoteError: it is not a checkpoint's.
        """
        check_text(text)
        lines = text[:-1].split("\n", 3 + MAX_EXTENSIONS)
        if len(lines) < 3:
            raise NoteError("a checkpoint has an origin, a size and a root, each on a line")
        origin, size, root, *extensions = lines
        return cls(
            origin,
            parse_decimal(size, "the checkpoint's size", MAX_SIZE),
            decode_base64(root, "the checkpoint's root"),
            tuple(extensions),
        )
