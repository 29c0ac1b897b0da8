"""The CA: what its certificates say, and that TLS believes exactly them."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker.domain.identity import IdentityKind
from broker.domain.ids import new_id
from broker.errors import DataLossError, InvalidArgumentError
from broker.identity import ca, files, keys
from broker.identity.ca import CertificateAuthority

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority.create(new_id("brk"), NOW)


def handshake(folder: Path, authority: CertificateAuthority, client_authority: CertificateAuthority) -> str:
    """A TLS handshake in memory with mutual authentication; gives the protocol's version."""
    server_key, client_key = keys.new_key(), keys.new_key()
    server = authority.issue_server(server_key.public_key(), (), NOW)
    client = client_authority.issue_client(IdentityKind.AGENT, "reporter", client_key.public_key(), NOW, DAY)
    for name, data in {
        "ca.pem": ca.pem(authority.certificate),
        "server.pem": ca.pem(server) + keys.key_pem(server_key),
        "client.pem": ca.pem(client) + keys.key_pem(client_key),
    }.items():
        files.write_new(folder / name, data)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_verify_locations(folder / "ca.pem")
    server_context.load_cert_chain(folder / "server.pem")
    client_context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    client_context.load_cert_chain(folder / "client.pem")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client_context.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server_context.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[1].version() or ""


def test_tls_takes_both_certificates(tmp_path: Path, authority: CertificateAuthority) -> None:
    assert handshake(tmp_path, authority, authority) == "TLSv1.3"


def test_tls_refuses_a_client_of_another_ca_with_the_same_name(tmp_path: Path, authority: CertificateAuthority) -> None:
    other = CertificateAuthority.create(authority.origin, NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, authority, other)


def test_the_ca_may_sign_leaves_and_nothing_else(authority: CertificateAuthority) -> None:
    certificate = authority.certificate
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert certificate.not_valid_after_utc - NOW > timedelta(days=3649)
    certificate.verify_directly_issued_by(certificate)


def test_a_client_certificate_says_one_thing_only(authority: CertificateAuthority) -> None:
    key = keys.new_key().public_key()
    first = authority.issue_client(IdentityKind.AGENT, "reporter", key, NOW, DAY)
    second = authority.issue_client(IdentityKind.AGENT, "reporter", key, NOW, DAY)
    names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier(f"spiffe://{authority.origin}.broker/agent/reporter")]
    purposes = first.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not first.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert first.serial_number != second.serial_number
    assert timedelta(minutes=1) <= NOW - first.not_valid_before_utc < timedelta(minutes=1, seconds=2)
    first.verify_directly_issued_by(authority.certificate)


def test_a_server_certificate_names_local_and_given_hosts_once(authority: CertificateAuthority) -> None:
    hosts = ("broker.example.com", "localhost", "192.0.2.7", "2001:db8::1")
    certificate = authority.issue_server(keys.new_key().public_key(), hosts, NOW)
    assert ca.server_hosts(certificate) == (
        "localhost",
        "broker.example.com",
        "127.0.0.1",
        "::1",
        "192.0.2.7",
        "2001:db8::1",
    )
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]


@pytest.mark.parametrize(
    "host", ["", "-a.example", "a..b", "Example.com", "exämple.com", "a b", "*.example.com", "a_b"]
)
def test_a_host_that_is_no_host_is_refused(authority: CertificateAuthority, host: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        authority.issue_server(keys.new_key().public_key(), (host,), NOW)
    assert caught.value.reason == "HOST_INVALID"


def test_a_certificate_never_outlives_its_ca(authority: CertificateAuthority) -> None:
    late = authority.certificate.not_valid_after_utc - timedelta(hours=1)
    certificate = authority.issue_client(IdentityKind.HUMAN, "ada", keys.new_key().public_key(), late, DAY)
    assert certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc
    with pytest.raises(InvalidArgumentError) as caught:
        authority.issue_client(IdentityKind.HUMAN, "ada", keys.new_key().public_key(), late + DAY, DAY)
    assert caught.value.reason == "CA_EXPIRED"


@pytest.mark.parametrize("life", [timedelta(0), timedelta(days=-1), timedelta(days=826)])
def test_a_life_outside_the_bounds_is_refused(authority: CertificateAuthority, life: timedelta) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        authority.issue_client(IdentityKind.HUMAN, "ada", keys.new_key().public_key(), NOW, life)
    assert caught.value.reason == "TTL_INVALID"


def test_a_ca_is_loaded_with_its_own_key_only(authority: CertificateAuthority) -> None:
    text = ca.pem(authority.certificate)
    assert CertificateAuthority.load(text, keys.key_pem(authority.key)).origin == authority.origin
    with pytest.raises(DataLossError) as caught:
        CertificateAuthority.load(text, keys.key_pem(keys.new_key()))
    assert caught.value.reason == "CA_INVALID"
    with pytest.raises(DataLossError):
        CertificateAuthority.load(b"", b"")


def test_the_ca_key_is_no_part_of_its_repr(authority: CertificateAuthority) -> None:
    assert "key=" not in repr(authority)


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 3072)])
def test_a_request_of_a_strong_key_is_signed(
    authority: CertificateAuthority, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    public = ca.request_key(request.public_bytes(serialization.Encoding.PEM))
    certificate = authority.issue_client(IdentityKind.HUMAN, "ada", public, NOW, DAY)
    assert keys.public_der(certificate.public_key()) == keys.public_der(key.public_key())
