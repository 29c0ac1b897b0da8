"""Lineage by sessions, schedules and owners: what an agent names and can't prove is refused, never ignored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from broker.domain.call import CallContext, Lineage
from broker.domain.identity import Caller, IdentityKind
from broker.domain.tier import Tier
from broker.errors import (
    PermissionDeniedError,
    UnauthenticatedError,
)
from broker.identity import delegation, keys
from broker.identity.directory import Directory
from broker.identity.lineage import prove
from tests.identity_world import HOUR, World, make_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from make_world(tmp_path)


def test_a_session_proves_its_starter_and_the_registry_the_rest(world: World) -> None:
    session = world.start()
    lineage = world.prove(session.id, tier=Tier.AUTONOMOUS)
    assert lineage == Lineage(
        agent=world.callers["reporter"].identity.id,
        owner=world.ada,
        registrar=world.bob,
        starter=world.bob,
        proofs=(f"session:{session.id}",),
    )


def test_without_a_session_the_starter_is_unproven_and_tier_three_refuses(world: World) -> None:
    for tier in (Tier.INTERNAL, Tier.CUSTOMER_ASSIST, Tier.CUSTOMER_FACING):
        assert not world.prove(tier=tier).proven
    for tier in (Tier.REGULATED, Tier.AUTONOMOUS):
        with pytest.raises(PermissionDeniedError) as caught:
            world.prove(tier=tier)
        assert caught.value.reason == "LINEAGE_UNPROVEN"
        assert "broker sessions start --agent reporter" in caught.value.hint


def test_a_session_of_another_agent_looks_like_none(world: World) -> None:
    theirs = world.start(by="eve", agent="spy")
    assert world.refusal(theirs.id) == world.refusal("ses_00000000000000000000000000") == world.refusal("x" * 99)


def test_a_session_of_another_workspace(world: World) -> None:
    assert "another workspace" in world.refusal(world.start().id, workspace="finance")


def test_an_ended_session_and_one_that_is_over(world: World) -> None:
    session = world.start(ttl=HOUR)
    assert world.prove(session.id, now=world.now + HOUR - timedelta(seconds=1)).proven
    assert "expired" in world.refusal(session.id, now=world.now + HOUR)
    world.end(session, by="bob")
    assert "ended" in world.refusal(session.id)


def test_a_session_whose_starter_was_revoked(world: World) -> None:
    session = world.start()
    world.revoke("bob")
    assert "revoked" in world.refusal(session.id)


def test_a_session_whose_starter_no_longer_answers_for_the_agent(world: World) -> None:
    session = world.start(by="ada")
    agent = world.callers["reporter"].identity
    world.local.write(
        lambda tx: world.local.registry.change_owner(tx, agent=agent.id, owner=world.eve, by=world.bob, now=world.now)
    )
    key = keys.new_key()
    certificate = world.authority.issue_client(agent.kind, agent.name, key.public_key(), world.now, HOUR)
    registry = world.local.registry
    record = world.local.write(
        lambda tx: registry.issue(tx, identity=agent.id, certificate=certificate, by=world.bob, now=world.now)
    )
    world.callers["reporter"] = Caller(world.local.read(lambda tx: tx.identities.get(agent.id)), record)
    assert "no longer answers" in world.refusal(session.id)


def test_a_wrong_session_is_refused_at_the_lowest_tier_and_beside_a_good_delegation(world: World) -> None:
    token = signed(world)
    assert world.prove(token=token).on_behalf_of == world.bob
    assert world.refusal("ses_00000000000000000000000000", token=token, tier=Tier.INTERNAL)


def signed(world: World, agent: str = "reporter") -> str:
    return delegation.sign(
        certificate=world.certificates["bob"],
        key=world.keys["bob"],
        agent=agent,
        workspace="sales",
        life=HOUR,
        now=world.now,
    )[0]


def test_a_delegation_alone_does_not_say_who_started_the_work(world: World) -> None:
    with pytest.raises(PermissionDeniedError) as caught:
        world.prove(token=signed(world), tier=Tier.REGULATED)
    assert caught.value.reason == "LINEAGE_UNPROVEN"


def test_a_delegation_of_another_agent_or_a_human_revoked_since(world: World) -> None:
    for token in (signed(world, "spy"), "x.y", "."):
        with pytest.raises(PermissionDeniedError) as caught:
            world.prove(token=token)
        assert caught.value.reason == "DELEGATION_INVALID"
    token = signed(world)
    old = world.local.read(Directory.load)
    world.revoke("bob")
    caller, context = world.callers["reporter"], CallContext(workspace="sales", delegation=token)
    # The directory was read before the revocation; the transaction knows better.
    with pytest.raises(PermissionDeniedError) as caught:
        world.local.read(
            lambda tx: prove(
                tx,
                old,
                caller=caller,
                context=context,
                tier=Tier.INTERNAL,
                now=world.now,
                origin=world.local.origin,
            )
        )
    assert caught.value.reason == "DELEGATION_INVALID"


def test_an_agent_or_certificate_revoked_while_the_call_waited(world: World) -> None:
    registry, reporter = world.local.registry, world.callers["reporter"]
    world.local.write(
        lambda tx: registry.revoke_certificate(
            tx,
            identity=reporter.identity.id,
            fingerprint=reporter.certificate.fingerprint,
            by=world.ada,
            reason="lost",
            now=world.now,
        )
    )
    with pytest.raises(UnauthenticatedError) as caught:
        world.prove()
    assert caught.value.reason == "CERTIFICATE_REVOKED"
    world.revoke("reporter", IdentityKind.AGENT)
    with pytest.raises(UnauthenticatedError) as caught:
        world.prove()
    assert caught.value.reason == "IDENTITY_REVOKED"


def test_an_agent_whose_owner_was_revoked(world: World) -> None:
    world.revoke("eve")
    with pytest.raises(PermissionDeniedError) as caught:
        world.prove(by="spy")
    assert caught.value.reason == "OWNER_REVOKED"


def test_a_human_does_not_call_tools(world: World) -> None:
    with pytest.raises(PermissionDeniedError) as caught:
        world.prove(by="ada")
    assert caught.value.reason == "NOT_AN_AGENT"


def test_the_owner_is_the_registrys_word_not_the_callers(world: World) -> None:
    forged = dataclasses.replace(world.callers["spy"].identity, owner=world.ada, registrar=world.ada)
    world.callers["spy"] = dataclasses.replace(world.callers["spy"], identity=forged)
    lineage = world.prove(by="spy")
    assert (lineage.owner, lineage.registrar) == (world.eve, world.bob)


@pytest.mark.parametrize("by", ["eve", "ada"])
def test_somebody_elses_agent_gets_no_proof_of_lineage_from_a_human_who_does_not_answer_for_it(
    world: World, by: str
) -> None:
    agent = {"eve": "reporter", "ada": "spy"}[by]
    for lend in (world.start, world.schedule):
        with pytest.raises(PermissionDeniedError) as caught:
            lend(by=by, agent=agent)
        assert caught.value.reason == "NOT_IN_LINEAGE"
        assert "owner" in caught.value.hint
    assert world.local.read(lambda tx: tx.identities.sessions(agent="", starter="", before="", limit=9)) == []


def test_owner_and_registrar_start_sessions_for_their_agent(world: World) -> None:
    assert world.start(by="ada").starter == world.ada
    assert world.start(by="bob").starter == world.bob


def test_a_schedule_ends_with_its_registrars_answer_for_the_agent(world: World) -> None:
    schedule = world.schedule(by="ada")
    assert world.start(by="reporter", schedule=schedule.id).starter == world.ada
    world.local.write(
        lambda tx: world.local.registry.change_owner(
            tx, agent=world.callers["reporter"].identity.id, owner=world.eve, by=world.bob, now=world.now
        )
    )
    with pytest.raises(PermissionDeniedError) as caught:
        world.start(by="reporter", schedule=schedule.id)
    assert caught.value.reason == "SCHEDULE_INVALID"
    assert "no longer owns" in caught.value.message
