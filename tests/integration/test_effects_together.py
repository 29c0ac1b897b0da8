"""Many effects on one workspace at once: those that touch each other don't mix, and the others all come in."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from broker.client.models import Call, CompletedCall
from broker.domain.call import CallState
from broker.errors import FailedPreconditionError
from tests.approval_scene import end_of, until
from tests.served import command, ledger, make_state, serving
from tests.tree_world import CHANGE, SPEC, add_tools, content, seed, state_of, which

pytestmark = pytest.mark.docker

MANY = 10


def box(number: int) -> str:
    """Name of the tool that gets one folder of its own, and nothing else."""
    return f"files.box{number}"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    place = tmp_path / "state"
    make_state(place)
    add_tools(place)
    lines = ""
    for number in range(MANY):
        spec = SPEC.replace(CHANGE, box(number)).replace('["**"]', f'["box{number}/**"]')
        (place / "tool_specs" / f"{box(number)}.yaml").write_text(spec, "utf-8")
        lines += f"p, t-box{number}, role:agent, demo, {box(number)}, call, 1, allow, agents fill boxes\n"
    policy = place / "policy" / "policy.csv"
    policy.write_text(policy.read_text("utf-8") + lines, "utf-8")
    seed(place)
    return place


def sound(state: Path) -> None:
    """The ledger verifies, the tables follow from it, and the effects are one chain of states."""
    assert command(state, "ledger", "verify").returncode == 0
    rebuilt = command(state, "ledger", "rebuild", check=False)
    assert rebuilt.returncode == 0, rebuilt.stdout
    effects = [item["effect"] for item in ledger(state) if item["type"] == "outcome" and "effect" in item]
    for one, other in itertools.pairwise(effects):
        assert other["before"] == one["after"]
    assert not effects or effects[-1]["after"] == state_of(state).state


async def test_ten_at_once_that_touch_different_files_all_come_in(state: Path) -> None:
    before = content(state)
    with serving(state) as served:
        async with served.client() as agent:
            code = "import os; os.makedirs('box{0}'); open('box{0}/x', 'w').write('{0}')"
            calls = await asyncio.gather(*(agent.run(box(n), {"code": code.format(n)}) for n in range(MANY)))
            assert {call.state for call in calls} == {CallState.SUCCEEDED}, [call.outcome for call in calls]
            assert content(state).keys() - before.keys() == {f"box{n}/x" for n in range(MANY)}
            undone = await asyncio.gather(*(agent.run("workspace.undo", {"call": which(call.name)}) for call in calls))
            assert {call.state for call in undone} == {CallState.SUCCEEDED}, [call.outcome for call in undone]
    assert content(state) == before
    sound(state)


async def test_of_ten_at_once_that_touch_the_same_file_none_is_built_on_what_has_moved(state: Path) -> None:
    with serving(state) as served:
        async with served.client() as agent:
            code = "open('box0/x', 'a').write('{0}')"
            first = await agent.run(box(0), {"code": "import os; os.makedirs('box0'); open('box0/x', 'w')"})
            assert first.state is CallState.SUCCEEDED, first.outcome
            calls = await asyncio.gather(*(agent.run(box(0), {"code": code.format(n)}) for n in range(MANY)))
    ends = sorted(call.state for call in calls)
    applied = [call for call in calls if call.state is CallState.SUCCEEDED]
    assert applied, ends
    for call in calls:
        if call.state is not CallState.SUCCEEDED:
            assert call.state is CallState.DENIED, call.outcome
            assert call.outcome is not None
            assert "BASE_MOVED" in call.outcome.detail
            assert "box0/x" in call.outcome.detail
    effects = [item for item in ledger(state) if item["type"] == "outcome" and "effect" in item]
    assert len(effects) == 1 + len(applied)
    sound(state)


async def test_of_ten_that_were_admitted_on_one_state_one_is_applied(state: Path) -> None:
    settings = state / "settings.yaml"
    settings.write_text(settings.read_text("utf-8") + "max_running: 1\n", "utf-8")
    with serving(state) as served:
        async with served.client() as agent:
            # It has the only turn until all of them wait, each with what was there then.
            first = await agent.create_call(box(1), {"code": "import time; time.sleep(600)"})
            await until(agent, first, CallState.PLANNING)
            code = "import os; os.makedirs('box0'); open('box0/x', 'w').write('{0}')"
            calls = [await agent.create_call(box(0), {"code": code.format(n)}) for n in range(MANY)]
            await agent.cancel_call(first)
            ends = [(await end_of(agent, call))[0] for call in calls]
    assert [end.state for end in ends].count(CallState.SUCCEEDED) == 1
    for end in ends:
        if end.state is not CallState.SUCCEEDED:
            assert end.state is CallState.DENIED
            assert end.outcome is not None
            assert "BASE_MOVED" in end.outcome.detail
    sound(state)


async def test_of_two_undos_at_once_one_wins(state: Path) -> None:
    before = content(state)
    with serving(state) as served:
        async with served.client() as agent:
            call = await agent.run(CHANGE, {"code": "open('x', 'w').write('x')"})
            undos = await asyncio.gather(
                *(undo(agent, which(call.name)) for _ in range(4)),
            )
    won = [item for item in undos if isinstance(item, CompletedCall | Call) and item.state is CallState.SUCCEEDED]
    assert len(won) == 1, undos
    for item in undos:
        if item is not won[0]:
            assert any(reason in str(item) for reason in ("ALREADY_UNDONE", "BASE_MOVED", "UNDO_CONFLICT")), item
    assert content(state) == before
    sound(state)


async def undo(agent: object, call: str) -> CompletedCall | str:
    try:
        return await agent.run("workspace.undo", {"call": call})  # type: ignore[attr-defined,no-any-return]  # a client
    except FailedPreconditionError as error:
        return error.reason
