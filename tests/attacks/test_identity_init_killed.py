"""``broker init`` killed with SIGKILL at its worst moments: never half a state directory under the real name."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from broker.cli.init import create_state
from broker.cli.local import open_local
from broker.identity.directory import Directory

# The audit hook sees each file operation before it happens, so the moment of death is exact.
_CHILD = """
import os, signal, sys
event, part, state = sys.argv[1:]
def hook(name, arguments):
    if name == event and any(part in str(item) for item in arguments):
        os.kill(os.getpid(), signal.SIGKILL)
from broker.cli.init import create_state
from pathlib import Path
sys.addaudithook(hook)
create_state(Path(state), operator="ada", hosts=())
"""


@pytest.mark.parametrize(
    ("event", "part"),
    [
        ("open", "settings.yaml"),
        ("open", "ca.key"),
        ("os.link", "server.key"),
        ("open", "vault.key"),
        ("sqlite3.connect", "broker.db"),
        ("os.rename", "state.init-"),
    ],
)
def test_killed_and_run_again(tmp_path: Path, event: str, part: str) -> None:
    state = tmp_path / "state"
    killed = subprocess.run([sys.executable, "-c", _CHILD, event, part, str(state)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not state.exists()
    (left,) = tmp_path.iterdir()
    assert stat.S_IMODE(left.stat().st_mode) == 0o700
    made = create_state(state, operator="ada", hosts=())
    assert made.leftovers == (left,)
    assert left.exists()
    with open_local(state) as local:
        assert [item.name for item in local.read(Directory.load).identities.values()] == ["ada"]
