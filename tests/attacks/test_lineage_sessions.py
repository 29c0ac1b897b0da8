"""Lineage by sessions, schedules and owners: what an agent names and can't prove is refused, never ignored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.cli.init import create_state
from broker.cli.local import Local, load_ca, open_local
from broker.domain.call import CallContext, Lineage
from broker.domain.identity import Caller, Identity, IdentityKind, Schedule, Session
from broker.domain.tier import Tier
from broker.errors import (
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
)
from broker.identity import delegation, keys
from broker.identity.directory import Directory
from broker.identity.lineage import prove
from broker.identity.sessions import SCHEDULED_PER_HOUR, SchedulePlan, Sessions, get_session, list_sessions

HOUR = timedelta(hours=1)


class World:
    """A real state directory with the humans ada (operator), bob and eve, and the agents reporter (ada's) and spy."""

    def __init__(self, local: Local) -> None:
        self.local = local
        self.now = datetime.now(UTC)
        self.authority = load_ca(local.paths, local.origin)
        self.keys: dict[str, keys.PrivateKey] = {}
        self.certificates: dict[str, object] = {}
        self.callers: dict[str, Caller] = {}
        directory = local.read(Directory.load)
        self.ada = next(iter(directory.identities.values())).id
        self.callers["ada"] = Caller(directory.identities[self.ada], next(iter(directory.certificates.values())))
        self.bob = self.add(IdentityKind.HUMAN, "bob").id
        self.eve = self.add(IdentityKind.HUMAN, "eve").id
        self.add(IdentityKind.AGENT, "reporter", owner=self.ada)
        self.add(IdentityKind.AGENT, "spy", owner=self.eve)

    def add(self, kind: IdentityKind, name: str, owner: str = "") -> Identity:
        key = keys.new_key()
        certificate = self.authority.issue_client(kind, name, key.public_key(), self.now, timedelta(days=30))
        registry = self.local.registry

        def work(tx: object) -> Caller:
            if kind is IdentityKind.HUMAN:
                new = registry.register_human(tx, name=name, by=self.ada, now=self.now)
            else:
                new = registry.register_agent(tx, name=name, owner=owner, by=self.ada, now=self.now)
            return Caller(new, registry.issue(tx, identity=new.id, certificate=certificate, by=self.ada, now=self.now))

        self.keys[name], self.certificates[name] = key, certificate
        self.callers[name] = self.local.write(work)
        return self.callers[name].identity

    def start(
        self,
        *,
        by: str = "bob",
        agent: str = "reporter",
        workspace: str = "sales",
        schedule: str = "",
        ttl: timedelta | None = None,
        now: datetime | None = None,
    ) -> Session:
        sessions, caller = Sessions(self.local.recorder), self.callers[by]
        return self.local.write(
            lambda tx: sessions.start(
                tx,
                caller=caller,
                agent=agent,
                workspace=workspace,
                ttl=ttl,
                schedule=schedule,
                now=now or self.now,
            )
        )

    def end(self, session: Session, by: str) -> Session:
        sessions, caller = Sessions(self.local.recorder), self.callers[by]
        return self.local.write(lambda tx: sessions.end(tx, caller=caller, session_id=session.id, now=self.now))

    def schedule(self, by: str = "bob", agent: str = "reporter", **changes: object) -> Schedule:
        plan = SchedulePlan(
            agent=agent,
            workspace="sales",
            weekdays=frozenset(),
            from_minute=0,
            until_minute=1440,
            session_ttl=HOUR,
            expires=self.now + timedelta(days=7),
        )
        plan = dataclasses.replace(plan, **changes)
        sessions, caller = Sessions(self.local.recorder), self.callers[by]
        return self.local.write(lambda tx: sessions.create_schedule(tx, caller=caller, plan=plan, now=self.now))

    def revoke(self, name: str, kind: IdentityKind = IdentityKind.HUMAN) -> None:
        registry, identity = self.local.registry, self.callers[name].identity.id
        assert self.callers[name].identity.kind is kind
        self.local.write(
            lambda tx: registry.revoke_identity(tx, identity=identity, by=self.ada, reason="left", now=self.now)
        )

    def prove(
        self,
        session: str = "",
        token: str = "",
        *,
        by: str = "reporter",
        workspace: str = "sales",
        tier: Tier = Tier.INTERNAL,
        now: datetime | None = None,
    ) -> Lineage:
        context = CallContext(workspace=workspace, session=session, delegation=token)
        directory, caller = self.local.read(Directory.load), self.callers[by]
        return self.local.read(
            lambda tx: prove(
                tx,
                directory,
                caller=caller,
                context=context,
                tier=tier,
                now=now or self.now,
                origin=self.local.origin,
            )
        )

    def refusal(self, session: str, **given: object) -> str:
        with pytest.raises(PermissionDeniedError) as caught:
            self.prove(session, **given)
        assert caught.value.reason == "SESSION_INVALID"
        return caught.value.message


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    create_state(tmp_path / "state", operator="ada", hosts=())
    with open_local(tmp_path / "state") as local:
        yield World(local)


def test_a_session_proves_its_starter_and_the_registry_the_rest(world: World) -> None:
    session = world.start()
    lineage = world.prove(session.id, tier=Tier.AUTONOMOUS)
    assert lineage == Lineage(
        agent=world.callers["reporter"].identity.id,
        owner=world.ada,
        registrar=world.ada,
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
    forged = dataclasses.replace(world.callers["spy"].identity, owner=world.bob, registrar=world.bob)
    world.callers["spy"] = dataclasses.replace(world.callers["spy"], identity=forged)
    lineage = world.prove(by="spy")
    assert (lineage.owner, lineage.registrar) == (world.eve, world.ada)


def test_a_session_under_a_schedule_has_the_registrar_as_starter(world: World) -> None:
    schedule = world.schedule()
    session = world.start(by="reporter", schedule=schedule.id)
    lineage = world.prove(session.id, tier=Tier.AUTONOMOUS)
    assert lineage.starter == world.bob
    assert lineage.proofs == (f"session:{session.id}", f"schedule:{schedule.id}")
    world.revoke("bob")
    assert "revoked" in world.refusal(session.id)


def scheduled_refusal(world: World, **given: object) -> str:
    with pytest.raises(PermissionDeniedError) as caught:
        world.start(**{"by": "reporter", **given})
    assert caught.value.reason == "SCHEDULE_INVALID"
    return caught.value.message


def test_a_schedule_of_another_agent_or_none(world: World) -> None:
    theirs = world.schedule(by="eve", agent="spy")
    for schedule in (theirs.id, "", "sch_00000000000000000000000000"):
        assert scheduled_refusal(world, schedule=schedule)
    # Naming the other agent doesn't help either, and doesn't tell whether there is one.
    assert scheduled_refusal(world, schedule=theirs.id, agent="spy") == scheduled_refusal(
        world, schedule=theirs.id, agent="nobody"
    )


def test_a_schedule_outside_its_place_and_time(world: World) -> None:
    minute = world.now.hour * 60 + world.now.minute
    schedule = world.schedule()
    assert "another workspace" in scheduled_refusal(world, schedule=schedule.id, workspace="finance")
    assert "time" in scheduled_refusal(world, schedule=schedule.id, now=world.now + timedelta(days=8))
    other_day = world.schedule(weekdays=frozenset({world.now.isoweekday() % 7 + 1}))
    assert "time" in scheduled_refusal(world, schedule=other_day.id)
    window = {"from_minute": 0, "until_minute": minute} if minute else {"from_minute": 60, "until_minute": 120}
    assert "time" in scheduled_refusal(world, schedule=world.schedule(**window).id)
    world.revoke("bob")
    assert "revoked" in scheduled_refusal(world, schedule=schedule.id)


def test_a_revoked_agent_starts_nothing(world: World) -> None:
    schedule = world.schedule()
    world.revoke("reporter", IdentityKind.AGENT)
    assert "revoked" in scheduled_refusal(world, schedule=schedule.id)
    with pytest.raises(NotFoundError) as caught:
        world.start()
    assert caught.value.reason == "AGENT_UNKNOWN"


def test_a_revoked_human_starts_nothing(world: World) -> None:
    world.revoke("bob")
    with pytest.raises(PermissionDeniedError) as caught:
        world.start(by="bob")
    assert caught.value.reason == "IDENTITY_REVOKED"


def test_an_agent_registers_no_schedule(world: World) -> None:
    with pytest.raises(PermissionDeniedError) as caught:
        world.schedule(by="reporter")
    assert caught.value.reason == "NOT_A_HUMAN"


def test_a_scheduled_session_ends_with_its_schedule_and_no_later_than_asked(world: World) -> None:
    schedule = world.schedule(expires=world.now + timedelta(minutes=30))
    assert world.start(by="reporter", schedule=schedule.id).expires == schedule.expires
    longer = world.schedule()
    assert world.start(by="reporter", schedule=longer.id, ttl=24 * HOUR).expires == world.now + HOUR
    assert world.start(by="reporter", schedule=longer.id, ttl=HOUR / 2).expires == world.now + HOUR / 2


def test_an_agent_can_not_fill_the_ledger_with_sessions(world: World) -> None:
    schedule = world.schedule()
    for _ in range(SCHEDULED_PER_HOUR):
        world.start(by="reporter", schedule=schedule.id)
    with pytest.raises(ResourceExhaustedError) as caught:
        world.start(by="reporter", schedule=schedule.id)
    assert caught.value.reason == "SESSION_QUOTA"
    assert caught.value.retry_after_s == pytest.approx(3600)
    assert world.start(by="reporter", schedule=schedule.id, now=world.now + HOUR).starter == world.bob


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weekdays": frozenset({0})}, "SCHEDULE_INVALID"),
        ({"weekdays": frozenset({8})}, "SCHEDULE_INVALID"),
        ({"from_minute": -1}, "SCHEDULE_INVALID"),
        ({"until_minute": 1441}, "SCHEDULE_INVALID"),
        ({"from_minute": 60, "until_minute": 60}, "SCHEDULE_INVALID"),
        ({"session_ttl": timedelta(hours=25)}, "TTL_INVALID"),
        ({"session_ttl": timedelta(0)}, "TTL_INVALID"),
        ({"expires": datetime(2020, 1, 1, tzinfo=UTC)}, "SCHEDULE_INVALID"),
        ({"expires": datetime(2999, 1, 1, tzinfo=UTC)}, "SCHEDULE_INVALID"),
        ({"workspace": "*"}, "NAME_INVALID"),
    ],
)
def test_a_schedule_with_a_wrong_field(world: World, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        world.schedule(**changes)
    assert caught.value.reason == reason
    assert caught.value.violations[0].field.startswith("schedule.")


@pytest.mark.parametrize("ttl", [timedelta(0), -HOUR, timedelta(hours=24, seconds=1)])
def test_a_session_lasts_a_day_at_most(world: World, ttl: timedelta) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        world.start(ttl=ttl)
    assert caught.value.reason == "TTL_INVALID"


def test_starter_owner_and_agent_may_see_and_end_a_session_and_nobody_else(world: World) -> None:
    for by in ("bob", "ada", "reporter"):
        assert world.end(world.start(by="bob"), by=by).ended == world.now
    session, caller = world.start(by="bob"), world.callers
    for by in ("eve", "spy"):
        with pytest.raises(NotFoundError) as caught:
            world.end(session, by=by)
        assert caught.value.reason == "SESSION_UNKNOWN"
        with pytest.raises(NotFoundError):
            world.local.read(lambda tx, by=by: get_session(tx, caller=caller[by], session_id=session.id))


def test_lists_show_each_their_own_newest_first_in_pages(world: World) -> None:
    mine = [world.start(by="bob").id for _ in range(3)]
    spys = world.start(by="bob", agent="spy").id
    world.start(by="eve", agent="spy")

    def pages(by: str, agent: str = "", limit: int = 2) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            page, token = world.local.read(
                lambda tx, before=token: list_sessions(
                    tx, caller=world.callers[by], agent=agent, limit=limit, before=before
                )
            )
            found += [item.id for item in page]
            if not token:
                return found

    assert sorted(pages("bob"), reverse=True) == pages("bob")
    assert set(pages("bob")) == {*mine, spys}
    assert pages("bob", "spy") == [spys]
    assert set(pages("ada")) == set(mine)
    assert pages("reporter") == pages("ada")
    assert len(pages("eve")) == 2
    assert pages("eve", "reporter") == pages("spy", "reporter") == pages("ada", "nobody") == []
    assert pages("bob", limit=1) == pages("bob", limit=1000)


def test_what_the_ledger_says_of_sessions_holds_no_name(world: World) -> None:
    world.end(world.start(by="reporter", schedule=world.schedule().id), by="bob")
    entries = world.local.read(lambda tx: tx.ledger.entries(0, 1000))
    kinds = [entry.data.split(b'"type":"')[1].split(b'"')[0] for entry in entries]
    assert kinds[-3:] == [b"schedule.registered", b"session.started", b"session.ended"]
    for name in (b"ada", b"bob", b"eve", b"reporter", b"spy"):
        assert not any(b'"' + name in entry.data or b"/" + name in entry.data for entry in entries)
