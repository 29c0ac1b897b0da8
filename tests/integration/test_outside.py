"""Tools that change a service outside: planned by their own dry run, shown, agreed to, applied once, taken back."""

from __future__ import annotations

import pytest

from broker.client.models import CompletedCall
from broker.domain.call import CallState
from broker.errors import FailedPreconditionError
from tests.approval_scene import agreed, end_of, until
from tests.approval_world import Founded, World
from tests.outside_world import BEGINNING, SET, Shelf, waiting
from tests.served import command, command_json, ledger

pytestmark = pytest.mark.docker


async def _set(world: World, items: dict[str, str | None]) -> CompletedCall:
    async with world.agent(workflow="", session="") as agent:
        return await agent.run(SET, {"items": items})


async def _undo(world: World, call: str, **more: object) -> CompletedCall:
    async with world.agent(workflow="", session="") as agent:
        return await agent.run("workspace.undo", {"call": call.removeprefix("calls/"), **more})


async def test_what_the_dry_run_found_is_applied_and_taken_back_and_that_again(
    outside_world: World, shelf: Shelf
) -> None:
    done = await _set(outside_world, {"apple": "yellow\n", "pear": None, "new/fig": "violet\n"})
    assert done.state is CallState.SUCCEEDED, (done.outcome, done.stderr)
    assert shelf.items == {"apple": "yellow\n", "deep/plum": "blue\n", "new/fig": "violet\n"}
    assert shelf.asked == ["get", "rehearse", "get", "apply"]
    assert done.outcome is not None
    assert done.outcome.effect is not None
    assert (done.outcome.effect.added, done.outcome.effect.changed, done.outcome.effect.removed) == (1, 1, 1)
    undone = await _undo(outside_world, done.name)
    assert undone.state is CallState.SUCCEEDED, (undone.outcome, undone.stderr)
    assert shelf.items == BEGINNING
    again = await _undo(outside_world, undone.name)
    assert again.state is CallState.SUCCEEDED, (again.outcome, again.stderr)
    assert shelf.items == {"apple": "yellow\n", "deep/plum": "blue\n", "new/fig": "violet\n"}


async def test_two_people_see_the_items_and_agree_and_it_happens_once(outside_world: World, shelf: Shelf) -> None:
    call = await waiting(outside_world, {"apple": "yellow\n", "pear": None})
    assert shelf.items == BEGINNING
    assert shelf.asked == ["get", "rehearse"]
    approval = await outside_world.pending(call.name)
    shown = (await outside_world.people["ada"].get_approval(approval.name)).rendering
    for line in ("-red", "+yellow", "-green", "apple", "pear", "REMOVED", "exact"):
        assert line in shown, shown
    await agreed(outside_world, approval, "ada", "bob")
    async with outside_world.agent() as agent:
        done, _ = await end_of(agent, call)
    assert done.state is CallState.SUCCEEDED, done.outcome
    assert shelf.items == {"apple": "yellow\n", "deep/plum": "blue\n"}
    assert shelf.asked.count("apply") == 1
    async with outside_world.served.connect(
        "human", "olivia", outside_world.context(session="", workflow="")
    ) as person:
        undo = await person.create_call("workspace.undo", {"call": call.name.removeprefix("calls/")})
        await until(person, undo, CallState.PENDING_APPROVAL)
        approval = await outside_world.pending(undo.name)
        assert "Takes back the call" in (await outside_world.people["ada"].get_approval(approval.name)).rendering
        await agreed(outside_world, approval, "ada", "bob")
        taken, _ = await end_of(person, undo)
        assert taken.state is CallState.SUCCEEDED, taken.outcome
    assert shelf.items == BEGINNING
    assert command_json(outside_world.served.state, "ledger", "verify")["verdict"] == "ok"


async def test_what_changed_between_plan_and_agreement_stops_it_and_is_named(
    outside_world: World, shelf: Shelf
) -> None:
    call = await waiting(outside_world, {"apple": "yellow\n", "pear": "ripe\n"})
    shelf.items["pear"] = "brown\n"
    await agreed(outside_world, await outside_world.pending(call.name), "ada", "bob")
    async with outside_world.agent() as agent:
        done, _ = await end_of(agent, call)
    assert done.state is CallState.DENIED
    assert done.outcome is not None
    assert "BASE_MOVED" in done.outcome.detail
    assert [item.count for item in done.outcome.egress] == [1], "who looked is on record as well"
    assert "'pear'" in done.outcome.detail
    assert "apply" not in shelf.asked


async def test_an_undo_of_what_others_changed_since_is_refused_with_the_items(
    outside_world: World, shelf: Shelf
) -> None:
    done = await _set(outside_world, {"apple": "yellow\n", "pear": "ripe\n"})
    shelf.items["pear"] = "eaten\n"
    undone = await _undo(outside_world, done.name)
    assert undone.state is CallState.DENIED
    assert undone.outcome is not None
    assert "UNDO_CONFLICT" in undone.outcome.detail
    assert "'pear'" in undone.outcome.detail
    assert shelf.items["apple"] == "yellow\n"


async def test_calls_that_built_on_it_go_back_together(outside_world: World, shelf: Shelf) -> None:
    first = await _set(outside_world, {"apple": "yellow\n"})
    second = await _set(outside_world, {"apple": "brown\n", "pear": None})
    with pytest.raises(FailedPreconditionError) as caught:
        await _undo(outside_world, first.name)
    assert caught.value.reason == "UNDO_DEPENDENTS"
    assert second.name.removeprefix("calls/") in caught.value.metadata["calls"]
    undone = await _undo(outside_world, first.name, cascade=True)
    assert undone.state is CallState.SUCCEEDED, (undone.outcome, undone.stderr)
    assert shelf.items == BEGINNING


async def test_a_tool_that_changes_nothing_succeeds_without_an_effect(outside_world: World, shelf: Shelf) -> None:
    done = await _set(outside_world, {"apple": BEGINNING["apple"]})
    assert done.state is CallState.SUCCEEDED
    assert done.outcome is not None
    assert done.outcome.effect is None
    assert shelf.asked == ["get"]


async def test_what_reached_the_host_is_on_record_of_plan_and_effect(outside_world: World, shelf: Shelf) -> None:
    done = await _set(outside_world, {"apple": "yellow\n"})
    entries = ledger(outside_world.served.state, "--call", done.name.removeprefix("calls/"))
    kinds = [entry["type"] for entry in entries]
    assert kinds == ["decision", "plan.intent", "artifact", "plan.outcome", "intent", "outcome"]
    plan, end = entries[3], entries[5]
    assert [item["count"] for item in plan["egress"]] == [2]
    assert [item["count"] for item in end["egress"]] == [2]
    assert plan["rehearsed"] is True
    assert plan["effect"] == entries[4]["effect"]
    assert entries[4]["egress_allowed"] == [f"tcp 127.0.0.1:{shelf.port}"]


async def test_the_tables_of_such_effects_follow_from_the_ledger(outside: Founded, shelf: Shelf) -> None:
    with outside.serving() as serving:
        async with serving as world:
            done = await _set(world, {"apple": "yellow\n"})
            await _set(world, {"pear": "ripe\n"})
            await _undo(world, done.name)
    assert shelf.items == {**BEGINNING, "pear": "ripe\n"}
    report = command_json(outside.state, "ledger", "rebuild")
    (effects,) = (item for item in report["tables"] if item["table"] == "effect")
    assert effects["equal"] == 3, report


async def test_the_command_names_the_items_and_says_who_looks(outside_world: World, shelf: Shelf) -> None:
    done = await _set(outside_world, {"apple": "yellow\n", "pear": None})
    state = outside_world.served.state
    who = ("--identity", "human/olivia", "-w", "demo", "--address", outside_world.served.address)
    plan = command(state, "undo", done.name.removeprefix("calls/"), "--plan", *who)
    assert "shelf.set: apple" in plan.stdout
    assert ".broker-outside" not in plan.stdout
    assert "is looked at when the undo is asked for" in plan.stderr
    drilled = command(state, "undo", "drill", "--sample", "1", *who)
    assert "1 of 1 good" in drilled.stderr
    assert shelf.asked.count("get") == 2, "neither asks the outside"
