"""What each store promises of erasures."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from broker.domain.identity import Identity, IdentityKind
from broker.domain.ports import DESTROYED, OBJECT_COST, Store, Transaction, VaultRow
from broker.errors import NotFoundError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=1)


def _row(object_id: str, owner: str = "agt_1") -> VaultRow:
    return VaultRow(object_id, owner, "blob", b"wrapped", NOW, LATER, 7, "sha256:00", ("secret",), complete=True)


async def test_objects_are_paged_in_the_order_of_their_ids(store: Store) -> None:
    ids = ["Z_1", "art_2", "art_1", "blob_1", "sha256:00"]

    def work(tx: Transaction) -> None:
        for name in ids:
            tx.vault.insert(_row(name))

    await store.write(work)
    assert list(await store.read(lambda tx: tx.erasure.objects("", 3))) == ["Z_1", "art_1", "art_2"]
    assert list(await store.read(lambda tx: tx.erasure.objects("art_2", 3))) == ["blob_1", "sha256:00"]
    assert list(await store.read(lambda tx: tx.erasure.objects("sha256:00", 3))) == []


async def test_destroyed_keys_leave_nothing_but_chunks_whose_time_is_over(store: Store) -> None:
    def work(tx: Transaction) -> None:
        tx.vault.insert(_row("blob_1"))
        tx.vault.insert_chunks("blob_1", {0: b"abc", 1: b"defg"})
        tx.erasure.destroy_keys("blob_1", NOW)

    await store.write(work)
    row = await store.read(lambda tx: tx.vault.get("blob_1"))
    assert row == VaultRow("blob_1", "agt_1", "blob", DESTROYED, NOW, NOW, 0, "", ("secret",), complete=False)
    assert list(await store.read(lambda tx: tx.vault.expired(NOW, 10))) == ["blob_1"]
    assert await store.read(lambda tx: tx.erasure.stored("blob_1")) == 7
    with pytest.raises(NotFoundError):
        await store.write(lambda tx: tx.erasure.destroy_keys("blob_9", NOW))


async def test_chunks_are_dropped_a_bounded_number_of_bytes_at_a_time(store: Store) -> None:
    def work(tx: Transaction) -> None:
        tx.vault.insert(_row("blob_1"))
        tx.vault.insert(_row("blob_2"))
        tx.vault.insert_chunks("blob_1", {-2: b"x" * 50, -1: b"x" * 10, 0: b"x" * 10, 3: b"x" * 10, 7: b"x" * 30})
        tx.vault.insert_chunks("blob_2", {0: b"y" * 5})

    async def left() -> list[int]:
        return [index for index, _ in await store.read(lambda tx: tx.vault.chunks("blob_1", -9, 99))]

    await store.write(work)
    full = await store.read(lambda tx: tx.vault.usage("agt_1"))
    assert await store.write(lambda tx: tx.erasure.drop_chunks("blob_1", 20))
    assert await left() == [-1, 0, 3, 7]  # one at least, however long it is
    assert await store.write(lambda tx: tx.erasure.drop_chunks("blob_1", 20))
    assert await left() == [3, 7]
    assert await store.read(lambda tx: tx.vault.usage("agt_1")) == full - 70
    assert not await store.write(lambda tx: tx.erasure.drop_chunks("blob_1", 1000))
    assert not await store.write(lambda tx: tx.erasure.drop_chunks("blob_1", 1000))
    await store.write(lambda tx: tx.vault.delete("blob_1"))
    labels = len('["secret"]')
    assert await store.read(lambda tx: tx.vault.usage("agt_1")) == 5 + OBJECT_COST + labels


async def test_many_small_chunks_are_dropped_in_steps_too(store: Store) -> None:
    def work(tx: Transaction) -> None:
        tx.vault.insert(_row("blob_1"))
        tx.vault.insert_chunks("blob_1", dict.fromkeys(range(1500), b"x"))

    await store.write(work)
    assert await store.write(lambda tx: tx.erasure.drop_chunks("blob_1", 10**9))
    assert not await store.write(lambda tx: tx.erasure.drop_chunks("blob_1", 10**9))
    assert await store.read(lambda tx: tx.erasure.stored("blob_1")) == 0


async def test_a_forgotten_name_gives_way_to_the_id_and_is_free(store: Store) -> None:
    def work(tx: Transaction) -> None:
        for number in (1, 2):
            tx.identities.insert(Identity(f"agt_{number}", IdentityKind.AGENT, f"bot{number}", "hum_1", "hum_1", NOW))
        tx.erasure.forget_name("agt_1")
        tx.erasure.forget_name("agt_1")

    await store.write(work)
    names = {item.id: item.name for item in await store.read(lambda tx: tx.identities.all())}
    assert names == {"agt_1": "agt_1", "agt_2": "bot2"}
    assert await store.read(lambda tx: tx.identities.by_name(IdentityKind.AGENT, "bot1")) is None
    with pytest.raises(NotFoundError):
        await store.write(lambda tx: tx.erasure.forget_name("agt_9"))
