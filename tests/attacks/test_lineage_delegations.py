"""Delegations that a human didn't sign, or not like that."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from broker.domain.canonical import canonical, digest, parse_object
from broker.domain.identity import Identity, IdentityKind
from broker.domain.ids import new_id
from broker.errors import InvalidArgumentError, PermissionDeniedError
from broker.identity import ca, delegation, keys
from broker.identity.ca import CertificateAuthority
from broker.identity.directory import Directory

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)


@dataclasses.dataclass(frozen=True)
class World:
    """One broker with the human ada, her key, and the agent reporter."""

    authority: CertificateAuthority
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    human: Identity
    directory: Directory

    def token(self, life: timedelta = HOUR, now: datetime = NOW) -> str:
        return delegation.sign(
            certificate=self.certificate, key=self.key, agent="reporter", workspace="sales", life=life, now=now
        )[0]

    def verify(
        self, token: str, *, now: datetime = NOW, agent: str = "reporter", workspace: str = "sales", origin: str = ""
    ) -> Identity:
        return delegation.verify(
            token,
            directory=self.directory,
            now=now,
            agent=agent,
            workspace=workspace,
            origin=origin or self.authority.origin,
        ).human

    def refusal(self, token: str, **given: object) -> str:
        with pytest.raises(PermissionDeniedError) as caught:
            self.verify(token, **given)
        assert caught.value.reason == "DELEGATION_INVALID"
        assert "broker delegations sign" in caught.value.hint
        return caught.value.message

    def resign(self, payload: bytes, prefix: bytes = b"broker-delegation-v1\x00") -> str:
        """What the human's own key would sign, whatever the payload."""
        return f"{b64(payload)}.{b64(self.key.sign(prefix + payload, ec.ECDSA(hashes.SHA256())))}"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.fixture(scope="module")
def world() -> World:
    authority = CertificateAuthority.create(new_id("brk"), NOW)
    key = keys.new_key()
    certificate = authority.issue_client(IdentityKind.HUMAN, "ada", key.public_key(), NOW, timedelta(days=90))
    human = Identity(new_id("hum"), IdentityKind.HUMAN, "ada", "", "", NOW)
    directory = Directory(authority.origin, [human], [ca.record_of(certificate, human.id)])
    return World(authority, certificate, key, human, directory)


def changed(token: str, **fields: object) -> bytes:
    payload = parse_object(unb64(token.split(".", maxsplit=1)[0]), field="payload", max_bytes=4096)
    return canonical({**payload, **fields})


def test_a_delegation_that_holds_gives_the_human_and_the_digest_of_what_was_signed(world: World) -> None:
    token = world.token()
    given = delegation.verify(
        token, directory=world.directory, now=NOW, agent="reporter", workspace="sales", origin=world.authority.origin
    )
    assert given.human == world.human
    assert given.certificate.fingerprint == ca.fingerprint(world.certificate)
    assert given.digest == digest(unb64(token.split(".")[0]))


def test_for_another_agent_workspace_or_broker(world: World) -> None:
    token = world.token()
    assert "another agent" in world.refusal(token, agent="mallory")
    assert "another workspace" in world.refusal(token, workspace="finance")
    assert "another broker" in world.refusal(token, origin=new_id("brk"))


def test_too_early_and_too_late(world: World) -> None:
    token = world.token()
    assert "not valid yet" in world.refusal(token, now=NOW - timedelta(minutes=2))
    assert world.verify(token, now=NOW + HOUR - timedelta(seconds=1)) == world.human
    assert "expired" in world.refusal(token, now=NOW + HOUR)


@pytest.mark.parametrize(
    "fields",
    [
        {"expires": "2099-01-01T00:00:00Z"},
        {"agent": "mallory"},
        {"workspace": "finance"},
        {"human": "bob"},
        {"nonce": "0" * 32},
    ],
)
def test_an_extended_delegation_under_the_old_signature(world: World, fields: dict[str, object]) -> None:
    payload, signature = changed(world.token(), **fields), world.token().split(".")[1]
    given = {key: value for key, value in fields.items() if key in {"agent", "workspace"}}
    world.refusal(f"{b64(payload)}.{signature}", **given)


def test_signed_by_another_key(world: World) -> None:
    forger = dataclasses.replace(world, key=keys.new_key())
    payload = unb64(world.token().split(".")[0])
    assert "signature" in world.refusal(forger.resign(payload))


def test_a_signature_made_for_something_else(world: World) -> None:
    payload = unb64(world.token().split(".")[0])
    assert "signature" in world.refusal(world.resign(payload, prefix=b""))
    assert "signature" in world.refusal(world.resign(payload, prefix=b"broker-vote-v1\x00"))


def test_named_after_another_human(world: World) -> None:
    assert "signer" in world.refusal(world.resign(changed(world.token(), human="bob")))


def test_the_human_may_not_give_more_than_thirty_days(world: World) -> None:
    late = (NOW + timedelta(days=31)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert "30 days" in world.refusal(world.resign(changed(world.token(), expires=late)))
    early = (NOW - timedelta(days=31)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert "30 days" in world.refusal(world.resign(changed(world.token(), not_before=early)))
    with pytest.raises(InvalidArgumentError) as caught:
        world.token(life=timedelta(days=30, seconds=1))
    assert caught.value.reason == "TTL_INVALID"


_CHANGES: list[Callable[[bytes], bytes]] = [
    lambda payload: payload.replace(b'"agent":', b'"agent": '),
    lambda payload: payload + b"\n",
    lambda payload: payload.replace(b'"agent":"reporter"', b'"agent":"reporter","agent":"reporter"'),
    lambda payload: payload.replace(b'"agent":"reporter"', b'"agent":"mallory","agent":"reporter"'),
    lambda payload: payload.replace(b'"reporter"', b'"\\u0072eporter"'),
    lambda payload: payload.replace(b'"v":1', b'"v":1.0'),
    lambda payload: payload.replace(b'"v":1', b'"v":true'),
    lambda payload: payload.replace(b'"v":1', b'"v":"1"'),
    lambda payload: payload.replace(b'"v":1', b'"v":2'),
    lambda payload: payload.replace(b'"v":1', b'"v":1,"scope":"all"'),
    lambda payload: payload.replace(b'"type":"delegation"', b'"type":"vote"'),
    lambda payload: payload.replace(b'"workspace":"sales"', b'"workspace":["sales"]'),
    lambda payload: payload.replace(b',"workspace":"sales"', b""),
    lambda payload: payload.replace(b"Z", b"+00:00"),
    lambda payload: payload.replace(b"{", b"[{").replace(b"}", b"}]"),
    lambda _: b"{}",
    lambda _: b"",
    lambda _: b"\xff\xfe",
]


@pytest.mark.parametrize("change", _CHANGES)
def test_even_the_human_signs_only_the_one_form(world: World, change: Callable[[bytes], bytes]) -> None:
    payload = unb64(world.token().split(".")[0])
    assert change(payload) != payload
    world.refusal(world.resign(change(payload)))


def test_a_time_that_does_not_exist(world: World) -> None:
    assert "time" in world.refusal(world.resign(changed(world.token(), expires="2026-02-30T00:00:00Z")))


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token + "=",
        lambda token: token.replace(".", ".."),
        lambda token: token.split(".")[0],
        lambda token: token + ".x",
        lambda token: " " + token,
        lambda token: token + "\n",
        lambda token: token.replace(".", "=."),
        lambda token: "é" + token,
        lambda _: "",
        lambda _: ".",
        lambda token: token + "A" * 5000,
    ],
)
def test_another_text_for_the_same_bytes_is_refused(world: World, change: Callable[[str], str]) -> None:
    world.refusal(change(world.token()))


def test_stray_bits_in_the_last_character_are_refused(world: World) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    payload = unb64(world.token().split(".")[0])
    # The nonce has a fixed length, so the payload's length decides whether its last character has stray bits at all.
    text = b64(payload)
    other = text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]
    signature = world.token().split(".")[1]
    assert world.refusal(f"{other}.{signature}")


def test_a_revoked_or_expired_signer_delegates_nothing(world: World) -> None:
    token = world.token()
    record = ca.record_of(world.certificate, world.human.id)
    for human, certificate in (
        (dataclasses.replace(world.human, revoked=NOW), record),
        (world.human, dataclasses.replace(record, revoked=NOW)),
        (world.human, dataclasses.replace(record, not_after=NOW)),
    ):
        directory = Directory(world.authority.origin, [human], [certificate])
        assert "signer" in dataclasses.replace(world, directory=directory).refusal(token)


def test_an_agent_can_not_delegate(world: World) -> None:
    key = keys.new_key()
    certificate = world.authority.issue_client(IdentityKind.AGENT, "ada", key.public_key(), NOW, timedelta(days=9))
    with pytest.raises(InvalidArgumentError) as caught:
        delegation.sign(certificate=certificate, key=key, agent="reporter", workspace="sales", life=HOUR, now=NOW)
    assert caught.value.reason == "NOT_A_HUMAN"
    agent = Identity(new_id("agt"), IdentityKind.AGENT, "ada", world.human.id, world.human.id, NOW)
    directory = Directory(world.authority.origin, [agent], [ca.record_of(certificate, agent.id)])
    forger = dataclasses.replace(world, key=key, directory=directory)
    forged = forger.resign(changed(world.token(), certificate=ca.fingerprint(certificate)))
    assert "signer" in forger.refusal(forged)


def test_signing_needs_the_certificates_own_ec_key_and_ends_with_it(world: World) -> None:
    for key in (keys.new_key(), rsa.generate_private_key(65537, 3072)):
        with pytest.raises(InvalidArgumentError) as caught:
            delegation.sign(
                certificate=world.certificate, key=key, agent="reporter", workspace="sales", life=HOUR, now=NOW
            )
        assert caught.value.reason == "KEY_UNFIT"
    late = world.certificate.not_valid_after_utc - timedelta(minutes=30)
    with pytest.raises(InvalidArgumentError) as caught:
        world.token(now=late)
    assert caught.value.reason == "TTL_INVALID"
