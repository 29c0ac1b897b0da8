"""Which hosts a tool may reach, and what a call did with them: in what is shown, in the outcome and in the ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.domain.run import EgressKind, EgressRule, EgressVerdict
from tests.served import command_json, ledger, make_state, serving

pytestmark = pytest.mark.docker

_TOOL = "own.fetch"
_POLICY = "p, own-fetch, role:agent, demo, own.fetch, call, 2, allow, made for this test\n"
_FETCH = """\
import urllib.error, urllib.request
for url in ("http://listed.invalid/", "http://alice-was-here.invalid/"):
    try:
        urllib.request.urlopen(url)
    except urllib.error.HTTPError as error:
        print(error.code)
"""


@pytest.fixture
def state(tmp_path: Path, repository: Path) -> Path:
    path = tmp_path / "state"
    make_state(path)
    spec = yaml.safe_load((repository / "tool_specs" / "python.run.yaml").read_text("utf-8"))
    egress = [{"host": "listed.invalid", "kind": "http"}]
    (path / "tool_specs").mkdir()
    own = path / "tool_specs" / f"{_TOOL}.yaml"
    own.write_text(yaml.safe_dump({**spec, "name": _TOOL, "egress": egress}), "utf-8")
    policy = path / "policy" / "policy.csv"
    policy.write_text(policy.read_text("utf-8") + _POLICY, "utf-8")
    return path


async def test_a_call_that_asks_for_a_listed_host_and_for_another(state: Path) -> None:
    with serving(state) as served:
        async with served.client() as client:
            assert (await client.get_tool(_TOOL)).egress == (EgressRule(EgressKind.HTTP, "listed.invalid", 80),)
            call = await client.run(_TOOL, {"code": _FETCH})
    assert call.outcome is not None
    found = {item.host: item for item in call.outcome.egress}
    assert found["listed.invalid"].verdict is EgressVerdict.UNRESOLVED
    assert found["alice-was-here.invalid"].verdict is EgressVerdict.NOT_LISTED
    assert (found["listed.invalid"].listed, found["alice-was-here.invalid"].listed) == (True, False)
    entries: dict[str, Any] = {item["type"]: item for item in ledger(state, "--call", call.name.removeprefix("calls/"))}
    assert entries["decision"]["egress_allowed"] == entries["intent"]["egress_allowed"] == ["http listed.invalid:80"]
    assert {(item["host"], item["verdict"]) for item in entries["outcome"]["egress"]} == {
        ("listed.invalid", "UNRESOLVED"),
        ("?", "NOT_LISTED"),
    }
    assert "alice" not in json.dumps(ledger(state))
    assert command_json(state, "ledger", "verify")["verdict"] == "ok"


async def test_a_broker_does_not_start_with_a_tool_whose_secret_nobody_has(state: Path) -> None:
    own = state / "tool_specs" / f"{_TOOL}.yaml"
    spec = yaml.safe_load(own.read_text("utf-8"))
    spec["egress"] = [{"host": "a.invalid", "kind": "https", "secret": {"name": "token", "header": "x-key"}}]
    own.write_text(yaml.safe_dump(spec), "utf-8")
    with pytest.raises(AssertionError, match="TOOLS_UNSUPPORTED"), serving(state):
        raise AssertionError("it started")
