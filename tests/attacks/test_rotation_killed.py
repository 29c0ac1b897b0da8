"""``broker ledger rotate-key`` killed with SIGKILL at its worst moments: one key is in force, and its file is there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from broker.cli.init import create_state
from broker.cli.local import open_local
from broker.ledger.checkpoint_store import DirectoryCheckpoints
from broker.ledger.rotation import read_history, settle_key_files
from broker.ledger.signer import FileSigner, read_passphrase, read_public_key
from broker.settings import StatePaths
from broker.tlog.checkpoint import Checkpoint

# The audit hook sees each file operation before it happens, so the moment of death is exact.
_CHILD = """
import os, signal, sys
event, part, state = sys.argv[1:]
def hook(name, arguments):
    if name == event and any(part in str(item) for item in arguments):
        os.kill(os.getpid(), signal.SIGKILL)
from broker.cli.main import run
sys.addaudithook(hook)
sys.exit(run(["ledger", "rotate-key", "--state", state]))
"""


def _rotate(state: Path, event: str = "none", part: str = "none") -> int:
    child = [sys.executable, "-c", _CHILD, event, part, str(state)]
    return subprocess.run(child, check=False, timeout=60, stdout=subprocess.DEVNULL).returncode


@pytest.mark.parametrize(
    ("event", "part", "handed_over"),
    [
        ("os.link", "checkpoint.key.next", False),  # the new key is nowhere yet
        ("os.remove", "checkpoint.key.next", False),  # it is in its file, and in no entry
        ("os.rename", "checkpoint.key.next", True),  # the entry is there, the file not yet in its place
        ("os.rename", "next.note", True),  # all is done but the checkpoint
    ],
)
def test_killed_and_run_again(tmp_path: Path, event: str, part: str, handed_over: bool) -> None:  # noqa: FBT001
    state = tmp_path / "state"
    made = create_state(state, operator="ada", hosts=())
    assert _rotate(state) == 0
    paths = StatePaths(state)
    before = read_public_key(paths.checkpoint_key)
    assert _rotate(state, event, part) == -signal.SIGKILL
    with open_local(state) as local:
        history = local.read(read_history)
    assert (history.current != before) == handed_over
    settle_key_files(paths.checkpoint_key, paths.next_checkpoint_key, history.current)
    passphrase = read_passphrase("", paths.checkpoint_passphrase)
    assert FileSigner.load(paths.checkpoint_key, passphrase).key == history.current
    assert not paths.next_checkpoint_key.exists()
    # Again, without anybody's hand.
    assert _rotate(state) == 0
    with open_local(state) as local:
        history = local.read(read_history)
        head = local.read(lambda tx: tx.ledger.head())
    assert len(history.keys) == 3 + handed_over
    assert str(history.keys[0].key) == made.checkpoint_key
    assert read_public_key(paths.checkpoint_key) == history.current
    latest = DirectoryCheckpoints(paths.checkpoints).latest_sync()
    assert latest is not None
    assert head is not None
    assert history.check(latest).size == Checkpoint.parse(latest.text).size == head.seq + 1


def test_settling_again_changes_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    create_state(state, operator="ada", hosts=())
    paths = StatePaths(state)
    key = read_public_key(paths.checkpoint_key)
    data = paths.checkpoint_key.read_bytes()
    for _ in range(2):
        settle_key_files(paths.checkpoint_key, paths.next_checkpoint_key, key)
    assert paths.checkpoint_key.read_bytes() == data
