"""Private keys in files: read, or refused with what to do."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from broker.errors import DataLossError, InvalidArgumentError
from broker.identity import keys
from broker.identity.validity import read_validity


def text(key: PrivateKeyTypes, passphrase: bytes = b"") -> bytes:
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def test_a_key_is_the_same_after_writing_and_reading() -> None:
    key = keys.new_key()
    read = keys.load_private_key(keys.key_pem(key))
    assert keys.public_der(read.public_key()) == keys.public_der(key.public_key())


@pytest.mark.parametrize(
    ("pem", "reason"),
    [
        (b"", "KEY_INVALID"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "KEY_INVALID"),
        (text(keys.new_key(), b"secret"), "KEY_ENCRYPTED"),
        (text(ed25519.Ed25519PrivateKey.generate()), "KEY_UNFIT"),
        (text(ec.generate_private_key(ec.SECP521R1())), "KEY_UNFIT"),
    ],
)
def test_a_key_that_can_not_be_used_is_refused(pem: bytes, reason: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        keys.load_private_key(pem)
    assert caught.value.reason == reason
    with pytest.raises(DataLossError):
        read_validity(b"", pem)
