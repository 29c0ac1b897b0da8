"""Checkpoints of a real ledger: what they cover, when there are new ones, and what is found when the two disagree."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest

from broker.domain.canonical import JsonObject
from broker.domain.ports import Store, Transaction
from broker.errors import BrokerError, DataLossError, FailedPreconditionError, UnavailableError
from broker.ledger.checkpoint_check import Standing
from broker.ledger.checkpoint_store import DirectoryCheckpoints
from broker.ledger.encoding import decode
from broker.ledger.rotation import sign_tree
from broker.ledger.signer import FileSigner
from broker.ledger.startup import verify_checkpoints, verify_store
from broker.ledger.tree import Tree
from broker.tlog.agent_map import AgentMap, verify_head
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.key_history import recovered_line
from broker.tlog.merkle import CompactRange, leaf_hash
from broker.tlog.note import Note, sign, verify_note
from tests.checkpoint_world import ORIGIN, World, make_ledger, make_note, make_signer, now, opened, target_in, world
from tests.postgres_server import PostgresServer

T = TypeVar("T")


@pytest.fixture(params=["sqlite", "postgres"])
async def one(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    target = target_in(tmp_path)
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        target = replace(target, url=server.url(f"checkpointer_{uuid4().hex}"))
    async with world(tmp_path, target) as made:
        yield made


async def entries(of: World) -> list[JsonObject]:
    return [decode(row.data) for row in await of.store.read(lambda tx: tx.ledger.entries(0, 10_000))]


async def naive(of: World, size: int) -> Checkpoint:
    rows = await of.store.read(lambda tx: tx.ledger.entries(0, size))
    return Checkpoint("origin-1", size, CompactRange(leaf_hash(row.data) for row in rows).root())


def parsed(note: Note | None) -> Checkpoint:
    assert note is not None
    return Checkpoint.parse(note.text)


async def test_a_checkpoint_covers_everything_before_it(one: World) -> None:
    async with one.checkpointer() as checkpointer:
        for count in (0, 1, 300, 1):
            await one.append(count)
            note = await checkpointer.publish_now()
            assert note is not None
            assert verify_note(note, [one.signer.key]) == (one.signer.key,)
            found = parsed(note)
            assert found == await naive(one, found.size)
            all_entries = await entries(one)
            assert found.size == len(all_entries)
            assert all_entries[-1]["type"] == "heads"
            assert await one.checkpoints.latest() == note == checkpointer.newest
            assert checkpointer.status.size == found.size
            assert checkpointer.status.root == found.root.hex()
        sizes = [parsed(kept).size for kept in await one.checkpoints.history(10)]
    assert sizes == [307, 305, 4, 2]
    assert not one.unfit
    await verify_store(one.store)
    assert (await verify_checkpoints(one.store, one.checkpoints, one.signer.key)).checkpoint == found


async def test_its_heads_are_those_of_all_agents(one: World) -> None:
    async with one.checkpointer() as checkpointer:
        for count, agents in ((7, 3), (40, 5), (2, 1)):
            await one.append(count, agents)
            await checkpointer.publish_now()
            *before, last = await entries(one)
            heads: dict[str, tuple[int, bytes]] = {}
            rows = await one.store.read(lambda tx: tx.ledger.entries(0, 1000))
            for entry, row in zip(before, rows, strict=False):
                agent = entry.get("agent")
                if isinstance(agent, dict):
                    heads[str(agent["id"])] = (int(str(agent["seq"])), row.leaf)
            fresh = AgentMap()
            for name, (seq, leaf) in heads.items():
                fresh.set(name, seq, leaf)
            assert last["heads"] == {"agents": len(heads), "root": fresh.root().hex()}
            for name, head in heads.items():
                verify_head(fresh.root(), name, head, fresh.prove(name))


class Rounds:
    """A clock that is asked once in each round that went well, and says so."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()

    def __call__(self) -> datetime:
        self._asked.set()
        return now()

    async def another(self) -> None:
        self._asked.clear()
        async with asyncio.timeout(20):
            await self._asked.wait()


async def test_an_idle_ledger_doesnt_grow(one: World) -> None:
    await one.append(3)
    for _ in range(3):
        rounds = Rounds()
        async with one.checkpointer(interval_s=0.02, clock=rounds):
            for _ in range(5):
                await rounds.another()
    assert len(await entries(one)) == 5
    assert len(await one.checkpoints.history(10)) == 1


async def test_the_interval_start_and_end_make_checkpoints(one: World) -> None:
    await one.append(2)
    rounds = Rounds()
    async with one.checkpointer(interval_s=0.02, clock=rounds) as checkpointer:
        assert checkpointer.status.size == 4
        await one.append(1)
        await rounds.another()
        await rounds.another()  # the first may have been on its way before the entry
        assert checkpointer.status.size == 6
    async with one.checkpointer():
        await one.append(1)
    assert [parsed(note).size for note in await one.checkpoints.history(10)] == [8, 6, 4]


async def test_two_brokers_on_one_ledger_make_one_history(one: World, tmp_path: Path) -> None:
    async with (
        opened(tmp_path, one.signer, one.target) as other,
        one.checkpointer() as mine,
        other.checkpointer() as theirs,
    ):

        async def work(by: World, checkpointer: object) -> None:
            for _ in range(8):
                await by.append(2)
                await checkpointer.publish_now()  # type: ignore[attr-defined]

        await asyncio.gather(work(one, mine), work(other, theirs))
        assert await mine.publish_now() == await theirs.publish_now()
        assert not one.unfit
        assert not other.unfit
    notes = await one.checkpoints.history(100)
    for note in notes:
        assert parsed(note) == await naive(one, parsed(note).size)
    heads = [entry["seq"] for entry in await entries(one) if entry["type"] == "heads"]
    assert heads == [parsed(note).size - 1 for note in reversed(notes)]  # none was made in vain
    await verify_store(one.store)


def copy_of(path: Path, to: Path) -> None:
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def restore(backup: Path, path: Path) -> None:
    for name in ("broker.db-wal", "broker.db-shm"):
        path.with_name(name).unlink(missing_ok=True)
    shutil.copy(backup, path)


async def _unfit(tmp_path: Path, made: World) -> BrokerError:
    """What a start says, and a checkpointer that runs; both say the same."""
    async with opened(tmp_path, made.signer) as again:
        await verify_store(again.store)
        size = len(await entries(again))
        with pytest.raises(DataLossError) as refused:
            await verify_checkpoints(again.store, again.checkpoints, again.signer.key)
        kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
        async with again.checkpointer(interval_s=0.01) as checkpointer:
            assert [error.reason for error in again.unfit] == [refused.value.reason]
            assert checkpointer.status.unfit.startswith(refused.value.reason)
            with pytest.raises(DataLossError):
                await checkpointer.publish_now()
        assert len(again.unfit) == 1
        assert len(await entries(again)) == size
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == kept
    assert refused.value.hint
    return refused.value


async def test_a_restored_backup_is_behind(tmp_path: Path) -> None:
    async with world(tmp_path) as made, made.checkpointer() as checkpointer:
        await made.append(10)
        await checkpointer.publish_now()
        copy_of(tmp_path / "broker.db", tmp_path / "backup.db")
        await made.append(20)
    restore(tmp_path / "backup.db", tmp_path / "broker.db")
    error = await _unfit(tmp_path, made)
    assert error.reason == "LEDGER_BEHIND_CHECKPOINT"
    assert "13 entries" in error.message
    assert "34" in error.message
    assert "older backup" in error.message
    assert "broker ledger recover" in error.hint
    assert dict(error.metadata) == {"ledger_size": "13", "checkpoint_size": "34"}


async def test_a_restored_backup_that_was_written_to_is_a_fork(tmp_path: Path) -> None:
    async with world(tmp_path) as made, made.checkpointer() as checkpointer:
        await made.append(10)
        await checkpointer.publish_now()
        copy_of(tmp_path / "broker.db", tmp_path / "backup.db")
        await made.append(20)
    restore(tmp_path / "backup.db", tmp_path / "broker.db")
    async with opened(tmp_path, made.signer) as again:
        await again.append(30)
    error = await _unfit(tmp_path, made)
    assert error.reason == "LEDGER_FORKED"
    assert "34" in error.message
    assert "43" in error.message
    assert "broker ledger recover" in error.hint


async def test_a_history_rewritten_behind_unchanged_tiles_is_a_fork(tmp_path: Path) -> None:
    """Entries, leaves and links are made anew from the second on; the tree that is kept beside them stays as it was."""
    signer = make_signer()
    for name in ("true", "false"):
        (tmp_path / name).mkdir()
    make_ledger(target_in(tmp_path / "true"), signer)
    shutil.copytree(tmp_path / "true", tmp_path / "false", dirs_exist_ok=True)
    async with opened(tmp_path / "true", signer) as true, opened(tmp_path / "false", signer) as false:
        for each in (true, false):
            await each.append(510)
            async with each.checkpointer() as checkpointer:
                assert checkpointer.status.size == 512
        tiles = await true.store.read(lambda tx: {at: tx.ledger.tile(*at) for at in ((0, 0), (0, 1), (1, 0))})

        def forge(tx: Transaction) -> None:
            for at, hashes in tiles.items():
                assert hashes is not None
                tx.ledger.put_tile(*at, hashes)

        await false.store.write(forge)
        shutil.rmtree(tmp_path / "false" / "checkpoints")
        shutil.copytree(tmp_path / "true" / "checkpoints", tmp_path / "false" / "checkpoints")
        with pytest.raises(DataLossError) as refused:
            await verify_checkpoints(false.store, false.checkpoints, signer.key)
    assert refused.value.reason == "LEDGER_FORKED"


@pytest.mark.parametrize("covered", [False, True])
async def test_tiles_that_arent_those_of_the_entries_are_found(one: World, *, covered: bool) -> None:
    if covered:
        await one.append(600)
    async with one.checkpointer():
        pass
    if not covered:
        await one.append(600)
    await one.store.write(lambda tx: tx.ledger.put_tile(1, 0, bytes(64)))
    with pytest.raises(DataLossError) as refused:
        await verify_checkpoints(one.store, one.checkpoints, one.signer.key)
    assert refused.value.reason == "LEDGER_TREE_WRONG"
    assert "rebuild" in refused.value.hint


async def test_a_tree_that_doesnt_extend_what_was_signed_is_not_signed(one: World) -> None:
    await one.append(9)
    async with one.checkpointer() as checkpointer:
        other = Standing(11, Checkpoint("origin-1", 5, bytes(32)), None, None)
        with pytest.raises(DataLossError) as refused:
            await one.store.read(lambda tx: checkpointer._root(tx, other, 11))
    assert refused.value.reason == "LEDGER_FORKED"


class Between:
    """A store in which others do something just before, or within, our next write."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.before: Callable[[Transaction], object] | None = None
        self.rolled_back: Callable[[Transaction], object] | None = None

    async def write(self, work: Callable[[Transaction], T]) -> T:
        before, within = self.before, self.rolled_back
        self.before = self.rolled_back = None
        if before is not None:
            await self._inner.write(before)
        if within is not None:

            def both(tx: Transaction) -> T:
                within(tx)
                work(tx)
                raise UnavailableError("the transaction is rolled back", reason="FAULT")

            return await self._inner.write(both)
        return await self._inner.write(work)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        return await self._inner.read(work)


async def test_heads_that_another_process_has_just_appended_are_taken(one: World) -> None:
    store = Between(one.store)
    async with one.checkpointer(store=store) as checkpointer:  # type: ignore[arg-type]
        await one.append(3)
        body: JsonObject = {"heads": {"agents": 3, "root": "00" * 32}}
        store.before = lambda tx: one.ledger.append(tx, "heads", body)
        await checkpointer.publish_now()
        assert checkpointer.status.size == 6
    assert [entry["type"] for entry in await entries(one)].count("heads") == 2
    assert not one.unfit


async def test_what_was_rolled_back_is_in_no_heads(one: World) -> None:
    store = Between(one.store)
    await one.append(3)
    async with one.checkpointer(store=store) as checkpointer:  # type: ignore[arg-type]
        await one.append(3)
        # Others' entries in a commit that failed: they were seen, and never were.
        store.rolled_back = lambda tx: one.ledger.append(tx, "heartbeat", {}, agent="agt_phantom")
        with pytest.raises(UnavailableError):
            await checkpointer.publish_now()
        await checkpointer.publish_now()
    last = (await entries(one))[-1]
    assert isinstance(last["heads"], dict)
    assert last["heads"]["agents"] == 3
    assert (await verify_store(one.store)).entries == 9


async def test_a_checkpoint_that_was_read_too_early_is_read_again(one: World) -> None:
    class Early(DirectoryCheckpoints):
        stale: Note | None = None

        async def latest(self) -> Note | None:
            stale, self.stale = self.stale, None
            return stale or await super().latest()

    early = Early(one.folder / "checkpoints")
    async with one.checkpointer() as other, one.checkpointer(checkpoints=early) as checkpointer:
        early.stale = await early.latest()
        for _ in range(2):
            await one.append(1)
            await other.publish_now()
        assert await checkpointer.publish_now() == other.newest
        early.stale = await early.latest()
        for _ in range(2):
            await one.append(1)
            await other.publish_now()
        assert (await verify_checkpoints(one.store, early, one.signer.key)).covered
    assert not one.unfit


async def test_lost_checkpoints_are_missed(tmp_path: Path) -> None:
    async with world(tmp_path) as made, made.checkpointer() as checkpointer:
        await made.append(1)
        await checkpointer.publish_now()
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").mkdir()
    error = await _unfit(tmp_path, made)
    assert error.reason == "CHECKPOINTS_MISSING"
    assert "there is none" in error.message
    assert "checkpoint_dir" in error.hint


async def test_an_older_copy_of_the_checkpoints_is_missed(tmp_path: Path) -> None:
    async with world(tmp_path) as made, made.checkpointer() as checkpointer:
        shutil.copytree(tmp_path / "checkpoints", tmp_path / "older")
        for _ in range(2):
            await made.append(3)
            await checkpointer.publish_now()
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "older").rename(tmp_path / "checkpoints")
    error = await _unfit(tmp_path, made)
    assert error.reason == "CHECKPOINTS_MISSING"
    assert "the newest has 2 entries" in error.message


async def test_checkpoints_that_go_back_under_a_running_broker_are_missed(one: World, tmp_path: Path) -> None:
    async with one.checkpointer() as checkpointer:
        shutil.copytree(tmp_path / "checkpoints", tmp_path / "older")
        await one.append(3)
        await checkpointer.publish_now()
        shutil.rmtree(tmp_path / "checkpoints")
        (tmp_path / "older").rename(tmp_path / "checkpoints")
        with pytest.raises(DataLossError) as refused:
            await checkpointer.publish_now()
    assert refused.value.reason == "CHECKPOINTS_MISSING"
    assert [error.reason for error in one.unfit] == ["CHECKPOINTS_MISSING"]


async def test_a_checkpoint_by_another_key_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as made, made.checkpointer() as checkpointer:
        await checkpointer.publish_now()
    text = (await made.checkpoints.latest()).text  # type: ignore[union-attr]
    stranger = make_signer()
    forged = Note(text, (sign(text, stranger.key, stranger.sign),))
    for name in ("latest.note", "0000000000000002.note"):
        (tmp_path / "checkpoints" / name).write_bytes(forged.encode())
    error = await _unfit(tmp_path, made)
    assert error.reason == "CHECKPOINT_KEY"
    assert "2 entries" in error.message


async def test_a_checkpoint_of_another_ledger_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        pass
    await made.checkpoints.swap(None, make_note(9, bytes(32), make_signer("origin-2")))
    error = await _unfit(tmp_path, made)
    assert error.reason == "CHECKPOINT_FOREIGN"


async def test_a_signer_with_another_key_signs_nothing(one: World) -> None:
    await one.append(1)
    async with one.checkpointer(signer=make_signer()) as checkpointer:
        with pytest.raises(FailedPreconditionError) as refused:
            await checkpointer.publish_now()
    assert refused.value.reason == "CHECKPOINT_SIGNER"
    assert await one.checkpoints.latest() is None
    # With the right key it goes on where it was.
    async with one.checkpointer() as checkpointer:
        assert checkpointer.status.size == 3
    assert not one.unfit


async def _record_loss(again: World, first: int, lost: Note, signer: FileSigner | None = None) -> None:
    """What ``broker ledger recover`` does, cut off before it moves the store."""
    checkpoint = parsed(lost)

    def work(tx: Transaction) -> int:
        line = recovered_line(first, checkpoint.size - 1, checkpoint)
        statement = sign_tree(tx, ORIGIN, signer or again.signer, line)
        body: JsonObject = {
            "lost": {"from": first, "to": checkpoint.size - 1},
            "checkpoint": lost.encode().decode(),
            "statement": statement.encode().decode(),
            "votes": [],
        }
        return again.ledger.append(tx, "recovered", body)

    await again.store.write(work)


async def test_a_recovered_ledger_goes_on_and_the_lost_history_is_set_aside(tmp_path: Path) -> None:
    async with world(tmp_path) as made, made.checkpointer() as checkpointer:
        await made.append(5)
        await checkpointer.publish_now()
        copy_of(tmp_path / "broker.db", tmp_path / "backup.db")
        for _ in range(3):
            await made.append(4)
            await checkpointer.publish_now()
    lost = await made.checkpoints.latest()
    assert parsed(lost).size == 23
    restore(tmp_path / "backup.db", tmp_path / "broker.db")
    async with opened(tmp_path, made.signer) as again:
        assert lost is not None
        await _record_loss(again, 8, lost)
        standing = await verify_checkpoints(again.store, again.checkpoints, again.signer.key)
        assert standing.lost_from == 8
        async with again.checkpointer() as checkpointer:
            assert checkpointer.status.size == 10
            await again.append(30)
            await checkpointer.publish_now()
        assert not again.unfit
        assert [parsed(note).size for note in await again.checkpoints.history(10)] == [41, 10, 8, 2]
        standing = await verify_checkpoints(again.store, again.checkpoints, again.signer.key)
        assert standing.lost_from is None
        root = await again.store.read(lambda tx: Tree(tx.ledger, 41).root())
        assert parsed(await again.checkpoints.latest()).root == root
    aside = sorted(path.name for path in (tmp_path / "checkpoints").glob("*.lost-*"))
    assert aside == [f"{size:016d}.lost-1.note" for size in (13, 18, 23)]


async def test_a_start_on_a_loss_on_record_asks_what_was_kept_of_the_rest(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        async with made.checkpointer():
            await made.append(3)
        kept = await made.checkpoints.latest()
        assert kept is not None
        size = parsed(kept).size
        lost = make_note(size + 5, bytes(32), made.signer)
        wrong = make_note(size - 1, bytes(32), made.signer)
        await made.checkpoints.swap(kept, lost)
        await _record_loss(made, size, lost)
        assert (await verify_checkpoints(made.store, made.checkpoints, made.signer.key)).lost_from == size
        (tmp_path / "checkpoints" / f"{size - 1:016d}.note").write_bytes(wrong.encode())
        with pytest.raises(DataLossError) as refused:
            await verify_checkpoints(made.store, made.checkpoints, made.signer.key)
        assert refused.value.reason == "LEDGER_FORKED"
        with pytest.raises(DataLossError) as running:
            await made.checkpointer().publish_now()
        assert running.value.reason == "LEDGER_FORKED"
