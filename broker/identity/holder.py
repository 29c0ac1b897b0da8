"""Who stands at the keyboard? A human proves it with the private key of a certificate that counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from broker.domain.identity import Caller, IdentityKind
from broker.errors import InvalidArgumentError, UnauthenticatedError
from broker.identity import ca
from broker.identity.directory import Directory, parse_peer
from broker.identity.keys import PrivateKey, load_private_key, public_der
from broker.identity.names import parse_spiffe


@dataclass(frozen=True, slots=True)
class Holder:
    """A certificate with its private key at hand; whether it counts is for ``authenticate``."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)

    @classmethod
    def load(cls, certificate_pem: bytes, key_pem: bytes) -> Holder:
        """Reads both and checks that they belong together.

        Raises:
            InvalidArgumentError: ``CERTIFICATE_INVALID``, or the key isn't the certificate's (``KEY_MISMATCH``), or as
                for ``load_private_key``.
        """
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
        except ValueError as error:
            raise InvalidArgumentError("the certificate is not PEM", reason="CERTIFICATE_INVALID") from error
        key = load_private_key(key_pem)
        if public_der(key.public_key()) != public_der(certificate.public_key()):
            raise InvalidArgumentError("the private key isn't that of the certificate", reason="KEY_MISMATCH")
        return cls(certificate, key)

    @property
    def name(self) -> str:
        """The name in the certificate; not yet believed.

        Raises:
            UnauthenticatedError: it isn't a certificate of a broker.
        """
        return parse_spiffe(parse_peer(ca.pem(self.certificate)).spiffe_uri)[2]

    @property
    def public_key(self) -> bytes:
        """The certificate's public key: SubjectPublicKeyInfo, DER."""
        return public_der(self.certificate.public_key())

    def sign(self, message: bytes) -> bytes:
        """The signature of a message by the key of the certificate: ECDSA, or RSA with PKCS #1 v1.5; with SHA-256.

        The message has to say of which kind it is, as a DSSE message does: the same key signs delegations and TLS.
        """
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return self.key.sign(message, ec.ECDSA(hashes.SHA256()))

    def authenticate(self, directory: Directory, now: datetime, *, renewing: str = "") -> Caller:
        """The human whose registered certificate this is.

        Args:
            directory: the present registry.
            now: the time, UTC.
            renewing: name of the human whose certificate is about to be issued. That human, and nobody else, may use
                an expired certificate for it (a revoked one never): else an operator who is a day late could never
                act again.

        Raises:
            UnauthenticatedError: as ``Directory.authenticate``; or it is no human's (``NOT_A_HUMAN``), or the
                registry has another key under the fingerprint (``CERTIFICATE_MISMATCH``).
        """
        peer = parse_peer(ca.pem(self.certificate))
        caller = directory.holder(peer.fingerprint, peer.spiffe_uri)
        if caller.identity.kind is not IdentityKind.HUMAN:
            raise UnauthenticatedError("only a human changes the registry", reason="NOT_A_HUMAN")
        if public_der(self.key.public_key()) != caller.certificate.public_key_der:
            raise UnauthenticatedError("the registry has another key for it", reason="CERTIFICATE_MISMATCH")
        if caller.identity.name != renewing:
            directory.authenticate(peer.fingerprint, peer.spiffe_uri, now)
        return caller
