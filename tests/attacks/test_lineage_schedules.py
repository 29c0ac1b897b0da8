"""Attacks on schedules, and on who may see and end whose session."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.domain.identity import IdentityKind
from broker.domain.tier import Tier
from broker.errors import (
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from broker.identity.sessions import SCHEDULED_PER_HOUR, get_session, list_sessions
from tests.identity_world import HOUR, World, make_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from make_world(tmp_path)


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
