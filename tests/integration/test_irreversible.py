"""Tools of which nothing takes back what they do: they run where the table of tiers says so, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from broker.domain.call import CallState
from broker.errors import FailedPreconditionError
from broker.specs.shipped import shipped_folder
from broker.specs.tiers import Tiers, load_tiers
from tests.served import make_state, serving

pytestmark = pytest.mark.docker

TOOL = "own.final"
SPEC = """
name: own.final
description: Does something that nothing takes back.
owner: olivia
tier: 1
image: python
effects: outside
reversibility: irreversible
run:
  python: {argument: code}
arguments:
  type: object
  properties: {code: {type: string}}
  required: [code]
  additionalProperties: false
"""
POLICY = f"\np, t-final, role:agent, demo, {TOOL}, call, 1, allow, agents do what is final\n"


def _state(state: Path, *, allowed: bool) -> Path:
    make_state(state)
    specs = state / "tool_specs"
    specs.mkdir()
    (specs / f"{TOOL}.yaml").write_text(SPEC, "utf-8")
    if allowed:
        table = yaml.safe_load((shipped_folder() / "tiers.yaml").read_text("utf-8"))
        table["tiers"][1]["irreversible"] = True
        (specs / "tiers.yaml").write_text(yaml.safe_dump(table), "utf-8")
    policy = state / "policy" / "policy.csv"
    policy.write_text(policy.read_text("utf-8") + POLICY, "utf-8")
    return state


async def test_it_is_refused_where_the_tier_says_nothing(tmp_path: Path) -> None:
    with serving(_state(tmp_path / "state", allowed=False)) as served:
        async with served.client() as agent:
            with pytest.raises(FailedPreconditionError) as caught:
                await agent.run(TOOL, {"code": "print('done')"})
    assert caught.value.reason == "IRREVERSIBLE_REFUSED"
    assert "tiers.yaml" in caught.value.hint


async def test_it_runs_where_the_tier_allows_it_and_cannot_be_taken_back(tmp_path: Path) -> None:
    with serving(_state(tmp_path / "state", allowed=True)) as served:
        async with served.client() as agent:
            done = await agent.run(TOOL, {"code": "print('done')"})
    assert done.state is CallState.SUCCEEDED
    assert done.stdout == b"done\n"
    assert done.outcome is not None
    assert done.outcome.effect is None


def test_the_shipped_table_allows_it_nowhere_and_reads_as_before() -> None:
    table = load_tiers()
    assert not any(row.irreversible for row in table.tiers)
    dumped = table.model_dump(mode="json")
    assert not any("irreversible" in row for row in dumped["tiers"]), "its digest would be another"
    assert "irreversible" in Tiers.model_json_schema()["$defs"]["TierRow"]["properties"]
