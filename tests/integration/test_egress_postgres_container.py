"""A tool in a container reads from a real PostgreSQL through the whole broker, and the password never comes near it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from broker.client.models import CompletedCall
from broker.domain.call import CallState
from broker.domain.run import EgressKind, EgressVerdict
from tests.database_support import DATABASE, USER
from tests.egress_support import make_certificates
from tests.postgres_server import PostgresServer, postgres_server
from tests.served import Served, command_json, ledger, make_state, serving

pytestmark = pytest.mark.docker

_PASSWORD = "pw-2f9c41d7a8e64b0f"  # noqa: S105  # of this test
_TOOL = "own.ask"
_POLICY = "p, own-ask, role:agent, demo, own.ask, call, 2, allow, made for this test\n"
_DRIVER = '''
import os, socket

def packet(kind, body):
    return kind + (len(body) + 4).to_bytes(4, "big") + body

def ask(query, **parameters):
    """What the server says, as kinds and bodies; a driver in a few lines, for the image has none."""
    said = "".join(f"{name}\\0{value}\\0" for name, value in parameters.items()) + "\\0"
    with socket.create_connection(("127.0.0.1", 5432)) as line:
        line.sendall(packet(b"", (3 << 16).to_bytes(4, "big") + said.encode()))
        stream, heard = line.makefile("rb"), []
        while kind := stream.read(1):
            heard.append((kind, stream.read(int.from_bytes(stream.read(4), "big") - 4)))
            if kind == b"Z" and query:
                line.sendall(packet(b"Q", query.encode() + b"\\0"))
                query = ""
            elif kind == b"Z":
                line.sendall(packet(b"X", b""))
        return heard

def rows(heard):
    return [body[6:].decode() for kind, body in heard if kind == b"D"]

def errors(heard):
    return [[field[1:].decode() for field in body.split(b"\\0") if field[:1] in b"CMD" and field] for kind, body in heard if kind == b"E"]
'''


class World:
    """A broker with one tool that may reach a database."""

    def __init__(self, served: Served, server: PostgresServer) -> None:
        self.served = served
        self.server = server

    async def run(self, code: str) -> CompletedCall:
        """Runs the tool."""
        async with self.served.client() as client:
            return await client.run(_TOOL, {"code": _DRIVER + code})

    def is_kept(self, call: CompletedCall) -> None:
        """The password is neither in what the caller has nor in what the broker keeps."""
        kept = json.dumps([ledger(self.served.state), self.served.log.read_text("utf-8")])
        assert _PASSWORD not in kept + repr(call)
        assert command_json(self.served.state, "ledger", "verify")["verdict"] == "ok"


@asynccontextmanager
async def world(tmp_path: Path, repository: Path, **env: str) -> AsyncIterator[World]:
    made = make_certificates(tmp_path)
    with postgres_server(tls=(made.certificate, made.key)) as server:
        server.url(DATABASE)
        with server.superuser(DATABASE) as boss:
            boss.execute(f"ALTER ROLE {USER} PASSWORD '{_PASSWORD}'".encode())
            boss.execute("CREATE TABLE prices AS SELECT 'bolt' AS item, 7 AS cents")
            boss.execute(f"GRANT SELECT ON prices TO {USER}".encode())
        state = tmp_path / "state"
        secrets = {"shop-db": {"source": "env:OWN_PASSWORD", "hosts": [f"127.0.0.1:{server.port}"]}}
        make_state(
            state,
            settings={"egress_networks": ["127.0.0.0/8"], "egress_trust": str(made.ca), "secrets": secrets},
        )
        spec = yaml.safe_load((repository / "tool_specs" / "python.run.yaml").read_text("utf-8"))
        spec["egress"] = [
            {
                "kind": "postgres",
                "host": "127.0.0.1",
                "port": server.port,
                "listen": 5432,
                "database": DATABASE,
                "user": USER,
                "secret": {"name": "shop-db"},
            }
        ]
        (state / "tool_specs").mkdir()
        (state / "tool_specs" / f"{_TOOL}.yaml").write_text(yaml.safe_dump({**spec, "name": _TOOL}), "utf-8")
        policy = state / "policy" / "policy.csv"
        policy.write_text(policy.read_text("utf-8") + _POLICY, "utf-8")
        with serving(state, **env) as served:
            yield World(served, server)


async def test_a_tool_reads_a_table_without_a_password(tmp_path: Path, repository: Path) -> None:
    async with world(tmp_path, repository, OWN_PASSWORD=_PASSWORD) as broker:
        call = await broker.run(
            "heard = ask('SELECT item || cents FROM prices')\n"
            "print(rows(heard), [body for kind, body in heard if kind == b'K'][0][4:])\n"
            "print(errors(ask('DELETE FROM prices', user='broker', database='shop', application_name='tool')))\n"
            "print(dict(os.environ))"
        )
        assert call.state is CallState.SUCCEEDED, call.stderr
        shown = call.stdout_text.splitlines()
        assert shown[0] == r"['bolt7'] b'\x00\x00\x00\x00'"
        assert shown[1] == "[['42501', 'permission denied for table prices']]"
        assert _PASSWORD not in call.stdout_text
        assert call.outcome is not None
        (record,) = call.outcome.egress
        assert (record.kind, record.verdict, record.listed, record.count) == (
            EgressKind.POSTGRES,
            EgressVerdict.ALLOWED,
            True,
            2,
        )
        assert record.sent_bytes > 0
        assert record.received_bytes > 0
        decision, outcome = (
            next(item for item in ledger(broker.served.state) if item["type"] == kind)
            for kind in ("decision", "outcome")
        )
        assert decision["egress_allowed"] == [f"postgres 127.0.0.1:{broker.server.port}"]
        assert [item["verdict"] for item in outcome["egress"]] == ["ALLOWED"]
        broker.is_kept(call)


async def test_another_user_and_a_server_that_refuses_are_told_in_words(tmp_path: Path, repository: Path) -> None:
    async with world(tmp_path, repository, OWN_PASSWORD=_PASSWORD[::-1]) as broker:
        call = await broker.run("print(errors(ask('', user='postgres')))\nprint(errors(ask('')))")
        said = call.stdout_text.splitlines()
        assert said[0].startswith("[['28000', 'the broker refused the connection: the tool names another user")
        assert "Verdict MISMATCH." in said[0]
        assert said[1].startswith("[['08001', 'the broker refused the connection: 127.0.0.1:")
        assert "SQLSTATE 28P01" in said[1]
        assert call.outcome is not None
        assert {item.verdict for item in call.outcome.egress} == {EgressVerdict.MISMATCH, EgressVerdict.UNREACHABLE}
        assert _PASSWORD[::-1] not in broker.served.log.read_text("utf-8") + call.stdout_text
        broker.is_kept(call)


async def test_without_the_password_nobody_is_asked(tmp_path: Path, repository: Path) -> None:
    async with world(tmp_path, repository) as broker:
        call = await broker.run("print(errors(ask('')))")
        assert call.stdout_text.startswith("[['28000', ")
        assert "no secret 'shop-db'" in call.stdout_text
        assert call.outcome is not None
        assert [item.verdict for item in call.outcome.egress] == [EgressVerdict.SECRET_UNAVAILABLE]
        assert any("shop-db" in warning for warning in call.outcome.warnings)
