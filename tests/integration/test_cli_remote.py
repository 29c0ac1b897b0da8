"""The commands that talk to a running broker, as a person or a script uses them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.served import AGENT, OPERATOR, Served, command

pytestmark = pytest.mark.docker

IDENTITY = f"agent/{AGENT}"


def broker(served: Served, *args: str, identity: str = IDENTITY) -> subprocess.CompletedProcess[str]:
    """Runs a command as somebody, in the workspace demo."""
    return command(served.state, *args, check=False, BROKER_IDENTITY=identity, BROKER_WORKSPACE="demo")


def answer(
    repository: Path, served: Served, schema: str, *args: str, code: int = 0, identity: str = IDENTITY
) -> dict[str, Any]:
    """Runs a command with ``--json``; its answer must fit the documented schema."""
    result = broker(served, *args, "--json", identity=identity)
    assert result.returncode == code, result.stdout + result.stderr
    value: dict[str, Any] = json.loads(result.stdout)
    jsonschema.validate(value, json.loads((repository / "docs" / "cli" / f"{schema}.json").read_text("utf-8")))
    return value


def test_a_call_streams_and_ends_with_the_tools_success(served: Served) -> None:
    done = broker(served, "call", "python.run", "--args", '{"code": "import sys; print(1); print(2, file=sys.stderr)"}')
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert done.stderr.startswith("2\nbroker: calls/call_")


def test_a_failed_tool_is_1_and_json_says_all(served: Served, repository: Path) -> None:
    args = '{"code": "raise SystemExit(7)"}'
    found = answer(repository, served, "call", "call", "python.run", "--args", args, code=1)
    assert found["call"]["state"] == "FAILED"
    assert found["call"]["outcome"]["exit_code"] == 7
    assert [item["state"] for item in found["states"]][-1] == "RUNNING"


def test_a_denial_is_3_and_names_the_rule(served: Served, repository: Path) -> None:
    args = ("call", "shell.run", "--args", '{"script": "id"}')
    found = answer(repository, served, "error", *args, code=3)
    assert found["metadata"]["rule"] == "demo-no-shell"
    assert "demo-no-shell" in broker(served, *args).stderr


def test_bad_arguments_are_2_and_name_the_field(served: Served, repository: Path) -> None:
    found = answer(repository, served, "error", "call", "python.run", "--args", '{"code": 3}', code=2)
    assert list(found["fields"]) == ["arguments/code"]


def test_files_in_and_out(served: Served, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    code = "import os\nos.makedirs('out', exist_ok=True)\nopen('out/copy.csv', 'w').write(open('in.csv').read())"
    args = ("call", "python.run", "--file", f"{tmp_path / 'data.csv'}:in.csv", "--args", json.dumps({"code": code}))
    found = answer(repository, served, "call", *args, "--out", str(tmp_path / "results"))
    assert (tmp_path / "results" / "out" / "copy.csv").read_text() == "a,b\n1,2\n"
    name = found["call"]["name"]
    fetched = answer(repository, served, "calls-files", "calls", "files", name, "--out", str(tmp_path / "again"))
    assert [item["path"] for item in fetched["saved"]] == ["out/copy.csv"]


def test_detach_watch_show_list_and_cancel(served: Served, repository: Path) -> None:
    code = '{"code": "import time; print(1, flush=True); time.sleep(3600)"}'
    name = broker(served, "call", "python.run", "-d", "--args", code).stdout.strip()
    assert name.startswith("calls/call_")
    listed = answer(repository, served, "calls-list", "calls", "list", "--limit", "5")
    assert name in [item["name"] for item in listed["items"]]
    cancelled = answer(repository, served, "calls-cancel", "calls", "cancel", name)
    assert cancelled["state"] in {"RUNNING", "CANCELLED"}
    watched = answer(repository, served, "calls-watch", "calls", "watch", name, code=1)
    assert watched["call"]["state"] == "CANCELLED"
    shown = answer(repository, served, "calls-show", "calls", "show", name)
    assert shown["decision"]["rule"] == "analyst-python-run"
    other = broker(served, "calls", "show", name, "--json", identity="agent/rover")
    assert (other.returncode, json.loads(other.stdout)["reason"]) == (2, "CALL_NOT_FOUND")


def test_ctrl_c_kills_the_call(served: Served) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "broker.cli.main", "call", "python.run", "--args"),
            '{"code": "import time; print(1, flush=True); time.sleep(3600)"}',
        ],
        env={**os.environ, "BROKER_STATE": str(served.state), "BROKER_IDENTITY": IDENTITY, "BROKER_WORKSPACE": "demo"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: calls/call_" in err


def test_tools(served: Served, repository: Path) -> None:
    listed = answer(repository, served, "tools-list", "tools", "list")
    assert "tools/python.run" in [item["name"] for item in listed["items"]]
    shown = answer(repository, served, "tools-show", "tools", "show", "data.query")
    assert shown["limits"]["wall_s"] > 0


def test_sessions_status_and_policy(served: Served, repository: Path) -> None:
    human = f"human/{OPERATOR}"
    start = ("sessions", "start", "--agent", AGENT, "-w", "demo", "--ttl", "10m")
    session = answer(repository, served, "sessions-start", *start, identity=human)
    shown = answer(repository, served, "sessions-show", "sessions", "show", session["name"], identity=human)
    assert shown["agent"] == AGENT
    listed = answer(repository, served, "sessions-list", "sessions", "list", identity=human)
    assert session["name"] in [item["name"] for item in listed["items"]]
    ended = answer(repository, served, "sessions-end", "sessions", "end", session["name"], identity=human)
    assert ended["ended"]
    schedule = ("sessions", "schedule", "--agent", AGENT, "--for", "7d", "--window", "00:00-24:00")
    made = answer(repository, served, "sessions-schedule", *schedule, identity=human)
    assert made["name"].startswith("schedules/")
    assert answer(repository, served, "status", "status", identity=human)["tools"] > 0
    assert not answer(repository, served, "policy-reload", "policy", "reload", identity=human)["changed"]
    refused = answer(repository, served, "error", "policy", "reload", code=3)
    assert refused["metadata"]["rule"] == "default-deny"


def test_a_broker_that_is_away_is_5(served: Served, repository: Path) -> None:
    found = answer(repository, served, "error", "status", "--address", "127.0.0.1:1", code=5)
    assert found["reason"] == "BROKER_UNREACHABLE"
