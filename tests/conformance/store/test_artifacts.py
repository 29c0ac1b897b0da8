"""Artifacts on each store: what is put comes back, complete or not at all, and is on record."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from broker.domain.ports import OBJECT_COST, SEAL_OVERHEAD, Store, Transaction
from broker.errors import (
    ConflictError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from broker.pipeline.retention import Retention
from broker.vault import artifacts as artifacts_module
from broker.vault.artifacts import CHUNK, UNFINISHED_TTL, ArtifactRef
from broker.vault.destruction import destroy, drop
from tests.artifact_world import NOW, World, content, make_world, pieces


@pytest.fixture
async def world(store: Store) -> World:
    return await make_world(store)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 9 * CHUNK + 5])
async def test_what_was_put_comes_back(world: World, size: int) -> None:
    data = content(size // CHUNK, size % CHUNK)
    ref = await world.put(data)
    assert ref.size == size
    assert await world.artifacts.exists(ref.digest)
    assert await world.get(ref.digest) == data
    row = await world.row(ref.digest)
    sealed = await world.store.read(lambda tx: b"".join(data for _, data in tx.vault.chunks(row.id, 0, 100)))
    assert ref.digest == f"sha256:{hashlib.sha256(sealed).hexdigest()}"


async def test_it_is_on_record_with_address_size_commitment_and_its_end(world: World) -> None:
    data = content(1)
    ref = await world.put(data)
    (entry,) = await world.entries("artifact")
    assert entry["call_id"] == "call_1"
    assert entry["workspace"] == "shop"
    assert entry["kind"] == "before"
    assert entry["digest"] == ref.digest
    assert entry["bytes"] == len(data)
    assert entry["kept_until"] == "2026-05-30T12:00:00.000000Z"
    agent = entry["agent"]
    assert isinstance(agent, dict)
    assert agent["id"] == "agt_1"
    plain = f"sha256:{hashlib.sha256(data).hexdigest()}"
    row = await world.row(ref.digest)
    item = await world.store.read(lambda tx: world.vault.open_row(tx, row))
    assert entry["commit"] == item.commit("artifact", plain.encode())
    assert plain not in str(await world.entries())


async def test_the_same_content_twice_is_two_artifacts_erased_apart(world: World) -> None:
    first, second = await asyncio.gather(world.put(content(2)), world.put(content(2)))
    assert first.digest != second.digest
    await world.artifacts.erase(first.digest, by="hum_1", reason="undone")
    assert not await world.artifacts.exists(first.digest)
    assert await world.get(second.digest) == content(2)


async def test_what_is_erased_is_gone_whole_and_on_record(world: World) -> None:
    ref = await world.put(content(6))
    row = await world.row(ref.digest)
    before = await world.store.read(lambda tx: tx.vault.usage("agt_1"))
    await world.artifacts.erase(ref.digest, by="hum_1", reason="undone")
    with pytest.raises(NotFoundError) as refused:
        await world.get(ref.digest)
    assert refused.value.reason == "CONTENT_ERASED"
    with pytest.raises(NotFoundError):
        await world.artifacts.erase(ref.digest, by="hum_1", reason="undone")

    def left(tx: Transaction) -> tuple[object, ...]:
        return (
            tx.vault.get(row.id),
            tx.vault.get(ref.digest),
            list(tx.vault.chunks(row.id, 0, 10)),
            tx.vault.usage("agt_1"),
        )

    assert await world.store.read(left) == (None, None, [], 0)
    (entry,) = await world.entries("erased")
    assert (entry["objects"], entry["ids"], entry["by"]) == (1, [row.id], "hum_1")
    assert entry["bytes"] == 6 * CHUNK + 7 + 7 * 28
    assert before > 6 * CHUNK


async def test_an_upload_that_breaks_off_leaves_nothing(world: World) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield content(3)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await world.artifacts.put(broken(), workspace="shop", call="call_1", kind="before", retention=timedelta(days=1))
    assert await world.store.read(lambda tx: list(tx.erasure.objects("", 10))) == []
    assert await world.store.read(lambda tx: tx.vault.usage("agt_1")) == 0
    assert await world.entries("artifact") == []


@pytest.mark.parametrize("times", [1, 2])
async def test_one_that_was_stored_when_its_writer_was_cancelled_stays_as_the_ledger_says(
    world: World, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    entered, go, finish = threading.Event(), threading.Event(), world.artifacts._finish

    def slow(*args: Any) -> ArtifactRef:  # noqa: ANN401 - as `_finish`
        done = finish(*args)
        entered.set()
        assert go.wait(10)
        return done

    monkeypatch.setattr(world.artifacts, "_finish", slow)
    putting = asyncio.create_task(world.put(content(2)))
    assert await asyncio.to_thread(entered.wait, 10)
    for _ in range(times):
        putting.cancel()
        await asyncio.sleep(0.01)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await putting
    await world.store.write(lambda _: None)  # what was queued before has been done
    (entry,) = await world.entries("artifact")
    assert await world.get(str(entry["digest"])) == content(2)
    assert await world.entries("erased") == []


async def test_one_that_was_cancelled_before_its_end_leaves_nothing(world: World) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield content(2)
        begun.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(
        world.artifacts.put(endless(), workspace="shop", call="call_1", kind="a", retention=timedelta(days=1))
    )
    await begun.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert await world.store.read(lambda tx: list(tx.erasure.objects("", 10))) == []
    assert await world.entries("artifact") == []


async def test_no_chunk_goes_beyond_the_quota_of_the_calls_agent(world: World) -> None:
    await world.put(content(1))
    used = await world.store.read(lambda tx: tx.vault.usage("agt_1"))
    needed = 2 * OBJECT_COST + 2 * CHUNK + 7 + 3 * SEAL_OVERHEAD
    labels = 2  # an object without labels has `[]`
    for missing in (1, 10, OBJECT_COST + 1, CHUNK + OBJECT_COST, needed - 1):
        world.quota = used + needed + labels - missing
        with pytest.raises(ResourceExhaustedError) as refused:
            await world.put(content(2))
        assert refused.value.reason == "STORAGE_QUOTA"
        assert await world.store.read(lambda tx: tx.vault.usage("agt_1")) == used
    world.quota = used + needed + labels
    await world.put(content(2))


@pytest.mark.parametrize(("room", "taken"), [(0, 0), (OBJECT_COST, 2), (OBJECT_COST + 3 * CHUNK, 4)])
async def test_what_goes_beyond_the_quota_is_not_waited_for(world: World, room: int, taken: int) -> None:
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while given < 20:
            given += 1
            yield content(1, 0)

    world.quota = room
    with pytest.raises(ResourceExhaustedError):
        await world.artifacts.put(endless(), workspace="shop", call="call_1", kind="a", retention=timedelta(days=1))
    assert given == taken
    assert await world.store.read(lambda tx: tx.vault.usage("agt_1")) == 0


async def test_a_longer_one_is_refused_and_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts_module, "MAX_BYTES", 2 * CHUNK)
    assert (await world.put(content(2, 0))).size == 2 * CHUNK
    with pytest.raises(InvalidArgumentError) as refused:
        await world.put(content(2, 1))
    assert refused.value.reason == "ARTIFACT_TOO_LARGE"
    assert len(await world.store.read(lambda tx: list(tx.erasure.objects("", 10)))) == 2


async def test_it_lies_with_its_call_or_nowhere(world: World) -> None:
    with pytest.raises(NotFoundError) as unknown:
        await world.put(b"x", call="call_9")
    assert unknown.value.reason == "CALL_NOT_FOUND"
    with pytest.raises(InternalError) as misplaced:
        await world.put(b"x", call="call_3", workspace="shop")
    assert misplaced.value.reason == "ARTIFACT_MISPLACED"
    for kind in ("", "Before", "a.b", "address", "x" * 33):
        with pytest.raises(InternalError):
            await world.put(b"x", kind=kind)


@pytest.mark.parametrize("digest", ["", "sha256:00", "art_1", f"sha256:{'0' * 64}", "../x"])
async def test_what_is_no_address_is_not_found(world: World, digest: str) -> None:
    assert not await world.artifacts.exists(digest)
    with pytest.raises(NotFoundError):
        await world.get(digest)


async def test_others_write_between_the_chunks(world: World) -> None:
    turns: list[int] = []

    async def slow() -> AsyncIterator[bytes]:
        for number in range(4):
            yield content(1)
            await world.store.write(lambda tx, n=number: tx.workspace_keys.insert(f"w{n}", b"k", NOW))  # type: ignore[misc]
            turns.append(number)

    ref = await world.artifacts.put(slow(), workspace="shop", call="call_1", kind="before", retention=timedelta(days=1))
    assert turns == [0, 1, 2, 3]
    assert await world.get(ref.digest) == content(1) * 4


async def test_housekeeping_erases_what_is_over_in_bounded_steps_and_says_so(world: World) -> None:
    kept, over = await world.put(content(1)), await world.put(content(6), call="call_2")
    retention = Retention(world.store, world.ledger, world.clock)
    row = await world.row(over.digest)
    await world.end("call_1", "call_2")
    world.now = NOW + timedelta(days=89)
    await retention.sweep()
    assert await world.entries("erased") == []
    kept_row = await world.row(kept.digest)
    await world.store.write(lambda tx: tx.vault.extend(kept_row.id, NOW + timedelta(days=900)))
    await world.store.write(lambda tx: tx.vault.extend(kept.digest, NOW + timedelta(days=900)))
    world.now = NOW + timedelta(days=90)
    await retention.sweep()
    await retention.sweep()
    (entry,) = await world.entries("erased")
    assert entry["reason"] == "retention"
    assert entry["objects"] == 1
    assert entry["ids"] == [row.id]
    assert entry["kinds"] == {"artifact.before": 1}
    assert not await world.artifacts.exists(over.digest)
    assert await world.get(kept.digest) == content(1)


async def test_a_destroyed_object_is_dropped_step_by_step_by_whoever_comes(world: World) -> None:
    ref = await world.put(content(9))
    row = await world.row(ref.digest)
    await world.store.write(lambda tx: destroy(tx, [row.id], NOW))
    steps = 0
    while not await world.store.write(lambda tx: drop(tx, row.id)):
        steps += 1
        assert await world.store.read(lambda tx: tx.vault.get(row.id)) is not None
    assert steps >= 2
    assert await world.store.write(lambda tx: drop(tx, row.id))
    assert await world.store.read(lambda tx: tx.vault.usage("agt_1")) == 0


async def test_nothing_is_dropped_whose_keys_are_there(world: World) -> None:
    ref = await world.put(content(1))
    row = await world.row(ref.digest)
    with pytest.raises(InternalError) as refused:
        await world.store.write(lambda tx: drop(tx, row.id))
    assert refused.value.reason == "VAULT_NOT_DESTROYED"
    assert await world.get(ref.digest) == content(1)


async def test_an_upload_lives_while_something_is_added_to_it_and_is_swept_after(world: World) -> None:
    retention = Retention(world.store, world.ledger, world.clock)

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield content(1)
            world.now += UNFINISHED_TTL - timedelta(seconds=1)
            await retention.sweep()

    async def too_slow() -> AsyncIterator[bytes]:
        yield content(2)
        world.now += UNFINISHED_TTL
        await retention.sweep()
        yield content(1)

    ref = await world.artifacts.put(slow(), workspace="shop", call="call_1", kind="a", retention=timedelta(days=1))
    assert await world.get(ref.digest) == content(1) * 4
    with pytest.raises((NotFoundError, ConflictError)):
        await world.artifacts.put(too_slow(), workspace="shop", call="call_1", kind="b", retention=timedelta(days=1))
    assert [item["kind"] for item in await world.entries("artifact")] == ["a"]


async def test_pieces_of_any_size_give_the_same_content(world: World) -> None:
    data = content(3)
    for size in (70_001, len(data), CHUNK, CHUNK + 1):
        ref = await world.artifacts.put(
            pieces(data, size), workspace="shop", call="call_1", kind="a", retention=timedelta(days=1)
        )
        assert await world.get(ref.digest) == data
