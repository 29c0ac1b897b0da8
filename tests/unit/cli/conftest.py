"""A scripted broker in a thread, and the ``broker`` program talking to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cli.main import run as run_program
from tests.cli_program import Program, Ran, Start
from tests.fake_broker import Authority, FakeBroker, fake_broker_in_thread


@pytest.fixture(scope="session")
def cli_authority() -> Authority:
    return Authority.make("ca")


@pytest.fixture
def server(cli_authority: Authority) -> Iterator[FakeBroker]:
    with fake_broker_in_thread(cli_authority) as fake:
        yield fake


@pytest.fixture
def state(server: FakeBroker, tmp_path: Path) -> Path:
    """A state directory as ``broker serve`` leaves it, with one agent's certificate."""
    folder = tmp_path / "state"
    server.authority.write(folder / "identities" / "agent" / "bot", "bot")
    (folder / "ca").mkdir()
    (folder / "ca" / "ca.pem").write_bytes(server.authority.pem)
    (folder / "serve.json").write_text(json.dumps({"address": server.address, "pid": 1, "boot_id": "boot_1"}))
    return folder


@pytest.fixture
def broker(state: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Program:
    """Runs a command of the program in this process."""
    for name in [name for name in os.environ if name.startswith("BROKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BROKER_STATE", str(state))
    monkeypatch.setenv("BROKER_WORKSPACE", "demo")

    def run(*args: str) -> Ran:
        capfdbinary.readouterr()
        code = run_program(list(args))
        out, err = capfdbinary.readouterr()
        return Ran(code, out.decode("latin-1"), err.decode("latin-1"))

    return run


@pytest.fixture
def start(state: Path) -> Iterator[Start]:
    """Starts a command as a process of its own."""
    started: list[subprocess.Popen[bytes]] = []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_")}

    def run(*args: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "broker.cli.main", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment | {"BROKER_STATE": str(state), "BROKER_WORKSPACE": "demo"},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
