"""What hosts answer is kept of a call, through the whole broker, and served again in a sealed container."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.client.models import CompletedCall
from broker.domain.call import CallState
from broker.domain.events import KeptRecording
from broker.domain.run import EgressVerdict
from broker.errors import NotFoundError
from broker.ledger.ledger import Ledger
from broker.pipeline.recordings import KIND
from broker.sandbox.egress.recorded import RecordedGate
from broker.sandbox.egress.recording import How, Recording, load_recording
from broker.settings import StatePaths
from broker.store.database import Database
from broker.vault.artifacts import Artifacts
from broker.vault.keyfile import read_key_file
from broker.vault.vault import SealedVault
from tests import egress_support
from tests.egress_support import Host, make_certificates, ok
from tests.replay_world import rerun
from tests.sandbox_support import docker_engine, finish, leased, profile, python
from tests.served import Served, command, command_json, ledger, make_state, serving

pytestmark = pytest.mark.docker

_TOKEN = "tok-7b1e90c2d4f54a6e"  # noqa: S105  # of this test
_POLICY = "p, own-{0}, role:agent, demo, own.{0}, call, 2, allow, made for this test\n"
_BIG = 3 * 2**20
_FETCH = """\
import os, sys, urllib.error, urllib.request
base = sys.argv[1] if len(sys.argv) > 1 else BASE
def ask(path, data=None):
    request = urllib.request.Request(base + path, data=data, headers={"Authorization": "Bearer mine", "X-Note": "hello"})
    try:
        with urllib.request.urlopen(request) as answer:
            print(answer.status, answer.headers["X-Number"], len(answer.read()))
    except urllib.error.HTTPError as error:
        print(error.code, error.headers["Broker-Verdict"])
    except OSError as error:
        print(type(error).__name__)
"""
_ALL = (
    'ask("/v1/a?x=1")\nask("/v1/a?x=1")\nask("/v1/post", b"sent")\nask("/v1/echo")\nask("/v2/other")\n'
    'ask("/v1/nobody/such")\n'
)


def _answering(host: Host) -> egress_support.Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await host.read_request(reader)
        number = f"X-Number: {len(host.requests)}"
        if b" /v1/echo " in head:
            writer.write(ok(head, number))
        elif b" /v1/big " in head:
            writer.write(ok(bytes(_BIG), number))
        else:
            writer.write(ok(b"answer", number))
        await writer.drain()
        writer.close()

    return handle


@dataclass
class World:
    """A broker with a tool that keeps what a host answers, and one whose room is small."""

    served: Served
    web: Host

    def code(self, text: str) -> str:
        return f"BASE = 'http://127.0.0.1:{self.web.port}'\n{_FETCH}{text}"

    async def run(self, tool: str, text: str) -> CompletedCall:
        async with self.served.client() as client:
            return await client.run(f"own.{tool}", {"code": self.code(text)})

    async def read(self, kept: KeptRecording | None) -> Recording:
        """A recording out of the state directory, as a rerun reads it."""
        assert kept is not None
        paths = StatePaths(self.served.state)
        async with Database.open(paths.database) as store:
            vault = SealedVault(read_key_file(paths.vault_key))

            def now() -> datetime:
                return datetime.now(UTC)

            artifacts = Artifacts(store, vault, Ledger("brk_x", "boot_x", now), now, lambda *_: None)
            return load_recording(b"".join([piece async for piece in artifacts.open(kept.artifact)]))


@asynccontextmanager
async def world(folder: Path, repository: Path) -> AsyncIterator[World]:
    made = make_certificates(folder)
    async with egress_support.serving(_answering, made.context()) as web:
        state = folder / "state"
        secrets = {"api-token": {"source": "env:OWN_TOKEN", "hosts": [f"127.0.0.1:{web.port}"]}}
        settings = {"egress_networks": ["127.0.0.0/8"], "egress_trust": str(made.ca), "secrets": secrets}
        make_state(state, settings=settings)
        spec = yaml.safe_load((repository / "tool_specs" / "python.run.yaml").read_text("utf-8"))
        secret = {"name": "api-token", "header": "authorization", "prefix": "Bearer "}
        rule = {"host": "127.0.0.1", "port": web.port, "kind": "https", "methods": ["GET", "POST"], "paths": ["/v1/"]}
        (state / "tool_specs").mkdir()
        policy = state / "policy" / "policy.csv"
        for name, room in (("fetch", "1MiB"), ("small", "1KiB")):
            own = {**spec, "name": f"own.{name}", "egress": [{**rule, "secret": secret, "record": room}]}
            (state / "tool_specs" / f"own.{name}.yaml").write_text(yaml.safe_dump(own), "utf-8")
            policy.write_text(policy.read_text("utf-8") + _POLICY.format(name), "utf-8")
        with serving(state, OWN_TOKEN=_TOKEN) as served:
            yield World(served, web)


def _entries(found: list[dict[str, Any]], call: CompletedCall) -> list[dict[str, Any]]:
    return [item for item in found if item.get("call_id") == call.name.removeprefix("calls/")]


async def test_answers_are_kept_served_again_verified_and_erased(tmp_path: Path, repository: Path) -> None:
    async with world(tmp_path, repository) as broker:
        state = broker.served.state
        call = await broker.run("fetch", _ALL)
        assert call.state is CallState.SUCCEEDED, call.stderr
        assert call.outcome is not None
        kept = call.outcome.recording
        assert kept is not None
        assert (kept.exchanges, kept.missed) == (5, 0)

        recording = await broker.read(kept)
        assert recording.call == call.name.removeprefix("calls/")
        found = [(item.request.method, item.request.target, item.how) for item in recording.exchanges]
        assert found == [
            ("GET", "/v1/a?x=1", How.COMPLETE),
            ("GET", "/v1/a?x=1", How.COMPLETE),
            ("POST", "/v1/post", How.COMPLETE),
            ("GET", "/v1/echo", How.REFUSED),
            ("GET", "/v1/nobody/such", How.COMPLETE),
        ]
        assert [item.refusal.verdict for item in recording.exchanges if item.refusal] == [EgressVerdict.SECRET_ECHOED]
        assert all("authorization" in item.request.withheld for item in recording.exchanges)
        assert _TOKEN not in repr(recording)
        assert "Bearer" not in repr(recording)

        quiet = await broker.run("fetch", "print('asked nobody')\n")
        assert quiet.outcome is not None
        assert quiet.outcome.recording is None
        await _without_room(broker)

        everything = ledger(state)
        assert "/v1/" not in json.dumps(everything)
        assert "recording" not in _entries(everything, quiet)[-1]
        entries = _entries(everything, call)
        types = [item["type"] for item in entries]
        assert types.index("artifact") < types.index("outcome")
        assert entries[types.index("artifact")]["kind"] == KIND
        assert entries[types.index("artifact")]["digest"] == kept.artifact
        outcome = entries[types.index("outcome")]
        assert outcome["artifacts"] == [kept.artifact]
        assert outcome["recording"] == {
            "artifact": kept.artifact, "exchanges": 5, "missed": 0, "bytes": kept.size, "whole": True,
        }  # fmt: skip
        await _sealed(broker, call, recording)

        broker.served.stop()
        await asyncio.to_thread(_run_again, state, recording.call, broker.web.requests)
        command(state, "ledger", "erase", "--subject", recording.call, "--reason", "asked for", "--yes")
        with pytest.raises(NotFoundError) as erased:
            await broker.read(kept)
        assert erased.value.reason == "CONTENT_ERASED"
        code, found = await asyncio.to_thread(rerun, state, recording.call)
        assert (code, found["obstacles"][0]["reason"]) == (21, "CONTENT_ERASED")
        _verified(state)


def _run_again(state: Path, call: str, requests: list[bytes]) -> None:
    """A rerun of the whole call, from what is kept: the same came of it, and no host was asked."""
    seen = len(requests)
    code, found = rerun(state, call)
    assert (code, found["verdict"]) == (0, "reproduced"), found
    assert "5 request(s) got the answers that were recorded." in found["notes"]
    assert len(requests) == seen


async def _without_room(broker: World) -> None:
    """A call whose answers don't fit goes on as it would without a recording."""
    call = await broker.run("small", 'ask("/v1/big")\nask("/v1/a")\n')
    assert [line.split()[::2] for line in call.stdout_text.splitlines()] == [["200", str(_BIG)], ["200", "6"]], (
        call.stderr
    )
    assert call.outcome is not None
    kept = call.outcome.recording
    assert kept is not None
    assert (kept.exchanges, kept.missed, kept.whole, call.outcome.warnings) == (1, 1, False, ())
    (item,) = (await broker.read(kept)).exchanges
    assert item.answer is not None
    assert (item.answer.kept, item.answer.body_bytes, item.how) == (False, _BIG, How.COMPLETE)


async def _sealed(broker: World, call: CompletedCall, recording: Recording) -> None:
    """The same code in a container without a network: it can't tell the difference, and the host sees nothing."""
    seen, rules = len(broker.web.requests), (await _rules(broker))
    async with docker_engine() as engine:
        gate = RecordedGate(recording, rules=rules)
        async with leased(engine, await profile(engine)) as lease:
            again = await finish(lease, python(broker.code(_ALL), proxy=True), gate)
        assert again.stdout == call.stdout, again.stderr
        assert gate.report.same
        assert [item.number for item in gate.report.served] == [1, 2, 3, 4, 5]
        assert len(gate.report.refused) == 1

        gate = RecordedGate(recording, rules=rules)
        other = 'ask("/v1/a?x=1")\nask("/v1/new")\nask("/v1/post", b"changed")\n'
        async with leased(engine, await profile(engine)) as lease:
            again = await finish(lease, python(broker.code(other), proxy=True), gate)
        assert again.text.splitlines() == ["200 1 6", "502 NOT_RECORDED", "200 3 6"]
        assert [item.same_body for item in gate.report.served] == [True, False]
        assert [number for number, _ in gate.report.not_asked] == [2, 4, 5]
    assert len(broker.web.requests) == seen


async def _rules(broker: World) -> tuple[Any, ...]:
    async with broker.served.client() as client:
        return (await client.get_tool("own.fetch")).egress


def _verified(state: Path) -> None:
    """Both verifiers accept the ledger."""
    assert command_json(state, "ledger", "verify")["verdict"] == "ok"
    bundle = state.parent / "bundle.zip"
    command_json(state, "ledger", "export", str(bundle))
    verifier = Path(__file__).parents[2] / "broker" / "ledger" / "verify_bundle.py"
    done = subprocess.run(
        [sys.executable, "-I", str(verifier), str(bundle)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
