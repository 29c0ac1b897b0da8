"""Delegations: a human's signed word that an agent may act on their behalf, in one workspace, until a time.

A token is ``base64url(payload) "." base64url(signature)``, without padding. The payload is the RFC 8785 text of the
fields of ``Delegation``; the signature is ECDSA with SHA-256 (DER), by the key of the human's certificate, over
``broker-delegation-v1`` and a NUL before that text, so that no other thing which the key signs can pass for one.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from broker.domain.canonical import canonical, digest, parse_object
from broker.domain.identity import Certificate, Identity, IdentityKind
from broker.errors import BrokerError, InvalidArgumentError, PermissionDeniedError
from broker.identity import ca
from broker.identity.directory import Directory, parse_peer
from broker.identity.keys import PrivateKey, public_der
from broker.identity.names import check_name, origin_of, parse_spiffe, spiffe_uri

MAX_LIFE = timedelta(days=30)
MAX_TOKEN = 4096
"""Characters of the longest token."""

_DOMAIN = b"broker-delegation-v1\x00"
_VERSION = 1
_NONCE = re.compile(r"[0-9a-f]{32}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")
_SLACK = timedelta(minutes=1)
"""How far the signer's clock may run ahead."""


@dataclass(frozen=True, slots=True)
class Delegation:
    """What a human signs. Names are those of the registry; ``audience`` is the origin id of the broker's ledger."""

    audience: str
    human: str
    certificate: str
    agent: str
    workspace: str
    not_before: datetime
    expires: datetime
    nonce: str

    def payload(self) -> bytes:
        """The bytes that are signed, less their prefix."""
        return canonical(
            {
                "v": _VERSION,
                "type": "delegation",
                "audience": self.audience,
                "human": self.human,
                "certificate": self.certificate,
                "agent": self.agent,
                "workspace": self.workspace,
                "not_before": _second(self.not_before),
                "expires": _second(self.expires),
                "nonce": self.nonce,
            }
        )


@dataclass(frozen=True, slots=True)
class Verified:
    """A delegation that counts: who signed, with which certificate, and the digest of what was signed.

    The digest leaves the signature out: ECDSA has several signatures for one text.
    """

    human: Identity
    certificate: Certificate
    digest: str


def sign(
    *,
    certificate: x509.Certificate,
    key: PrivateKey,
    agent: str,
    workspace: str,
    life: timedelta,
    now: datetime,
) -> tuple[str, Delegation]:
    """Makes a token; needs no broker. Whom it is from and for which broker, the certificate says.

    Raises:
        InvalidArgumentError: a name or the life is wrong (``NAME_INVALID``, ``TTL_INVALID``), the key isn't the
            certificate's or not EC (``KEY_UNFIT``), or the certificate isn't a human's (``NOT_A_HUMAN``).
    """
    check_name(agent, field="agent")
    check_name(workspace, field="workspace")
    if not timedelta(seconds=1) <= life <= MAX_LIFE:
        raise InvalidArgumentError("a delegation lasts from 1 second to 30 days", reason="TTL_INVALID")
    if not isinstance(key, ec.EllipticCurvePrivateKey) or public_der(key.public_key()) != public_der(
        certificate.public_key()
    ):
        raise InvalidArgumentError("delegations are signed with the EC key of the certificate", reason="KEY_UNFIT")
    domain, kind, human = parse_spiffe(parse_peer(ca.pem(certificate)).spiffe_uri)
    if kind is not IdentityKind.HUMAN:
        raise InvalidArgumentError("only a human delegates", reason="NOT_A_HUMAN")
    start = now.replace(microsecond=0)
    if start + life > certificate.not_valid_after_utc:
        raise InvalidArgumentError(
            f"the certificate ends at {_second(certificate.not_valid_after_utc)}, before the delegation would",
            reason="TTL_INVALID",
            hint="Choose a shorter --expires, or issue another certificate.",
        )
    delegation = Delegation(
        audience=origin_of(domain),
        human=human,
        certificate=ca.fingerprint(certificate),
        agent=agent,
        workspace=workspace,
        not_before=start,
        expires=start + life,
        nonce=secrets.token_hex(16),
    )
    payload = delegation.payload()
    signature = key.sign(_DOMAIN + payload, ec.ECDSA(hashes.SHA256()))
    return f"{_encode(payload)}.{_encode(signature)}", delegation


def verify(token: str, *, directory: Directory, now: datetime, agent: str, workspace: str, origin: str) -> Verified:
    """Who delegated.

    Args:
        token: as the caller sent it.
        directory: the present registry.
        now: the time, UTC.
        agent: name of the agent that presents it.
        workspace: where it wants to act.
        origin: this broker's origin id.

    Raises:
        PermissionDeniedError: it doesn't count, and why (``DELEGATION_INVALID``).
    """
    payload, signature = _split(token)
    delegation = _read(payload)
    if delegation.audience != origin:
        raise _refuse("it was made for another broker")
    if delegation.agent != agent:
        raise _refuse("it was made for another agent")
    if delegation.workspace != workspace:
        raise _refuse("it was made for another workspace")
    if not delegation.not_before < delegation.expires <= delegation.not_before + MAX_LIFE:
        raise _refuse("it lasts longer than 30 days, or not at all")
    if now + _SLACK < delegation.not_before:
        raise _refuse("it is not valid yet")
    if now >= delegation.expires:
        raise _refuse("it has expired")
    uri = spiffe_uri(origin, IdentityKind.HUMAN, delegation.human)
    try:
        caller = directory.authenticate(delegation.certificate, uri, now)
    except BrokerError as error:
        raise _refuse(f"its signer doesn't count: {error.message}") from error
    _check_signature(caller.certificate.public_key_der, signature, payload)
    return Verified(caller.identity, caller.certificate, digest(payload))


def _check_signature(public_key_der: bytes, signature: bytes, payload: bytes) -> None:
    key = serialization.load_der_public_key(public_key_der)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise _refuse("its signer's key is not an EC key")
    try:
        key.verify(signature, _DOMAIN + payload, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise _refuse("its signature is wrong") from error


def _split(token: str) -> tuple[bytes, bytes]:
    if len(token) > MAX_TOKEN:
        raise _refuse(f"it is longer than {MAX_TOKEN} characters")
    parts = token.split(".")
    if len(parts) != 2:
        raise _refuse("it is not PAYLOAD.SIGNATURE")
    return _decode(parts[0]), _decode(parts[1])


def _read(payload: bytes) -> Delegation:
    try:
        value = parse_object(payload, field="delegation", max_bytes=MAX_TOKEN)
    except InvalidArgumentError as error:
        raise _refuse(error.message) from error
    version = value.pop("v", None)
    # ``true`` and ``1.0`` pass as 1 here; the comparison with the canonical form below refuses them.
    if version != _VERSION or value.pop("type", None) != "delegation":
        raise _refuse("it is not a delegation of version 1")
    texts = {key: item for key, item in value.items() if isinstance(item, str)}
    if len(texts) != len(value) or texts.keys() != Delegation.__dataclass_fields__.keys():
        raise _refuse("its fields are not exactly those of a delegation")
    if not _NONCE.fullmatch(texts["nonce"]):
        raise _refuse("its nonce is not 32 hexadecimal digits")
    delegation = Delegation(
        audience=texts["audience"],
        human=texts["human"],
        certificate=texts["certificate"],
        agent=texts["agent"],
        workspace=texts["workspace"],
        not_before=_time(texts["not_before"]),
        expires=_time(texts["expires"]),
        nonce=texts["nonce"],
    )
    if delegation.payload() != payload:
        raise _refuse("its payload is not in canonical form")
    return delegation


def _time(text: str) -> datetime:
    if not _TIME.fullmatch(text):
        raise _refuse("a time in it is not YYYY-MM-DDTHH:MM:SSZ")
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise _refuse("a time in it doesn't exist") from error


def _second(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise _refuse("it is not base64url") from error
    if _encode(data) != text:
        # Padding or stray bits in the last character: the same bytes must have one text.
        raise _refuse("it is not base64url in its one form")
    return data


def _refuse(why: str) -> PermissionDeniedError:
    return PermissionDeniedError(
        f"the delegation is refused: {why}",
        reason="DELEGATION_INVALID",
        hint="The human signs one with: broker delegations sign --agent NAME --workspace NAME --expires 8h",
    )
