"""Workspaces whose tree is a directory of the host: seen as it is, changed as planned, taken back, on record."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from broker.client.models import CompletedCall
from broker.domain.call import CallState
from broker.errors import BrokerError
from tests.folder_effects import Tree, dump, write_tree
from tests.served import Served, command, command_json, ledger, make_state, serving
from tests.tree_world import CHANGE, add_tools, content, seed, state_of, which

pytestmark = pytest.mark.docker

FILES: Tree = {
    "README.md": (b"# Demo\n", 0o644),
    "src/app.py": (b"print('hello')\n", 0o755),
    "src/old/a.txt": (b"a\n", 0o644),
    "src/old/b.txt": (b"b\n", 0o600),
    "latest": "src/app.py",
}
CLEAN = """
import os, shutil
shutil.rmtree("src/old")
os.unlink("latest"); os.symlink("README.md", "latest")
with open("README.md", "a") as f: f.write("more\\n")
os.chmod("src/app.py", 0o600)
os.makedirs("new/deep"); open("new/deep/file", "wb").write(b"\\0\\1")
"""
CLEANED = {
    "README.md": (b"# Demo\nmore\n", 0o644),
    "src/app.py": (b"print('hello')\n", 0o600),
    "latest": "README.md",
    "new/deep/file": (b"\0\1", 0o644),
    "empty": None,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "shop"
    write_tree(place, FILES)
    return place


@pytest.fixture
def state(tmp_path: Path, folder: Path) -> Path:
    place = tmp_path / "state"
    make_state(place, settings={"workspace_folders": {"demo": str(folder)}})
    add_tools(place)
    return place


async def change(served: Served, code: str) -> CompletedCall:
    async with served.client() as agent:
        return await agent.run(CHANGE, {"code": code})


async def undo(served: Served, call: CompletedCall, **more: object) -> CompletedCall:
    async with served.client() as agent:
        return await agent.run("workspace.undo", {"call": which(call.name), **more})


def taken_away(folder: Path) -> Path:
    """Where it is then."""
    return folder.rename(folder.with_name("away"))


def sound(state: Path) -> None:
    """What is on record holds together."""
    assert command_json(state, "ledger", "verify")["verdict"] == "ok"
    rebuilt = command(state, "ledger", "rebuild", check=False)
    assert rebuilt.returncode == 0, rebuilt.stdout


async def test_an_effect_is_put_there_and_taken_back(state: Path, folder: Path) -> None:
    with serving(state) as served:
        first = state_of(state).state
        call = await change(served, CLEAN)
        assert call.state is CallState.SUCCEEDED, call.outcome
        assert dump(folder) == CLEANED
        assert call.outcome is not None
        assert call.outcome.effect is not None
        assert (call.outcome.effect.before, call.outcome.effect.after) == (first, state_of(state).state)
        undone = await undo(served, call)
        assert undone.state is CallState.SUCCEEDED, undone.outcome
        assert dump(folder) == {**FILES, "empty": None}
        assert state_of(state).state == first
        async with served.client() as agent:
            assert (await agent.get_call(call.name)).state is CallState.UNDONE
    types = [entry["type"] for entry in ledger(state, "--call", which(call.name))]
    assert types.count("intent") == types.count("outcome") == 1
    found = [entry for entry in ledger(state) if entry["type"] == "workspace.imported"]
    assert [(entry["by"], entry["reason"], entry["base"], entry["after"]) for entry in found] == [
        ("broker", "host directory", "", first)
    ]
    assert list((state / "workspace_folders").glob("*.journal")) == []
    sound(state)


async def test_what_somebody_changes_there_is_on_record_and_what_calls_work_on(state: Path, folder: Path) -> None:
    with serving(state) as served:
        first = state_of(state).state
        (folder / "README.md").write_bytes(b"changed by somebody\n")
        (folder / "src" / "theirs.txt").write_bytes(b"theirs")
        call = await change(served, "print(open('README.md').read()); open('src/theirs.txt', 'a').write(' and ours')")
        assert call.state is CallState.SUCCEEDED, call.outcome
        assert call.stdout == b"changed by somebody\n\n"
        assert (folder / "src" / "theirs.txt").read_bytes() == b"theirs and ours"
        second = state_of(state).state
        (folder / "README.md").write_bytes(b"and once more\n")
        undone = await undo(served, call)
        assert undone.state is CallState.SUCCEEDED, undone.outcome
        assert (folder / "src" / "theirs.txt").read_bytes() == b"theirs"
        assert (folder / "README.md").read_bytes() == b"and once more\n"
    found = [entry for entry in ledger(state) if entry["type"] == "workspace.imported"]
    assert [entry["base"] for entry in found] == ["", first, second]
    sound(state)


async def test_an_undo_of_what_somebody_changed_since_is_a_conflict(state: Path, folder: Path) -> None:
    with serving(state) as served:
        call = await change(served, CLEAN)
        (folder / "README.md").write_bytes(b"theirs\n")
        with pytest.raises(BrokerError) as refused:
            await undo(served, call)
        assert refused.value.reason == "UNDO_CONFLICT"
        [violation] = refused.value.violations
        assert violation.field == "README.md"
        assert "no call of the broker changed it" in violation.description
        plan = command_json(state, "undo", which(call.name), "--plan", "--identity", "human/olivia", "-w", "demo")
        assert [item["path"] for item in plan["conflicts"]] == ["README.md"]
        assert (folder / "README.md").read_bytes() == b"theirs\n"


async def test_calls_that_built_on_each_other_are_taken_back_together(state: Path, folder: Path) -> None:
    with serving(state) as served:
        first = await change(served, "open('x', 'w').write('1')")
        await change(served, "open('x', 'a').write('2'); open('y', 'w').write('2')")
        with pytest.raises(BrokerError) as refused:
            await undo(served, first)
        assert refused.value.reason == "UNDO_DEPENDENTS"
        undone = await undo(served, first, cascade=True)
        assert undone.state is CallState.SUCCEEDED, undone.outcome
        assert dump(folder) == {**FILES, "empty": None}
        drilled = command_json(state, "undo", "drill", "-w", "demo", "--identity", "human/olivia")
        assert (drilled["live"], drilled["passed"]) == (1, 1)
        again = await undo(served, undone)
        assert again.state is CallState.SUCCEEDED, again.outcome
        assert (folder / "x").read_bytes() == b"12"
    sound(state)


def test_the_commands_show_it(state: Path, folder: Path, tmp_path: Path, repository: Path) -> None:
    as_human = ("--identity", "human/olivia")
    with serving(state):
        (folder / "more").write_bytes(b"more")
        shown = command_json(state, "workspaces", "show", "demo", *as_human)
        assert (shown["files"], shown["host_directory"], shown["change_call"]) == (len(FILES) + 1, True, "")
        jsonschema.validate(
            shown, json.loads((repository / "docs" / "cli" / "workspaces-show.json").read_text("utf-8"))
        )
        assert "its directory on the host" in command(state, "workspaces", "show", "demo", *as_human).stdout
        listed = command_json(state, "workspaces", "list", *as_human)
        assert [(item["name"], item["host_directory"]) for item in listed["items"]] == [("demo", True)]
        (folder / "more").unlink()
        files = command_json(state, "workspaces", "files", "demo", *as_human)
        assert [item["path"] for item in files["items"]] == sorted(FILES)
        (folder / "README.md").write_bytes(b"changed\n")
        command(state, "workspaces", "export", "demo", str(tmp_path / "out"), *as_human)
        assert (tmp_path / "out" / "README.md").read_bytes() == b"changed\n"
        refused = command(state, "workspaces", "import", "demo", str(tmp_path / "out"), *as_human, check=False)
        assert (refused.returncode != 0, "FOLDER_BOUND" in refused.stderr + refused.stdout) == (True, True)
        assert "its directory" in command(state, "ledger", "show", "--limit", "1000").stdout
    done = command(state, "doctor", check=False)
    assert f"{folder}, the tree of workspace demo, is there" in done.stdout


async def test_diff_compares_with_what_is_there_now(state: Path, folder: Path) -> None:
    with serving(state) as served:
        call = await change(served, CLEAN)
        assert call.outcome is not None
        assert call.outcome.effect is not None
        (folder / "README.md").write_bytes(b"theirs\n")
        told = command_json(
            state, "workspaces", "diff", "demo", call.outcome.effect.after, "--identity", "human/olivia"
        )
        assert [item["path"] for item in told["changes"]] == ["README.md"]


async def test_one_that_is_gone_or_unfit_refuses_calls_and_others_go_on(state: Path, folder: Path) -> None:
    away = taken_away(folder)
    with serving(state) as served:
        async with served.client() as agent, served.client(workspace="other") as elsewhere:
            with pytest.raises(BrokerError) as refused:
                await agent.run(CHANGE, {"code": "1"})
            assert refused.value.reason == "FOLDER_MISSING"
            assert str(folder.parent) not in str(refused.value)
            with pytest.raises(BrokerError) as denied:
                await elsewhere.run(CHANGE, {"code": "1"})
            assert denied.value.reason == "POLICY_DENIED"
            away.rename(folder)
            (folder / "hard").hardlink_to(folder / "README.md")
            with pytest.raises(BrokerError) as refused:
                await agent.run(CHANGE, {"code": "1"})
            assert refused.value.reason == "FOLDER_UNFIT"
            assert {violation.field for violation in refused.value.violations} == {"README.md", "hard"}
            (folder / "hard").unlink()
            assert (await agent.run(CHANGE, {"code": "open('x', 'w')"})).state is CallState.SUCCEEDED
    assert "folder.unread" in (state.parent / "state.log").read_text("utf-8")


async def test_a_tree_that_the_broker_kept_gives_way_to_the_directory(tmp_path: Path, folder: Path) -> None:
    state = tmp_path / "state"
    make_state(state)
    add_tools(state)
    before = seed(state)
    settings = state / "settings.yaml"
    kept = settings.read_text("utf-8")
    settings.write_text(f"{kept}workspace_folders: {{demo: {folder}}}\n", "utf-8")
    with serving(state) as served:
        assert content(state).keys() == FILES.keys()
        assert (await change(served, CLEAN)).state is CallState.SUCCEEDED
    [_, found] = [entry for entry in ledger(state) if entry["type"] == "workspace.imported"]
    assert (found["base"], found["reason"]) == (before, "host directory")
    # Without the binding the last state stays, as one that the broker keeps, and the directory is left alone.
    settings.write_text(kept, "utf-8")
    with serving(state) as served:
        assert (await change(served, "open('only-here', 'w')")).state is CallState.SUCCEEDED
    assert dump(folder) == CLEANED
    assert "only-here" in content(state)
    sound(state)


@pytest.mark.parametrize("where", ["the state", "above it", "beside"])
def test_a_directory_of_the_brokers_own_is_refused_at_the_start(tmp_path: Path, where: str) -> None:
    state = tmp_path / "state"
    make_state(state)
    link = tmp_path / "link"
    link.symlink_to(state)
    bound = {"the state": str(link / "policy"), "above it": str(tmp_path), "beside": str(tmp_path / "shop")}[where]
    with (state / "settings.yaml").open("a", encoding="utf-8") as settings:
        settings.write(f"workspace_folders: {{demo: {bound}}}\n")
    (tmp_path / "shop").mkdir()
    doctor = command(state, "doctor", check=False)
    if where == "beside":
        assert f"{bound}, the tree of workspace demo, is there" in doctor.stdout
        return
    started = command(state, "serve", "--json", check=False)
    assert started.returncode != 0
    assert "SETTINGS_INVALID" in started.stdout + started.stderr
    assert "holds it" in doctor.stdout
