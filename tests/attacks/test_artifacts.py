"""Attacks on artifacts by somebody who may change every row of the database, and by a broker that dies."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from broker.domain.ports import Transaction, VaultRow
from broker.errors import BrokerError, DataLossError, NotFoundError
from broker.pipeline.retention import Retention
from broker.store.database import Database
from broker.vault.artifacts import CHUNK
from broker.vault.sealing import KEYS_BYTES
from broker.vault.vault import SealedVault
from tests.artifact_world import KEY, NOW, World, content, file_bytes, make_world

Chunks = list[tuple[int, bytes]]
CHILD = Path(__file__).with_name("artifact_child.py")
DEADLINE_S = 60


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    Database.create(tmp_path / "broker.db")
    async with Database.open(tmp_path / "broker.db") as store:
        yield await make_world(store)


async def change(
    world: World, digest: str, row_change: Callable[[VaultRow], VaultRow], chunk_change: Callable[[Chunks], Chunks]
) -> None:
    """Puts another row and other chunks in the place of an artifact's."""
    row = await world.row(digest)

    def work(tx: Transaction) -> None:
        chunks = list(tx.vault.chunks(row.id, 0, 1000))
        tx.vault.delete(row.id)
        new = row_change(row)
        tx.vault.insert(new)
        tx.vault.insert_chunks(new.id, dict(chunk_change(chunks)))

    await world.store.write(work)


async def given_out(world: World, digest: str) -> tuple[bytes, BrokerError]:
    """What a reader gets before the error, and the error."""
    return await rest_of(world.artifacts.open(digest))


async def rest_of(reading: AsyncIterator[bytes]) -> tuple[bytes, BrokerError]:
    found = b""
    try:
        async for piece in reading:
            found += piece
    except (DataLossError, NotFoundError) as error:
        return found, error
    pytest.fail(f"{len(found)} bytes were given out, and nothing was refused")


def same(row: VaultRow) -> VaultRow:
    return row


@pytest.mark.parametrize("chunk", [0, 1, 4, 5])
@pytest.mark.parametrize("at", [0, 11, 12, CHUNK // 2, -17, -16, -1])
async def test_a_flipped_bit_in_any_chunk_gives_no_byte_of_that_chunk(world: World, chunk: int, at: int) -> None:
    data = content(5, 40)
    ref = await world.put(data)

    def flip(chunks: Chunks) -> Chunks:
        sealed = bytearray(chunks[chunk][1])
        sealed[min(at, len(sealed) - 1)] ^= 0x10
        return [*chunks[:chunk], (chunk, bytes(sealed)), *chunks[chunk + 1 :]]

    await change(world, ref.digest, same, flip)
    found, error = await given_out(world, ref.digest)
    assert found == data[: chunk * CHUNK]
    assert isinstance(error, DataLossError)


@pytest.mark.parametrize("left", [0, 1, 3, 4, 5])
async def test_an_artifact_cut_short_is_refused_whatever_its_row_says(world: World, left: int) -> None:
    data = content(5, 40)
    ref = await world.put(data)
    await change(world, ref.digest, same, lambda chunks: chunks[:left])
    found, _ = await given_out(world, ref.digest)
    assert found == data[: left * CHUNK]
    # And with a size that fits what is left: the last of it was sealed as one that another follows.
    await change(world, ref.digest, lambda row: replace(row, size=left * CHUNK), lambda chunks: chunks)
    found, _ = await given_out(world, ref.digest)
    assert found == data[: max(0, left - 1) * CHUNK]


async def test_a_missing_chunk_in_the_middle_is_refused(world: World) -> None:
    data = content(5)
    ref = await world.put(data)
    await change(world, ref.digest, same, lambda chunks: [*chunks[:2], *chunks[3:]])
    found, error = await given_out(world, ref.digest)
    assert found == data[: 2 * CHUNK]
    assert error.reason == "ARTIFACT_DAMAGED"


async def test_a_chunk_moved_up_into_a_gap_is_refused(world: World) -> None:
    data = content(5)
    ref = await world.put(data)
    await change(
        world, ref.digest, same, lambda chunks: [(n, sealed) for n, (_, sealed) in enumerate(chunks[:2] + chunks[3:])]
    )
    found, _ = await given_out(world, ref.digest)
    assert found == data[: 2 * CHUNK]


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 3), (3, 4), (0, 5)])
async def test_swapped_chunks_are_refused(world: World, one: int, other: int) -> None:
    data = content(5, CHUNK)
    ref = await world.put(data)

    def swap(chunks: Chunks) -> Chunks:
        order = [sealed for _, sealed in chunks]
        order[one], order[other] = order[other], order[one]
        return list(enumerate(order))

    await change(world, ref.digest, same, swap)
    found, error = await given_out(world, ref.digest)
    assert found == data[: one * CHUNK]
    assert error.reason == "VAULT_CHUNK_DAMAGED"


async def test_a_chunk_too_many_is_refused_before_the_last_is_given(world: World) -> None:
    data = content(2)
    ref = await world.put(data)
    for more in ((3, b"x" * 40), (7, b"x" * 40)):
        await change(world, ref.digest, same, lambda chunks, more=more: [*chunks[:3], more])
        found, error = await given_out(world, ref.digest)
        assert found == data[: 2 * CHUNK]
        assert error.reason == "ARTIFACT_DAMAGED"


@pytest.mark.parametrize(("call", "workspace"), [("call_2", "shop"), ("call_3", "lab")])
async def test_an_artifact_moved_to_another_call_or_workspace_is_refused(
    world: World, call: str, workspace: str
) -> None:
    mine, theirs = await world.put(content(2)), await world.put(content(2), call=call, workspace=workspace)
    stolen = (await world.row(theirs.digest)).wrapped

    def claims(row: VaultRow) -> VaultRow:
        head, keys = stolen[:-KEYS_BYTES], row.wrapped[-KEYS_BYTES:]
        return replace(row, wrapped=head + keys)

    await change(world, mine.digest, claims, lambda chunks: chunks)
    assert (await given_out(world, mine.digest))[0] == b""
    # With the other's keys as well, its chunks don't open.
    await change(world, mine.digest, lambda row: replace(row, wrapped=stolen), lambda chunks: chunks)
    found, error = await given_out(world, mine.digest)
    assert (found, error.reason) == (b"", "VAULT_KEYS_DAMAGED")


async def test_an_artifact_under_another_kind_is_refused(world: World) -> None:
    ref = await world.put(content(1))
    await change(world, ref.digest, lambda row: replace(row, kind="artifact.after"), lambda chunks: chunks)
    found, error = await given_out(world, ref.digest)
    assert (found, error.reason) == (b"", "VAULT_KEYS_DAMAGED")


async def test_chunks_of_another_artifact_are_refused(world: World) -> None:
    mine, theirs = await world.put(content(2)), await world.put(content(2))
    other = await world.row(theirs.digest)
    chunks = await world.store.read(lambda tx: list(tx.vault.chunks(other.id, 0, 10)))
    await change(world, mine.digest, same, lambda _: chunks)
    assert (await given_out(world, mine.digest))[0] == b""


async def test_an_address_that_leads_to_another_artifact_is_refused(world: World) -> None:
    mine, theirs = await world.put(content(1)), await world.put(b"other")
    other = await world.row(theirs.digest)

    def work(tx: Transaction) -> None:
        address = tx.vault.get(mine.digest)
        assert address is not None
        tx.vault.delete(mine.digest)
        tx.vault.insert(replace(address, wrapped=other.id.encode()))

    await world.store.write(work)
    found, error = await given_out(world, mine.digest)
    assert (found, error.reason) == (b"", "ARTIFACT_DAMAGED")
    assert "leads elsewhere" in error.message
    # The other one's row may say that it is this one: its bytes say no.
    await world.store.write(lambda tx: tx.vault.complete(other.id, size=other.size, digest=mine.digest, expires=None))
    found, error = await given_out(world, mine.digest)
    assert (found, error.reason) == (b"", "ARTIFACT_DAMAGED")
    assert "another digest" in error.message


async def test_an_artifact_that_is_not_complete_is_not_to_be_had_by_an_address(world: World) -> None:
    ref = await world.put(content(1))
    await change(world, ref.digest, lambda row: replace(row, complete=False), lambda chunks: chunks)
    assert not await world.artifacts.exists(ref.digest)
    found, error = await given_out(world, ref.digest)
    assert (found, error.reason) == (b"", "CONTENT_ERASED")


async def test_replaced_keys_are_refused_in_every_byte(world: World) -> None:
    ref = await world.put(b"small")
    row = await world.row(ref.digest)
    for position in range(len(row.wrapped)):
        changed = bytearray(row.wrapped)
        changed[position] ^= 1
        await change(world, ref.digest, lambda _, w=bytes(changed): replace(row, wrapped=w), lambda chunks: chunks)  # type: ignore[misc]
        found, _ = await given_out(world, ref.digest)
        assert found == b"", position


async def test_keys_from_before_there_were_workspaces_do_not_stand_in(world: World) -> None:
    """Stripped of the place that it names, an object must not open under the vault's own key."""
    ref = await world.put(b"small")
    await change(world, ref.digest, lambda row: replace(row, wrapped=row.wrapped[-KEYS_BYTES:]), lambda chunks: chunks)
    assert (await given_out(world, ref.digest))[1].reason == "VAULT_KEYS_DAMAGED"


async def test_a_replaced_workspace_key_is_refused_even_where_the_old_one_is_remembered(world: World) -> None:
    ref, other = await world.put(b"small"), await world.put(b"lab", call="call_3", workspace="lab")
    assert await world.get(ref.digest) == b"small"
    assert await world.get(other.digest) == b"lab"

    def work(tx: Transaction) -> None:
        stolen = tx.workspace_keys.get("lab")
        assert stolen is not None
        tx.workspace_keys.delete("shop")
        tx.workspace_keys.insert("shop", stolen, NOW)

    await world.store.write(work)
    found, error = await given_out(world, ref.digest)
    assert (found, error.reason) == (b"", "VAULT_KEYS_DAMAGED")


async def test_without_its_workspaces_key_nothing_is_had_though_the_broker_had_it_in_memory(world: World) -> None:
    ref = await world.put(b"small")
    assert await world.get(ref.digest) == b"small"
    await world.store.write(lambda tx: tx.workspace_keys.delete("shop"))
    found, error = await given_out(world, ref.digest)
    assert (found, error.reason) == (b"", "CONTENT_ERASED")
    again = await world.put(b"fresh")
    assert await world.get(again.digest) == b"fresh"
    assert (await given_out(world, ref.digest))[1].reason == "VAULT_KEYS_DAMAGED"


async def test_half_an_upload_is_not_to_be_had(world: World) -> None:
    half = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield content(3)
        half.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(
        world.artifacts.put(stuck(), workspace="shop", call="call_1", kind="before", retention=timedelta(days=1))
    )
    await half.wait()
    ids = await world.store.read(lambda tx: list(tx.erasure.objects("", 10)))
    assert [name[:4] for name in ids] == ["art_"]
    for name in ids:
        assert not await world.artifacts.exists(name)
        with pytest.raises(NotFoundError):
            await world.get(name)
    putting.cancel()
    await asyncio.gather(putting, return_exceptions=True)
    assert await world.store.read(lambda tx: list(tx.erasure.objects("", 10))) == []


async def test_what_is_erased_while_it_is_read_ends_the_reading(world: World) -> None:
    ref = await world.put(content(12))
    reading = world.artifacts.open(ref.digest)
    first = await anext(reading)
    await world.artifacts.erase(ref.digest, by="hum_1", reason="undone")
    found, error = await rest_of(reading)
    assert error.reason == "CONTENT_ERASED"
    assert len(first + found) <= 4 * CHUNK


async def test_neither_keys_nor_content_of_an_erased_artifact_are_in_the_files(world: World, tmp_path: Path) -> None:
    ref = await world.put(content(3))
    row = await world.row(ref.digest)
    chunks = await world.store.read(lambda tx: list(tx.vault.chunks(row.id, 0, 10)))
    marks = [row.wrapped[-KEYS_BYTES:], *(sealed[offset : offset + 64] for _, sealed in chunks for offset in (0, 30))]
    assert all(mark in file_bytes(tmp_path) for mark in marks)
    await world.artifacts.erase(ref.digest, by="hum_1", reason="undone")
    await world.store.scrub()
    left = file_bytes(tmp_path)
    assert not any(mark in left for mark in marks)


@pytest.mark.parametrize("step", ["begun", "chunk", "sealed"])
async def test_killed_during_an_upload_nothing_is_readable_and_it_is_swept(tmp_path: Path, step: str) -> None:
    Database.create(tmp_path / "broker.db")
    async with Database.open(tmp_path / "broker.db") as store:
        await make_world(store)
    _kill_child(tmp_path, "upload", step)
    async with Database.open(tmp_path / "broker.db") as store:
        world = await make_world(store, fresh=False)
        assert await world.entries("artifact") == []
        ids = await store.read(lambda tx: list(tx.erasure.objects("", 10)))
        assert len(ids) == 1
        assert await store.read(lambda tx: [tx.vault.get(name).complete for name in ids]) == [False]  # type: ignore[union-attr]
        world.now = NOW + timedelta(hours=2)
        await Retention(store, world.ledger, world.clock).sweep()
        assert await store.read(lambda tx: list(tx.erasure.objects("", 10))) == []
        (entry,) = await world.entries("erased")
        assert entry["ids"] == ids


@pytest.mark.parametrize("step", ["destroyed", "dropping"])
async def test_killed_during_an_erasure_it_is_on_record_and_housekeeping_ends_it(tmp_path: Path, step: str) -> None:
    Database.create(tmp_path / "broker.db")
    async with Database.open(tmp_path / "broker.db") as store:
        world = await make_world(store)
        ref = await world.put(content(12))
        row = await world.row(ref.digest)
    _kill_child(tmp_path, "erase", step, ref.digest)
    async with Database.open(tmp_path / "broker.db") as store:
        world = await make_world(store, fresh=False)
        assert [item["ids"] for item in await world.entries("erased")] == [[row.id]]
        assert not await world.artifacts.exists(ref.digest)
        with pytest.raises(NotFoundError):
            await store.read(lambda tx: SealedVault(KEY).open(tx, row.id))
        assert await store.read(lambda tx: len(tx.vault.chunks(row.id, 0, 100))) > 0
        await Retention(store, world.ledger, world.clock).sweep()
        assert await store.read(lambda tx: list(tx.erasure.objects("", 10))) == []
        assert await store.read(lambda tx: tx.vault.usage("agt_1")) == 0
        assert len(await world.entries("erased")) == 1


def _kill_child(folder: Path, *arguments: str) -> None:
    """Runs the child until it says that it is where it shall die, and kills it there."""
    with subprocess.Popen(
        [sys.executable, str(CHILD), str(folder), *arguments], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == b"here\n"
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait(DEADLINE_S)
