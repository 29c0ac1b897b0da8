"""Signs checkpoints: what signs is behind a protocol; here it is an Ed25519 key in a file with a passphrase.

The file is PKCS #8 PEM as ``openssl pkey`` reads it, encrypted by PBES2: PBKDF2-HMAC-SHA256 with 600,000 rounds and
AES-256-CBC. The line before it is the public key (its ``vkey``): it says whose file it is without the passphrase, and a
damaged private key shows, since it has another public half.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.domain.secret import Secret
from broker.errors import ConflictError, DataLossError, FailedPreconditionError
from broker.private_file import make_private_dir, read_private, write_new
from broker.signing import passphrase as passphrases
from broker.signing.pem import ENCRYPTED_PEM, decrypted, encrypted_pem
from broker.tlog.note import ED25519, NoteError, VerifierKey

_MOST_FILE = 16 * 1024
_WHAT = "checkpoint key"
_RESTORE = "Restore it from its backup; the ledger's key history says which key it must be: broker ledger keys"
_PEM = re.compile(rb"checkpoint-key: (?P<key>[^\n]{1,2048})\n(?P<pem>" + ENCRYPTED_PEM + rb")")


class Signer(Protocol):
    """Whoever holds the private half of a checkpoint key: a file, or a device."""

    @property
    def key(self) -> VerifierKey:
        """The public half; its name is the ledger's origin."""

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the Ed25519 signature of a message."""


class FileSigner:
    """Implements ``Signer`` with a key that was read from its file; made by ``load``."""

    def __init__(self, key: VerifierKey, private: Ed25519PrivateKey) -> None:
        self._key = key
        self._private = private

    def __repr__(self) -> str:
        return f"FileSigner({self._key})"

    @property
    def key(self) -> VerifierKey:
        """The public half."""
        return self._key

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the Ed25519 signature of a message."""
        return self._private.sign(message)

    @classmethod
    def load(cls, path: Path, passphrase: Secret) -> FileSigner:
        """Reads and decrypts a key file.

        Raises:
            FailedPreconditionError: no such file (``KEY_MISSING``), no regular file (``KEY_UNREADABLE``), open to others
                (``KEY_EXPOSED``), or the passphrase doesn't open it (``PASSPHRASE_WRONG``).
            DataLossError: ``KEY_DAMAGED``: what it holds is no such key, or its two halves don't belong together.
        """
        key, pem = _read(path)
        private = decrypted(pem, passphrase)
        if private is None:
            raise FailedPreconditionError(
                f"the passphrase doesn't open the {_WHAT} {path}",
                reason="PASSPHRASE_WRONG",
                hint="Check where the passphrase comes from (setting checkpoint_passphrase, or the file "
                "checkpoint.passphrase beside the key). If it is right, the key file is damaged: restore it.",
            )
        if not isinstance(private, Ed25519PrivateKey) or private.public_key().public_bytes_raw() != key.public_key:
            raise _damaged(path, "its private half isn't that of the public key that it names")
        return cls(key, private)


def make_signer_file(path: Path, name: str, passphrase: Secret) -> VerifierKey:
    """Makes a fresh key and writes its file with mode 0600, durable when this returns.

    Args:
        path: the file; none may be there.
        name: name of the key, which is the ledger's origin.
        passphrase: what encrypts it.

    Raises:
        ConflictError: ``KEY_EXISTS``; a key is never overwritten.
        FailedPreconditionError: ``PASSPHRASE_UNFIT``.
    """
    passphrases.check_passphrase(passphrase.reveal(), "use")
    private = Ed25519PrivateKey.generate()
    key = VerifierKey(name, ED25519, private.public_key().public_bytes_raw())
    make_private_dir(path.parent)
    try:
        write_new(path, f"checkpoint-key: {key}\n".encode() + encrypted_pem(private, passphrase))
    except ConflictError as error:
        raise ConflictError(
            f"{path} is there already; a key is never overwritten",
            reason="KEY_EXISTS",
            hint="Keep it: only it can sign for this ledger, or hand over to another key.",
        ) from error
    return key


def read_public_key(path: Path) -> VerifierKey:
    """The public key that a key file names; that the private half belongs to it, only ``FileSigner.load`` shows.

    Raises:
        FailedPreconditionError: ``KEY_MISSING``, ``KEY_UNREADABLE``, ``KEY_EXPOSED``.
        DataLossError: ``KEY_DAMAGED``.
    """
    return _read(path)[0]


def make_passphrase_file(path: Path) -> Secret:
    """Writes a random passphrase of 256 bits with mode 0600, durable when this returns, and gives it back.

    Raises:
        ConflictError: ``FILE_EXISTS``.
    """
    text = secrets.token_urlsafe(32).encode()
    make_private_dir(path.parent)
    write_new(path, text + b"\n")
    return Secret(text)


def read_passphrase(source: str, default: Path, environment: Mapping[str, str] | None = None) -> Secret:
    """The passphrase of the checkpoint key.

    Args:
        source: ``env:NAME`` or ``file:/absolute/path``; empty for the default.
        default: the file that ``broker init`` made.
        environment: the process's own unless given.

    Raises:
        FailedPreconditionError: there is none (``PASSPHRASE_MISSING``), its file is open to others (``KEY_EXPOSED``) or
            can't be read (``KEY_UNREADABLE``), or it is too short or too long (``PASSPHRASE_UNFIT``).
    """
    # What an operator's own setting leads to may be a link, as secrets that are mounted into a container are.
    return passphrases.read_passphrase(
        source or default,
        what=_WHAT,
        hint="Restore its source, or name it by the setting checkpoint_passphrase.",
        environment=environment,
        follow_links=bool(source),
    )


def _read(path: Path) -> tuple[VerifierKey, bytes]:
    data = read_private(path, what=_WHAT, most_bytes=_MOST_FILE, missing=_RESTORE)
    found = _PEM.fullmatch(data)
    if found is None:
        raise _damaged(path, "it holds something other than a public key and an encrypted private one")
    try:
        key = VerifierKey.parse(found["key"].decode("utf-8"))
    except (NoteError, UnicodeDecodeError) as error:
        raise _damaged(path, "the public key in its first line can't be read") from error
    if key.algorithm != ED25519:
        raise _damaged(path, "the public key in its first line is one for cosignatures")
    return key, found["pem"]


def _damaged(path: Path, why: str) -> DataLossError:
    return DataLossError(f"the {_WHAT} {path} is damaged: {why}", reason="KEY_DAMAGED", hint=_RESTORE)
