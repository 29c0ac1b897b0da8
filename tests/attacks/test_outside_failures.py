"""Effects outside that are cut, lied about or half done: never a false word, never a second run, undone only as was agreed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.client.models import Call, CompletedCall
from broker.domain.approval import FreezeScope
from broker.domain.call import CallState
from broker.domain.run import EndCause
from broker.errors import FailedPreconditionError
from tests.approval_scene import agreed, end_of, until
from tests.approval_world import Founded, World
from tests.outside_world import BEGINNING, Shelf, make_outside_world, waiting
from tests.served import command_json, ledger

pytestmark = pytest.mark.docker

CHANGE: dict[str, str | None] = {"apple": "yellow\n", "pear": None}
CHANGED = {"apple": "yellow\n", "deep/plum": "blue\n"}


@pytest.fixture(scope="module")
def undoing_once(one_shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Founded:
    """The same state directory, whose tools are taken back by themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("undoing-home")))
        place = tmp_path_factory.mktemp("undoing") / "state"
        return asyncio.run(make_outside_world(place, one_shelf.port, on_failure="undo"))


@pytest.fixture
def undoing(undoing_once: Founded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Founded:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    return undoing_once.copy(tmp_path / "state")


async def _applied(world: World) -> Call:
    """A call that two people agreed to, once it has ended."""
    call = await waiting(world, CHANGE)
    await agreed(world, await world.pending(call.name), "ada", "bob")
    async with world.agent() as agent:
        return (await end_of(agent, call))[0]


async def _reached(world: World, shelf: Shelf) -> Call:
    """A call that two people agreed to, once the fault outside has been met."""
    call = await waiting(world, CHANGE)
    await agreed(world, await world.pending(call.name), "ada", "bob")
    assert await asyncio.to_thread(shelf.reached.wait, 30)
    return call


async def _rested(world: World, call: str, state: CallState) -> None:
    """Returns once a call is in a state: what is written after its end has no event of its own."""
    async with world.agent() as agent, asyncio.timeout(30):
        while (await agent.get_call(call)).state is not state:
            pass


async def test_an_effect_without_an_answer_is_unknown_and_undo_is_ready(outside: Founded, shelf: Shelf) -> None:
    shelf.fault = "broken"
    with outside.serving() as serving:
        async with serving as world:
            call = await _applied(world)
            assert call.state is CallState.UNKNOWN
            assert call.outcome is not None
            assert "all is as it was planned to be" in call.outcome.detail
            assert shelf.items == CHANGED
            assert shelf.asked.count("apply") == 1
            plan = await world.operator.workspaces.plan_undo("demo", call.name.removeprefix("calls/"))
            assert plan.calls == (call.name,)
    entries = ledger(outside.state, "--call", call.name.removeprefix("calls/"))
    assert entries[-1]["type"] == "unknown"
    assert entries[-1]["effect"]["digest"] == entries[-2]["effect"]["digest"]
    assert command_json(outside.state, "ledger", "rebuild")["equal"]
    assert command_json(outside.state, "ledger", "verify")["verdict"] == "ok"


async def test_an_effect_that_was_refused_outside_has_changed_nothing_and_says_so(
    outside: Founded, shelf: Shelf
) -> None:
    shelf.fault = "refused"
    with outside.serving() as serving:
        async with serving as world:
            call = await _applied(world)
    assert call.state is CallState.FAILED
    assert call.outcome is not None
    assert "nothing was changed" in call.outcome.detail
    assert shelf.items == BEGINNING


async def test_agreed_beforehand_it_is_taken_back_by_itself(undoing: Founded, shelf: Shelf) -> None:
    shelf.fault = "broken"
    with undoing.serving() as serving:
        async with serving as world:
            call = await waiting(world, CHANGE)
            approval = await world.pending(call.name)
            shown = (await world.people["ada"].get_approval(approval.name)).rendering
            assert "TAKEN BACK BY ITSELF" in shown
            await agreed(world, approval, "ada", "bob")
            async with world.agent() as agent:
                await end_of(agent, call)
            await _rested(world, call.name, CallState.UNDONE)
            assert shelf.items == BEGINNING
            with pytest.raises(FailedPreconditionError) as caught:
                await world.operator.workspaces.plan_undo("demo", call.name.removeprefix("calls/"))
            assert caught.value.reason == "ALREADY_UNDONE"
    kinds = [entry["type"] for entry in ledger(undoing.state, "--call", call.name.removeprefix("calls/"))]
    assert kinds[-4:] == ["intent", "unknown", "undo.intent", "undo.outcome"]
    assert command_json(undoing.state, "ledger", "rebuild")["equal"]
    assert command_json(undoing.state, "ledger", "verify")["verdict"] == "ok"


async def test_a_state_that_the_plan_did_not_foresee_is_never_taken_back_by_itself(
    undoing: Founded, shelf: Shelf
) -> None:
    shelf.fault = "half"
    with undoing.serving() as serving:
        async with serving as world:
            call = await _applied(world)
            assert call.state is CallState.UNKNOWN
            assert call.outcome is not None
            assert "neither as before nor as planned: 'pear'" in call.outcome.detail
    assert shelf.items == {**BEGINNING, "apple": "yellow\n"}
    assert "undo" not in shelf.asked


async def test_a_broker_killed_while_it_applies_never_applies_again_and_says_what_it_sees(
    outside: Founded, shelf: Shelf
) -> None:
    shelf.fault = "hangs"
    with outside.serving() as serving:
        async with serving as world:
            call = await _reached(world, shelf)
            world.served.kill()
    shelf.fault = ""
    shelf.released.set()
    with outside.serving() as serving:
        async with serving as world:
            await _rested(world, call.name, CallState.UNKNOWN)
            async with world.agent() as agent:
                found = await agent.get_call(call.name)
    assert found.outcome is not None
    assert "all is as it was planned to be" in found.outcome.detail
    assert shelf.asked.count("apply") == 1
    assert shelf.items == CHANGED
    assert command_json(outside.state, "ledger", "rebuild")["equal"]


async def test_killed_where_people_agreed_to_it_the_next_start_takes_it_back(undoing: Founded, shelf: Shelf) -> None:
    shelf.fault = "hangs"
    with undoing.serving() as serving:
        async with serving as world:
            call = await _reached(world, shelf)
            world.served.kill()
    shelf.fault = ""
    shelf.released.set()
    with undoing.serving() as serving:
        async with serving as world:
            await _rested(world, call.name, CallState.UNDONE)
    assert shelf.items == BEGINNING


async def test_cancelled_while_it_is_applied_it_is_unknown_and_not_said_to_have_done_nothing(
    outside: Founded, shelf: Shelf
) -> None:
    shelf.fault = "hangs"
    with outside.serving() as serving:
        async with serving as world:
            call = await _reached(world, shelf)
            async with world.agent() as agent:
                cancelling = asyncio.ensure_future(agent.cancel_call(call.name))
                done, _ = await end_of(agent, call)
                await asyncio.gather(cancelling, return_exceptions=True)
    assert done.state is CallState.UNKNOWN
    assert done.outcome is not None
    assert done.outcome.cause is EndCause.CLIENT
    assert "all is as it was planned to be" in done.outcome.detail


async def test_two_undos_of_one_call_never_both_happen(outside: Founded, shelf: Shelf) -> None:
    with outside.serving() as serving:
        async with serving as world, world.agent(workflow="", session="") as agent:
            done = await agent.run("shelf.set", {"items": CHANGE})
            assert shelf.items == CHANGED
            undo = {"call": done.name.removeprefix("calls/")}
            ended = await asyncio.gather(*(agent.run("workspace.undo", undo) for _ in range(4)), return_exceptions=True)
    states = [item.state if isinstance(item, CompletedCall) else type(item).__name__ for item in ended]
    assert states.count(CallState.SUCCEEDED) == 1, states
    assert shelf.asked.count("undo") == 1
    assert shelf.items == BEGINNING
    assert command_json(outside.state, "ledger", "rebuild")["equal"]


async def test_what_is_there_no_more_counts_as_taken_back_and_frees_what_it_built_on(
    outside: Founded, shelf: Shelf
) -> None:
    with outside.serving() as serving:
        async with serving as world, world.agent(workflow="", session="") as agent:
            first = await agent.run("shelf.set", {"items": {"apple": "yellow\n"}})
            second = await agent.run("shelf.set", {"items": {"apple": "brown\n"}})
            shelf.items["apple"] = "yellow\n"  # somebody has seen to it outside
            undone = await agent.run("workspace.undo", {"call": second.name.removeprefix("calls/")})
            assert undone.state is CallState.SUCCEEDED, undone.outcome
            assert (await agent.get_call(second.name)).state is CallState.UNDONE
            assert "undo" not in shelf.asked
            undone = await agent.run("workspace.undo", {"call": first.name.removeprefix("calls/")})
            assert undone.state is CallState.SUCCEEDED, undone.outcome
    assert shelf.items == BEGINNING
    assert command_json(outside.state, "ledger", "rebuild")["equal"]
    assert command_json(outside.state, "ledger", "verify")["verdict"] == "ok"


async def test_killed_while_it_takes_back_by_itself_it_is_unknown_and_not_done_again(
    undoing: Founded, shelf: Shelf
) -> None:
    shelf.fault, shelf.of = "broken", "apply"
    shelf.then = ("hangs", "undo")
    with undoing.serving() as serving:
        async with serving as world:
            call = await _reached(world, shelf)
            world.served.kill()
    shelf.fault = ""
    shelf.released.set()
    with undoing.serving() as serving:
        async with serving as world:
            await _rested(world, call.name, CallState.UNKNOWN)
            assert shelf.asked.count("undo") == 1
            assert shelf.items == BEGINNING
    kinds = [entry["type"] for entry in ledger(undoing.state, "--call", call.name.removeprefix("calls/"))]
    assert kinds[-3:] == ["unknown", "undo.intent", "undo.outcome"]
    assert command_json(undoing.state, "ledger", "rebuild")["equal"]
    assert command_json(undoing.state, "ledger", "verify")["verdict"] == "ok"


async def test_programs_that_nobody_accepted_reach_no_host_neither_to_plan_nor_to_take_back(
    outside: Founded, shelf: Shelf
) -> None:
    with outside.serving() as serving:
        async with serving as world, world.agent(workflow="", session="") as agent:
            done = await agent.run("shelf.set", {"items": CHANGE})
    specs = outside.state / "tool_specs"
    program = specs / "shelf.py"
    program.write_text(program.read_text("utf-8") + "# by one operator alone\n", "utf-8")
    asked = list(shelf.asked)
    with outside.serving() as serving:
        async with serving as world:
            await world.start_session()
            async with world.agent() as agent:
                for tool, arguments in (
                    ("shelf.put", {"items": {"apple": "mine\n"}}),  # it asks for Tier 4 itself
                    ("workspace.undo", {"call": done.name.removeprefix("calls/")}),
                ):
                    with pytest.raises(FailedPreconditionError) as caught:
                        await agent.create_call(tool, arguments)
                    assert caught.value.reason == "TOOL_UNACCEPTED", caught.value
                    assert "broker tools approve" in caught.value.hint
            assert shelf.asked == asked, "none of them ran"
            for held in (await world.operator.status()).held:
                agreed_to = await world.agree("tool.approve", {"digest": held.digest})
                shown = (await world.people["ada"].get_approval(agreed_to.name)).rendering
                assert "shelf.py" in shown, "whoever agrees sees which program it is"
    with outside.serving() as serving:
        async with serving as world:
            assert not (await world.operator.status()).held
            await world.start_session()
            async with world.agent() as agent:
                call = await agent.create_call("shelf.put", {"items": {"apple": "mine\n"}})
                await until(agent, call, CallState.PENDING_APPROVAL)
    assert len(shelf.asked) > len(asked)
    assert shelf.items == CHANGED
    assert command_json(outside.state, "ledger", "verify")["verdict"] == "ok"


async def test_a_frozen_tools_programs_dont_even_look(outside: Founded, shelf: Shelf) -> None:
    with outside.serving() as serving:
        async with serving as world, world.agent(workflow="", session="") as agent:
            done = await agent.run("shelf.set", {"items": CHANGE})
            asked = list(shelf.asked)
            await world.people["ada"].create_freeze(FreezeScope.TOOL, "shelf.set", reason="look at it first")
            with pytest.raises(FailedPreconditionError) as caught:
                await agent.run("workspace.undo", {"call": done.name.removeprefix("calls/")})
    assert caught.value.reason == "FROZEN"
    assert shelf.asked == asked


async def test_many_undos_of_what_is_there_no_more_all_come_to_an_end(outside: Founded, shelf: Shelf) -> None:
    with outside.serving() as serving:
        async with serving as world, world.agent(workflow="", session="") as agent:
            done = await agent.run("shelf.set", {"items": CHANGE})
            shelf.items = dict(BEGINNING)
            undo = {"call": done.name.removeprefix("calls/")}
            ended = await asyncio.gather(*(agent.run("workspace.undo", undo) for _ in range(4)), return_exceptions=True)
            states = [item.state if isinstance(item, CompletedCall) else type(item) for item in ended]
            assert states.count(CallState.SUCCEEDED) == 1, states
            assert set(states) <= {CallState.SUCCEEDED, CallState.DENIED, FailedPreconditionError}, states
            assert (await agent.get_call(done.name)).state is CallState.UNDONE


async def test_programs_that_were_changed_meanwhile_settle_nothing_and_take_nothing_back(
    undoing: Founded, shelf: Shelf
) -> None:
    shelf.fault = "hangs"
    with undoing.serving() as serving:
        async with serving as world:
            call = await _reached(world, shelf)
            world.served.kill()
    shelf.fault = ""
    shelf.released.set()
    program = undoing.state / "tool_specs" / "shelf.py"
    program.write_text(program.read_text("utf-8") + "# by somebody else\n", "utf-8")
    asked = list(shelf.asked)
    with undoing.serving() as serving:
        async with serving as world:
            await _rested(world, call.name, CallState.UNKNOWN)
            async with world.agent() as agent:
                found = await agent.get_call(call.name)
    assert found.outcome is not None
    assert "it can't be looked at" in found.outcome.detail
    assert found.outcome.effect is not None, "it can be taken back by people"
    assert shelf.asked == asked, "none of them ran"
    assert shelf.items == CHANGED
    assert command_json(undoing.state, "ledger", "rebuild")["equal"]
