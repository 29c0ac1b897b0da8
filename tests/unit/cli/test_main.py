"""The program itself: help without imports, errors without tracebacks, connection options, other commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from broker.cli import main as main_module
from broker.cli.lazy import Lazy
from broker.cli.main import COMMANDS, wants_json
from broker.cli.output import ExitCode, exit_code, printable, state_exit_code
from broker.domain.call import CallState
from broker.errors import STATUS_CODES, BrokerError
from broker.v1 import administration_pb2, sessions_pb2, tool_broker_pb2, tool_pb2
from tests.cli_program import Program, Start
from tests.fake_broker import FakeBroker, session, status, tool


def test_help_imports_neither_grpc_nor_pydantic_nor_docker() -> None:
    code = (
        "import sys\nfrom broker.cli.main import run\nrun(['--help'])\n"
        "heavy = {'grpc', 'pydantic', 'docker', 'sqlalchemy', 'casbin', 'cryptography'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_has_help_with_json(broker: Program, name: str) -> None:
    assert broker(name, "--help").code == 0


def test_no_command_shows_help(broker: Program) -> None:
    ran = broker()
    assert (ran.code, "Usage" in ran.out + ran.err) == (2, True)


def test_version(broker: Program) -> None:
    ran = broker("--version")
    assert (ran.code, ran.out.count(".")) == (0, 2)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_defect_is_one_line_and_code_6(broker: Program, monkeypatch: pytest.MonkeyPatch, *, as_json: bool) -> None:
    monkeypatch.setitem(COMMANDS, "status", Lazy("tests.unit.cli.broken:nothing", "x"))
    ran = broker("status", *(["--json"] if as_json else []))
    assert ran.code == 6
    assert "Traceback" not in ran.err + ran.out
    if as_json:
        assert ran.json["reason"] == "INTERNAL"
    else:
        assert ran.err.startswith("failed INTERNAL: ModuleNotFoundError")
    monkeypatch.setenv("BROKER_DEBUG", "1")
    assert "Traceback" in broker("status").err


def test_json_is_only_what_stands_before_the_double_dash() -> None:
    assert wants_json(["calls", "list", "--json"])
    assert not wants_json(["call", "x", "--", "--json"])


@pytest.mark.parametrize("cls", STATUS_CODES)
def test_every_error_class_has_a_code_of_its_own_choice(cls: type[BrokerError]) -> None:
    assert exit_code(cls("x")) in {1, 2, 3, 5, 6}


def test_the_root_error_is_ours() -> None:
    assert exit_code(BrokerError("x")) is ExitCode.OURS


@pytest.mark.parametrize("state", CallState)
def test_every_state_has_a_code(state: CallState) -> None:
    code = state_exit_code(state)
    assert (code is ExitCode.DONE) == (state in {CallState.SUCCEEDED, CallState.UNDONE})


def test_printable_shows_what_hides() -> None:
    assert printable("a\x1b[0m\u202eb\x00\né") == "a\\x1b[0m\\u202eb\\x00\né"


def test_several_identities_must_be_told_apart(server: FakeBroker, broker: Program, state: Path) -> None:
    server.authority.write(state / "identities" / "human" / "ada", "ada")
    server.script.on("GetBrokerStatus", status())
    ran = broker("status", "--json")
    assert (ran.code, "agent/bot, human/ada" in ran.json["hint"]) == (2, True)
    assert broker("status", "--identity", "human/ada").code == 0
    assert broker("status", "--identity", str(state / "identities" / "agent" / "bot")).code == 0
    assert broker("status", "--identity", "agent/nobody").code == 2


def test_a_damaged_serve_file_is_told(broker: Program, state: Path) -> None:
    (state / "serve.json").write_text("{}")
    ran = broker("status", "--json")
    assert (ran.code, ran.json["reason"]) == (2, "CONNECTION_OPTIONS_INVALID")


def test_status(server: FakeBroker, broker: Program) -> None:
    server.script.on("GetBrokerStatus", status())
    assert broker("status", "--json").json["ledger_seq"] == 12
    assert "version" in broker("status").out


def test_policy_reload(server: FakeBroker, broker: Program) -> None:
    server.script.on("ReloadPolicy", administration_pb2.ReloadPolicyResponse(policy_digest="sha256:1", changed=True))
    assert broker("policy", "reload", "--json").json == {"policy_digest": "sha256:1", "changed": True}


def test_tools(server: FakeBroker, broker: Program) -> None:
    server.script.on("ListTools", tool_broker_pb2.ListToolsResponse(tools=[tool()]))
    server.script.on("GetTool", tool())
    assert broker("tools", "list").out == "python.run\t0\tRuns Python.\n"
    answer = broker("tools", "show", "python.run", "--json").json
    assert (answer["name"], answer["arguments_schema"]) == ("tools/python.run", {"type": "object"})
    assert server.script.sent("GetTool")[0].workspace == "demo"
    assert "Runs Python." in broker("tools", "show", "python.run").out


def test_a_tool_shows_the_hosts_that_it_may_reach_and_no_secret(server: FakeBroker, broker: Program) -> None:
    listed = tool()
    listed.runtime = "runsc"
    listed.egress.append(
        tool_pb2.EgressRule(
            kind=tool_pb2.EGRESS_KIND_HTTPS,
            host="api.example.com",
            port=443,
            methods=["GET", "POST"],
            paths=["/v1/"],
            secret=tool_pb2.EgressSecret(name="api-token", header="authorization", prefix="Bearer "),
            record_bytes=2**20,
        )
    )
    listed.egress.append(
        tool_pb2.EgressRule(kind=tool_pb2.EGRESS_KIND_TCP, host="db.example.com", port=5432, listen_port=15432)
    )
    listed.egress.append(
        tool_pb2.EgressRule(
            kind=tool_pb2.EGRESS_KIND_POSTGRES,
            host="shop.example.com",
            port=5432,
            listen_port=5432,
            secret=tool_pb2.EgressSecret(name="shop-db"),
            database="shop",
            user="broker_shop",
        )
    )
    server.script.on("GetTool", listed)
    out = broker("tools", "show", "python.run").out
    assert "https api.example.com:443, GET/POST, /v1/, with the secret api-token in authorization" in out
    assert "of each call 1048576 bytes of requests and answers are kept" in " ".join(out.split())
    assert "tcp db.example.com:5432, from 127.0.0.1:15432" in out
    database = "from 127.0.0.1:5432, to the database shop as broker_shop, with the secret shop-db as the password"
    assert f"postgres shop.example.com:5432, {database}" in " ".join(out.split())
    assert "runsc" in out
    answer = broker("tools", "show", "python.run", "--json").json
    assert answer["runtime"] == "runsc"
    assert [rule["record_bytes"] for rule in answer["egress"]] == [2**20, 0, 0]
    assert answer["egress"][0]["secret"] == {"name": "api-token", "header": "authorization", "prefix": "Bearer "}
    assert (answer["egress"][1]["listen"], answer["egress"][1]["secret"]) == (15432, None)
    assert (answer["egress"][2]["database"], answer["egress"][2]["user"]) == ("shop", "broker_shop")
    assert answer["egress"][2]["secret"] == {"name": "shop-db", "header": "", "prefix": ""}


def test_sessions(server: FakeBroker, broker: Program) -> None:
    server.script.on("StartSession", session())
    server.script.on("EndSession", session())
    server.script.on("GetSession", session())
    server.script.on("ListSessions", sessions_pb2.ListSessionsResponse(sessions=[session()]))
    answer = broker("sessions", "start", "--agent", "bot", "--ttl", "90m", "--json").json
    assert answer["name"] == "sessions/ses_1"
    sent = server.script.sent("StartSession")[0]
    assert (sent.agent, sent.workspace, sent.ttl.seconds) == ("bot", "demo", 5400)
    assert broker("sessions", "end", "ses_1").code == 0
    assert "sessions/ses_1" in broker("sessions", "show", "sessions/ses_1").out
    assert [item["agent"] for item in broker("sessions", "list", "--json").json["items"]] == ["bot"]


def test_a_schedule(server: FakeBroker, broker: Program) -> None:
    server.script.on("CreateSchedule", lambda request: request.schedule)
    answer = broker(
        "sessions",
        "schedule",
        "--agent",
        "bot",
        "--window",
        "01:00-03:30",
        "--days",
        "tue,mon",
        "--for",
        "30d",
        "--json",
    ).json
    assert (answer["weekdays"], answer["from_minute"], answer["until_minute"]) == ([1, 2], 60, 210)


def test_json_schemas_are_those_of_the_models(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(repository / "scripts" / "cli_schemas.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_closed_pipe_is_no_failure_of_a_tool(server: FakeBroker, start: Start) -> None:
    many = [tool(f"a.tool{number}") for number in range(5000)]
    server.script.on("ListTools", tool_broker_pb2.ListToolsResponse(tools=many))
    process = start("tools", "list")
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, b"")


def test_answers_match_their_schemas(server: FakeBroker, broker: Program, repository: Path) -> None:
    server.script.on("GetBrokerStatus", status())
    schema = json.loads((repository / "docs" / "cli" / "status.json").read_text())
    jsonschema.validate(broker("status", "--json").json, schema)


def test_main_module_is_the_entry_point() -> None:
    assert main_module.main.__name__ == "main"
