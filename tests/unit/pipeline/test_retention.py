"""What is past its time goes, what is needed stays, and each sweep says what it took."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from broker.domain.ports import CallRow, Transaction
from broker.errors import NotFoundError
from broker.pipeline import retention as retention_module
from broker.pipeline.retention import Retention
from broker.store.database import Database
from tests.artifact_world import NOW, World, content, make_world

HOUR = timedelta(hours=1)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    Database.create(tmp_path / "broker.db")
    async with Database.open(tmp_path / "broker.db") as store:
        yield await make_world(store)


async def keep(world: World, object_id: str, kind: str = "call") -> None:
    def work(tx: Transaction) -> None:
        sealed = world.vault.create(
            tx, object_id=object_id, owner="agt_1", kind=kind, now=NOW, expires=NOW + HOUR, workspace="shop"
        )
        sealed.put(tx, {0: b"1234"})

    await world.store.write(work)


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
    ended = replace(await call(world, "call_1"), ended=world.now, request_id="mine", request_digest="sha256:11")
    await world.store.write(lambda tx: tx.calls.replace(ended))
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
    world.now = ref.expires
    retention = Retention(world.store, world.ledger, world.clock)
    await retention.sweep()
    assert await left(world) == set()
    with pytest.raises(NotFoundError):
        await world.get(ref.digest)
    assert [item["objects"] for item in await world.entries("erased")] == [1]
