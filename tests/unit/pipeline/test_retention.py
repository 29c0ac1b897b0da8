"""What is past its time goes, what is needed stays, and each sweep says what it took."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.domain.call import RESTING_STATES, CallState
from broker.domain.identity import Identity, IdentityKind
from broker.domain.ports import CallRow, Transaction
from broker.errors import NotFoundError
from broker.pipeline import retention as retention_module
from broker.pipeline.retention import Retention
from broker.store.database import Database
from tests.artifact_world import NOW, World, content, make_world, pieces

HOUR = timedelta(hours=1)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    Database.create(tmp_path / "broker.db")
    async with Database.open(tmp_path / "broker.db") as store:
        yield await make_world(store)


async def keep(
    world: World,
    object_id: str,
    kind: str = "call",
    *,
    owner: str = "agt_1",
    of: str = "",
    complete: bool = False,
) -> None:
    def work(tx: Transaction) -> None:
        workspace = "shop" if of or kind == "call" else ""
        sealed = world.vault.create(
            tx, object_id=object_id, owner=owner, kind=kind, now=NOW, expires=NOW + HOUR, workspace=workspace, call=of
        )
        sealed.put(tx, {0: b"1234"})
        if complete:
            tx.vault.complete(object_id, size=4, digest="sha256:0", expires=NOW + HOUR)

    await world.store.write(work)


async def change(world: World, call_id: str, **values: Any) -> None:  # noqa: ANN401 - of any field
    row = replace(await call(world, call_id), **values)
    await world.store.write(lambda tx: tx.calls.replace(row))


async def call(world: World, call_id: str) -> CallRow:
    row = await world.store.read(lambda tx: tx.calls.get(call_id))
    assert row is not None
    return row


async def left(world: World) -> set[str]:
    return set(await world.store.read(lambda tx: tx.erasure.objects("", 1000)))


async def test_a_call_that_goes_on_keeps_its_content_until_it_ends(world: World) -> None:
    await keep(world, "call_1")
    sweep = Retention(world.store, world.ledger, world.clock).sweep
    world.now = NOW + HOUR
    await sweep()
    assert await left(world) == {"call_1"}
    assert await world.entries("erased") == []
    known = replace(await call(world, "call_1"), request_id="mine", request_digest="sha256:11")
    await world.store.write(lambda tx: tx.calls.replace(known))
    await world.end("call_1")
    world.now += HOUR
    await sweep()
    assert await left(world) == set()
    (entry,) = await world.entries("erased")
    assert entry["ids"] == ["call_1"]
    assert (entry["objects"], entry["bytes"], entry["kinds"]) == (1, 4 + 28, {"call": 1})
    row = await call(world, "call_1")
    # The request is still known by its id, so that it isn't run again; its digest could be tested against guesses.
    assert (row.request_id, row.request_digest) == ("mine", "")


async def test_each_batch_has_its_entry_and_an_idle_sweep_has_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "BATCH", 2)
    for number in range(5):
        await keep(world, f"blob_{number}", "blob")
    world.now = NOW + HOUR
    retention = Retention(world.store, world.ledger, world.clock)
    for _ in range(5):
        await retention.sweep()
    entries = await world.entries("erased")
    assert [item["ids"] for item in entries] == [["blob_0", "blob_1"], ["blob_2", "blob_3"], ["blob_4"]]
    assert {item["reason"] for item in entries} == {"retention"}


async def test_an_artifact_goes_with_its_address(world: World) -> None:
    ref = await world.put(content(2))
    await world.end("call_1")
    world.now = ref.expires
    retention = Retention(world.store, world.ledger, world.clock)
    await retention.sweep()
    assert await left(world) == set()
    with pytest.raises(NotFoundError):
        await world.get(ref.digest)
    assert [item["objects"] for item in await world.entries("erased")] == [1]


ALL_ACTIVE = sorted(frozenset(CallState) - RESTING_STATES)


@pytest.mark.parametrize("state", ALL_ACTIVE)
async def test_what_a_call_that_goes_on_needs_stays_until_it_has_ended(world: World, state: CallState) -> None:
    before = await world.artifacts.put(
        pieces(content(1)), workspace="shop", call="call_1", kind="before", retention=HOUR
    )
    await keep(world, "blob_in", "blob", complete=True)
    await keep(world, "blob_out", "blob", of="call_1", complete=True)
    await change(world, "call_1", state=state, expires=NOW + HOUR)
    await world.end("call_2", "call_3")
    sweep = Retention(world.store, world.ledger, world.clock).sweep
    for _ in range(3):
        world.now += HOUR
        await sweep()
        await sweep()
        assert {"blob_in", "blob_out", before.digest} <= await left(world)
        assert await world.get(before.digest) == content(1)
    assert await world.entries("erased") == []
    await world.end("call_1")
    world.now += HOUR
    await sweep()
    assert await left(world) == set()
    (entry,) = await world.entries("erased")
    assert (entry["objects"], entry["kinds"]) == (3, {"artifact.before": 1, "blob": 2})


async def test_no_other_calls_things_stay_and_nobody_elses_uploads(world: World) -> None:
    await change(world, "call_1", expires=NOW + HOUR)
    await change(world, "call_3", expires=NOW + 9 * HOUR, agent="agt_3")  # its inputs are kept for as long as itself
    await world.end("call_2")
    await keep(world, "blob_of_call_2", "blob", owner="agt_2", of="call_2", complete=True)
    await keep(world, "blob_unfinished", "blob", of="call_1")
    await keep(world, "blob_of_agt_2", "blob", owner="agt_2", complete=True)
    await keep(world, "blob_of_agt_3", "blob", owner="agt_3", complete=True)
    await keep(world, "note", "erasure", complete=True)
    world.now = NOW + HOUR
    await Retention(world.store, world.ledger, world.clock).sweep()
    assert await left(world) == set()


async def test_a_humans_call_may_work_on_an_upload_of_their_agent(world: World) -> None:
    agent = Identity("agt_7", IdentityKind.AGENT, "seven", "hum_1", "hum_1", NOW)
    await world.store.write(lambda tx: tx.identities.insert(agent))
    await change(world, "call_1", agent="hum_1", expires=NOW + HOUR)
    await keep(world, "blob_in", "blob", owner="agt_7", complete=True)
    world.now = NOW + HOUR
    await Retention(world.store, world.ledger, world.clock).sweep()
    assert await left(world) == {"blob_in"}


async def test_an_artifact_keeps_its_address_though_one_sweep_sees_only_one_of_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "BATCH", 1)
    ref = await world.artifacts.put(pieces(b"x"), workspace="shop", call="call_1", kind="before", retention=HOUR)
    world.now = NOW + HOUR
    sweep = Retention(world.store, world.ledger, world.clock).sweep
    await sweep()
    await world.end("call_1")
    await sweep()
    assert await world.get(ref.digest) == b"x"
    world.now += HOUR
    await sweep()
    assert await left(world) == set()


async def test_a_sweep_looks_through_the_calls_once_and_only_for_uploads(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    real = retention_module.find_overdue_callers
    monkeypatch.setattr(retention_module, "find_overdue_callers", lambda tx, now: looked.append(now) or real(tx, now))
    for number in range(50):
        await keep(world, f"other_{number}", "other", complete=True)
    world.now = NOW + HOUR
    sweep = Retention(world.store, world.ledger, world.clock).sweep
    await sweep()
    assert looked == []
    for number in range(50):
        await keep(world, f"blob_{number}", "blob", complete=True)
    await sweep()
    assert len(looked) == 1
