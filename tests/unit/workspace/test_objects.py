"""Objects: named by what they hold, all or nothing, never read wrong, never lost to a sweep."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.domain.canonical import digest
from broker.errors import DataLossError, ResourceExhaustedError
from broker.workspace import files
from broker.workspace.files import KEPT_S, PIECE, Batch
from broker.workspace.objects import Objects, in_thread
from broker.workspace.trees import Trees

CHILD = Path(__file__).with_name("object_child.py")
BIG = os.urandom(PIECE) * 2 + b"end"


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(tmp_path / "state" / "objects")


def drafts(objects: Objects) -> list[Path]:
    return list(objects.files.drafts.iterdir())


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def whole(objects: Objects, name: str) -> bytes:
    return b"".join([piece async for piece in objects.open(name)])


@pytest.mark.parametrize("data", [b"", b"x", BIG, bytes(PIECE)])
async def test_what_is_put_is_read(objects: Objects, data: bytes) -> None:
    name = digest(data)
    assert not await objects.has(name)
    assert await objects.put(stream(data[:7], b"", data[7:])) == (name, len(data))
    assert await objects.has(name)
    assert await whole(objects, name) == data
    assert await objects.read(name, len(data)) == data
    assert await objects.put_bytes(data) == (name, len(data))
    if data:
        with pytest.raises(ResourceExhaustedError) as refused:
            await objects.read(name, len(data) - 1)
        assert refused.value.reason == "OBJECT_TOO_LARGE"
    assert drafts(objects) == []


async def test_nobody_else_may_read_them(objects: Objects) -> None:
    old = os.umask(0)
    try:
        await objects.put_bytes(b"x")
    finally:
        os.umask(old)
    for path in [objects.files.folder, *objects.files.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


async def test_the_last_piece_of_a_damaged_object_is_never_given(objects: Objects) -> None:
    name, _ = await objects.put_bytes(BIG)
    place = objects.files.place(name)
    for wrong in (BIG[:-1] + b"X", BIG[:-1], BIG + b"x", b"X" + BIG[1:], b""):
        place.write_bytes(wrong)
        given = []
        with pytest.raises(DataLossError) as found:
            given = [piece async for piece in objects.open(name)]
        assert found.value.reason == "TREE_DAMAGED"
        assert given == []
        with pytest.raises(DataLossError):
            await objects.read(name, 1 << 30)
    for name in (digest(b"missing"), "sha256:zz", "sha256:" + "A" * 64, "../../etc/passwd", ""):
        with pytest.raises(DataLossError):
            await whole(objects, name)


async def test_a_shortened_object_is_mended_by_putting_it_again(objects: Objects) -> None:
    name, _ = await objects.put_bytes(b"right")
    objects.files.place(name).write_bytes(b"ri")
    await objects.put_bytes(b"right")
    assert await objects.read(name, 10) == b"right"


async def test_a_batch_that_fails_leaves_nothing(objects: Objects) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"begun"
        raise OSError("the client is gone")

    async def work() -> None:
        async with objects.batch() as batch:
            await batch.put_bytes(b"one")
            assert len(drafts(objects)) == 1
            await batch.put(broken())

    with pytest.raises(OSError, match="gone"):
        await work()
    assert drafts(objects) == []
    assert not await objects.has(digest(b"one"))
    async with objects.batch() as batch:
        assert await batch.put_bytes(b"one") == await batch.put(stream(b"on", b"e")) == (digest(b"one"), 3)
        assert not await objects.has(digest(b"one"))
    assert await objects.read(digest(b"one"), 3) == b"one"


async def test_cancelling_waits_for_the_thread() -> None:
    entered, leave, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        leave.wait()
        done.set()

    task = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(entered.wait)
    task.cancel()
    _, pending = await asyncio.wait([task], timeout=0.05)
    assert pending == {task}
    task.cancel()
    leave.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


async def test_a_cancelled_put_leaves_nothing(objects: Objects) -> None:
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"begun"
        waiting.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(objects.put(endless()))
    await waiting.wait()
    assert len(drafts(objects)) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert drafts(objects) == []


async def test_what_is_put_again_is_kept_by_a_sweep_of_that_hour(objects: Objects) -> None:
    later = time.time() + KEPT_S + 60
    name, _ = await objects.put_bytes(b"old")
    other, _ = await objects.put_bytes(b"older")
    for path in (objects.files.place(name), objects.files.place(other)):
        os.utime(path, (1, 1))
    with Batch(objects.files) as batch:
        left = batch.draft()
        left.close()
        os.utime(left.path, (1, 1))
        await objects.put_bytes(b"old")
        done = objects.files.sweep(set())
    assert (done.kept, done.removed, done.removed_bytes) == (1, 2, 5)
    assert (await objects.has(name), await objects.has(other), drafts(objects)) == (True, False, [])
    assert objects.files.sweep({name}, now=later).removed == 0
    assert objects.files.sweep(set(), now=later).removed == 1


async def test_no_sweep_comes_between_looking_and_keeping(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old object is found there, and at that very moment a sweep begins: it waits, and then leaves it alone."""
    name, _ = await objects.put_bytes(b"old")
    os.utime(objects.files.place(name), (1, 1))
    asked, looks = files._size, []
    sweep = threading.Thread(target=objects.files.sweep, args=(set(),))

    def size(path: Path) -> int | None:
        looks.append(path)
        found = asked(path)
        if len(looks) == 2:  # the look that counts
            sweep.start()
            sweep.join(0.3)
        return found

    monkeypatch.setattr(files, "_size", size)
    with Batch(objects.files) as batch:
        assert batch.keep(name, 3)
    sweep.join()
    assert await objects.has(name)


@pytest.mark.parametrize("seed", range(4))
def test_whoever_is_killed_leaves_only_what_nothing_names(objects: Objects, seed: int) -> None:
    trees = Trees(objects)
    with subprocess.Popen(
        [sys.executable, CHILD, objects.files.folder, str(seed)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        roots = [child.stdout.readline().strip() for _ in range(2 + seed)]
        child.kill()
        roots += child.stdout.read().split()
    assert all(len(root) == 71 for root in roots)
    for root in roots:
        asyncio.run(trees.check(root))
    for path in objects.files.folder.glob("??/*"):
        assert digest(path.read_bytes()) == f"sha256:{path.name}"
    later = time.time() + KEPT_S + 60
    asyncio.run(trees.sweep(roots[-1:], now=later))
    assert drafts(objects) == []
    asyncio.run(trees.check(roots[-1]))


async def test_a_damaged_object_is_put_anew_where_that_is_asked_for(tmp_path: Path) -> None:
    objects = Objects(tmp_path / "objects")
    digest, _ = await objects.put_bytes(b"right")
    path = objects.files.place(digest)
    path.chmod(0o600)
    path.write_bytes(b"wrong")
    async with objects.batch() as batch:
        await batch.put_bytes(b"right")
    with pytest.raises(DataLossError):
        await objects.read(digest, 10)
    async with objects.batch(anew=True) as batch:
        await batch.put_bytes(b"right")
    assert await objects.read(digest, 10) == b"right"
