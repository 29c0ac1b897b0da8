"""A private Ed25519 key as an encrypted PEM, as ``openssl pkey`` reads it.

PBES2 with PBKDF2-HMAC-SHA256 of 600,000 rounds and AES-256-CBC: the library's own ``BestAvailableEncryption`` is the same
with 2048 rounds, which a stolen file would not withstand.
"""

from __future__ import annotations

import secrets

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, padding, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from broker.domain.secret import Secret
from broker.tlog.note import encode_base64

KDF_ROUNDS = 600_000
"""Rounds of PBKDF2: what OWASP asks for with SHA-256, about 0.1 s at each use of a file."""
ENCRYPTED_PEM = (
    rb"-----BEGIN ENCRYPTED PRIVATE KEY-----\r?\n[A-Za-z0-9+/=\r\n]+-----END ENCRYPTED PRIVATE KEY-----\r?\n"
)
"""Pattern of the PEM."""

_LINE = 64
# The object identifiers of RFC 8018 and NIST, as DER.
_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_PBKDF2 = bytes.fromhex("06092a864886f70d01050c")
_HMAC_SHA256 = bytes.fromhex("06082a864886f70d02090500")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")


def encrypted_pem(private: Ed25519PrivateKey, passphrase: Secret) -> bytes:
    """The key's PEM, encrypted under the passphrase."""
    plain = private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    text = encode_base64(_encrypted(plain, passphrase))
    lines = "".join(f"{text[at : at + _LINE]}\n" for at in range(0, len(text), _LINE))
    return f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{lines}-----END ENCRYPTED PRIVATE KEY-----\n".encode()


def decrypted(pem: bytes, passphrase: Secret) -> object | None:
    """The private key of a PEM, of whatever kind it is; ``None`` where the passphrase doesn't open it.

    Without authentication in the format, a wrong passphrase and a changed byte are one and the same.
    """
    try:
        return serialization.load_pem_private_key(pem, passphrase.reveal())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's own text goes no further: nobody promised that it holds nothing of its input.
        return None


def _encrypted(plain: bytes, passphrase: Secret) -> bytes:
    """EncryptedPrivateKeyInfo (RFC 5958) under PBES2 (RFC 8018)."""
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
