"""One person alone binds a workspace to a directory, or changes what people have agreed to change there."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.domain.approval import ApprovalState, FreezeScope
from broker.domain.call import CallState
from tests.approval_scene import agreed, end_of
from tests.approval_world import Founded
from tests.folder_effects import dump, write_tree
from tests.served import ledger
from tests.tree_world import content, waiting

FILES = {"README.md": (b"# Shop\n", 0o644), "src/app.py": (b"print()\n", 0o755)}
CODE = "import os; os.unlink('src/app.py'); open('README.md', 'a').write('more\\n')"
CHANGED = {"README.md": (b"# Shop\nmore\n", 0o644), "empty": None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "shop"
    write_tree(place, FILES)
    return place


def bind(founded: Founded, **folders: Path) -> None:
    """Writes the setting."""
    settings = founded.state / "settings.yaml"
    kept = [line for line in settings.read_text("utf-8").splitlines() if not line.startswith("workspace_folders")]
    bound = ", ".join(f"{name}: {path}" for name, path in folders.items())
    settings.write_text("\n".join([*kept, f"workspace_folders: {{{bound}}}\n"]), "utf-8")


async def bound(founded: Founded, **folders: Path) -> None:
    """Two people agree to the setting."""
    bind(founded, **folders)
    with founded.serving() as serving:
        async with serving as world:
            [held] = (await world.operator.status()).held
            await world.agree("settings.change", {"digest": held.digest})


async def test_a_binding_waits_for_two_people(tree_world: Founded, folder: Path, tmp_path: Path) -> None:
    before = content(tree_world.state)
    bind(tree_world, demo=folder)
    with tree_world.serving() as serving:
        async with serving as world:
            [held] = (await world.operator.status()).held
            assert held.action == "settings.change"
            assert held.weaker == (f"the files of workspace demo would be {folder}, and not the broker's own tree",)
            call = await waiting(world, CODE)
            await agreed(world, await world.pending(call.name), "ada", "bob")
            async with world.agent() as agent:
                done, _ = await end_of(agent, call)
            assert done.state is CallState.SUCCEEDED, done.outcome
            assert dump(folder) == {**FILES, "empty": None}, "nothing of the directory was touched"
            assert "src/app.py" in before
            assert "src/app.py" not in content(tree_world.state)
            asked = await world.agree("settings.change", {"digest": held.digest})
    with tree_world.serving() as serving:
        async with serving as world:
            assert not (await world.operator.status()).held
            assert (await world.operator.get_approval(asked.name)).state is ApprovalState.USED
            assert content(tree_world.state).keys() == FILES.keys()
    # Another directory, and none, wait likewise: people agreed to this one.
    other = tmp_path / "other"
    write_tree(other, FILES)
    for folders in ({"demo": other}, {}):
        bind(tree_world, **folders)
        with tree_world.serving() as serving:
            async with serving as world:
                [held] = (await world.operator.status()).held
                assert held.weaker[0].startswith("the files of workspace demo would be ")
                assert (await world.operator.workspaces.get("demo")).host_directory


async def test_what_two_people_agreed_to_is_put_there(tree_world: Founded, folder: Path) -> None:
    await bound(tree_world, demo=folder)
    with tree_world.serving() as serving:
        async with serving as world:
            call = await waiting(world, CODE)
            assert dump(folder) == {**FILES, "empty": None}
            approval = await world.pending(call.name)
            shown = (await world.people["ada"].get_approval(approval.name)).rendering
            assert "+more" in shown
            await agreed(world, approval, "ada", "bob")
            async with world.agent() as agent:
                done, _ = await end_of(agent, call)
            assert done.state is CallState.SUCCEEDED, done.outcome
            assert dump(folder) == CHANGED


async def test_what_somebody_changed_since_the_plan_is_not_overwritten(tree_world: Founded, folder: Path) -> None:
    await bound(tree_world, demo=folder)
    with tree_world.serving() as serving:
        async with serving as world:
            call = await waiting(world, CODE)
            approval = await world.pending(call.name)
            await agreed(world, approval, "ada")
            (folder / "README.md").write_bytes(b"theirs\n")
            await agreed(world, approval, "bob")
            async with world.agent() as agent:
                done, _ = await end_of(agent, call)
            assert done.state is CallState.DENIED
            assert done.outcome is not None
            assert "BASE_MOVED" in done.outcome.detail
            assert "README.md" in done.outcome.detail
            assert dump(folder) == {**FILES, "README.md": (b"theirs\n", 0o644), "empty": None}
    found = [entry for entry in ledger(tree_world.state) if entry["type"] == "workspace.imported"]
    assert [entry.get("reason", "") for entry in found] == ["", "host directory", "host directory"]


async def test_a_frozen_workspace_is_looked_at_and_not_changed(tree_world: Founded, folder: Path) -> None:
    await bound(tree_world, demo=folder)
    with tree_world.serving() as serving:
        async with serving as world:
            call = await waiting(world, CODE)
            await agreed(world, await world.pending(call.name), "ada")
            await world.operator.create_freeze(FreezeScope.WORKSPACE, "demo")
            (folder / "README.md").write_bytes(b"theirs\n")
            assert (await world.operator.workspaces.get("demo")).files == len(FILES)
            await agreed(world, await world.pending(call.name), "bob")
            async with world.agent() as agent:
                assert (await agent.get_call(call.name)).state is not CallState.SUCCEEDED
    assert (folder / "README.md").read_bytes() == b"theirs\n"
