"""Tier-4 tools that change a workspace: people see the very change, agree to it, and it alone is applied; taken back likewise."""

from __future__ import annotations

import pytest

from broker.client.models import Call
from broker.domain.approval import VoteDecision
from broker.domain.call import CallState
from broker.errors import ResourceExhaustedError
from tests.approval_scene import agreed, end_of, until
from tests.approval_world import Founded, World
from tests.tree_world import CHANGE, CHANGE_4, content, state_of, which

REMOVE = """
import os
os.unlink("src/old/a.txt")
with open("README.md", "a") as f: f.write("cleaned up\\n")
"""


async def asked(world: World, code: str = REMOVE) -> Call:
    """A call that waits for people, its effect known."""
    await world.start_session()
    async with world.agent() as agent:
        call = await agent.create_call(CHANGE_4, {"code": code})
        await until(agent, call, CallState.PENDING_APPROVAL)
        return call


async def test_two_people_see_the_change_and_it_is_applied_and_taken_back(tree_world: Founded) -> None:
    before = content(tree_world.state)
    with tree_world.serving() as serving:
        async with serving as world:
            call = await asked(world)
            assert content(tree_world.state) == before  # nothing is changed while it waits
            approval = await world.pending(call.name)
            whole = await world.people["ada"].get_approval(approval.name)
            for line in ("-a", "+cleaned up", "src/old/a.txt", "REMOVED", "CHANGED"):
                assert line in whole.rendering, whole.rendering
            await agreed(world, approval, "ada", "bob")
            async with world.agent() as agent:
                done, _ = await end_of(agent, call)
            assert done.state is CallState.SUCCEEDED, done.outcome
            after = content(tree_world.state)
            assert "src/old/a.txt" not in after
            # A person takes it back, and two others agree.
            async with world.served.connect("human", "olivia", world.context(session="", workflow="")) as person:
                undo = await person.create_call("workspace.undo", {"call": call.name.removeprefix("calls/")})
                await until(person, undo, CallState.PENDING_APPROVAL)
                approval = await world.pending(undo.name)
                shown = (await world.people["ada"].get_approval(approval.name)).rendering
                assert "Takes back the call" in shown
                await agreed(world, approval, "ada", "bob")
                undone, _ = await end_of(person, undo)
                assert undone.state is CallState.SUCCEEDED, undone.outcome
            assert content(tree_world.state) == before
            async with world.agent() as agent:
                assert (await agent.get_call(call)).state is CallState.UNDONE


async def test_who_builds_on_a_call_while_people_look_at_its_undo_keeps_it_from_being_taken_back(
    tree_world: Founded,
) -> None:
    with tree_world.serving() as serving:
        async with serving as world:
            call = await asked(world, "open('README.md', 'w').write('first')")
            await agreed(world, await world.pending(call.name), "ada", "bob")
            async with world.agent() as agent:
                done, _ = await end_of(agent, call)
            assert done.state is CallState.SUCCEEDED, done.outcome
            async with world.served.connect("human", "olivia", world.context(session="", workflow="")) as person:
                undo = await person.create_call("workspace.undo", {"call": which(call)})
                await until(person, undo, CallState.PENDING_APPROVAL)
                async with world.agent(workflow="", session="") as agent:
                    # Each path is as it was shown all the same.
                    for text in ("second", "first"):
                        other = await agent.run(CHANGE, {"code": f"open('README.md', 'w').write('{text}')"})
                        assert other.state is CallState.SUCCEEDED, other.outcome
                stands = state_of(tree_world.state).state
                await agreed(world, await world.pending(undo.name), "ada", "bob")
                undone, _ = await end_of(person, undo)
            assert undone.state is CallState.DENIED
            assert undone.outcome is not None
            assert "UNDO_DEPENDENTS" in undone.outcome.detail
            assert state_of(tree_world.state).state == stands


async def test_who_was_denied_is_told_at_once_and_nothing_is_planned(tree_world: Founded) -> None:
    with tree_world.serving() as serving:
        async with serving as world:
            call = await asked(world)
            await world.vote("ada", await world.pending(call.name), VoteDecision.DENY)
            async with world.agent() as agent:
                denied, _ = await end_of(agent, call)
                assert denied.state is CallState.DENIED
                with pytest.raises(ResourceExhaustedError) as caught:
                    await agent.create_call(CHANGE_4, {"code": REMOVE})
                assert caught.value.reason == "COOLING_DOWN"
                assert [item.name async for item in agent.list_calls()] == [call.name]


async def test_a_file_changed_meanwhile_stops_the_apply(tree_world: Founded) -> None:
    with tree_world.serving() as serving:
        async with serving as world:
            call = await asked(world)
            async with world.agent(workflow="", session="") as agent:
                other = await agent.run(CHANGE, {"code": "open('README.md', 'w').write('other')"})
                assert other.state is CallState.SUCCEEDED, other.outcome
            stands = state_of(tree_world.state).state
            await agreed(world, await world.pending(call.name), "ada", "bob")
            async with world.agent() as agent:
                done, _ = await end_of(agent, call)
            assert done.state is CallState.DENIED
            assert done.outcome is not None
            assert "BASE_MOVED" in done.outcome.detail
            assert "README.md" in done.outcome.detail
            assert state_of(tree_world.state).state == stands
