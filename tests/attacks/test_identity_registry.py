"""Attacks on the registry: stolen, swapped, expired and revoked certificates, taken names, and keys given twice."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from broker.cli.init import create_state
from broker.cli.local import Local, load_ca, open_local
from broker.domain.identity import Certificate, Identity, IdentityKind
from broker.domain.ids import new_id
from broker.domain.ports import Transaction
from broker.errors import (
    BrokerError,
    ConflictError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from broker.identity import ca, keys
from broker.identity.ca import CertificateAuthority
from broker.identity.directory import Directory, LiveDirectory, parse_peer
from broker.identity.holder import Holder
from broker.store.database import Database

MONTH = timedelta(days=30)


class World:
    """A real state directory; ada is its operator."""

    def __init__(self, local: Local) -> None:
        self.local = local
        self.now = datetime.now(UTC)
        self.authority = load_ca(local.paths, local.origin)
        self.ada = self.named(IdentityKind.HUMAN, "ada").id

    def named(self, kind: IdentityKind, name: str) -> Identity:
        found = self.directory().by_name(kind, name)
        assert found is not None
        return found

    def directory(self) -> Directory:
        return self.local.read(Directory.load)

    def human(self, name: str) -> str:
        registry = self.local.registry
        return self.local.write(lambda tx: registry.register_human(tx, name=name, by=self.ada, now=self.now)).id

    def agent(self, name: str, owner: str, by: str = "") -> str:
        registry = self.local.registry
        return self.local.write(
            lambda tx: registry.register_agent(tx, name=name, owner=owner, by=by or self.ada, now=self.now)
        ).id

    def sign(self, kind: IdentityKind, name: str, key: keys.PrivateKey | None = None) -> x509.Certificate:
        return self.authority.issue_client(kind, name, (key or keys.new_key()).public_key(), self.now, MONTH)

    def issue(self, identity: str, certificate: x509.Certificate, by: str = "") -> Certificate:
        registry = self.local.registry
        return self.local.write(
            lambda tx: registry.issue(tx, identity=identity, certificate=certificate, by=by or self.ada, now=self.now)
        )

    def refused(self, certificate: x509.Certificate, now: datetime | None = None) -> str:
        peer = parse_peer(ca.pem(certificate))
        with pytest.raises(UnauthenticatedError) as caught:
            self.directory().authenticate(peer.fingerprint, peer.spiffe_uri, now or self.now)
        return caught.value.reason


def refusal(error: type[BrokerError], work: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        work()
    return caught.value.reason


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    create_state(tmp_path / "state", operator="ada", hosts=())
    with open_local(tmp_path / "state") as local:
        yield World(local)


def test_two_certificates_count_until_one_is_revoked(world: World) -> None:
    agent = world.agent("reporter", world.ada)
    first, second = world.sign(IdentityKind.AGENT, "reporter"), world.sign(IdentityKind.AGENT, "reporter")
    world.issue(agent, first)
    world.issue(agent, second)
    for certificate in (first, second):
        peer = parse_peer(ca.pem(certificate))
        caller = world.directory().authenticate(peer.fingerprint, peer.spiffe_uri, world.now)
        assert caller.subject == "agent:reporter"
    registry, fingerprint = world.local.registry, ca.fingerprint(first)
    for _ in range(2):
        world.local.write(
            lambda tx: registry.revoke_certificate(
                tx, identity=agent, fingerprint=fingerprint, by=world.ada, reason="lost", now=world.now
            )
        )
    assert world.refused(first) == "CERTIFICATE_REVOKED"
    assert world.directory().valid_fingerprints(agent, world.now) == (ca.fingerprint(second),)


def test_a_certificate_of_another_ca_or_never_registered_is_unknown(world: World) -> None:
    world.agent("reporter", world.ada)
    other = CertificateAuthority.create(world.local.origin, world.now)
    foreign = other.issue_client(IdentityKind.AGENT, "reporter", keys.new_key().public_key(), world.now, MONTH)
    assert world.refused(foreign) == "CERTIFICATE_UNKNOWN"
    assert world.refused(world.sign(IdentityKind.AGENT, "reporter")) == "CERTIFICATE_UNKNOWN"


def test_expired_and_not_yet_valid_to_the_second(world: World) -> None:
    certificate = world.sign(IdentityKind.AGENT, "reporter")
    world.issue(world.agent("reporter", world.ada), certificate)
    end, start = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    assert world.refused(certificate, end) == "CERTIFICATE_EXPIRED"
    assert world.refused(certificate, start - timedelta(microseconds=1)) == "CERTIFICATE_NOT_YET_VALID"
    for moment in (start, end - timedelta(microseconds=1)):
        assert world.directory().authenticate(
            ca.fingerprint(certificate), parse_peer(ca.pem(certificate)).spiffe_uri, moment
        )


def test_a_known_fingerprint_under_another_name(world: World) -> None:
    certificate = world.sign(IdentityKind.AGENT, "reporter")
    world.issue(world.agent("reporter", world.ada), certificate)
    for uri in (
        f"spiffe://{world.local.origin}.broker/human/ada",
        f"spiffe://{world.local.origin}.broker/agent/spy",
        f"spiffe://{new_id('brk')}.broker/agent/reporter",
        "",
    ):
        with pytest.raises(UnauthenticatedError) as caught:
            world.directory().authenticate(ca.fingerprint(certificate), uri, world.now)
        assert caught.value.reason == "CERTIFICATE_MISMATCH"


def test_a_revoked_identity_is_refused_with_all_its_certificates_and_for_good(world: World) -> None:
    agent = world.agent("reporter", world.ada)
    certificate = world.sign(IdentityKind.AGENT, "reporter")
    world.issue(agent, certificate)
    registry = world.local.registry
    for _ in range(2):
        world.local.write(
            lambda tx: registry.revoke_identity(tx, identity=agent, by=world.ada, reason="gone", now=world.now)
        )
    assert world.refused(certificate) == "IDENTITY_REVOKED"
    again = world.sign(IdentityKind.AGENT, "reporter")
    assert refusal(FailedPreconditionError, lambda: world.issue(agent, again)) == "IDENTITY_REVOKED"
    assert refusal(ConflictError, lambda: world.agent("reporter", world.ada)) == "NAME_TAKEN"
    # The same name of the other kind is another one.
    assert world.human("reporter")


@pytest.mark.parametrize("name", ["Ada", "a/da", "a\u202eda", "a da", "", "../ada"])
def test_a_name_that_is_none_is_not_registered(world: World, name: str) -> None:
    assert refusal(InvalidArgumentError, lambda: world.human(name)) == "NAME_INVALID"
    assert refusal(InvalidArgumentError, lambda: world.agent(name, world.ada)) == "NAME_INVALID"
    assert len(world.directory().identities) == 1


def test_one_key_for_two_people_is_refused(world: World) -> None:
    key = keys.new_key()
    bob, eve = world.human("bob"), world.human("eve")
    world.issue(bob, world.sign(IdentityKind.HUMAN, "bob", key))
    same = world.sign(IdentityKind.HUMAN, "eve", key)
    assert refusal(ConflictError, lambda: world.issue(eve, same)) == "KEY_IN_USE"
    # For the same person it is a renewal.
    assert world.issue(bob, world.sign(IdentityKind.HUMAN, "bob", key))


def test_a_revoked_key_never_counts_again(world: World) -> None:
    key = keys.new_key()
    bob = world.human("bob")
    first = world.issue(bob, world.sign(IdentityKind.HUMAN, "bob", key))
    registry = world.local.registry
    world.local.write(
        lambda tx: registry.revoke_certificate(
            tx, identity=bob, fingerprint=first.fingerprint, by=world.ada, reason="stolen", now=world.now
        )
    )
    renewed = world.sign(IdentityKind.HUMAN, "bob", key)
    assert refusal(ConflictError, lambda: world.issue(bob, renewed)) == "KEY_IN_USE"


def test_a_certificate_is_registered_only_for_whom_it_names(world: World) -> None:
    agent = world.agent("reporter", world.ada)
    wrong = [world.sign(IdentityKind.AGENT, "spy"), world.sign(IdentityKind.HUMAN, "reporter")]
    for certificate in wrong:
        assert refusal(ConflictError, lambda one=certificate: world.issue(agent, one)) == "CERTIFICATE_MISMATCH"


def test_nobody_outside_the_lineage_gets_a_key_to_an_agent(world: World) -> None:
    bob, eve = world.human("bob"), world.human("eve")
    agent = world.agent("reporter", bob)
    fresh = world.sign(IdentityKind.AGENT, "reporter")
    assert refusal(PermissionDeniedError, lambda: world.issue(agent, fresh, by=eve)) == "NOT_IN_LINEAGE"
    assert refusal(PermissionDeniedError, lambda: world.issue(agent, fresh, by=agent)) == "REGISTRAR_INVALID"
    assert refusal(PermissionDeniedError, lambda: world.issue(agent, fresh, by="hum_x")) == "REGISTRAR_INVALID"
    for by in (bob, world.ada):
        world.issue(agent, world.sign(IdentityKind.AGENT, "reporter"), by=by)


def test_a_new_owner_ends_the_old_keys_and_names_who_did_it(world: World) -> None:
    bob, eve = world.human("bob"), world.human("eve")
    agent = world.agent("reporter", bob)
    key = keys.new_key()
    old = world.sign(IdentityKind.AGENT, "reporter", key)
    world.issue(agent, old)
    registry = world.local.registry
    changed = world.local.write(lambda tx: registry.change_owner(tx, agent=agent, owner=eve, by=bob, now=world.now))
    assert (changed.owner, changed.registrar) == (eve, bob)
    assert world.directory().identities[agent] == changed
    assert world.refused(old) == "CERTIFICATE_REVOKED"
    again = world.sign(IdentityKind.AGENT, "reporter", key)
    assert refusal(ConflictError, lambda: world.issue(agent, again, by=eve)) == "KEY_IN_USE"
    fresh = world.sign(IdentityKind.AGENT, "reporter")
    assert refusal(PermissionDeniedError, lambda: world.issue(agent, fresh, by=world.ada)) == "NOT_IN_LINEAGE"


def test_owners_and_registrars_are_valid_humans(world: World) -> None:
    bob, agent = world.human("bob"), world.agent("reporter", world.ada)
    registry = world.local.registry
    for owner in (agent, "hum_x", ""):
        assert refusal(FailedPreconditionError, lambda owner=owner: world.agent("other", owner)) == "OWNER_INVALID"
    world.local.write(lambda tx: registry.revoke_identity(tx, identity=bob, by=world.ada, reason="left", now=world.now))
    assert refusal(FailedPreconditionError, lambda: world.agent("other", bob)) == "OWNER_INVALID"
    assert refusal(PermissionDeniedError, lambda: world.agent("other", world.ada, by=bob)) == "REGISTRAR_INVALID"
    assert refusal(PermissionDeniedError, lambda: world.agent("other", world.ada, by=agent)) == "REGISTRAR_INVALID"

    def give(tx: Transaction) -> Identity:
        return registry.change_owner(tx, agent=agent, owner=bob, by=world.ada, now=world.now)

    assert refusal(FailedPreconditionError, lambda: world.local.write(give)) == "OWNER_INVALID"
    assert (
        refusal(NotFoundError, lambda: world.issue("agt_x", world.sign(IdentityKind.AGENT, "x"))) == "IDENTITY_UNKNOWN"
    )


def test_the_last_human_is_not_revoked(world: World) -> None:
    registry = world.local.registry

    def revoke(tx: Transaction) -> Identity:
        return registry.revoke_identity(tx, identity=world.ada, by=world.ada, reason="bye", now=world.now)

    assert refusal(FailedPreconditionError, lambda: world.local.write(revoke)) == "LAST_HUMAN"
    world.human("bob")
    assert world.local.write(revoke).revoked == world.now


def test_a_reason_is_bounded(world: World) -> None:
    registry, agent = world.local.registry, world.agent("reporter", world.ada)

    def revoke(tx: Transaction) -> Identity:
        return registry.revoke_identity(tx, identity=agent, by=world.ada, reason="x" * 4097, now=world.now)

    assert refusal(InvalidArgumentError, lambda: world.local.write(revoke)) == "TOO_LARGE"


def test_a_second_operator_does_not_register_by_its_own_word(world: World) -> None:
    registry = world.local.registry

    def register(tx: Transaction) -> Identity:
        return registry.register_operator(tx, identity=new_id("hum"), name="eve", now=world.now)

    assert refusal(ConflictError, lambda: world.local.write(register)) == "OPERATOR_EXISTS"


def test_the_ledger_holds_no_name_and_no_reason_and_the_vault_holds_both(world: World) -> None:
    bob = world.human("bobadilla")
    agent = world.agent("quarterly", bob)
    certificate = world.sign(IdentityKind.AGENT, "quarterly")
    world.issue(agent, certificate)
    registry = world.local.registry
    world.local.write(
        lambda tx: registry.revoke_identity(tx, identity=agent, by=bob, reason="left the laptop", now=world.now)
    )
    entries = [entry.data for entry in world.local.read(lambda tx: tx.ledger.entries(0, 1000))]
    for text in (b"bobadilla", b"quarterly", b"laptop", b"CERTIFICATE", b'"ada'):
        assert not any(text in data for data in entries)
    last = [json.loads(data) for data in entries if json.loads(data).get("identity") == agent]
    assert [entry["change"] for entry in last] == ["registered", "certificate", "revoked"]
    assert last[1]["fingerprint"] == ca.fingerprint(certificate)
    assert [entry["agent"]["seq"] for entry in last] == [0, 1, 2]
    vault = world.local.vault

    def read(tx: Transaction) -> list[dict[str, str]]:
        item = vault.open(tx, agent)
        chunks = list(item.read(tx, 0, 10))
        for entry, (index, text) in zip(last, chunks, strict=True):
            assert entry["sealed"] == {"index": index, "commit": item.commit(entry["type"], text)}
            assert entry["name_commit"] == item.commit("identity.name", b"quarterly")
        return [json.loads(text) for _, text in chunks]

    texts = world.local.read(read)
    assert [text["name"] for text in texts] == ["quarterly"] * 3
    assert texts[1]["certificate"].encode() == ca.pem(certificate)
    assert texts[2]["reason"] == "left the laptop"


def test_a_refused_change_leaves_nothing_behind(world: World) -> None:
    bob = world.human("bob")
    head = world.local.read(lambda tx: tx.ledger.head())
    registry, wrong = world.local.registry, world.sign(IdentityKind.HUMAN, "ada")

    def work(tx: Transaction) -> None:
        new = registry.register_agent(tx, name="reporter", owner=bob, by=world.ada, now=world.now)
        registry.issue(tx, identity=new.id, certificate=wrong, by=world.ada, now=world.now)

    assert refusal(ConflictError, lambda: world.local.write(work)) == "CERTIFICATE_MISMATCH"
    assert world.local.read(lambda tx: tx.ledger.head()) == head
    assert world.directory().by_name(IdentityKind.AGENT, "reporter") is None


def test_only_the_holder_of_a_valid_humans_key_acts(world: World) -> None:
    bob, key = world.human("bob"), keys.new_key()
    certificate = world.sign(IdentityKind.HUMAN, "bob", key)
    stolen = Holder.load(ca.pem(certificate), keys.key_pem(key))
    assert refusal(UnauthenticatedError, lambda: stolen.authenticate(world.directory(), world.now)) == (
        "CERTIFICATE_UNKNOWN"
    )
    world.issue(bob, certificate)
    assert stolen.authenticate(world.directory(), world.now).identity.id == bob
    assert "PrivateKey" not in repr(stolen)
    other = keys.key_pem(keys.new_key())
    assert refusal(InvalidArgumentError, lambda: Holder.load(ca.pem(certificate), other)) == "KEY_MISMATCH"
    swapped = dataclasses.replace(stolen, key=keys.new_key())
    assert refusal(UnauthenticatedError, lambda: swapped.authenticate(world.directory(), world.now)) == (
        "CERTIFICATE_MISMATCH"
    )
    agent_key = keys.new_key()
    agent_certificate = world.sign(IdentityKind.AGENT, "reporter", agent_key)
    world.issue(world.agent("reporter", bob), agent_certificate)
    agent = Holder.load(ca.pem(agent_certificate), keys.key_pem(agent_key))
    assert refusal(UnauthenticatedError, lambda: agent.authenticate(world.directory(), world.now)) == "NOT_A_HUMAN"


def test_an_expired_certificate_renews_its_own_human_and_does_nothing_else(world: World) -> None:
    bob, key = world.human("bob"), keys.new_key()
    certificate = world.sign(IdentityKind.HUMAN, "bob", key)
    record = world.issue(bob, certificate)
    holder, late = Holder.load(ca.pem(certificate), keys.key_pem(key)), world.now + MONTH + MONTH
    assert holder.authenticate(world.directory(), late, renewing="bob").identity.id == bob

    def reason(renewing: str) -> str:
        return refusal(UnauthenticatedError, lambda: holder.authenticate(world.directory(), late, renewing=renewing))

    assert (reason(""), reason("ada")) == ("CERTIFICATE_EXPIRED", "CERTIFICATE_EXPIRED")
    registry = world.local.registry
    world.local.write(
        lambda tx: registry.revoke_certificate(
            tx, identity=bob, fingerprint=record.fingerprint, by=world.ada, reason="stolen", now=world.now
        )
    )
    assert reason("bob") == "CERTIFICATE_REVOKED"


async def test_a_revocation_by_another_process_is_seen_at_the_next_look(world: World) -> None:
    agent = world.agent("reporter", world.ada)
    certificate = world.sign(IdentityKind.AGENT, "reporter")
    world.issue(agent, certificate)
    async with Database.open(world.local.paths.database) as broker:
        live = LiveDirectory(broker)
        first = await live.current()
        assert await live.current() is first
        # An entry that has nothing to do with identities doesn't cost a reading.
        world.local.write(lambda tx: world.local.recorder.append(tx, "heartbeat", {"note": '"type":"identity.'}))
        assert await live.current() is first
        registry = world.local.registry
        world.local.write(
            lambda tx: registry.revoke_identity(tx, identity=agent, by=world.ada, reason="gone", now=world.now)
        )
        second = await live.current()
        assert second.identities[agent].revoked == world.now
        assert first.identities[agent].revoked is None
        for _ in range(300):
            world.local.write(lambda tx: world.local.recorder.append(tx, "heartbeat", {}))
        world.human("bob")
        assert (await live.current()).by_name(IdentityKind.HUMAN, "bob")


async def test_a_revocation_between_a_look_ahead_and_the_next_question_is_seen(world: World) -> None:
    agent = world.agent("reporter", world.ada)
    async with Database.open(world.local.paths.database) as broker:
        live = LiveDirectory(broker)
        await live.current()
        world.human("bob")
        live.look_soon()
        async with asyncio.timeout(20):
            while live.seen is None or live.seen.by_name(IdentityKind.HUMAN, "bob") is None:  # noqa: ASYNC110 - looks ahead by itself, and tells nobody
                await asyncio.sleep(0.001)
        registry = world.local.registry
        world.local.write(
            lambda tx: registry.revoke_identity(tx, identity=agent, by=world.ada, reason="gone", now=world.now)
        )
        assert (await live.current()).identities[agent].revoked == world.now
