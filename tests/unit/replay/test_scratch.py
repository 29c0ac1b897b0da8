"""Scratch folders, and objects that are borrowed and never touched where they came from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.domain.tree import Change, Effect, TreeFile
from broker.errors import DataLossError
from broker.replay.scratch import BorrowedObjects, Room
from broker.workspace.objects import Objects
from broker.workspace.trees import Trees


def _times(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


async def test_a_state_goes_on_in_the_scratch_folder_and_nothing_is_touched(tmp_path: Path) -> None:
    kept = Objects(tmp_path / "kept")
    digest, size = await kept.put_bytes(b"one")
    state = await Trees(kept).of({"a": TreeFile(digest, size), "b": TreeFile(digest, size)})
    for path in (tmp_path / "kept").rglob("*"):
        os.utime(path, (1.0, 1.0))
    before = _times(tmp_path / "kept")
    scratch = BorrowedObjects(tmp_path / "scratch", tmp_path / "kept")
    new, length = await scratch.put_bytes(b"two")
    change = Change("a", TreeFile(digest, size), TreeFile(new, length))
    mode = Change("b", TreeFile(digest, size), TreeFile(digest, size, 0o600))
    after = await Trees(scratch).apply(state, Effect.of((change, mode)))
    assert await Trees(scratch).get(after, "a") == TreeFile(new, length)
    assert _times(tmp_path / "kept") == before
    assert not await kept.has(after)
    # The same effect on the same state leads to the same state, as it does in the workspace itself.
    await kept.put_bytes(b"two")
    assert await Trees(kept).apply(state, Effect.of((change, mode))) == after


async def test_an_object_with_other_bytes_is_refused(tmp_path: Path) -> None:
    kept = Objects(tmp_path / "kept")
    digest, _ = await kept.put_bytes(b"one")
    kept.files.place(digest).write_bytes(b"two")
    scratch = BorrowedObjects(tmp_path / "scratch", tmp_path / "kept")
    with pytest.raises(DataLossError) as caught:
        await scratch.has(digest)
    assert caught.value.reason == "TREE_DOCTORED"
    kept.files.place(digest).unlink()
    kept.files.place(digest).symlink_to("/etc/hostname")
    with pytest.raises(DataLossError) as caught:
        await scratch.has(digest)
    assert caught.value.reason == "TREE_DOCTORED"
    assert not list((tmp_path / "scratch" / "drafts").iterdir())


def test_a_room_is_swept_by_one_who_is_alone(tmp_path: Path) -> None:
    first, second = Room(tmp_path / "replays"), Room(tmp_path / "replays")
    first.share()
    with first.folder() as folder:
        (folder / "file").write_text("secret")
        assert oct(folder.stat().st_mode)[-3:] == "700"
        assert not second.alone()
        assert second.leftovers() == (folder,)
    assert second.leftovers() == ()
    (tmp_path / "outside").mkdir()
    (first.place / "left").mkdir()
    (first.place / "link").symlink_to(tmp_path / "outside")
    first.leave()
    assert second.alone()
    assert len(second.sweep()) == 2
    assert (second.leftovers(), (tmp_path / "outside").exists()) == ((), True)
    second.leave()
