"""Freezes and runbooks through the whole broker: one stops, two let go on; agreed on beforehand is used once and exactly."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from broker.client.models import StateChanged
from broker.domain.approval import ApprovalKind, ApprovalState, FreezeScope, VoteDecision
from broker.domain.call import CallState
from broker.errors import BrokerError, FailedPreconditionError, PermissionDeniedError
from tests.approval_scene import BYSTANDER, CHANGED, ROVER, TURN, WITHIN_S, Scene, agreed, end_of, until
from tests.approval_world import OPERATOR, TOOL, World
from tests.served import ledger

pytestmark = pytest.mark.docker

_SLEEPS = {"code": "import time\nprint('began', flush=True)\ntime.sleep(600)"}


async def test_one_approver_stops_all_and_two_let_it_go_on(scene: Scene) -> None:
    async with scene.open() as world:
        async with world.served.human(BYSTANDER) as gus:
            with pytest.raises(PermissionDeniedError) as bystander:
                await gus.create_freeze(FreezeScope.ALL)
        assert bystander.value.reason in {"NOT_AN_APPROVER", "POLICY_DENIED"}
        async with world.agent() as agent, world.served.client() as plain:
            with pytest.raises(PermissionDeniedError):
                await agent.create_freeze(FreezeScope.ALL)
            waits = await agent.create_call(TOOL, CHANGED)
            approval = await world.pending(waits.name)
            runs = await plain.create_call("python.run", _SLEEPS)
            await until(plain, runs, CallState.RUNNING)
            await world.people["ada"].create_freeze(FreezeScope.ALL, reason="odd")
            assert (await end_of(plain, runs))[0].state is CallState.CANCELLED
            for client, tool in ((agent, TOOL), (plain, "python.run")):
                with pytest.raises(FailedPreconditionError) as refused:
                    await client.create_call(tool, CHANGED)
                assert refused.value.reason == "FROZEN"
            await agreed(world, approval, "ada", "bob")
            assert "frozen" in (await world.operator.get_approval(approval.name)).held
            assert (await agent.get_call(waits)).state is CallState.PENDING_APPROVAL
            asked = await world.operator.request_administration("unfreeze", {"scope": "all", "target": ""})
            with pytest.raises(PermissionDeniedError) as alone:
                await world.vote(OPERATOR, asked)
            assert alone.value.reason == "VOTER_IN_LINEAGE"
            await world.vote("cyn", asked)
            assert await world.operator.list_freezes()
            assert (await agent.get_call(waits)).state is CallState.PENDING_APPROVAL
            await world.vote("bob", asked)
            assert not await world.operator.list_freezes()
            ended, output = await end_of(agent, waits)
    assert (ended.state, output) == (CallState.SUCCEEDED, b"changed\n")


async def test_whoever_answers_for_what_is_frozen_does_not_let_it_go_on(scene: Scene) -> None:
    """The agent is ada's, and the operator registered it; the tool is cyn's."""
    async with scene.open() as world:
        for scope, target, theirs, others in (
            (FreezeScope.AGENT, ROVER, ("ada", OPERATOR), ("bob", "cyn")),
            (FreezeScope.TOOL, TURN, ("cyn",), ("ada", "bob")),
        ):
            await world.people["bob"].create_freeze(scope, target)
            async with world.served.human(BYSTANDER) as gus:
                asked = await gus.request_administration("unfreeze", {"scope": scope.value, "target": target})
            for name in theirs:
                with pytest.raises(PermissionDeniedError) as own:
                    await world.vote(name, asked)
                assert own.value.reason == "VOTER_IN_LINEAGE", name
            await agreed(world, asked, *others)
            assert not await world.operator.list_freezes()


async def test_a_freeze_that_is_taken_out_of_the_database_stays(scene: Scene) -> None:
    import sqlite3  # noqa: PLC0415 - this attack's own

    async with scene.open() as world, world.agent() as agent:
        call = await agent.create_call(TOOL, CHANGED)
        approval = await world.pending(call.name)
        await world.people["ada"].create_freeze(FreezeScope.TOOL, TOOL)
        await world.vote("ada", approval)
        connection = sqlite3.connect(scene.state / "broker.db", timeout=30)
        with connection:
            connection.execute("DELETE FROM freeze")
        connection.close()
        await world.vote("bob", approval)
        assert "frozen" in (await world.operator.get_approval(approval.name)).held
        assert (await agent.get_call(call)).state is CallState.PENDING_APPROVAL
    async with scene.open() as world, world.agent() as agent:
        with pytest.raises(FailedPreconditionError) as frozen:
            await agent.create_call(TOOL, CHANGED)
        assert frozen.value.reason == "FROZEN"
        assert (await agent.get_call(call)).state is CallState.PENDING_APPROVAL
    assert not [item for item in ledger(scene.state) if item["type"] == "intent"]


def soon(seconds: float = 3600) -> datetime:
    """A moment from now."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def refused(world: World, reason: str, code: dict[str, str], runbook: str, agent: str = "scout") -> None:
    """A call that names a runbook is refused."""
    session = world.session if agent == "scout" else ""
    async with world.agent(agent, runbook=runbook, session=session) as client:
        with pytest.raises(BrokerError) as caught:
            await client.create_call(TOOL, code)
    assert caught.value.reason == reason


async def test_a_runbook_is_used_once_by_whom_and_for_what_it_was_agreed_on(scene: Scene) -> None:
    async with scene.open() as world:
        made = await world.operator.create_runbook(
            TOOL, CHANGED, agent="scout", expires=soon(), workspace="demo", workflow="clean-up", reason="a bad night"
        )
        which = made.name.removeprefix("approvals/")
        await refused(world, "RUNBOOK_UNUSABLE", CHANGED, which)
        with pytest.raises(PermissionDeniedError):
            await world.vote(OPERATOR, made)
        await world.vote("ada", made)
        await refused(world, "RUNBOOK_UNUSABLE", CHANGED, which)
        await world.vote("bob", made)
        await refused(world, "RUNBOOK_UNUSABLE", {"code": "print('other')"}, which)
        await refused(world, "RUNBOOK_UNUSABLE", CHANGED, "apv_01k00000000000000000000001")
        async with world.agent(ROVER, runbook=which, session=scene.sessions[ROVER]) as rover:
            with pytest.raises(FailedPreconditionError) as others:
                await rover.create_call(TOOL, CHANGED)
        assert others.value.reason == "RUNBOOK_UNUSABLE"
        async with world.agent(runbook=which) as agent:
            ended, output = await end_of(agent, await agent.create_call(TOOL, CHANGED))
            assert (ended.state, output) == (CallState.SUCCEEDED, b"changed\n")
        await refused(world, "APPROVAL_CLOSED", CHANGED, which)
        reviews = [item async for item in world.people["cyn"].list_approvals() if item.kind is ApprovalKind.REVIEW]
        assert [item.state for item in reviews] == [ApprovalState.PENDING]
        await world.vote("cyn", reviews[0], VoteDecision.DENY, "it was not needed")
    intents = [item for item in ledger(scene.state) if item["type"] == "intent"]
    assert len(intents) == 1


async def test_a_signer_in_the_lineage_of_the_use_does_not_count_and_the_call_waits_quietly(scene: Scene) -> None:
    by_bob = scene.delegated("scout", "bob")
    async with scene.open() as world:
        made = await world.operator.create_runbook(
            TOOL, CHANGED, agent="scout", expires=soon(), workspace="demo", workflow="clean-up"
        )
        await agreed(world, made, "ada", "bob")
        which = made.name.removeprefix("approvals/")
        async with world.agent(runbook=which, delegation=by_bob) as agent:
            call = await agent.create_call(TOOL, CHANGED)
            # Everything that is asked about the broker meanwhile gives it the time to go wrong.
            for _ in range(10):
                assert (await agent.get_call(call)).state in {CallState.QUEUED, CallState.PENDING_APPROVAL}
            await world.vote("cyn", made)
            async with asyncio.timeout(WITHIN_S):
                events = [event async for event in agent.watch(call)]
            states = [event.state for event in events if isinstance(event, StateChanged)]
            assert (await agent.get_call(call)).state is CallState.SUCCEEDED
    assert states.count(CallState.APPROVED) == 1, "it was not tried before it could succeed"
    (intent,) = [item for item in ledger(scene.state) if item["type"] == "intent"]
    voters = {item["seq"]: item["person"] for item in ledger(scene.state) if item["type"] == "vote"}
    counted = {voters[seq] for seq in intent["approvals"][0]["votes"]}
    assert intent["lineage"]["on_behalf_of"] not in counted
    assert len(counted) == 2


async def test_a_runbook_that_has_expired_is_none(scene: Scene) -> None:
    async with scene.open() as world:
        made = await world.operator.create_runbook(
            TOOL, CHANGED, agent="scout", expires=soon(4), workspace="demo", workflow="clean-up"
        )
        with pytest.raises(BrokerError):
            await world.operator.create_runbook(
                TOOL, CHANGED, agent="scout", expires=soon(8 * 86400), workspace="demo", workflow="clean-up"
            )
        async with asyncio.timeout(WITHIN_S):
            while made.expires is None or soon(0) < made.expires:
                await world.operator.list_freezes()
        await refused(world, "APPROVAL_CLOSED", CHANGED, made.name.removeprefix("approvals/"))
