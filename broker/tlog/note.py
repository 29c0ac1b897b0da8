"""Signed notes, as c2sp.org/signed-note has them: a text, and lines that each hold a key's signature of it.

Readers are strict: what they accept is byte for byte what the writers here write. Signatures are Ed25519, over the text
itself (type 0x01), or over a witness's time and the text (type 0x04, c2sp.org/tlog-cosignature).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ED25519 = 1
"""Type of a signature over the text."""
COSIGNATURE = 4
"""Type of a signature over a time and the text: a witness's."""

MAX_NOTE_BYTES = 1_000_000
"""Longest note that is read or written."""
MAX_SIGNATURES = 64
"""Most signature lines of a note."""
MAX_NAME_BYTES = 1024
"""Longest name of a key, in UTF-8."""
MAX_TIME = 2**63 - 1
"""Latest time of a cosignature, in seconds since 1970."""

_ID_BYTES, _KEY_BYTES, _SIGNATURE_BYTES, _TIME_BYTES = 4, 32, 64, 8
_DASH = "\u2014 "
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\ud800-\udfff]")
_DECIMAL = re.compile("0|[1-9][0-9]*")


class NoteError(ValueError):
    """A note, key or text of one is not what its format or its keys demand; the text says why."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key under a name; ``str()`` is its ``vkey`` text, ``name+hex(key id)+base64(type || public key)``.

    Raises:
        NoteError: the name, the type or the key is none.
    """

    name: str
    algorithm: int
    """``ED25519`` or ``COSIGNATURE``."""
    public_key: bytes
    """32 bytes."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.algorithm not in {ED25519, COSIGNATURE}:
            raise NoteError(f"keys of type {self.algorithm} are not supported")
        if len(self.public_key) != _KEY_BYTES:
            raise NoteError(f"an Ed25519 key is {_KEY_BYTES} bytes long, not {len(self.public_key)}")

    @property
    def key_id(self) -> bytes:
        """4 bytes: the beginning of SHA-256(name || 0x0A || type || public key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + self._typed_key()).digest()[:_ID_BYTES]

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Reads a ``vkey``.

        Raises:
            NoteError: it is not one, its id is that of another key, or its type is not supported.
        """
        if len(text) > 2 * MAX_NAME_BYTES:
            raise NoteError("the key's text is too long")
        name, _, rest = text.partition("+")
        _, _, encoded = rest.partition("+")
        data = decode_base64(encoded, "the key")
        if not data:
            raise NoteError("the key's text is not name+id+key")
        key = cls(name, data[0], data[1:])
        if str(key) != text:
            raise NoteError(f"the id in the key's text is not that of the key, {key.key_id.hex()}")
        return key

    def verify(self, text: str, data: bytes) -> bool:
        """Is ``data`` (without the key id) this key's signature of the text?"""
        message, signature = text.encode(), data
        if self.algorithm == COSIGNATURE:
            if len(data) != _TIME_BYTES + _SIGNATURE_BYTES:
                return False
            moment = int.from_bytes(data[:_TIME_BYTES], "big")
            if moment > MAX_TIME:
                return False
            message, signature = _cosigned(text, moment), data[_TIME_BYTES:]
        if len(signature) != _SIGNATURE_BYTES:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(self._typed_key())}"

    def _typed_key(self) -> bytes:
        return bytes([self.algorithm]) + self.public_key


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line. ``data`` comes without the key id; which type it is, only the key says.

    Raises:
        NoteError: the name or the id is none, or there is no data.
    """

    name: str
    key_id: bytes
    """4 bytes."""
    data: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.key_id) != _ID_BYTES:
            raise NoteError(f"a key id is {_ID_BYTES} bytes long, not {len(self.key_id)}")
        if not self.data:
            raise NoteError(f"the signature by {self.name} is empty")

    @classmethod
    def parse(cls, line: str) -> Signature:
        """Reads a signature line, without its newline.

        Raises:
            NoteError: it is none.
        """
        name, space, encoded = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH) or not space:
            raise NoteError("a signature line is not: em dash, name, base64")
        data = decode_base64(encoded, "a signature")
        return cls(name, data[:_ID_BYTES], data[_ID_BYTES:])

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {encode_base64(self.key_id + self.data)}"


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its signatures, verified or not: see ``verify_note``.

    Raises:
        NoteError: the text doesn't end in a newline or holds what no note may hold, or the signatures are too many.
    """

    text: str
    signatures: tuple[Signature, ...] = ()

    def __post_init__(self) -> None:
        check_text(self.text)
        if len(self.signatures) > MAX_SIGNATURES:
            raise NoteError(f"the note has {len(self.signatures)} signatures; at most {MAX_SIGNATURES} are read")

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """Reads a signed note.

        Raises:
            NoteError: it is not one, or is larger than what is read.
        """
        if len(data) > MAX_NOTE_BYTES:
            raise NoteError(f"the note is {len(data)} bytes long; the limit is {MAX_NOTE_BYTES}")
        try:
            whole = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise NoteError(f"the note is not UTF-8 at byte {error.start}") from error
        check_text(whole)
        # The last empty line separates: the text may hold empty lines itself.
        end = whole.rfind("\n\n")
        lines = whole[end + 2 : -1].split("\n", MAX_SIGNATURES)
        if end < 0 or not lines[0]:
            raise NoteError("the note has no signatures after an empty line")
        if len(lines) > MAX_SIGNATURES:
            raise NoteError(f"the note has more than {MAX_SIGNATURES} signatures")
        return cls(whole[: end + 1], tuple(Signature.parse(line) for line in lines))

    def encode(self) -> bytes:
        """The note's bytes.

        Raises:
            NoteError: it has no signature, or is too long.
        """
        if not self.signatures:
            raise NoteError("the note has no signature")
        lines = "".join(f"{signature}\n" for signature in self.signatures)
        data = f"{self.text}\n{lines}".encode()
        if len(data) > MAX_NOTE_BYTES:
            raise NoteError(f"the note is {len(data)} bytes long; the limit is {MAX_NOTE_BYTES}")
        return data

    def with_signature(self, signature: Signature) -> Note:
        """The same note with one more signature, at the end."""
        return replace(self, signatures=(*self.signatures, signature))


def sign(text: str, key: VerifierKey, signer: Callable[[bytes], bytes]) -> Signature:
    """Signs a note's text (type 0x01).

    Args:
        text: what the note says; ends in a newline.
        key: the public half.
        signer: gives the 64 bytes of the Ed25519 signature of a message.

    Raises:
        NoteError: no note may hold the text, the key is of another type, or isn't the signer's.
    """
    check_text(text)
    if key.algorithm != ED25519:
        raise NoteError(f"{key.name} is a key for cosignatures")
    return _signed(text, key, signer(text.encode()))


def cosign(text: str, key: VerifierKey, signer: Callable[[bytes], bytes], timestamp_s: int) -> Signature:
    """Cosigns a checkpoint's text as of a time (type 0x04).

    Args:
        text: the checkpoint's text.
        key: the public half.
        signer: gives the 64 bytes of the Ed25519 signature of a message.
        timestamp_s: seconds since 1970.

    Raises:
        NoteError: no note may hold the text, the key is of another type or isn't the signer's, or the time is out of range.
    """
    check_text(text)
    if key.algorithm != COSIGNATURE:
        raise NoteError(f"{key.name} is no key for cosignatures")
    if not 0 <= timestamp_s <= MAX_TIME:
        raise NoteError(f"a cosignature can't be of the time {timestamp_s}")
    return _signed(text, key, timestamp_s.to_bytes(_TIME_BYTES, "big") + signer(_cosigned(text, timestamp_s)))


def cosignature_time(signature: Signature) -> int:
    """The time that a signature of type 0x04 names, in seconds since 1970; believe it once it has verified.

    Raises:
        NoteError: it is no such signature.
    """
    moment = int.from_bytes(signature.data[:_TIME_BYTES], "big")
    if len(signature.data) != _TIME_BYTES + _SIGNATURE_BYTES or moment > MAX_TIME:
        raise NoteError(f"the signature by {signature.name} is no cosignature")
    return moment


def verify_note(note: Note, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, ...]:
    """The known keys that signed a note, each once, in the order of their signatures.

    Signatures by keys that aren't given are ignored, also those that share only a name or only an id with one that is.

    Raises:
        NoteError: none of the keys signed it, a signature by one of them is false, or two keys have one name and id.
    """
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        if known.setdefault((key.name, key.key_id), key) != key:
            raise NoteError(f"two keys are named {key.name} with the id {key.key_id.hex()}")
    verified: dict[VerifierKey, None] = {}
    for signature in note.signatures:
        signer = known.get((signature.name, signature.key_id))
        if signer is None:
            continue
        if not signer.verify(note.text, signature.data):
            raise NoteError(f"the signature by {signature.name} ({signature.key_id.hex()}) is false")
        verified[signer] = None
    if not verified:
        raise NoteError("the note is not signed by a known key")
    return tuple(verified)


def check_text(text: str) -> None:
    """Checks that a note may hold a text.

    Raises:
        NoteError: it doesn't end in a newline, holds another control character or a lone surrogate, or is too long.
    """
    if len(text) > MAX_NOTE_BYTES:
        raise NoteError(f"the text is longer than {MAX_NOTE_BYTES} bytes")
    if not text.endswith("\n"):
        raise NoteError("the text doesn't end in a newline")
    if _CONTROL.search(text) is not None:
        raise NoteError("the text holds a control character or a lone surrogate")


def encode_base64(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648, section 4)."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str, what: str) -> bytes:
    """Reads the one base64 form of some bytes.

    Raises:
        NoteError: it is not base64, or not the form that ``encode_base64`` writes; ``what`` names it.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteError(f"{what} is not base64") from error
    if encode_base64(data) != text:
        raise NoteError(f"{what} is not in the canonical form of base64")
    return data


def parse_decimal(text: str, what: str, most: int) -> int:
    """Reads a number in ASCII decimal without leading zeros.

    Raises:
        NoteError: it is none, or larger than ``most``; ``what`` names it.
    """
    if len(text) > len(str(most)) or _DECIMAL.fullmatch(text) is None or int(text) > most:
        raise NoteError(f"{what} is not a decimal number up to {most}")
    return int(text)


def _cosigned(text: str, moment: int) -> bytes:
    return f"cosignature/v1\ntime {moment}\n{text}".encode()


def _signed(text: str, key: VerifierKey, data: bytes) -> Signature:
    # A signer that holds another key, or fails, must not get a note out that nobody can verify.
    if not key.verify(text, data):
        raise NoteError(f"the signer's signature is not one by {key.name} ({key.key_id.hex()})")
    return Signature(key.name, key.key_id, data)


def _check_name(name: str) -> None:
    if not name or "+" in name or any(character.isspace() for character in name) or _CONTROL.search(name) is not None:
        raise NoteError("a key's name is empty, or holds a space, a plus or a control character")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise NoteError(f"a key's name is longer than {MAX_NAME_BYTES} bytes")
