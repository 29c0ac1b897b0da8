"""What each store promises of encrypted objects."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from broker.domain.ports import OBJECT_COST, Store, VaultRow
from broker.errors import ConflictError, NotFoundError

NOW = datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC)
ROW = VaultRow("blob_1", "agt_1", "blob", b"\x00wrapped", NOW, NOW + timedelta(hours=1), data_classes=("pii", "ä"))


async def test_an_object_comes_back_as_it_was(store: Store) -> None:
    await store.write(lambda tx: tx.vault.insert(ROW))
    assert await store.read(lambda tx: tx.vault.get("blob_1")) == ROW
    assert await store.read(lambda tx: tx.vault.get("blob_2")) is None
    with pytest.raises(ConflictError):
        await store.write(lambda tx: tx.vault.insert(ROW))


async def test_times_of_other_zones_are_the_same_moment(store: Store) -> None:
    moment = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    await store.write(lambda tx: tx.vault.insert(replace(ROW, created=moment)))
    found = await store.read(lambda tx: tx.vault.get("blob_1"))
    assert found is not None
    assert found.created == NOW


async def test_chunks_are_given_in_order_and_once(store: Store) -> None:
    await store.write(lambda tx: tx.vault.insert(ROW))
    for index in (2, 0, 10, 1):
        await store.write(lambda tx, index=index: tx.vault.insert_chunks("blob_1", {index: bytes([index])}))
    assert list(await store.read(lambda tx: tx.vault.chunks("blob_1", 0, 10))) == [
        (0, b"\x00"), (1, b"\x01"), (2, b"\x02"), (10, b"\x0a"),
    ]  # fmt: skip
    assert list(await store.read(lambda tx: tx.vault.chunks("blob_1", 1, 2))) == [(1, b"\x01"), (2, b"\x02")]
    with pytest.raises(ConflictError):
        await store.write(lambda tx: tx.vault.insert_chunks("blob_1", {1: b"other"}))
    with pytest.raises(ConflictError):
        await store.write(lambda tx: tx.vault.insert_chunks("blob_9", {1: b"no object"}))


async def test_usage_counts_all_that_an_owner_keeps(store: Store) -> None:
    await store.write(lambda tx: tx.vault.insert(ROW))
    await store.write(lambda tx: tx.vault.insert(replace(ROW, id="blob_2")))
    await store.write(lambda tx: tx.vault.insert(replace(ROW, id="call_1", kind="call")))
    await store.write(lambda tx: tx.vault.insert(replace(ROW, id="blob_3", owner="agt_2")))
    fixed = OBJECT_COST + len(r'["pii","\u00e4"]')
    assert await store.read(lambda tx: tx.vault.usage("agt_1")) == 3 * fixed
    for object_id in ("blob_1", "blob_2", "call_1", "blob_3"):
        await store.write(lambda tx, which=object_id: tx.vault.insert_chunks(which, {0: bytes(100)}))
    assert await store.read(lambda tx: tx.vault.usage("agt_1")) == 300 + 3 * fixed
    assert await store.read(lambda tx: tx.vault.usage("agt_2")) == 100 + fixed
    await store.write(lambda tx: tx.vault.delete("call_1"))
    assert await store.read(lambda tx: tx.vault.usage("agt_1")) == 200 + 2 * fixed
    for object_id in ("blob_1", "blob_1", "blob_2", "blob_9"):
        await store.write(lambda tx, which=object_id: tx.vault.delete(which))
    assert await store.read(lambda tx: tx.vault.usage("agt_1")) == 0


async def test_an_upload_is_marked_complete(store: Store) -> None:
    await store.write(lambda tx: tx.vault.insert(replace(ROW, id="blob_2")))
    for expires in (NOW + timedelta(seconds=1), NOW + timedelta(days=1), None):
        await store.write(
            lambda tx, expires=expires: tx.vault.complete("blob_2", size=5000, digest="sha256:00", expires=expires)
        )
        found = await store.read(lambda tx: tx.vault.get("blob_2"))
        assert found == replace(ROW, id="blob_2", size=5000, digest="sha256:00", complete=True, expires=expires)
    with pytest.raises(NotFoundError):
        await store.write(lambda tx: tx.vault.complete("blob_9", size=1, digest="", expires=None))


async def test_extend_never_shortens(store: Store) -> None:
    async def expiry() -> datetime | None:
        row = await store.read(lambda tx: tx.vault.get("blob_1"))
        assert row is not None
        return row.expires

    await store.write(lambda tx: tx.vault.insert(ROW))
    await store.write(lambda tx: tx.vault.extend("blob_1", NOW))
    assert await expiry() == ROW.expires
    await store.write(lambda tx: tx.vault.extend("blob_1", NOW + timedelta(days=1)))
    assert await expiry() == NOW + timedelta(days=1)
    await store.write(lambda tx: tx.vault.extend("blob_1", None))
    assert await expiry() is None
    await store.write(lambda tx: tx.vault.extend("blob_1", NOW + timedelta(days=9)))
    assert await expiry() is None
    with pytest.raises(NotFoundError):
        await store.write(lambda tx: tx.vault.extend("blob_9", NOW))


async def test_expired_and_delete(store: Store) -> None:
    for name, expires in (("blob_1", NOW), ("blob_2", NOW - timedelta(seconds=1)), ("blob_3", None)):
        row = replace(ROW, id=name, expires=expires)
        await store.write(lambda tx, row=row: tx.vault.insert(row))
        await store.write(lambda tx, name=name: tx.vault.insert_chunks(name, {0: b"x"}))
    await store.write(lambda tx: tx.vault.insert(replace(ROW, id="blob_4", expires=NOW + timedelta(microseconds=1))))
    assert list(await store.read(lambda tx: tx.vault.expired(NOW, 10))) == ["blob_2", "blob_1"]
    assert list(await store.read(lambda tx: tx.vault.expired(NOW, 1))) == ["blob_2"]
    await store.write(lambda tx: tx.vault.delete("blob_2"))
    await store.write(lambda tx: tx.vault.delete("blob_2"))
    assert await store.read(lambda tx: tx.vault.get("blob_2")) is None
    assert list(await store.read(lambda tx: tx.vault.chunks("blob_2", 0, 10))) == []
    assert len(await store.read(lambda tx: tx.vault.chunks("blob_1", 0, 10))) == 1
