"""A tool in a container reaches hosts through the whole broker: TLS by the broker, a secret that it never sees, a forward."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.client.models import CompletedCall
from broker.domain.call import CallState
from broker.domain.run import EgressVerdict
from tests import egress_support
from tests.egress_support import Host, make_certificates, ok
from tests.served import Served, command_json, ledger, make_state, serving

pytestmark = pytest.mark.docker

_TOKEN = "tok-2f9c41d7a8e64b0f"  # noqa: S105  # of this test
_TOOL = "own.fetch"
_POLICY = "p, own-fetch, role:agent, demo, own.fetch, call, 2, allow, made for this test\n"
_HEAD = "import os, urllib.error, urllib.request\n"


def _reflect(host: Host) -> egress_support.Handler:
    """Answers ``fine``, or with the very request where it is asked for an echo."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await host.read_request(reader)
        writer.write(ok(head) if b"/echo" in head else ok(b"fine"))
        await writer.drain()
        writer.close()

    return handle


def _shout(_: Host) -> egress_support.Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    return handle


class World:
    """A broker with one tool that may reach two hosts."""

    def __init__(self, served: Served, web: Host) -> None:
        self.served = served
        self.web = web

    async def run(self, code: str) -> CompletedCall:
        """Runs the tool."""
        async with self.served.client() as client:
            return await client.run(_TOOL, {"code": _HEAD + code})

    def all_that_is_kept(self) -> str:
        """The ledger, every call as it is shown, the log, and the settings of the broker."""
        kept: list[Any] = [ledger(self.served.state), self.served.log.read_text("utf-8")]
        return json.dumps(kept)


@asynccontextmanager
async def world(tmp_path: Path, repository: Path, **env: str) -> AsyncIterator[World]:
    made = make_certificates(tmp_path)
    async with (
        egress_support.serving(_reflect, made.context()) as web,
        egress_support.serving(_shout) as shouting,
    ):
        state = tmp_path / "state"
        secrets = {"api-token": {"source": "env:OWN_TOKEN", "hosts": [f"127.0.0.1:{web.port}"]}}
        make_state(
            state,
            settings={"egress_networks": ["127.0.0.0/8"], "egress_trust": str(made.ca), "secrets": secrets},
        )
        spec = yaml.safe_load((repository / "tool_specs" / "python.run.yaml").read_text("utf-8"))
        secret = {"name": "api-token", "header": "authorization", "prefix": "Bearer "}
        spec["egress"] = [
            {"host": "127.0.0.1", "port": web.port, "kind": "https", "paths": ["/v1/"], "secret": secret},
            {"host": "127.0.0.1", "port": shouting.port, "kind": "tcp", "listen": 15432},
        ]
        (state / "tool_specs").mkdir()
        (state / "tool_specs" / f"{_TOOL}.yaml").write_text(yaml.safe_dump({**spec, "name": _TOOL}), "utf-8")
        policy = state / "policy" / "policy.csv"
        policy.write_text(policy.read_text("utf-8") + _POLICY, "utf-8")
        with serving(state, **env) as served:
            yield World(served, web)


async def test_the_broker_adds_the_secret_and_the_tool_never_sees_it(tmp_path: Path, repository: Path) -> None:
    async with world(tmp_path, repository, OWN_TOKEN=_TOKEN) as broker:
        url = f"http://127.0.0.1:{broker.web.port}/v1/hello"
        call = await broker.run(
            f"request = urllib.request.Request({url!r}, headers={{'Authorization': 'Bearer mine'}})\n"
            "print(urllib.request.urlopen(request).read().decode())\nprint(dict(os.environ))"
        )
        assert call.state is CallState.SUCCEEDED, call.stderr
        assert call.stdout_text.startswith("fine\n")
        head = broker.web.requests[0].decode().lower()
        assert f"authorization: bearer {_TOKEN}" in head
        assert "mine" not in head
        assert "accept-encoding: identity" in head
        assert _TOKEN not in call.stdout_text
        assert call.outcome is not None
        assert [(item.verdict, item.listed, item.count) for item in call.outcome.egress] == [
            (EgressVerdict.ALLOWED, True, 1)
        ]
        assert _TOKEN not in broker.all_that_is_kept()
        assert command_json(broker.served.state, "ledger", "verify")["verdict"] == "ok"


async def test_a_host_that_echoes_the_secret_is_cut_off_and_reported(tmp_path: Path, repository: Path) -> None:
    async with world(tmp_path, repository, OWN_TOKEN=_TOKEN) as broker:
        url = f"http://127.0.0.1:{broker.web.port}/v1/echo"
        call = await broker.run(
            f"try:\n    print(urllib.request.urlopen({url!r}).read().decode())\n"
            "except Exception as error: print('cut', type(error).__name__)"
        )
        assert call.stdout_text.startswith("cut ")
        assert call.outcome is not None
        assert [item.verdict for item in call.outcome.egress] == [EgressVerdict.SECRET_ECHOED]
        assert any("secret" in warning for warning in call.outcome.warnings)
        entry = next(item for item in ledger(broker.served.state) if item["type"] == "outcome")
        assert [item["verdict"] for item in entry["egress"]] == ["SECRET_ECHOED"]
        assert _TOKEN not in broker.all_that_is_kept()
        assert _TOKEN not in repr(call)


async def test_without_the_secret_nothing_is_sent(tmp_path: Path, repository: Path) -> None:
    async with world(tmp_path, repository) as broker:
        url = f"http://127.0.0.1:{broker.web.port}/v1/hello"
        call = await broker.run(
            f"try: urllib.request.urlopen({url!r})\nexcept urllib.error.HTTPError as error: print(error.code)"
        )
        assert call.stdout_text == "502\n"
        assert broker.web.requests == []
        assert call.outcome is not None
        assert [item.verdict for item in call.outcome.egress] == [EgressVerdict.SECRET_UNAVAILABLE]


async def test_another_path_method_and_port_are_refused_and_a_forward_works(tmp_path: Path, repository: Path) -> None:
    async with world(tmp_path, repository, OWN_TOKEN=_TOKEN) as broker:
        base = f"http://127.0.0.1:{broker.web.port}"
        call = await broker.run(
            "import socket\n"
            f"for method, url in (('GET', {base!r} + '/v2/'), ('DELETE', {base!r} + '/v1/x'), ('GET', 'http://127.0.0.1:1/v1/')):\n"
            "    try: urllib.request.urlopen(urllib.request.Request(url, method=method))\n"
            "    except urllib.error.HTTPError as error: print(error.code, error.headers['Broker-Verdict'])\n"
            "with socket.create_connection(('127.0.0.1', 15432)) as talk:\n"
            "    talk.sendall(b'hello\\n')\n    print(talk.recv(100))"
        )
        assert call.stdout_text == "403 NOT_LISTED\n" * 3 + "b'HELLO\\n'\n", call.stderr
        assert broker.web.requests == []
