"""A real broker for tests: `broker init`, `broker identity issue`, and `broker serve` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import yaml

from broker.cli import placing
from broker.cli.init import create_state
from broker.cli.local import named, open_local
from broker.client import AsyncBroker, CallContext, RetryPolicy
from broker.domain.identity import IdentityKind
from broker.identity.directory import Directory
from tests.forked import Forked, fork

OPERATOR = "olivia"
AGENT = "scout"
DEADLINE_S = 120


def command(state: Path, *arguments: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs the `broker` command on a state directory."""
    with TemporaryFile() as stdout, TemporaryFile() as stderr:
        process = fork(
            arguments,
            {**os.environ, "BROKER_STATE": str(state), **env},
            stdout=stdout.fileno(),
            stderr=stderr.fileno(),
        )
        try:
            code = process.wait(DEADLINE_S)
        finally:
            process.kill()
            process.wait(DEADLINE_S)
        for file in (stdout, stderr):
            file.seek(0)
        done = subprocess.CompletedProcess(arguments, code, stdout.read().decode(), stderr.read().decode())
    if check:
        done.check_returncode()
    return done


def command_json(state: Path, *arguments: str, **env: str) -> dict[str, Any]:
    """Runs a command with ``--json`` and reads its answer."""
    result = command(state, *arguments, "--json", check=False, **env)
    assert result.returncode == 0, f"{arguments}: {result.returncode}\n{result.stdout}\n{result.stderr}"
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def issue(state: Path, people: Mapping[str, str]) -> None:
    """Registers people and agents (name -> owner, empty for a human) by the operator, as commands would, in one process."""
    with open_local(state) as local:
        operator = next(iter(local.read(Directory.load).identities.values())).id
        for name, owner in people.items():
            kind = IdentityKind.AGENT if owner else IdentityKind.HUMAN
            human = named(local.read(Directory.load), IdentityKind.HUMAN, owner, option="owner").id if owner else ""
            placing.issue(local, placing.Issuing(kind, name, human, None, None, timedelta(days=30), operator))


def make_state(
    state: Path, *, agents: Mapping[str, str] | None = None, settings: Mapping[str, Any] | None = None
) -> None:
    """Makes a state directory with an operator and agents (name -> owner), as commands would, in this process."""
    create_state(state, operator=OPERATOR, hosts=())
    issue(state, agents or {AGENT: OPERATOR})
    merged = {"listen": "127.0.0.1:0", **(settings or {})}
    (state / "settings.yaml").write_text(yaml.safe_dump(merged), "utf-8")


@dataclass
class Served:
    """A broker that serves."""

    state: Path
    process: Forked
    ready: dict[str, Any]
    log: Path
    killed: bool = field(default=False)

    @property
    def address(self) -> str:
        """Address of its mutual-TLS listener."""
        return str(self.ready["address"])

    def identity(self, kind: str, name: str) -> Path:
        """Folder with somebody's certificate and key."""
        return self.state / "identities" / kind / name

    def client(
        self, agent: str = AGENT, *, workspace: str = "demo", retry: RetryPolicy | None = None, **context: str
    ) -> AsyncBroker:
        """A client under an agent's certificate."""
        return self.connect("agent", agent, CallContext(workspace=workspace, **context), retry)

    def human(self, name: str = OPERATOR) -> AsyncBroker:
        """A client under a human's certificate."""
        return self.connect("human", name, CallContext(workspace="demo"))

    def connect(self, kind: str, name: str, context: CallContext, retry: RetryPolicy | None = None) -> AsyncBroker:
        """A client under any identity's certificate."""
        return AsyncBroker.connect(
            self.address,
            identity=self.identity(kind, name),
            ca=self.state / "ca" / "ca.pem",
            context=context,
            retry=retry,
        )

    def stop(self) -> int:
        """Asks it to drain, and waits for its end."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        """Kills it as a crash would."""
        self.killed = True
        self.process.kill()
        self.process.wait(DEADLINE_S)


@contextmanager
def serving(state: Path, **env: str) -> Iterator[Served]:
    """Runs `broker serve` until the block ends; its log is in the state's parent folder."""
    log = state.parent / f"{state.name}.log"
    with log.open("a", encoding="utf-8") as stderr:
        process = fork(["serve", "--json"], {**os.environ, "BROKER_STATE": str(state), **env}, stderr=stderr.fileno())
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the broker didn't start:\n{log.read_text('utf-8')}"
        ready = json.loads(line)
        assert "address" in ready, ready
        served = Served(state, process, ready, log)
        yield served
        if not served.killed and process.poll() is None:
            assert served.stop() == 0, log.read_text("utf-8")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(DEADLINE_S)
        if process.stdout is not None:
            process.stdout.close()


def ledger(state: Path, *options: str) -> list[dict[str, Any]]:
    """All entries of a state's ledger, read from the file."""
    arguments = ("ledger", "show", "--limit", "10000", *options, "--json")
    result = command(state, *arguments, check=False)
    if "LEDGER_BUSY" in result.stdout:  # between two writes nobody has the file open: this read met the next one
        result = command(state, *arguments, check=False)
    assert result.returncode == 0, f"{arguments}: {result.returncode}\n{result.stdout}\n{result.stderr}"
    return [item["entry"] for item in json.loads(result.stdout)["items"]]


def asked(state: Path) -> list[dict[str, Any]]:
    """The entries that somebody's asking made: no heads, and no ends of kept things, which come when the clock says so."""
    return [entry for entry in ledger(state) if entry["type"] not in {"heads", "erased"}]
