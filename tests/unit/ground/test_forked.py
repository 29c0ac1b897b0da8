"""A forked program is a process of its own: its code, streams, environment, folder and signals are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from tests.forked import fork
from tests.served import command, make_state, serving

DEADLINE_S = 120


def test_its_code_and_its_streams(tmp_path: Path) -> None:
    done = command(tmp_path / "none", "ledger", "show", "--json", check=False)
    assert (done.returncode, json.loads(done.stdout)["reason"], done.stderr) == (2, "LEDGER_MISSING", "")
    with pytest.raises(subprocess.CalledProcessError):
        command(tmp_path / "none", "nonsense")
    assert "No such command" in command(tmp_path, "nonsense", check=False).stderr


def test_its_environment_and_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_state(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    with TemporaryFile() as output:
        one = fork(
            ["ledger", "verify", "--json"], {"BROKER_STATE": "here"}, stdout=output.fileno(), stderr=output.fileno()
        )
        assert one.wait(DEADLINE_S) == 0
        output.seek(0)
        assert json.loads(output.read())["verdict"] == "ok"


@pytest.mark.docker
def test_its_signals_and_what_it_says_while_it_runs(tmp_path: Path) -> None:
    make_state(tmp_path / "state")
    with serving(tmp_path / "state") as served:
        assert served.ready["pid"] == served.process.pid != os.getpid()
        assert served.process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            served.process.wait(0.01)
        assert served.stop() == 0
        assert served.process.poll() == 0
    with serving(tmp_path / "state") as served:
        served.kill()
        assert served.process.returncode == -signal.SIGKILL
        assert served.process.stdout is not None
        assert served.process.stdout.read() == ""


def test_many_at_once(tmp_path: Path) -> None:
    with TemporaryFile() as output:
        started = [fork(["--version"], os.environ, stdout=output.fileno(), stderr=output.fileno()) for _ in range(10)]
        assert len({one.pid for one in started}) == 10
        assert [one.wait(DEADLINE_S) for one in reversed(started)] == [0] * 10
    assert not list(tmp_path.iterdir())
