"""Private and public keys: which are good enough, and their file forms."""

from __future__ import annotations

from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from broker.errors import InvalidArgumentError

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_MIN_RSA_BITS = 3072
_MAX_RSA_BITS = 8192
_CURVES = (ec.SECP256R1, ec.SECP384R1)
_HINT = "Make one with: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh ECDSA P-256 key: every TLS library takes it."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    """PKCS #8 PEM, not encrypted: it must lie in a file of mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_der(key: PublicKeyTypes) -> bytes:
    """The SubjectPublicKeyInfo bytes of a key."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def check_public_key(key: object) -> PublicKey:
    """Lets a key pass that is strong enough and that the broker's TLS accepts.

    Raises:
        InvalidArgumentError: it isn't EC P-256, EC P-384 or RSA of 3072 to 8192 bits (``KEY_UNFIT``).
    """
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key
    if isinstance(key, rsa.RSAPublicKey):
        # A small exponent invites padding attacks, and a huge key makes each handshake a burden.
        if _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS and key.public_numbers().e == 65537:
            return key
        what = f"an RSA key of {key.key_size} bits with exponent {key.public_numbers().e}"
    else:
        what = f"a key of type {type(key).__name__.removesuffix('PublicKey')}"
    raise InvalidArgumentError(
        f"{what} is not accepted; use EC P-256, EC P-384 or RSA of {_MIN_RSA_BITS} to {_MAX_RSA_BITS} bits (e=65537)",
        reason="KEY_UNFIT",
        hint=_HINT,
    )


def load_private_key(pem: bytes) -> PrivateKey:
    """Reads an unencrypted PEM private key.

    Raises:
        InvalidArgumentError: it can't be read (``KEY_INVALID``), or isn't fit (``KEY_UNFIT``).
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise InvalidArgumentError(
            "the private key is encrypted with a passphrase",
            reason="KEY_ENCRYPTED",
            hint="Decrypt it into a file of mode 0600 with: openssl pkey -in KEY -out PLAIN",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidArgumentError("the private key is not a PEM private key", reason="KEY_INVALID") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise InvalidArgumentError("the private key is neither EC nor RSA", reason="KEY_UNFIT", hint=_HINT)
    check_public_key(key.public_key())
    return key
