"""Certificate requests that ask for more than a key, and names that aren't names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.domain.identity import IdentityKind
from broker.domain.ids import new_id
from broker.errors import InvalidArgumentError, UnauthenticatedError
from broker.identity import ca, keys
from broker.identity.ca import CertificateAuthority
from broker.identity.directory import parse_peer

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
NAMES_THAT_ARE_NONE = [
    "",
    "Reporter",
    "re/porter",
    "../human/ada",
    "report\u202eer",
    "r\u0435porter",
    "reporter\n",
    "reporter\x00",
    "-reporter",
    "1reporter",
    "re porter",
    "reporter.",
    "r" * 64,
]


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority.create(new_id("brk"), NOW)


def request(key: CertificateIssuerPrivateKeyTypes, *extensions: x509.ExtensionType) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ada")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


def test_a_request_that_smuggles_names_and_powers_gets_only_its_key_signed(authority: CertificateAuthority) -> None:
    key = keys.new_key()
    asked = request(
        key,
        x509.SubjectAlternativeName(
            [
                x509.UniformResourceIdentifier(f"spiffe://{authority.origin}.broker/human/ada"),
                x509.DNSName("localhost"),
            ]
        ),
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),
    )
    certificate = authority.issue_client(IdentityKind.AGENT, "reporter", ca.request_key(asked), NOW, DAY)
    assert parse_peer(ca.pem(certificate)).spiffe_uri == f"spiffe://{authority.origin}.broker/agent/reporter"
    assert b"ada" not in certificate.public_bytes(serialization.Encoding.DER)
    assert b"localhost" not in certificate.public_bytes(serialization.Encoding.DER)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert keys.public_der(certificate.public_key()) == keys.public_der(key.public_key())


def test_a_request_with_somebody_elses_key_is_refused() -> None:
    mine, theirs = keys.new_key(), keys.new_key()
    text = x509.load_pem_x509_csr(request(mine)).public_bytes(serialization.Encoding.DER)
    swapped = text.replace(keys.public_der(mine.public_key()), keys.public_der(theirs.public_key()))
    assert swapped != text
    forged = x509.load_der_x509_csr(swapped).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(InvalidArgumentError) as caught:
        ca.request_key(forged)
    assert caught.value.reason == "CSR_UNPROVEN"


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        rsa.generate_private_key(3, 3072),
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["rsa-2048", "rsa-exponent-3", "p-521", "secp256k1", "ed25519"],
)
def test_a_weak_or_unusable_key_is_refused(key: CertificateIssuerPrivateKeyTypes) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        ca.request_key(request(key))
    assert caught.value.reason == "KEY_UNFIT"
    assert caught.value.hint


@pytest.mark.parametrize(
    "text", [b"", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
)
def test_what_is_no_request_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        ca.request_key(text)
    assert caught.value.reason == "CSR_INVALID"


def test_the_cas_own_key_is_never_certified_as_somebodys(authority: CertificateAuthority) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        authority.issue_client(IdentityKind.AGENT, "reporter", authority.key.public_key(), NOW, DAY)
    assert caught.value.reason == "KEY_IN_USE"


@pytest.mark.parametrize("name", NAMES_THAT_ARE_NONE)
def test_a_name_that_is_none_gets_no_certificate_and_is_shown_escaped(
    authority: CertificateAuthority, name: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        authority.issue_client(IdentityKind.AGENT, name, keys.new_key().public_key(), NOW, DAY)
    assert caught.value.reason == "NAME_INVALID"
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()


def peer_with(*names: x509.GeneralName) -> bytes:
    key = keys.new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "reporter")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


_AGENT = x509.UniformResourceIdentifier("spiffe://x.broker/agent/reporter")


@pytest.mark.parametrize(
    "names",
    [
        (),
        (_AGENT, x509.UniformResourceIdentifier("spiffe://x.broker/human/ada")),
        (_AGENT, x509.DNSName("localhost")),
        (x509.DNSName("localhost"),),
        (x509.UniformResourceIdentifier("spiffe://x.broker/agent/../human/ada"),),
        (x509.UniformResourceIdentifier("spiffe://x.broker/agent/reporter?"),),
        (x509.UniformResourceIdentifier("spiffe://x.broker/agent/re%70orter"),),
        (x509.UniformResourceIdentifier("spiffe://x.broker/robot/reporter"),),
        (x509.UniformResourceIdentifier("https://x.broker/agent/reporter"),),
    ],
)
def test_a_peer_certificate_that_names_anything_else_is_refused(names: tuple[x509.GeneralName, ...]) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        parse_peer(peer_with(*names))
    assert caught.value.reason == "CERTIFICATE_INVALID"


@pytest.mark.parametrize(
    "text", [b"", b"x", b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n", b"x" * 70000]
)
def test_a_peer_without_a_readable_certificate_is_refused(text: bytes) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        parse_peer(text)
    assert caught.value.reason == "CERTIFICATE_INVALID"
