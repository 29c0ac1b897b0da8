"""``broker sandbox status`` against a scripted broker: the whole answer as JSON, the same as lines and tables."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from google.protobuf.duration_pb2 import Duration

from broker.cli import call_view, sandbox_status
from broker.v1 import administration_pb2, call_pb2
from tests.cli_program import Program
from tests.fake_broker import CALL, FakeBroker

CONTAINER = "c0ffee" * 10 + "beef"
POOL = administration_pb2.WarmPool(
    fingerprint="sha256:" + "f" * 64,
    image="sha256:" + "1" * 64,
    runtime="",
    prewarmed=True,
    idle=3,
    making=1,
    leased=1,
    target=4,
    warm_claims=90,
    cold_claims=7,
    unfit_claims=2,
    oldest_idle=Duration(seconds=12, nanos=500_000_000),
)
EMPTY = administration_pb2.WarmPool(
    fingerprint="sha256:" + "e" * 64, image="sha256:" + "2" * 64, runtime="runsc", trouble="RUNTIME_MISSING"
)
STATUS = administration_pb2.SandboxStatus(
    ceiling=10,
    idle=3,
    making=1,
    leased=1,
    pools=[EMPTY, POOL],
    calls=[administration_pb2.SandboxCall(call=CALL, container_id=CONTAINER)],
    ends=[
        administration_pb2.EndCount(cause=call_pb2.END_CAUSE_MEMORY, state=call_pb2.TOOL_CALL_STATE_FAILED, count=2),
        administration_pb2.EndCount(cause=call_pb2.END_CAUSE_TOOL, state=call_pb2.TOOL_CALL_STATE_SUCCEEDED, count=95),
    ],
    steps=[
        administration_pb2.StepTime(step="run", count=97, p50=Duration(nanos=9_500_000), p95=Duration(seconds=1)),
    ],
)


def test_json_says_all_and_fits_its_schema(server: FakeBroker, broker: Program, repository: Path) -> None:
    server.script.on("GetSandboxStatus", STATUS)
    found = broker("sandbox", "status", "--json").json
    jsonschema.validate(found, json.loads((repository / "docs" / "cli" / "sandbox-status.json").read_text("utf-8")))
    assert [found[key] for key in ("ceiling", "idle", "making", "leased")] == [10, 3, 1, 1]
    empty, pool = found["pools"]
    assert (pool["prewarmed"], pool["target"], pool["oldest_idle_s"], pool["trouble"]) == (True, 4, 12.5, "")
    assert [pool[f"{claim}_claims"] for claim in ("warm", "cold", "unfit")] == [90, 7, 2]
    assert (empty["oldest_idle_s"], empty["runtime"], empty["trouble"]) == (None, "runsc", "RUNTIME_MISSING")
    assert found["calls"] == [{"call": CALL, "container_id": CONTAINER}]
    assert found["ends"][0] == {"cause": "MEMORY", "state": "FAILED", "count": 2}
    assert found["steps"] == [{"step": "run", "count": 97, "p50_s": 0.0095, "p95_s": 1.0}]


def test_in_a_pipe_each_line_says_what_it_is_of(server: FakeBroker, broker: Program) -> None:
    server.script.on("GetSandboxStatus", STATUS)
    lines = broker("sandbox", "status").out.splitlines()
    cells = [line.split("\t") for line in lines if "\t" in line]
    assert lines[0] == "idle    3 of 10 at most"
    assert [row[0] for row in cells] == ["pools", "pools", "calls", "ends", "ends", "steps"]
    assert cells[0][1:5] == ["f" * 12, "1" * 12, "default", "3"]
    assert cells[1][-1] == "RUNTIME_MISSING"
    assert cells[2] == ["calls", CALL, CONTAINER[:12]]
    assert cells[3] == ["ends", "TOOL", "SUCCEEDED", "95"]
    assert cells[5] == ["steps", "run", "97", "9.5", "1000.0"]


def test_on_a_terminal_there_are_tables(server: FakeBroker, broker: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (call_view, sandbox_status):
        monkeypatch.setattr(module.console, "_force_terminal", True)
    server.script.on("GetSandboxStatus", STATUS)
    shown = broker("sandbox", "status").out
    for heading in ("pool", "target", "oldest", "container", "cause", "p95 ms"):
        assert heading in shown


def test_a_broker_that_has_done_nothing_yet(server: FakeBroker, broker: Program) -> None:
    server.script.on("GetSandboxStatus", administration_pb2.SandboxStatus(ceiling=10))
    ran = broker("sandbox", "status")
    assert (ran.code, len(ran.out.splitlines())) == (0, 3)


def test_what_a_broker_sends_cannot_move_the_cursor(server: FakeBroker, broker: Program) -> None:
    hostile = administration_pb2.WarmPool(fingerprint="x\x1b[2J", image="i", runtime="r\u202e", idle=1)
    server.script.on("GetSandboxStatus", administration_pb2.SandboxStatus(pools=[hostile]))
    shown = broker("sandbox", "status").out
    assert "\x1b" not in shown
    assert "\\x1b" in shown


def test_an_end_that_no_broker_says_is_our_failure(server: FakeBroker, broker: Program) -> None:
    strange = administration_pb2.SandboxStatus(ends=[administration_pb2.EndCount(cause=99, state=1, count=1)])  # type: ignore[arg-type]  # the point
    server.script.on("GetSandboxStatus", strange)
    ran = broker("sandbox", "status", "--json")
    assert (ran.code, ran.json["reason"]) == (6, "PROTOCOL_ERROR")
