"""The files in which clients remember checkpoints: several processes at once, odd names, kills in between."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.client.checkpoint_memory import CheckpointMemory, MemoryFolder, Remembered, default_folder
from broker.errors import FailedPreconditionError, InvalidArgumentError
from broker.tlog.note import Note
from tests.fake_log import Log

ORIGIN = "o.example/log"

WRITER = """
import sys, random
from pathlib import Path
from broker.client.checkpoint_memory import MemoryFolder, Remembered
from broker.tlog.note import Note
folder, notes = MemoryFolder(Path(sys.argv[1])), [Note.parse(p.read_bytes()) for p in sorted(Path(sys.argv[2]).iterdir())]
last = 0
for note in random.sample(notes, len(notes)):
    for _ in range(3):
        old = folder.read("o.example/log")
        size = old.checkpoint.size if old else 0
        assert size >= last, (size, last)
        last = size
        folder.replace(old, Remembered(note, ("{}",), "a" * 64))
"""


@pytest.fixture(scope="module")
def notes() -> list[Note]:
    log = Log.make(ORIGIN, 40)
    return [Note.parse(log.note(size)) for size in range(1, 41)]


def test_several_processes_never_take_a_checkpoint_back(tmp_path: Path, notes: list[Note]) -> None:
    given, memory = tmp_path / "notes", tmp_path / "memory"
    given.mkdir()
    for number, note in enumerate(notes):
        (given / f"{number:03d}").write_bytes(note.encode())
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", WRITER, str(memory), str(given)]
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    found = MemoryFolder(memory).read(ORIGIN)
    assert found is not None
    assert found.checkpoint.size == 40
    assert MemoryFolder(memory).origin_of("a" * 64) == ORIGIN
    assert not list(memory.rglob(".draft-*"))


def test_a_smaller_checkpoint_or_a_stale_view_replaces_nothing(tmp_path: Path, notes: list[Note]) -> None:
    folder = MemoryFolder(tmp_path / "memory")
    small, large = Remembered(notes[3], ()), Remembered(notes[9], ())
    assert folder.replace(None, large)
    assert not folder.replace(None, small)
    assert not folder.replace(small, Remembered(notes[20], ()))
    assert not folder.replace(large, small)
    assert folder.read(ORIGIN) == large


@pytest.mark.parametrize(
    "origin", ["../../etc/passwd", ".", "..", ".lock", "authorities", "a/b", "x" * 900, "\u2764 log"]
)
def test_no_origin_leads_out_of_the_folder_or_onto_another(tmp_path: Path, origin: str) -> None:
    folder = MemoryFolder(tmp_path / "memory")
    log = Log.make(ORIGIN, 2)
    text = log.text(2).replace(ORIGIN, origin)
    known = Remembered(Note.parse(f"{text}\n{log.key.line(text)}".encode()), ("{}",), "b" * 64)
    assert folder.replace(None, known)
    assert folder.read(origin) == known
    assert folder.path(origin).parent == tmp_path / "memory"
    assert {path.name for path in tmp_path.iterdir()} == {"memory"}
    assert folder.path(origin).name not in {".lock", "authorities", ".", ".."}


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", '{"v": 1}', "[" * 100_000, '{"v":1,"authority":1,"checkpoint":"x","key_entries":[]}'],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    folder = MemoryFolder(tmp_path)
    folder.path(ORIGIN).write_text(text)
    with pytest.raises(FailedPreconditionError) as caught:
        folder.read(ORIGIN)
    assert caught.value.reason == "CHECKPOINT_MEMORY_DAMAGED"
    assert caught.value.metadata["memory"] == str(folder.path(ORIGIN))


def test_a_file_of_another_ledger_is_damaged(tmp_path: Path, notes: list[Note]) -> None:
    folder = MemoryFolder(tmp_path)
    folder.replace(None, Remembered(notes[3], ()))
    folder.path(ORIGIN).rename(folder.path("another"))
    with pytest.raises(FailedPreconditionError):
        folder.read("another")


@pytest.mark.parametrize("field", ["interval_s", "unproved_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_time_that_is_none_is_refused(field: str, value: float) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        CheckpointMemory(**{field: value})
    assert caught.value.violations[0].field == f"checkpoints.{field}"


def test_the_folder_is_that_of_the_users_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "agent-broker" / "checkpoints"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # by the standard it doesn't count
    monkeypatch.setenv("HOME", "/home/x")
    assert default_folder() == Path("/home/x/.local/state/agent-broker/checkpoints")
