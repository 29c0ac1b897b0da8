"""A table of tiers that asks for no workflow: what is of Tier 4 runs under an approved one all the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from broker.domain.tier import Tier
from broker.errors import BrokerError, FailedPreconditionError, InvalidArgumentError
from broker.pipeline.workflows import check_named
from broker.specs.shipped import shipped_folder
from tests.approval_scene import CHANGED
from tests.approval_world import TOOL, World, make_approval_state
from tests.served import ledger, serving


def tiers_without_workflow() -> str:
    """The shipped table, in which nobody asks for a workflow."""
    table = yaml.safe_load((shipped_folder() / "tiers.yaml").read_text("utf-8"))
    table["tiers"][4]["must_carry"] = ["session"]
    return str(yaml.safe_dump(table))


@pytest.mark.docker
async def test_the_table_of_tiers_asks_for_no_workflow(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_approval_state(state, tiers=tiers_without_workflow())
    with serving(state) as served:
        async with World(served) as world:
            await world.ready()
            async with world.agent(workflow="") as agent:
                with pytest.raises(InvalidArgumentError) as refused:
                    await agent.create_call(TOOL, CHANGED)
            assert refused.value.reason == "CONTEXT_MISSING"
            assert [item.field for item in refused.value.violations] == ["tool_call.context.workflow"]
            expires = datetime.now(UTC) + timedelta(hours=1)
            with pytest.raises(BrokerError) as runbook:
                await world.operator.create_runbook(TOOL, CHANGED, agent="scout", expires=expires, workspace="demo")
            assert runbook.value.reason == "WORKFLOW_REQUIRED"
    kinds = [item["approval"]["kind"] for item in ledger(state) if item["type"] == "approval.requested"]
    assert kinds == ["WORKFLOW"]


def test_what_was_admitted_without_a_workflow_does_not_begin() -> None:
    """By an older program, or as a row says."""
    with pytest.raises(FailedPreconditionError) as refused:
        check_named(None, Tier.AUTONOMOUS)
    assert refused.value.reason == "WORKFLOW_REQUIRED"
    check_named(None, Tier.REGULATED)
