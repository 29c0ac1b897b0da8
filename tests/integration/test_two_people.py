"""Two people agree to one exact action, by real signatures over real gRPC, and it runs once."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.client import AsyncBroker
from broker.client.models import Call, Stdout
from broker.domain.approval import ApprovalState, VoteDecision
from broker.domain.call import CallState
from broker.errors import BrokerError, FailedPreconditionError, InvalidArgumentError, PermissionDeniedError
from tests.approval_world import OPERATOR, TOOL, World, make_approval_state
from tests.served import command_json, ledger, serving

pytestmark = pytest.mark.docker

_CODE = {"code": "print('changed')"}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    make_approval_state(path)
    return path


async def _end_of(client: AsyncBroker, call: Call) -> tuple[Call, bytes]:
    output = b""
    async for event in client.watch(call):
        if isinstance(event, Stdout):
            output += event.data
    return await client.get_call(call), output


async def test_a_call_waits_for_two_people_and_then_runs(state: Path) -> None:
    with serving(state) as served:
        async with World(served) as world, world.served.client() as early:
            with pytest.raises(BrokerError) as refused:
                await early.create_call(TOOL, _CODE)
            assert refused.value.reason in {"CONTEXT_MISSING", "LINEAGE_UNPROVEN"}
            await world.ready()
            async with world.agent() as agent:
                call = await agent.create_call(TOOL, _CODE)
                assert call.state is CallState.PENDING_APPROVAL
                approval = await world.pending(call.name)
                with pytest.raises(PermissionDeniedError) as own:
                    await world.vote(OPERATOR, approval)
                assert own.value.reason == "VOTER_IN_LINEAGE"
                first = await world.vote("ada", approval)
                assert first.state is ApprovalState.PENDING
                assert (await agent.get_call(call)).state is CallState.PENDING_APPROVAL
                second = await world.vote("bob", approval, reason="looks right")
                assert second.state in {ApprovalState.APPROVED, ApprovalState.USED}
                ended, output = await _end_of(agent, call)
            used = await world.operator.get_approval(approval.name)
    assert ended.state is CallState.SUCCEEDED
    assert output == b"changed\n"
    assert used.state is ApprovalState.USED
    types = [item["type"] for item in ledger(state, "--call", call.name.removeprefix("calls/"))]
    assert types == ["decision", "approval.requested", "vote", "vote", "approval.closed", "intent", "outcome"]
    intent = next(item for item in ledger(state) if item["type"] == "intent")
    assert len(intent["approvals"][0]["votes"]) == 2
    assert command_json(state, "ledger", "verify")["verdict"] == "ok"


async def test_one_denial_ends_it(state: Path) -> None:
    with serving(state) as served:
        async with await World(served).__aenter__() as world:
            await world.ready()
            async with world.agent() as agent:
                call = await agent.create_call(TOOL, _CODE)
                approval = await world.pending(call.name)
                await world.vote("ada", approval)
                denied = await world.vote("cyn", approval, VoteDecision.DENY, "wrong rows")
                assert denied.state is ApprovalState.DENIED
                ended, _ = await _end_of(agent, call)
                assert ended.state is CallState.DENIED
                with pytest.raises(BrokerError) as cooling:
                    await agent.create_call(TOOL, _CODE)
                assert cooling.value.reason == "COOLING_DOWN"
                with pytest.raises(FailedPreconditionError):
                    await world.vote("bob", approval)


async def test_it_survives_a_restart_and_goes_on(state: Path) -> None:
    with serving(state) as served:
        async with World(served) as world:
            await world.ready()
            async with world.agent() as agent:
                call = await agent.create_call(TOOL, _CODE)
                approval = await world.pending(call.name)
                await world.vote("ada", approval)
            served.kill()
            signers, session = world.signers, world.session
    with serving(state) as served:
        async with World(served, signers) as world:
            world.session = session
            await world.vote("bob", approval)
            async with world.agent() as agent:
                ended, output = await _end_of(agent, call)
    assert (ended.state, output) == (CallState.SUCCEEDED, b"changed\n")


async def test_what_lies_outside_the_workflow_is_refused_with_its_field(state: Path) -> None:
    with serving(state) as served:
        async with World(served) as world:
            await world.ready()
            for changes, field in (
                ({"model": "model-2"}, "tool_call.context.model"),
                ({"prompt_version": "p2"}, "tool_call.context.prompt_version"),
            ):
                async with world.agent(**changes) as agent:
                    with pytest.raises(PermissionDeniedError) as refused:
                        await agent.create_call(TOOL, _CODE)
                    assert refused.value.violations[0].field == field
            async with world.agent() as agent:
                with pytest.raises(InvalidArgumentError) as missing:
                    await agent.create_call(TOOL, _CODE, context=world.context(purpose=" "))
                assert missing.value.violations[0].field == "tool_call.context.purpose"


async def test_a_tool_that_is_gone_at_a_start_ends_the_call_with_its_approval(state: Path) -> None:
    with serving(state) as served:
        async with World(served) as world:
            await world.ready()
            async with world.agent() as agent:
                call = await agent.create_call(TOOL, _CODE)
                approval = await world.pending(call.name)
            served.kill()
            signers, session = world.signers, world.session
    (state / "tool_specs" / "world.change.yaml").unlink()
    policy = state / "policy" / "policy.csv"
    lines = policy.read_text("utf-8").splitlines(keepends=True)
    policy.write_text("".join(line for line in lines if TOOL not in line), "utf-8")
    with serving(state) as served:
        async with World(served, signers) as world:
            world.session = session
            async with world.agent() as agent:
                assert (await agent.get_call(call)).state is CallState.DENIED
            assert (await world.operator.get_approval(approval.name)).state is ApprovalState.CANCELLED
