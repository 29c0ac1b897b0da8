"""From when until when a certificate file is valid, for `broker doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from broker.errors import DataLossError, InvalidArgumentError
from broker.identity.keys import load_private_key, public_der


@dataclass(frozen=True, slots=True)
class Validity:
    """Both ends, UTC; ``key_fits`` says whether the key file holds the key that the certificate names."""

    not_before: datetime
    not_after: datetime
    key_fits: bool


def read_validity(certificate_pem: bytes, key_pem: bytes) -> Validity:
    """Reads a certificate and the key beside it.

    Raises:
        DataLossError: one of them can't be read (``CERTIFICATE_INVALID``).
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = load_private_key(key_pem)
    except (ValueError, InvalidArgumentError) as error:
        raise DataLossError("the certificate or its key can't be read", reason="CERTIFICATE_INVALID") from error
    return Validity(
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        key_fits=public_der(key.public_key()) == public_der(certificate.public_key()),
    )
