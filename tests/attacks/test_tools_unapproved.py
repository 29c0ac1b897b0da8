"""An operator gives what a Tier-4 tool does another name, or makes a tool of a low tier do more, without asking anybody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from broker.domain.approval import ApprovalState
from broker.domain.call import CallState
from broker.errors import NotFoundError, PermissionDeniedError
from tests.approval_world import OPERATOR, SPEC, Founded
from tests.served import command, command_json, ledger

pytestmark = pytest.mark.docker

_EGRESS = "egress:\n  - {kind: https, host: api.example.com, methods: [POST]}\n"
_QUICK = "\np, t-quick, role:agent, demo, world.quick, call, 1, allow, what world.change does under another name\n"
CODE = {"code": "print(1)"}


def _write(state: Path, name: str, tier: int, more: str = "") -> Path:
    path = state / "tool_specs" / f"{name}.yaml"
    text = SPEC.replace("world.change", name).replace("tier: 4", f"tier: {tier}") + more
    path.write_text(text, "utf-8")
    return path


def _policy(state: Path, more: str) -> None:
    policy = state / "policy" / "policy.csv"
    draft = policy.with_suffix(".new")
    draft.write_text(policy.read_text("utf-8") + more, "utf-8")
    draft.replace(policy)


def _registered(state: Path, name: str) -> list[tuple[int, int, bool]]:
    found = [item for item in ledger(state) if item["type"] == "spec.registered" and item["tool"]["name"] == name]
    return [(item["tier"], item["declared"], "approvals" in item) for item in found]


async def test_a_new_name_for_what_a_tool_does_waits_for_two_people(founded: Founded) -> None:
    _write(founded.state, "world.quick", 1, _EGRESS)
    _policy(founded.state, _QUICK)
    for _ in range(2):
        with founded.serving() as world:
            async with world:
                (held,) = (await world.operator.status()).held
                assert (held.action, held.tool) == ("tool.approve", "world.quick")
                await world.start_session()
                async with world.agent() as agent:
                    with pytest.raises(PermissionDeniedError) as refusal:
                        await agent.create_call("world.quick", CODE)
                    assert "registered after the founding, unapproved" in refusal.value.message
                    assert "broker tools approve world.quick" in refusal.value.message
    assert _registered(founded.state, "world.quick") == [(4, 1, False)], "once, and not at each start"
    with founded.serving() as world:
        async with world:
            told = command(founded.state, "tools", "approve", "world.quick", "--as", OPERATOR, "--json", check=False)
            asked = await world.operator.get_approval(json.loads(told.stdout)["name"])
            assert "!! WIDENS" in asked.rendering
            assert "api.example.com" in asked.rendering, "whoever agrees sees what it reaches"
            with pytest.raises(NotFoundError):
                await world.operator.request_tool_approval("sha256:" + "0" * 64)
            for name in ("ada", "bob"):
                asked = await world.vote(name, asked)
            assert asked.state is ApprovalState.APPROVED
            await world.start_session()
            async with world.agent() as agent:
                with pytest.raises(PermissionDeniedError):
                    await agent.create_call("world.quick", CODE)
    for _ in range(2):
        with founded.serving() as world:
            async with world:
                assert not (await world.operator.status()).held
                await world.start_session()
                async with world.agent(workflow="") as agent:
                    tool = await agent.get_tool("world.quick")
                    assert (tool.tier, tool.held) == (1, "")
                    assert (await agent.run("world.quick", CODE)).state is CallState.SUCCEEDED
    assert _registered(founded.state, "world.quick") == [(4, 1, False), (1, 1, True)]
    intents = [item for item in ledger(founded.state) if item["type"] == "intent"]
    assert [(item["tool"]["name"], item["tier"]) for item in intents] == [("world.quick", 1)] * 2
    verified = command_json(founded.state, "ledger", "verify")
    assert (verified["verdict"], [item["type"] for item in verified["votes"]["alone"]]) == ("ok", ["policy.changed"])


async def test_a_tool_that_reaches_more_than_was_accepted_waits_for_people_at_each_call(founded: Founded) -> None:
    _write(founded.state, "world.change", 2)
    with founded.serving() as world:
        async with world:
            (asked,) = (await world.operator.status()).held
            await world.agree("tool.approve", {"digest": asked.digest})
    with founded.serving() as world:
        async with world, world.agent() as agent:
            assert (await agent.get_tool("world.change")).tier == 2
    _write(founded.state, "world.change", 2, _EGRESS)
    with founded.serving() as world:
        async with world:
            await world.approve_workflow()
            await world.start_session()
            async with world.agent() as agent:
                tool = await agent.get_tool("world.change")
                assert tool.tier == 4
                assert tool.held.startswith("changed after the founding in what it may do, unapproved")
                call = await agent.create_call("world.change", CODE)
                pending = await world.pending(call.name)
                shown = json.loads((await world.operator.get_approval(pending.name)).envelope)
                assert tool.held in shown["decision"]["reason"]
                assert call.tier == 4
            decision = next(item for item in reversed(ledger(founded.state)) if item["type"] == "decision")
            assert decision["tier"] == 4
            assert decision["policy"]["inputs"]["tier_held"] == tool.held
    _write(founded.state, "world.change", 2)
    with founded.serving() as world:
        async with world:
            assert not (await world.operator.status()).held, "what was accepted runs as it was accepted"
    held = (4, 2, False)
    assert _registered(founded.state, "world.change") == [(4, 4, False), held, (2, 2, True), held, (2, 2, False)]
    assert command_json(founded.state, "ledger", "verify")["verdict"] == "ok"


async def test_an_approval_is_of_one_version_and_is_used_once(founded: Founded) -> None:
    _write(founded.state, "world.quick", 1)
    with founded.serving() as world:
        async with world:
            (held,) = (await world.operator.status()).held
            asked = await world.agree("tool.approve", {"digest": held.digest})
    _write(founded.state, "world.quick", 0)
    with founded.serving() as world:
        async with world:
            (other,) = (await world.operator.status()).held
            assert other.digest != held.digest
            assert (await world.operator.get_approval(asked.name)).state is ApprovalState.APPROVED
    _write(founded.state, "world.quick", 1)
    with founded.serving() as world:
        async with world:
            assert not (await world.operator.status()).held
            assert (await world.operator.get_approval(asked.name)).state is ApprovalState.USED
    _write(founded.state, "world.quick", 4)
    with founded.serving():
        pass
    _write(founded.state, "world.quick", 1)
    with founded.serving() as world:
        async with world:
            assert [item.tool for item in (await world.operator.status()).held] == ["world.quick"]
    assert command_json(founded.state, "ledger", "verify")["verdict"] == "ok"


async def test_before_the_founding_an_operators_word_registers_tools(founded: Founded) -> None:
    found = [item for item in ledger(founded.state) if item["type"] == "spec.registered"]
    assert {item["tool"]["name"]: item["tier"] for item in found}["python.run"] == 1
    assert all(item["tier"] == item["declared"] and "approvals" not in item for item in found)
    asked = [json.dumps(item) for item in ledger(founded.state) if item["type"] == "approval.requested"]
    assert not asked
