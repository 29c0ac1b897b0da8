"""What each store promises of identities, certificates, sessions and schedules."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from broker.domain.identity import Certificate, Identity, IdentityKind, Schedule, Session
from broker.domain.ports import Store
from broker.errors import ConflictError, NotFoundError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ANN = Identity("hum_1", IdentityKind.HUMAN, "ann", "", "hum_1", NOW)
BOT = Identity("agt_1", IdentityKind.AGENT, "bot", "hum_1", "hum_1", NOW + timedelta(seconds=1))
CERT = Certificate("sha256:aa", "agt_1", b"\x30\x00", NOW, NOW + timedelta(days=1))
SESSION = Session("ses_1", "agt_1", "shop", "hum_1", "", NOW, NOW + timedelta(hours=1))
SCHEDULE = Schedule("sch_1", "agt_1", "shop", "hum_1", frozenset({5, 1}), 60, 120, 3600.5, NOW)


async def _fill(store: Store) -> None:
    await store.write(lambda tx: tx.identities.insert(BOT))
    await store.write(lambda tx: tx.identities.insert(ANN))


async def test_identities_by_id_and_name(store: Store) -> None:
    await _fill(store)
    assert await store.read(lambda tx: tx.identities.get("agt_1")) == BOT
    assert await store.read(lambda tx: tx.identities.by_name(IdentityKind.AGENT, "bot")) == BOT
    assert await store.read(lambda tx: tx.identities.by_name(IdentityKind.HUMAN, "bot")) is None
    assert await store.read(lambda tx: tx.identities.get("agt_2")) is None
    assert list(await store.read(lambda tx: tx.identities.all())) == [ANN, BOT]


async def test_a_name_is_taken_within_its_kind_only(store: Store) -> None:
    await _fill(store)
    with pytest.raises(ConflictError):
        await store.write(lambda tx: tx.identities.insert(replace(BOT, id="agt_2")))
    await store.write(lambda tx: tx.identities.insert(replace(ANN, id="hum_2", name="bot")))


async def test_owner_registrar_and_revocation_change_and_nothing_else(store: Store) -> None:
    await _fill(store)
    changed = replace(BOT, owner="hum_2", registrar="hum_3", revoked=NOW, name="other", created=NOW)
    await store.write(lambda tx: tx.identities.update(changed))
    expected = replace(BOT, owner="hum_2", registrar="hum_3", revoked=NOW)
    assert await store.read(lambda tx: tx.identities.get("agt_1")) == expected
    with pytest.raises(NotFoundError):
        await store.write(lambda tx: tx.identities.update(replace(BOT, id="agt_9")))


async def test_certificates_in_the_order_of_their_issue(store: Store) -> None:
    await _fill(store)
    later = replace(CERT, fingerprint="sha256:00", not_before=NOW - timedelta(days=1))
    await store.write(lambda tx: tx.identities.insert_certificate(CERT))
    await store.write(lambda tx: tx.identities.insert_certificate(later))
    assert list(await store.read(lambda tx: tx.identities.certificates())) == [CERT, later]
    await store.write(lambda tx: tx.identities.revoke_certificate("sha256:aa", NOW))
    assert list(await store.read(lambda tx: tx.identities.certificates())) == [replace(CERT, revoked=NOW), later]
    with pytest.raises(NotFoundError):
        await store.write(lambda tx: tx.identities.revoke_certificate("sha256:ff", NOW))
    with pytest.raises(ConflictError):
        await store.write(lambda tx: tx.identities.insert_certificate(CERT))
    with pytest.raises(ConflictError):
        await store.write(lambda tx: tx.identities.insert_certificate(replace(CERT, fingerprint="x", identity="agt_9")))


async def test_sessions_are_paged_newest_first_and_filtered(store: Store) -> None:
    sessions = [replace(SESSION, id=f"ses_{n}", agent=f"agt_{n % 2}", starter=f"hum_{n % 3}") for n in range(6)]
    for session in sessions:
        await store.write(lambda tx, session=session: tx.identities.insert_session(session))

    async def page(*, agent: str = "", starter: str = "", before: str = "", limit: int = 10) -> list[str]:
        found = await store.read(
            lambda tx: tx.identities.sessions(agent=agent, starter=starter, before=before, limit=limit)
        )
        return [session.id for session in found]

    assert await page() == ["ses_5", "ses_4", "ses_3", "ses_2", "ses_1", "ses_0"]
    assert await page(before="ses_4", limit=2) == ["ses_3", "ses_2"]
    assert await page(agent="agt_1") == ["ses_5", "ses_3", "ses_1"]
    assert await page(agent="agt_1", starter="hum_0") == ["ses_3"]
    assert await store.read(lambda tx: tx.identities.session("ses_3")) == sessions[3]


async def test_a_session_ends_once(store: Store) -> None:
    await store.write(lambda tx: tx.identities.insert_session(SESSION))
    await store.write(lambda tx: tx.identities.end_session("ses_1", NOW))
    await store.write(lambda tx: tx.identities.end_session("ses_1", NOW + timedelta(hours=1)))
    assert await store.read(lambda tx: tx.identities.session("ses_1")) == replace(SESSION, ended=NOW)
    with pytest.raises(NotFoundError):
        await store.write(lambda tx: tx.identities.end_session("ses_9", NOW))
    with pytest.raises(ConflictError):
        await store.write(lambda tx: tx.identities.insert_session(SESSION))


async def test_a_schedule_comes_back_as_it_was(store: Store) -> None:
    await store.write(lambda tx: tx.identities.insert_schedule(SCHEDULE))
    assert await store.read(lambda tx: tx.identities.schedule("sch_1")) == SCHEDULE
    assert await store.read(lambda tx: tx.identities.schedule("sch_2")) is None
    with pytest.raises(ConflictError):
        await store.write(lambda tx: tx.identities.insert_schedule(SCHEDULE))
