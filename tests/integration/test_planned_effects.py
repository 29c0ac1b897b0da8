"""Tools that change a workspace: run on a copy, applied as a whole, and taken back, by a real broker and engine."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import jsonschema
import pytest

from broker.domain.call import CallState
from tests.served import command, command_json, make_state, serving
from tests.tree_world import CHANGE, add_tools, content, seed, state_of

CLEAN = """
import os, shutil
shutil.rmtree("src/old")
os.unlink("latest"); os.symlink("README.md", "latest")
with open("README.md", "a") as f: f.write("more\\n")
os.chmod("src/app.py", 0o600)
os.makedirs("new/deep"); open("new/deep/file", "wb").write(b"\\0\\1")
os.rename("data/blob.bin", "data/moved.bin")
print("done")
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    place = tmp_path / "state"
    make_state(place)
    add_tools(place)
    return place


async def test_an_effect_is_planned_applied_and_taken_back(state: Path) -> None:
    first = seed(state)
    before = content(state)
    with serving(state) as served:
        async with served.client() as agent:
            call = await agent.run(CHANGE, {"code": CLEAN})
            assert call.state is CallState.SUCCEEDED, call.outcome.detail
            assert call.stdout == b"done\n"
            assert call.outcome is not None
            effect = call.outcome.effect
            assert effect is not None
            assert (effect.before, effect.undoes) == (first, ())
            assert effect.after == state_of(state).state
            assert content(state) != before
            undo = await agent.run("workspace.undo", {"call": call.name.removeprefix("calls/")})
            assert undo.state is CallState.SUCCEEDED, undo.outcome
            assert content(state) == before
            assert state_of(state).state == first
            assert (await agent.get_call(call.name)).state is CallState.UNDONE


def test_the_command_shows_drills_and_takes_back(state: Path, repository: Path) -> None:
    schema = json.loads((repository / "docs" / "cli" / "undo.json").read_text("utf-8"))
    seed(state)
    before = content(state)
    with serving(state):
        as_agent = ("--identity", "agent/scout", "-w", "demo")
        as_human = ("--identity", "human/olivia")
        arguments = json.dumps({"code": "import os; os.unlink('README.md')"})
        made = command_json(state, "call", CHANGE, "--args", arguments, *as_agent)
        name = made["call"]["name"]
        assert made["call"]["outcome"]["effect"]["removed"] == 1
        plan = command_json(state, "undo", name, "--plan", *as_human)
        assert (plan["calls"], plan["dependents"], plan["conflicts"], plan["people"]) == ([name], [], [], 0)
        assert [item["path"] for item in plan["changes"]] == ["README.md"]
        drilled = command_json(state, "undo", "drill", "--sample", "3", "-w", "demo", *as_human)
        assert (drilled["live"], drilled["passed"]) == (1, 1)
        undone = command_json(state, "undo", name, *as_human)
        assert undone["call"]["outcome"]["effect"]["undoes"] == [name]
        for answer in (plan, drilled, undone):
            jsonschema.validate(answer, schema)
        again = command(state, "undo", name, *as_human, check=False)
        assert again.returncode != 0
        assert undone["call"]["name"].removeprefix("calls/") in again.stderr
    assert content(state) == before
    assert command_json(state, "ledger", "verify")["verdict"] == "ok"
    rebuilt = command(state, "ledger", "rebuild", check=False)
    assert rebuilt.returncode == 0, rebuilt.stdout
    with closing(sqlite3.connect(state / "broker.db")) as database, database:
        assert database.execute("UPDATE effect SET undone_by = '' WHERE undone_by != ''").rowcount == 1
    forged = command(state, "ledger", "rebuild", "--write", check=False)
    assert (forged.returncode, "undone_by" in forged.stdout) == (1, True)
    assert command(state, "ledger", "rebuild", check=False).returncode == 0


def test_a_tool_says_what_it_changes(state: Path) -> None:
    with serving(state):
        as_agent = ("--identity", "agent/scout", "-w", "demo")
        shown = command_json(state, "tools", "show", CHANGE, *as_agent)
        assert (shown["effects"], shown["reversibility"]) == ("WORKSPACE", "EXACT")
        limits = {"max_changes": 1000, "max_change_bytes": 64 << 20}
        assert shown["workspace"] == {"reads": [], "writes": ["**"], **limits}
        assert "reads and changes **" in command(state, "tools", "show", CHANGE, *as_agent).stdout
        none = command_json(state, "tools", "show", "python.run", *as_agent)
        assert (none["effects"], none["workspace"]) == ("NONE", None)
