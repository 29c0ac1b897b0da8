"""Keys of people and bots: Ed25519, made by their holder, encrypted in a file of mode 0600.

The file is PKCS #8 PEM. The line before it is the public key (its ``vkey``): it can be shown without the passphrase, and a
damaged private key shows, since it has another public half. A file that ``openssl`` made has no such line and is read too.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from broker.domain.secret import Secret
from broker.errors import ConflictError, DataLossError, FailedPreconditionError, InvalidArgumentError
from broker.private_file import make_private_dir, read_private, write_new
from broker.signing.passphrase import check_passphrase
from broker.signing.pem import ENCRYPTED_PEM, decrypted, encrypted_pem
from broker.tlog.note import ED25519, NoteError, VerifierKey

_MOST_FILE = 16 * 1024
_WHAT = "signing key"
_MISSING = "Make one with `broker keys new`, or say with --key where it is."
_RESTORE = "Restore it from a copy, or make a new key and have it enrolled in place of this one."
_FILE = re.compile(rb"(?:voter-key: (?P<key>[^\r\n]{1,2048})\r?\n)?(?P<pem>" + ENCRYPTED_PEM + rb")")


class Signer(Protocol):
    """Whoever holds the private half of a key: a file, or a device."""

    @property
    def id(self) -> str:
        """The key's id: ``sha256:`` and the hex digest of the 32 bytes of the public key."""

    @property
    def public_key(self) -> bytes:
        """The public half, 32 bytes."""

    def sign(self, data: bytes) -> bytes:
        """The 64 bytes of the Ed25519 signature of some bytes."""


class Ed25519Signer:
    """Implements ``Signer`` with a private key in memory; made by ``load_key_file``, ``new_key_file`` or ``generate``."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self._public = private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"Ed25519Signer({self.id})"

    @classmethod
    def generate(cls) -> Ed25519Signer:
        """A fresh key that is kept nowhere."""
        return cls(Ed25519PrivateKey.generate())

    @property
    def id(self) -> str:
        """The key's id: ``sha256:`` and the hex digest of the 32 bytes of the public key."""
        return f"sha256:{hashlib.sha256(self._public).hexdigest()}"

    @property
    def public_key(self) -> bytes:
        """The public half, 32 bytes."""
        return self._public

    def vkey(self, name: str) -> VerifierKey:
        """The public half under its holder's name; ``str()`` of it is what is handed over to be enrolled.

        Raises:
            InvalidArgumentError: ``KEY_NAME_INVALID``.
        """
        return _named(name, self._public)

    def sign(self, data: bytes) -> bytes:
        """The 64 bytes of the Ed25519 signature of some bytes."""
        return self._private.sign(data)


def new_key_file(path: Path, passphrase: Secret, *, name: str = "") -> Ed25519Signer:
    """Makes a fresh key and writes its file with mode 0600, durable when this returns.

    Args:
        path: the file; none may be there. Folders above it are made with mode 0700.
        passphrase: what encrypts it.
        name: the holder's name, for the line with the public key; the file's own name without its end where empty.

    Raises:
        ConflictError: ``KEY_EXISTS``; a key is never overwritten.
        FailedPreconditionError: ``PASSPHRASE_UNFIT``.
        InvalidArgumentError: ``KEY_NAME_INVALID``.
    """
    check_passphrase(passphrase.reveal(), "use")
    private = Ed25519PrivateKey.generate()
    key = _named(name or path.stem, private.public_key().public_bytes_raw())
    make_private_dir(path.parent)
    try:
        write_new(path, f"voter-key: {key}\n".encode() + encrypted_pem(private, passphrase))
    except ConflictError as error:
        raise ConflictError(
            f"{path} is there already; a key is never overwritten",
            reason="KEY_EXISTS",
            hint="Use it, or choose another place for the new one.",
        ) from error
    return Ed25519Signer(private)


def load_key_file(path: Path, passphrase: Secret) -> Ed25519Signer:
    """Reads and decrypts a key file.

    Raises:
        FailedPreconditionError: no such file (``KEY_MISSING``), no regular file (``KEY_UNREADABLE``), open to others
            (``KEY_EXPOSED``), or the passphrase doesn't open it (``PASSPHRASE_WRONG``).
        DataLossError: ``KEY_DAMAGED``: what it holds is no encrypted Ed25519 key, or its two halves don't belong together.
    """
    named, pem = _read(path)
    private = decrypted(pem, passphrase)
    if private is None:
        raise FailedPreconditionError(
            f"the passphrase doesn't open the {_WHAT} {path}",
            reason="PASSPHRASE_WRONG",
            hint=f"Try again. If it is right, the file is damaged. {_RESTORE}",
        )
    if not isinstance(private, Ed25519PrivateKey):
        raise _damaged(path, "its key is not one of Ed25519")
    signer = Ed25519Signer(private)
    if named is not None and named.public_key != signer.public_key:
        raise _damaged(path, "its private half isn't that of the public key that it names")
    return signer


def read_public_key(path: Path) -> VerifierKey | None:
    """The public key that a key file names, without its passphrase; ``None`` where it names none.

    That the private half belongs to it, only ``load_key_file`` shows.

    Raises:
        FailedPreconditionError: ``KEY_MISSING``, ``KEY_UNREADABLE``, ``KEY_EXPOSED``.
        DataLossError: ``KEY_DAMAGED``.
    """
    return _read(path)[0]


def verify(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """Is this the key's Ed25519 signature of these bytes? What is no key or no signature is a no, and never an error."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _named(name: str, public_key: bytes) -> VerifierKey:
    try:
        return VerifierKey(name, ED25519, public_key)
    except NoteError as error:
        raise InvalidArgumentError(
            f"{name[:80]!a} can't be the name of a key: {error}",
            reason="KEY_NAME_INVALID",
            hint="Take the name that the broker knows you by.",
        ) from error


def _read(path: Path) -> tuple[VerifierKey | None, bytes]:
    data = read_private(path, what=_WHAT, most_bytes=_MOST_FILE, missing=_MISSING)
    found = _FILE.fullmatch(data)
    if found is None:
        raise _damaged(path, "it holds something other than an encrypted private key")
    if found["key"] is None:
        return None, found["pem"]
    try:
        key = VerifierKey.parse(found["key"].decode("utf-8"))
    except (NoteError, UnicodeDecodeError) as error:
        raise _damaged(path, "the public key in its first line can't be read") from error
    if key.algorithm != ED25519:
        raise _damaged(path, "the public key in its first line is one for cosignatures")
    return key, found["pem"]


def _damaged(path: Path, why: str) -> DataLossError:
    return DataLossError(f"the {_WHAT} {path} is damaged: {why}", reason="KEY_DAMAGED", hint=_RESTORE)
