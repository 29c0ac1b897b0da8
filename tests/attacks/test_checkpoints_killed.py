"""Processes that move the checkpoints are killed anywhere: what is there afterwards is whole, and one of old and new."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.errors import ConflictError
from broker.ledger.checkpoint_store import DirectoryCheckpoints
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import COSIGNATURE, Note, VerifierKey, cosign
from tests.checkpoint_world import make_note, make_signer

SIGNER = make_signer()
WITNESS = make_signer("witness.example")
KEY = VerifierKey(WITNESS.key.name, COSIGNATURE, WITNESS.key.public_key)
CALLS = ("open", "write", "fsync", "close", "replace", "unlink", "mkdir")
"""Every call by which the store changes something."""
PROCESSES, SWAPS = 4, 40


def note(size: int, what: str = "") -> Note:
    return make_note(size, hashlib.sha256(f"{size}{what}".encode()).digest(), SIGNER)


def cosigned(signed: Note) -> Note:
    return signed.with_signature(cosign(signed.text, KEY, WITNESS.sign, 1))


def die_at(number: int, *, after: bool) -> None:
    """Makes this process kill itself before or after its n-th call."""
    left = number

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as os has it
            nonlocal left
            left -= 1
            if left == 0 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return call(*args, **kwargs)
            finally:
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        return wrapped

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))


def run(work: Callable[[], None], number: int, *, after: bool) -> bool:
    """Runs work in a process that is killed at its n-th call; was it?"""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            die_at(number, after=after)
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def history(folder: Path) -> list[Note]:
    notes = DirectoryCheckpoints(folder)._locked(lambda: DirectoryCheckpoints(folder)._newest(100), ())
    return list(notes)


OTHER = note(4, "other")
MOVES: dict[str, tuple[list[Note], Callable[[DirectoryCheckpoints], object], list[Note], list[Note]]] = {
    "the first": ([], lambda store: store.swap_sync(None, note(2)), [], [note(2)]),
    "a later one": (
        [note(2)], lambda store: store.swap_sync(note(2), note(5)), [note(2)], [note(5), note(2)],
    ),
    "a recovery": (
        [note(2), note(4)], lambda store: store.swap_sync(note(4), OTHER, lost_from=3), [note(4), note(2)],
        [OTHER, note(2)],
    ),
    "a cosignature": (
        [note(2)], lambda store: store._locked(lambda: store._add_signatures(cosigned(note(2))), None), [note(2)],
        [cosigned(note(2))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("move", MOVES)
def test_a_kill_at_each_step_leaves_the_old_or_the_new(tmp_path: Path, move: str, *, after: bool) -> None:
    before, work, old, new = MOVES[move]
    seen = set()
    for number in range(1, 200):
        folder = tmp_path / f"{number}"
        store = DirectoryCheckpoints(folder)
        for at, one in enumerate(before):
            store.swap_sync(before[at - 1] if at else None, one)
        killed = run(lambda store=store: work(store), number, after=after)
        found = DirectoryCheckpoints(folder).latest_sync()
        newest = old[0] if old else None
        assert found in {newest, new[0]}, f"call {number}"
        seen.add(found == new[0])
        # Whoever comes next goes on without a hand, and ends where an undisturbed process would have.
        if found != new[0]:
            work(DirectoryCheckpoints(folder))
        assert DirectoryCheckpoints(folder).latest_sync() == new[0]
        assert history(folder) == new, f"call {number}"
        assert not (folder / "next.note").exists()
        if not killed:
            break
    assert not killed
    assert number > 8
    assert seen == {True, False}


def _work(folder: Path, seed: int) -> None:
    store = DirectoryCheckpoints(folder)
    chance = random.Random(seed)  # noqa: S311 - sizes need no secrecy
    while True:
        latest = store.latest_sync()
        old = Checkpoint.parse(latest.text) if latest is not None else Checkpoint("x", 0, bytes(32))
        if old.size >= max(PROCESSES, seed) * SWAPS:  # those that come later go on for longer
            return
        size = old.size + chance.randint(1, 3)
        try:
            store.swap_sync(latest, make_note(size, hashlib.sha256(old.root + b"%d" % size).digest(), SIGNER))
        except ConflictError:
            continue


@pytest.mark.timeout(120)
def test_processes_that_are_killed_while_they_race_lose_no_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    chance = random.Random(7)  # noqa: S311
    kills = 0
    running = {_start(folder, seed) for seed in range(PROCESSES)}
    seed = PROCESSES
    deadline = time.monotonic() + 100
    while running:
        assert time.monotonic() < deadline
        if kills < 20:
            victim = chance.choice(sorted(running))
            latest = DirectoryCheckpoints(folder).latest_sync()
            if latest is not None and Checkpoint.parse(latest.text).size > kills * 8:
                os.kill(victim, signal.SIGKILL)
        child, status = os.waitpid(-1, 0 if kills >= 20 else os.WNOHANG)
        if child == 0:
            continue
        running.discard(child)
        killed = os.WIFSIGNALED(status)
        assert killed or os.WEXITSTATUS(status) == 0
        kills += killed
        # On a busy machine some come to their end before anybody gets round to killing them.
        if killed or kills < PROCESSES:
            seed += 1
            running.add(_start(folder, seed))
    assert kills >= PROCESSES
    notes = DirectoryCheckpoints(folder)._locked(lambda: DirectoryCheckpoints(folder)._newest(10_000), ())
    assert notes[0] == DirectoryCheckpoints(folder).latest_sync()
    root, sizes = bytes(32), []
    for one in reversed(notes):
        checkpoint = Checkpoint.parse(one.text)
        root = hashlib.sha256(root + b"%d" % checkpoint.size).digest()
        assert checkpoint.root == root, "a checkpoint was made on top of one that wasn't the newest, or one is lost"
        sizes.append(checkpoint.size)
    assert sizes[-1] >= PROCESSES * SWAPS


def _start(folder: Path, seed: int) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _work(folder, seed)
            code = 0
        finally:
            os._exit(code)
    return child


def test_each_rename_is_of_something_durable_and_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a loss of power would show: a file is synced before it is renamed, and its folder after."""
    store = DirectoryCheckpoints(tmp_path / "checkpoints")
    store.swap_sync(None, note(2))
    synced: set[int] = set()
    said: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)
        said.append("sync folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "sync file")  # noqa: PTH112

    def replace(old: Path, new: Path) -> None:
        assert old.stat().st_ino in synced, f"{old.name} was renamed before it was durable"
        assert not said or said[-1] != "rename"
        real_replace(old, new)
        said.append("rename")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    store.swap_sync(note(2), note(3))
    assert said == ["sync file", "rename", "sync folder"] * 2 + ["rename", "sync folder"]
