"""A SQLite file in a directory of the host: its rows are changed by a tool's own program, and the file is put there."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from broker.client.models import CompletedCall
from broker.domain.call import CallState
from broker.errors import BrokerError
from tests.killed_broker import doomed
from tests.served import DEADLINE_S, Served, command, command_json, ledger, make_state, serving
from tests.tree_world import which

pytestmark = pytest.mark.docker

TOOL = "shop.rows"
POLICY = f"""
p, t-rows, role:agent, demo, {TOOL}, call, 1, allow, agents change rows
p, t-rows-undo, role:agent, demo, workspace.undo, call, 1, allow, agents take back
"""
ROWS = [(1, "Ada"), (2, "Grace")]
GONE = [(2, "Grace")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "shop"
    place.mkdir()
    with closing(sqlite3.connect(place / "shop.db")) as connection, connection:
        connection.execute("CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT)")
        connection.executemany("INSERT INTO customer VALUES (?, ?)", ROWS)
    return place


@pytest.fixture
def state(tmp_path: Path, folder: Path, repository: Path) -> Path:
    state = tmp_path / "state"
    make_state(state, settings={"workspace_folders": {"demo": str(folder)}})
    specs = state / "tool_specs"
    specs.mkdir()
    spec = yaml.safe_load((repository / "tool_specs" / "sqlite.execute.yaml").read_text("utf-8"))
    (specs / f"{TOOL}.yaml").write_text(yaml.safe_dump({**spec, "name": TOOL, "tier": 1}), "utf-8")
    (specs / "sqlite_execute.py").write_bytes((repository / "tool_specs" / "sqlite_execute.py").read_bytes())
    policy = state / "policy" / "policy.csv"
    policy.write_text(policy.read_text("utf-8") + POLICY, "utf-8")
    return state


def rows(folder: Path) -> list[tuple[int, str]]:
    """What the table holds."""
    with closing(sqlite3.connect(folder / "shop.db")) as connection:
        return connection.execute("SELECT id, name FROM customer ORDER BY 1").fetchall()


async def delete(served: Served, who: str = "Ada") -> CompletedCall:
    """Deletes a row."""
    async with served.client() as agent:
        sql = "DELETE FROM customer WHERE name = ?"
        return await agent.run(TOOL, {"database": "shop.db", "sql": sql, "parameters": [who]})


def sound(state: Path) -> None:
    """What is on record holds together."""
    assert command_json(state, "ledger", "verify")["verdict"] == "ok"
    rebuilt = command(state, "ledger", "rebuild", check=False)
    assert rebuilt.returncode == 0, rebuilt.stdout


async def test_rows_are_deleted_there_and_come_back(state: Path, folder: Path) -> None:
    with serving(state) as served:
        done = await delete(served)
        assert done.state is CallState.SUCCEEDED, done.outcome
        assert rows(folder) == GONE
        async with served.client() as agent:
            undone = await agent.run("workspace.undo", {"call": which(done.name)})
        assert undone.state is CallState.SUCCEEDED, undone.outcome
        assert rows(folder) == ROWS
    assert len([entry for entry in ledger(state) if entry["type"] == "workspace.imported"]) == 1
    sound(state)


@pytest.mark.parametrize(
    ("point", "done"),
    [("before it is said to be ready", False), ("after the intent", True), ("in the middle", True)],
)
async def test_killed_while_the_file_is_put_there(state: Path, folder: Path, point: str, *, done: bool) -> None:
    with doomed(state, point) as (served, process):
        with pytest.raises(BrokerError):
            await delete(served)
        assert process.wait(DEADLINE_S) == -9
    with serving(state) as served:
        async with served.client() as agent:
            [call] = [item async for item in agent.list_calls()]
            assert call.state is (CallState.SUCCEEDED if done else CallState.FAILED), call.outcome
        assert rows(folder) == (GONE if done else ROWS)
        if done:
            async with served.client() as agent:
                undone = await agent.run("workspace.undo", {"call": which(call.name)})
            assert undone.state is CallState.SUCCEEDED, undone.outcome
            assert rows(folder) == ROWS
    sound(state)


@pytest.mark.parametrize("damage", ["cut", "gone"])
async def test_a_journal_that_is_no_word_of_the_brokers_leaves_the_end_unknown(
    state: Path, folder: Path, damage: str
) -> None:
    """How far the file came isn't known, and that nothing was changed isn't said."""
    with doomed(state, "in the middle") as (served, process):
        with pytest.raises(BrokerError):
            await delete(served)
        assert process.wait(DEADLINE_S) == -9
    journal = state / "workspace_folders" / "demo.journal"
    if damage == "gone":
        journal.unlink()
    else:
        journal.write_bytes(journal.read_bytes()[:-9])
    with serving(state) as served:
        async with served.client() as agent:
            [call] = [item async for item in agent.list_calls()]
            assert call.state is CallState.UNKNOWN
    assert rows(folder) == GONE
    sound(state)


async def test_a_file_that_somebody_changes_after_the_start_of_its_way_leaves_the_end_unknown(
    state: Path, folder: Path
) -> None:
    with doomed(state, "after the intent", str(folder / "shop.db")) as (served, _):
        done = await delete(served)
        assert done.state is CallState.UNKNOWN, done.outcome
        assert done.outcome is not None
        assert "'shop.db'" in done.outcome.detail
        assert done.outcome.effect is not None
        assert (done.outcome.effect.before, done.outcome.effect.after) == ("", "")
    assert (folder / "shop.db").read_bytes() == b"somebody else's\n"
    sound(state)


async def test_a_file_that_somebody_changed_meanwhile_is_kept(state: Path, folder: Path) -> None:
    """After the intent, which stands before the program runs that changes the rows."""
    with doomed(state, "before the journal", str(folder / "shop.db")) as (served, _):
        done = await delete(served)
        assert done.state is CallState.FAILED, done.outcome
        assert done.outcome is not None
        assert "BASE_MOVED" in done.outcome.detail
        assert "nothing was changed" in done.outcome.detail
    assert (folder / "shop.db").read_bytes() == b"somebody else's\n"
    sound(state)
