"""What a start would weaken waits for two people, and comes into force at the start after they agreed, once."""

from __future__ import annotations

import json

import pytest

from broker.domain.approval import ApprovalState
from broker.errors import NotFoundError
from tests.approval_world import OPERATOR, Founded, tiers_with
from tests.served import command_json, ledger

pytestmark = pytest.mark.docker


async def test_a_lower_tier_of_a_tool_comes_into_force_once_two_people_agree(founded: Founded) -> None:
    spec = founded.state / "tool_specs" / "world.change.yaml"
    spec.write_text(spec.read_text("utf-8").replace("tier: 4", "tier: 2"), "utf-8")
    with founded.serving() as world:
        async with world:
            status = command_json(founded.state, "status", "--identity", f"human/{OPERATOR}")
            assert status["held"][0]["command"].startswith("broker tools approve world.change --reason")
            with pytest.raises(NotFoundError) as other:
                await world.operator.request_administration("tool.approve", {"digest": "sha256:" + "0" * 64})
            assert other.value.reason == "NOTHING_HELD"
            asked = await world.agree("tool.approve", {"digest": status["held"][0]["digest"]})
            assert asked.state is ApprovalState.APPROVED
            shown = await world.operator.get_approval(asked.name)
            (widens, change) = json.loads(shown.envelope)["difference"]
            assert widens.endswith("world.change would be of tier 2 instead of 4")
            assert change == "tier: 4 becomes 2"
            assert "!! WIDENS" in shown.rendering
            async with world.agent() as agent:
                assert (await agent.get_tool("world.change")).tier == 4, "until the next start"
    for _ in range(2):
        with founded.serving() as world:
            async with world:
                assert not (await world.operator.status()).held
                assert (await world.operator.get_approval(asked.name)).state is ApprovalState.USED
                async with world.agent() as agent:
                    assert (await agent.get_tool("world.change")).tier == 2
    spec.write_text(spec.read_text("utf-8").replace("tier: 2", "tier: 4"), "utf-8")
    with founded.serving() as world:
        async with world:
            assert not (await world.operator.status()).held, "up takes nobody"
    spec.write_text(spec.read_text("utf-8").replace("tier: 4", "tier: 2"), "utf-8")
    with founded.serving() as world:
        async with world:
            assert (await world.operator.status()).held, "what was agreed to has been used"
    used = [item for item in ledger(founded.state) if item["type"] == "spec.registered" and item.get("approvals")]
    assert len(used) == 1
    assert len(used[0]["approvals"][0]["votes"]) == 2


async def test_a_weaker_table_of_tiers_comes_into_force_once_two_people_agree(founded: Founded) -> None:
    tiers = founded.state / "tool_specs" / "tiers.yaml"
    tiers.write_text(tiers_with(cool_down="0s", people=3), "utf-8")
    with founded.serving() as world:
        async with world:
            held = (await world.operator.status()).held
            assert [item.action for item in held] == ["settings.change"]
            assert any("cooldown_s" in item for item in held[0].weaker)
            asked = await world.agree("settings.change", {"digest": held[0].digest})
            shown = await world.operator.get_approval(asked.name)
            assert "table.tiers[4].call_approval.people: 2 becomes 3" in json.loads(shown.envelope)["difference"]
    with founded.serving() as world:
        async with world:
            assert not (await world.operator.status()).held
            assert (await world.operator.get_approval(asked.name)).state is ApprovalState.USED


async def test_a_vote_that_counts_no_more_keeps_the_change_back(founded: Founded) -> None:
    spec = founded.state / "tool_specs" / "world.change.yaml"
    spec.write_text(spec.read_text("utf-8").replace("tier: 4", "tier: 2"), "utf-8")
    with founded.serving() as world:
        async with world:
            which = (await world.operator.status()).held[0].digest
            asked = await world.agree("tool.approve", {"digest": which})
            await world.people["cyn"].revoke_voter_key(world.signers["ada"].id, "lost")
    with founded.serving() as world:
        async with world:
            assert [item.digest for item in (await world.operator.status()).held] == [which]
            assert (await world.operator.get_approval(asked.name)).state is not ApprovalState.USED
