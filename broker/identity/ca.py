"""The local certificate authority: it vouches for the server to clients, and for agents and humans to the server."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.domain.canonical import digest
from broker.domain.identity import Certificate, IdentityKind
from broker.errors import DataLossError, FieldViolation, InvalidArgumentError
from broker.identity.keys import PublicKey, check_public_key, load_private_key, new_key, public_der
from broker.identity.names import check_name, origin_of, spiffe_uri, trust_domain

CA_LIFE = timedelta(days=3650)
SERVER_LIFE = timedelta(days=397)
MAX_CLIENT_LIFE = timedelta(days=825)
BACKDATE = timedelta(minutes=1)
"""Certificates begin this much before they are made: clocks differ a little."""

_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")
_ALWAYS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """A CA whose key is at hand. ``origin`` is the ledger's origin id, from which the trust domain comes."""

    origin: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(cls, origin: str, now: datetime) -> CertificateAuthority:
        """Makes a self-signed CA: ECDSA P-256, path length 0, ten years."""
        key = new_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"broker CA {origin}")])
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            _builder(name, name, key.public_key(), now, now + CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign_certificates=True), critical=True)
            .add_extension(identifier, critical=False)
            .add_extension(_uris(f"spiffe://{trust_domain(origin)}"), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(origin, certificate, key)

    @classmethod
    def load(cls, certificate_pem: bytes, key_pem: bytes) -> CertificateAuthority:
        """Reads a CA from its two files.

        Raises:
            DataLossError: they aren't a CA's certificate and its own key (``CA_INVALID``).
        """
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            key = load_private_key(key_pem)
            uris = _san(certificate).get_values_for_type(x509.UniformResourceIdentifier)
            origin = origin_of(uris[0].removeprefix("spiffe://") if uris else "")
        except (ValueError, x509.ExtensionNotFound, InvalidArgumentError) as error:
            raise DataLossError("the CA's files can't be read", reason="CA_INVALID") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or public_der(key.public_key()) != public_der(
            certificate.public_key()
        ):
            raise DataLossError("the CA's key doesn't belong to its certificate", reason="CA_INVALID")
        return cls(origin, certificate, key)

    def issue_server(self, key: PublicKey, hosts: Sequence[str], now: datetime) -> x509.Certificate:
        """A server certificate for ``localhost``, ``127.0.0.1``, ``::1`` and further hosts (names or addresses).

        Raises:
            InvalidArgumentError: a host is neither a DNS name in ASCII nor an IP address (``HOST_INVALID``).
        """
        names = x509.SubjectAlternativeName([_host(host) for host in dict.fromkeys((*_ALWAYS, *hosts))])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"broker {self.origin}")])
        return self._issue(
            subject, key, names=names, purpose=ExtendedKeyUsageOID.SERVER_AUTH, now=now, life=SERVER_LIFE
        )

    def issue_client(
        self, kind: IdentityKind, name: str, key: PublicKey, now: datetime, life: timedelta
    ) -> x509.Certificate:
        """A client certificate whose only name that counts is its one SPIFFE URI.

        Raises:
            InvalidArgumentError: ``NAME_INVALID``, ``KEY_UNFIT``, or a life outside 0 to 825 days (``TTL_INVALID``).
        """
        check_name(name, field="name")
        if not timedelta(0) < life <= MAX_CLIENT_LIFE:
            raise InvalidArgumentError("a certificate lasts more than 0 and at most 825 days", reason="TTL_INVALID")
        names = _uris(spiffe_uri(self.origin, kind, name))
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, str(kind)),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        return self._issue(subject, key, names=names, purpose=ExtendedKeyUsageOID.CLIENT_AUTH, now=now, life=life)

    def _issue(
        self,
        subject: x509.Name,
        key: PublicKey,
        *,
        names: x509.SubjectAlternativeName,
        purpose: x509.ObjectIdentifier,
        now: datetime,
        life: timedelta,
    ) -> x509.Certificate:
        check_public_key(key)
        if public_der(key) == public_der(self.key.public_key()):
            raise InvalidArgumentError("the key is the CA's own", reason="KEY_IN_USE")
        end = min(now + life, self.certificate.not_valid_after_utc)
        if end <= now:
            raise InvalidArgumentError("the CA's own certificate has expired", reason="CA_EXPIRED")
        issuer_key = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            _builder(subject, self.certificate.subject, key, now, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(names, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def request_key(pem: bytes) -> PublicKey:
    """The public key of a certificate request, after its proof of possession held.

    Every name and extension in the request is ignored: what a certificate says is the broker's word, not its
    holder's.

    Raises:
        InvalidArgumentError: unreadable (``CSR_INVALID``), signed by another key (``CSR_UNPROVEN``) or with a key that
            isn't accepted (``KEY_UNFIT``).
    """
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidArgumentError("the request is not a PEM certificate request", reason="CSR_INVALID") from error
    fit = check_public_key(key)
    try:
        proven = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidArgumentError("the request's signature can't be checked", reason="CSR_INVALID") from error
    if not proven:
        raise InvalidArgumentError("the request is not signed by the key that it names", reason="CSR_UNPROVEN")
    return fit


def server_hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    """The hosts of a server certificate, for its renewal.

    Raises:
        DataLossError: it names none (``CERTIFICATE_INVALID``).
    """
    try:
        names = _san(certificate)
    except x509.ExtensionNotFound as error:
        raise DataLossError("the certificate names no host", reason="CERTIFICATE_INVALID") from error
    addresses = names.get_values_for_type(x509.IPAddress)
    return (*names.get_values_for_type(x509.DNSName), *(str(address) for address in addresses))


def fingerprint(certificate: x509.Certificate) -> str:
    """``sha256:`` of the DER bytes."""
    return digest(certificate.public_bytes(serialization.Encoding.DER))


def read_certificate(text: bytes) -> x509.Certificate:
    """A certificate from its PEM text.

    Raises:
        DataLossError: it is none (``CERTIFICATE_INVALID``).
    """
    try:
        return x509.load_pem_x509_certificate(text)
    except ValueError as error:
        raise DataLossError("the file holds no PEM certificate", reason="CERTIFICATE_INVALID") from error


def pem(certificate: x509.Certificate) -> bytes:
    """PEM text."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def record_of(certificate: x509.Certificate, identity: str) -> Certificate:
    """What the registry keeps of a certificate that was issued for an identity (by id)."""
    return Certificate(
        fingerprint=fingerprint(certificate),
        identity=identity,
        public_key_der=public_der(certificate.public_key()),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before((now - BACKDATE).replace(microsecond=0))
        .not_valid_after(end.replace(microsecond=0))
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _uris(uri: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])


def _san(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if _HOST.fullmatch(host) and len(host) <= 253:
        return x509.DNSName(host)
    why = f"{host[:80]!a} is neither a DNS name (lower-case ASCII) nor an IP address"
    raise InvalidArgumentError(f"--host {why}", reason="HOST_INVALID", violations=(FieldViolation("host", why),))
