"""Workspaces with files, and tools that change them: what the tests about plans, effects and undo begin with."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from broker.cli.local import clock, open_local
from broker.client.models import Call
from broker.domain.call import CallState
from broker.domain.canonical import JsonObject
from broker.domain.ports import Transaction
from broker.domain.tree import Entry, TreeFile, TreeLink
from broker.domain.tree_ports import TreeState
from broker.pipeline.tree_import import ENTRY_TYPE
from broker.settings import StatePaths
from broker.workspace.objects import Objects
from broker.workspace.trees import Trees
from tests.approval_scene import until
from tests.approval_world import Founded, World, make_approval_state
from tests.served import serving

T = TypeVar("T")

CHANGE = "files.change"
CHANGE_4 = "files.remove"

SPEC = """
name: files.change
description: Changes files of the workspace by a program that the caller gives.
owner: olivia
tier: 1
image: python
effects: workspace
workspace: {writes: ["**"]}
reversibility: exact
run:
  python: {argument: code}
arguments:
  type: object
  properties: {code: {type: string}}
  required: [code]
  additionalProperties: false
"""

POLICY = """
p, t-files, role:agent, demo, files.change, call, 1, allow, agents change files
p, t-files-4, role:agent, demo, files.remove, call, 4, allow, agents change files for good
p, t-undo-agent, role:agent, demo, workspace.undo, call, 4, allow, agents take back
"""

FILES = {
    "README.md": b"# Demo\n",
    "src/app.py": b"print('hello')\n",
    "src/old/a.txt": b"a\n",
    "src/old/b.txt": b"b\n",
    "data/blob.bin": bytes(range(256)),
    "empty": b"",
}
"""What the tree begins with, besides a link ``latest`` to ``src/app.py``; ``src/app.py`` may be executed."""


def add_tools(state: Path) -> None:
    """Adds the two tools and the policy for them."""
    specs = state / "tool_specs"
    specs.mkdir(exist_ok=True)
    (specs / "files.change.yaml").write_text(SPEC, "utf-8")
    (specs / "files.remove.yaml").write_text(
        SPEC.replace(CHANGE, CHANGE_4).replace("tier: 1", "tier: 4").replace("owner: olivia", "owner: cyn"), "utf-8"
    )
    policy = state / "policy" / "policy.csv"
    policy.write_text(policy.read_text("utf-8") + POLICY, "utf-8")


def trees_of(state: Path) -> Trees:
    """The trees of a state directory."""
    return Trees(Objects(StatePaths(state).root / "workspaces"))


def seed(state: Path, workspace: str = "demo", files: Mapping[str, bytes] = FILES) -> str:
    """Gives a workspace its first tree, as an import does, before anybody serves; the state's digest."""
    objects = Objects(StatePaths(state).root / "workspaces")

    async def make() -> str:
        entries: dict[str, Entry] = {}
        async with objects.batch() as batch:
            for path, data in files.items():
                digest, size = await batch.put_bytes(data)
                entries[path] = TreeFile(digest, size, 0o755 if path.endswith(".py") else 0o644)
        if "src/app.py" in files:
            entries["latest"] = TreeLink("src/app.py")
        return await Trees(objects).of(entries)

    made = _run(make())
    with open_local(state) as local:

        def work(tx: Transaction) -> None:
            now = clock()
            body: JsonObject = {
                "workspace": workspace,
                "by": "hum_test",
                "base": "",
                "after": made,
                "files": 1,
                "bytes": 1,
            }
            seq = local.recorder.append(tx, ENTRY_TYPE, {**body, "at": now.isoformat()})
            tx.trees.move(workspace, "", made, seq, now)

        local.write(work)
    return made


def state_of(state: Path, workspace: str = "demo") -> TreeState:
    """Where a workspace stands."""
    with open_local(state) as local:
        found = local.read(lambda tx: tx.trees.get(workspace))
    assert found is not None
    return found


def content(state: Path, workspace: str = "demo") -> dict[str, Entry]:
    """All that a workspace holds."""
    return _run(trees_of(state).select(state_of(state, workspace).state, ["**"]))


def _run(work: Coroutine[Any, Any, T]) -> T:
    # In a thread of its own: an asyncio test's loop goes on.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def waiting(world: World, code: str, tool: str = CHANGE_4) -> Call:
    """A call that waits for people, its effect known."""
    if not world.session:
        await world.start_session()
    async with world.agent() as agent:
        call = await agent.create_call(tool, {"code": code})
        await until(agent, call, CallState.PENDING_APPROVAL)
        return call


def which(call: Call | str) -> str:
    """A call's id."""
    return (call if isinstance(call, str) else call.name).removeprefix("calls/")


def object_file(state: Path, data: bytes) -> Path:
    """Where the bytes of a file of some tree lie."""
    digest = hashlib.sha256(data).hexdigest()
    (found,) = (StatePaths(state).root / "workspaces").rglob(f"*{digest[2:]}*")
    return found


def sql(state: Path, statement: str, *values: object) -> None:
    """The operator works on the database; at least one row is changed."""
    with closing(sqlite3.connect(state / "broker.db", isolation_level=None, timeout=30)) as connection:
        assert connection.execute(statement, values).rowcount > 0


async def make_tree_world(state: Path) -> Founded:
    """Makes a state directory with the two-person rule in force, the tools, and a tree in the workspace."""
    make_approval_state(state)
    add_tools(state)
    workflow = state / "workflows" / "clean-up.yaml"
    text = workflow.read_text("utf-8").replace(
        "[world.change,", f"[world.change, {CHANGE}, {CHANGE_4}, workspace.undo,"
    )
    workflow.write_text(text, "utf-8")
    seed(state)
    with serving(state) as served:
        async with World(served) as world:
            await world.found()
            await world.approve_workflow()
    return Founded(state, world.signers)
