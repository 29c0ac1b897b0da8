"""Rows of a SQLite file in a workspace through the whole broker: seen first, agreed to, applied, taken back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from broker.client.models import CompletedCall
from broker.domain.call import CallState
from broker.domain.tree import TreeFile
from broker.settings import StatePaths
from broker.workspace.objects import Objects
from tests.served import Served, command_json, make_state, serving
from tests.tree_world import content, seed

pytestmark = pytest.mark.docker

TOOL = "shop.rows"
POLICY = f"""
p, t-rows, role:agent, demo, {TOOL}, call, 1, allow, agents change rows
p, t-rows-undo, role:agent, demo, workspace.undo, call, 1, allow, agents take back
"""
SCHEMA = """
CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customer ON DELETE CASCADE, cents INTEGER);
INSERT INTO customer VALUES (1, 'Ada', 'London'), (2, 'Grace', 'New York'), (3, 'Élise', NULL);
INSERT INTO orders VALUES (10, 1, 500), (11, 1, 700), (12, 2, 900);
"""


def _database(path: Path) -> bytes:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA)
    return path.read_bytes()


@pytest.fixture
def state(tmp_path: Path, repository: Path) -> Path:
    state = tmp_path / "state"
    make_state(state)
    specs = state / "tool_specs"
    specs.mkdir()
    spec = yaml.safe_load((repository / "tool_specs" / "sqlite.execute.yaml").read_text("utf-8"))
    (specs / f"{TOOL}.yaml").write_text(yaml.safe_dump({**spec, "name": TOOL, "tier": 1}), "utf-8")
    (specs / "sqlite_execute.py").write_bytes((repository / "tool_specs" / "sqlite_execute.py").read_bytes())
    policy = state / "policy" / "policy.csv"
    policy.write_text(policy.read_text("utf-8") + POLICY, "utf-8")
    seed(state, files={"data/shop.db": _database(tmp_path / "shop.db"), "README.md": b"# Shop\n"})
    return state


def _rows(state: Path, table: str) -> list[tuple[object, ...]]:
    found = content(state)["data/shop.db"]
    assert isinstance(found, TreeFile)
    data = Objects(StatePaths(state).root / "workspaces").files.load(found.digest, 2**20)
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(data)
        return connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()  # noqa: S608 - of this test


async def _run(served: Served, sql: str, *parameters: object) -> CompletedCall:
    async with served.client() as agent:
        return await agent.run(TOOL, {"database": "data/shop.db", "sql": sql, "parameters": list(parameters)})


async def _undo(served: Served, call: str) -> CompletedCall:
    async with served.client() as agent:
        return await agent.run("workspace.undo", {"call": call.removeprefix("calls/")})


async def test_a_deletion_with_its_cascade_is_applied_and_comes_back(state: Path) -> None:
    before = {table: _rows(state, table) for table in ("customer", "orders")}
    with serving(state) as served:
        done = await _run(served, "DELETE FROM customer WHERE name = ?", "Ada")
        assert done.state is CallState.SUCCEEDED, (done.outcome, done.stderr)
        assert done.outcome is not None
        assert done.outcome.effect is not None
        assert (done.outcome.effect.removed, done.outcome.effect.added) == (3, 0)
        assert [row[0] for row in _rows(state, "customer")] == [2, 3]
        assert [row[0] for row in _rows(state, "orders")] == [12]
        undone = await _undo(served, done.name)
        assert undone.state is CallState.SUCCEEDED, (undone.outcome, undone.stderr)
        assert {table: _rows(state, table) for table in before} == before
        again = await _undo(served, undone.name)
        assert again.state is CallState.SUCCEEDED, (again.outcome, again.stderr)
        assert [row[0] for row in _rows(state, "customer")] == [2, 3]
    assert command_json(state, "ledger", "verify")["verdict"] == "ok"
    assert command_json(state, "ledger", "rebuild")["equal"]


async def test_rows_beside_it_may_change_meanwhile_and_stay_as_others_left_them(state: Path) -> None:
    with serving(state) as served:
        first = await _run(served, "UPDATE customer SET city = 'Paris' WHERE id = 1")
        second = await _run(served, "UPDATE customer SET city = 'Rome' WHERE id = 3")
        assert {first.state, second.state} == {CallState.SUCCEEDED}, (first.stderr, second.stderr)
        undone = await _undo(served, first.name)
        assert undone.state is CallState.SUCCEEDED, (undone.outcome, undone.stderr)
    assert _rows(state, "customer") == [(1, "Ada", "London"), (2, "Grace", "New York"), (3, "Élise", "Rome")]


@pytest.mark.parametrize(
    "sql", ["DROP TABLE orders", "DELETE FROM orders; DELETE FROM customer", "UPDATE orders SET cents = random()"]
)
async def test_what_is_no_single_sure_change_is_refused_and_changes_nothing(state: Path, sql: str) -> None:
    before = content(state)
    with serving(state) as served:
        done = await _run(served, sql)
    assert done.state is CallState.FAILED
    assert done.outcome is not None
    assert done.outcome.exit_code == 3
    assert content(state) == before
