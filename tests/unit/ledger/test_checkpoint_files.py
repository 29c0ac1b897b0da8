"""What lies in the folder of checkpoints and isn't what the broker put there is an error, and never counts as absent."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.errors import BrokerError, DataLossError, UnavailableError
from broker.ledger import checkpoint_store
from broker.ledger.checkpoint_store import DirectoryCheckpoints
from tests.checkpoint_world import make_note, make_signer

SIGNER = make_signer()
FIRST, SECOND = make_note(2, bytes(32), SIGNER), make_note(5, bytes(31) + b"1", SIGNER)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    store.swap_sync(None, FIRST)
    store.swap_sync(FIRST, SECOND)
    return tmp_path / "checkpoints"


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


SPOILERS: dict[str, Callable[[Path], object]] = {
    "torn": lambda path: path.write_bytes(SECOND.encode()[:-20]),
    "empty": lambda path: path.write_bytes(b""),
    "too long": lambda path: path.write_bytes(SECOND.encode() * 1000),
    "no text": lambda path: path.write_bytes(b"\xff" * 100),
    "no checkpoint": lambda path: path.write_bytes(SECOND.encode().replace(b"\n5\n", b"\nfive\n")),
    "a link": _link,
    "a folder": _folder,
}


@pytest.mark.parametrize("name", ["latest.note", "next.note"])
@pytest.mark.parametrize("spoiler", SPOILERS)
async def test_what_is_no_checkpoint_is_damage(folder: Path, name: str, spoiler: str) -> None:
    if name == "next.note":
        (folder / name).write_bytes(SECOND.encode())
    SPOILERS[spoiler](folder / name)
    store = DirectoryCheckpoints(folder)
    for work in (store.latest, lambda: store.swap(SECOND, make_note(9, bytes(32), SIGNER))):
        with pytest.raises(DataLossError) as refused:
            await work()
        assert refused.value.reason == "CHECKPOINT_DAMAGED"
        assert name in refused.value.message
        assert refused.value.hint
    assert not (folder / "0000000000000009.note").exists()


@pytest.mark.parametrize("spoiler", SPOILERS)
async def test_a_history_with_something_else_in_it_is_damage(folder: Path, spoiler: str) -> None:
    SPOILERS[spoiler](folder / "0000000000000005.note")
    with pytest.raises(DataLossError):
        await DirectoryCheckpoints(folder).history(10)


async def test_a_checkpoint_under_another_size_is_damage(folder: Path) -> None:
    (folder / "0000000000000002.note").rename(folder / "0000000000000003.note")
    with pytest.raises(DataLossError) as refused:
        await DirectoryCheckpoints(folder).history(10)
    assert "another size" in refused.value.message


async def test_a_missing_newest_beside_older_ones_is_damage(folder: Path) -> None:
    (folder / "latest.note").unlink()
    with pytest.raises(DataLossError) as refused:
        await DirectoryCheckpoints(folder).latest()
    assert refused.value.reason == "CHECKPOINT_DAMAGED"
    assert "latest.note" in refused.value.hint


async def test_a_note_of_a_foreign_name_is_damage(folder: Path) -> None:
    (folder / "5.note").write_bytes(SECOND.encode())
    with pytest.raises(DataLossError) as refused:
        await DirectoryCheckpoints(folder).history(10)
    assert "'5.note'" in refused.value.message


def test_files_are_for_the_owner_alone(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


async def test_a_folder_in_a_missing_one_is_not_made(tmp_path: Path) -> None:
    store = DirectoryCheckpoints(tmp_path / "mount" / "checkpoints")
    assert await store.latest() is None
    with pytest.raises(UnavailableError) as refused:
        await store.swap(None, FIRST)
    assert refused.value.reason == "CHECKPOINT_STORE_FAILED"
    assert "checkpoint_dir" in refused.value.hint


async def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("x")
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    for work in (store.latest, lambda: store.swap(None, FIRST)):
        with pytest.raises(BrokerError) as refused:
            await work()
        assert refused.value.reason == "CHECKPOINT_STORE_FAILED"


async def test_a_process_that_holds_the_lock_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_store, "_LOCK_S", 0.05)
    descriptor = os.open(folder / ".lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(UnavailableError) as refused:
            await DirectoryCheckpoints(folder).latest()
    finally:
        os.close(descriptor)
    assert refused.value.reason == "CHECKPOINT_STORE_BUSY"
    assert await DirectoryCheckpoints(folder).latest() == SECOND
