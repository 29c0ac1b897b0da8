"""The broker is killed at any moment of a planned effect: the tree is as before or as after, and the record agrees."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from pathlib import Path

import pytest

from broker.client.models import Call
from broker.domain.approval import ApprovalState
from broker.domain.call import CallState
from broker.errors import BrokerError
from tests.approval_scene import end_of, until
from tests.approval_world import Founded, World
from tests.served import command, ledger, make_state, serving
from tests.tree_world import CHANGE, add_tools, content, seed, state_of, trees_of, waiting, which

pytestmark = pytest.mark.docker

ROUNDS = 8
CODE = "for i in range(40): open(f'n{i}', 'w').write(str(i) * 1000)\nimport os; os.unlink('README.md')"


def checked(state: Path, call: str, before: str) -> CallState:
    """Everything that is on record of a call agrees with the tree; gives its state."""
    verified = command(state, "ledger", "verify", check=False)
    assert verified.returncode == 0, verified.stdout
    rebuilt = command(state, "ledger", "rebuild", check=False)
    assert rebuilt.returncode == 0, rebuilt.stdout
    types = [item["type"] for item in ledger(state, "--call", call)]
    outcomes = [item for item in ledger(state, "--call", call) if item["type"] == "outcome"]
    assert types.count("intent") <= 1
    assert len(outcomes) == 1, types
    stands = state_of(state).state
    done = "effect" in outcomes[0]
    assert types.count("intent") == int(done), types
    if done:
        assert (outcomes[0]["effect"]["before"], outcomes[0]["effect"]["after"]) == (before, stands)
        assert {"n0", "n39"} <= content(state).keys()
        assert "README.md" not in content(state)
    else:
        assert stands == before
    asyncio.run(trees_of(state).check(stands))
    return CallState(outcomes[0]["outcome"]["state"])


def test_killed_at_any_moment_the_tree_is_before_or_after(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_state(state)
    add_tools(state)
    seed(state)
    moments = random.Random(8)  # noqa: S311 - the same moments each time
    found: list[CallState] = []
    longest = 3.0
    for number in range(ROUNDS):
        before = state_of(state).state
        call = asyncio.run(killed(state, moments.uniform(0, longest)))
        asyncio.run(followed(state, call))
        end = checked(state, call, before)
        found.append(end)
        if end is CallState.SUCCEEDED:
            longest *= 0.7
            asyncio.run(taken_back(state, call))
            assert state_of(state).state == before, number
        else:
            assert end is CallState.CANCELLED
    assert set(found) <= {CallState.SUCCEEDED, CallState.CANCELLED}


@pytest.mark.parametrize("last", [CallState.PLANNING, CallState.SUCCEEDED])
async def test_killed_before_the_apply_and_after_it(tmp_path: Path, last: CallState) -> None:
    state = tmp_path / "state"
    make_state(state)
    add_tools(state)
    before = seed(state)
    code = "import time; time.sleep(600)" if last is CallState.PLANNING else CODE
    with serving(state) as served:
        async with served.client() as agent:
            call = await agent.create_call(CHANGE, {"code": code})
            if last is CallState.PLANNING:
                await until(agent, call, last)
            else:
                assert (await end_of(agent, call))[0].state is last
            served.kill()
    await followed(state, which(call.name))
    wanted = CallState.CANCELLED if last is CallState.PLANNING else last
    assert await asyncio.to_thread(checked, state, which(call.name), before) is wanted


async def killed(state: Path, after_s: float) -> str:
    """Makes a call and kills the broker so many seconds later; the call's id."""
    with serving(state) as served:
        async with served.client() as agent:
            call = await agent.create_call(CHANGE, {"code": CODE})
            with suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(after_s):
                    async for _ in agent.watch(call):
                        pass
            served.kill()
    return which(call)


async def followed(state: Path, call: str) -> None:
    """Serves again until the call has ended: one that still waited for its turn runs now."""
    with serving(state) as served:
        async with served.client() as agent:
            await end_of(agent, await agent.get_call(f"calls/{call}"))


async def taken_back(state: Path, call: str) -> None:
    with serving(state) as served:
        async with served.client() as agent:
            undo = await agent.run("workspace.undo", {"call": call})
            assert undo.state is CallState.SUCCEEDED, undo.outcome


@pytest.mark.parametrize("moment", ["while people decide", "at the last vote", "just after the last vote"])
async def test_killed_while_people_decide_it_is_applied_once_or_not_at_all(tree_world: Founded, moment: str) -> None:
    state = tree_world.state
    before = state_of(state).state
    with tree_world.serving() as serving:
        async with serving as world:
            call = await waiting(world, CODE)
            approval = await world.pending(call.name)
            await world.vote("ada", approval)
            if moment != "while people decide":
                voting = asyncio.create_task(world.vote("bob", approval))
                if moment == "just after the last vote":
                    await voting
                else:
                    await asyncio.sleep(0)  # it is sent, and not answered
                world.served.kill()
                with suppress(BrokerError):
                    await voting
            else:
                world.served.kill()
    with tree_world.serving() as serving:
        async with serving as world:
            again = await world.people["ada"].get_approval(approval.name)
            if again.state is ApprovalState.PENDING:
                await world.vote("bob", again)
            found = await ended(world, call)
    assert found is CallState.SUCCEEDED
    assert await asyncio.to_thread(checked, state, which(call), before) is CallState.SUCCEEDED


async def ended(world: World, call: Call) -> CallState:
    async with world.agent() as agent:
        return (await end_of(agent, call))[0].state
