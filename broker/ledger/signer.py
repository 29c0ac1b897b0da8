"""Signs checkpoints: what signs is behind a protocol; here it is an Ed25519 key in a file with a passphrase.

The file is PKCS #8 PEM as ``openssl pkey`` reads it, encrypted by PBES2: PBKDF2-HMAC-SHA256 with 600,000 rounds and
AES-256-CBC. The line before it is the public key (its ``vkey``): it says whose file it is without the passphrase, and a
damaged private key shows, since it has another public half.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, padding, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from broker.domain.secret import Secret
from broker.errors import ConflictError, DataLossError, FailedPreconditionError
from broker.private_file import make_private_dir, read_private, write_new
from broker.tlog.note import ED25519, NoteError, VerifierKey, encode_base64

KDF_ROUNDS = 600_000
"""Rounds of PBKDF2: what OWASP asks for with SHA-256, about 0.1 s at each start of a broker."""
LEAST_PASSPHRASE, MOST_PASSPHRASE = 12, 1000
"""Bytes of a passphrase."""

_MOST_FILE = 16 * 1024
_WHAT = "checkpoint key"
_RESTORE = "Restore it from its backup; the ledger's key history says which key it must be: broker ledger keys"
_PEM = re.compile(
    rb"checkpoint-key: (?P<key>[^\n]{1,2048})\n"
    rb"(?P<pem>-----BEGIN ENCRYPTED PRIVATE KEY-----\n[A-Za-z0-9+/=\n]+-----END ENCRYPTED PRIVATE KEY-----\n)",
)
_LINE = 64

# The object identifiers of RFC 8018 and NIST, as DER.
_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_PBKDF2 = bytes.fromhex("06092a864886f70d01050c")
_HMAC_SHA256 = bytes.fromhex("06082a864886f70d02090500")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")


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
        try:
            private = serialization.load_pem_private_key(pem, passphrase.reveal())
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # Without authentication in the format, a wrong passphrase and a changed byte are one and the same.
            raise FailedPreconditionError(
                f"the passphrase doesn't open the {_WHAT} {path}",
                reason="PASSPHRASE_WRONG",
                hint="Check where the passphrase comes from (setting checkpoint_passphrase, or the file "
                "checkpoint.passphrase beside the key). If it is right, the key file is damaged: restore it.",
            ) from None  # the library's own text goes no further: nobody promised that it holds nothing of its input
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
    _check_passphrase(passphrase.reveal(), "the passphrase")
    private = Ed25519PrivateKey.generate()
    key = VerifierKey(name, ED25519, private.public_key().public_bytes_raw())
    plain = private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    text = encode_base64(_encrypted(plain, passphrase))
    lines = "".join(f"{text[at : at + _LINE]}\n" for at in range(0, len(text), _LINE))
    pem = f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{lines}-----END ENCRYPTED PRIVATE KEY-----\n"
    make_private_dir(path.parent)
    try:
        write_new(path, f"checkpoint-key: {key}\n{pem}".encode())
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
    kind, _, rest = source.partition(":")
    if kind == "env":
        value = (os.environ if environment is None else environment).get(rest)
        if value is None:
            raise FailedPreconditionError(
                f"the passphrase of the {_WHAT} is missing: the environment variable {rest} isn't set",
                reason="PASSPHRASE_MISSING",
                hint=f"Start the broker with {rest} set, or change the setting checkpoint_passphrase.",
            )
        return _check_passphrase(os.fsencode(value), f"the environment variable {rest}")
    path = Path(rest) if source else default
    # What an operator's own setting leads to may be a link, as secrets that are mounted into a container are.
    try:
        data = read_private(
            path,
            what=f"passphrase of the {_WHAT}",
            most_bytes=MOST_PASSPHRASE + 1,
            missing="",
            follow_links=bool(source),
        )
    except FailedPreconditionError as error:
        if error.reason != "KEY_MISSING":
            raise
        raise FailedPreconditionError(
            error.message,
            reason="PASSPHRASE_MISSING",
            hint="Restore the file from its backup, or name its source by the setting checkpoint_passphrase.",
        ) from error
    return _check_passphrase(data.removesuffix(b"\n").removesuffix(b"\r"), str(path))


def _check_passphrase(value: bytes, where: str) -> Secret:
    if not LEAST_PASSPHRASE <= len(value) <= MOST_PASSPHRASE:
        raise FailedPreconditionError(
            f"the passphrase in {where} must have {LEAST_PASSPHRASE} to {MOST_PASSPHRASE} bytes",
            reason="PASSPHRASE_UNFIT",
            hint="Take a random one, such as: openssl rand -base64 32",
        )
    return Secret(value)


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


def _encrypted(plain: bytes, passphrase: Secret) -> bytes:
    """EncryptedPrivateKeyInfo (RFC 5958) under PBES2 (RFC 8018); the library itself would do only 2048 rounds."""
    salt, start = secrets.token_bytes(16), secrets.token_bytes(16)
    derived = PBKDF2HMAC(hashes.SHA256(), 32, salt, KDF_ROUNDS).derive(passphrase.reveal())
    padder = padding.PKCS7(AES256.block_size).padder()
    cipher = Cipher(AES256(derived), CBC(start)).encryptor()
    sealed = cipher.update(padder.update(plain) + padder.finalize()) + cipher.finalize()
    rounds = KDF_ROUNDS.to_bytes(4, "big").lstrip(b"\x00")
    # The first bit of 600,000 in three bytes is 0, as DER wants it for a positive number.
    kdf = _der(0x30, _PBKDF2, _der(0x30, _der(0x04, salt), _der(0x02, rounds), _der(0x30, _HMAC_SHA256)))
    scheme = _der(0x30, _AES_256_CBC, _der(0x04, start))
    return _der(0x30, _der(0x30, _PBES2, _der(0x30, kdf, scheme)), _der(0x04, sealed))


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    length = bytes([size]) if size < 0x80 else bytes([0x81, size])
    return bytes([tag]) + length + content
