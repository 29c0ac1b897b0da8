"""What a sweep of workspaces' files leaves: all that stands, that people decide about, and that can be taken back to."""

from __future__ import annotations

import time

from broker.app.running import running
from broker.domain.call import CallState
from broker.pipeline.tree_keeping import TreeKeeping
from broker.settings import load_settings
from tests.approval_scene import agreed, end_of, until
from tests.approval_world import Founded, World
from tests.served import Served
from tests.tree_world import CHANGE, CHANGE_4

LATER_S = 7200.0
"""Beyond the hour for which everything that was put is kept."""

OTHER = "open('empty', 'w').write('no more')"
REMOVE = "import os; os.unlink('src/old/a.txt'); open('README.md', 'w').write('cleaned up')"


async def test_a_sweep_takes_what_nobody_names_and_nothing_else(tree_world: Founded) -> None:
    async with running(tree_world.state, load_settings(tree_world.state)) as broker:
        parts = broker.parts
        served = Served(tree_world.state, None, {"address": broker.address}, tree_world.state)  # type: ignore[arg-type]  # none is needed
        first = await parts.store.read(lambda tx: tx.trees.state("demo"))
        async with World(served, dict(tree_world.signers)) as world, world.agent(workflow="", session="") as agent:
            other = await agent.run(CHANGE, {"code": OTHER})
            assert other.state is CallState.SUCCEEDED, other.outcome
            await world.start_session()
            async with world.agent() as cleaner:
                call = await cleaner.create_call(CHANGE_4, {"code": REMOVE})
                await until(cleaner, call, CallState.PENDING_APPROVAL)
                orphan, _ = await parts.objects.put_bytes(b"of nobody")
                await TreeKeeping(parts).sweep_now(time.time() + LATER_S)
                assert not await parts.objects.has(orphan)
                # The state before an effect that can be taken back, whole.
                assert "empty" in await parts.trees.select(first, ["**"])
                await parts.trees.check(first)
                # What waits for people is applied as they saw it.
                await agreed(world, await world.pending(call.name), "ada", "bob")
                done, _ = await end_of(cleaner, call)
            assert done.state is CallState.SUCCEEDED, done.outcome
            await TreeKeeping(parts).sweep_now(time.time() + LATER_S)
            undone = await agent.run("workspace.undo", {"call": other.name.removeprefix("calls/")})
            assert undone.state is CallState.SUCCEEDED, undone.outcome
            await parts.trees.check(await parts.store.read(lambda tx: tx.trees.state("demo")))
