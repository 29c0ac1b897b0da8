"""Rows of a real PostgreSQL through the whole broker: TLS and password by the broker, rows seen first, applied, taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.client.models import CompletedCall
from broker.domain.call import CallState
from tests.postgres_server import PASSWORD
from tests.served import Served, command_json, ledger, make_state, serving
from tests.shop_database import TOOL, ShopDatabase, shop_database

pytestmark = pytest.mark.docker

TABLES = (
    "DROP TABLE IF EXISTS orders, customer",
    "CREATE TABLE customer (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, city text)",
    (
        "CREATE TABLE orders (id integer PRIMARY KEY, customer integer REFERENCES customer ON DELETE CASCADE, cents bigint,"
        " euros numeric GENERATED ALWAYS AS (cents / 100.0) STORED, tags text[], note jsonb, raw bytea)"
    ),
    "INSERT INTO customer (name, city) VALUES ('Ada', 'London'), ('Grace', 'New York'), ('Élise', NULL)",
    (
        "INSERT INTO orders VALUES (10, 1, 500, DEFAULT, '{a,\"b c\"}', '{\"x\": [1, null]}', '\\x00ff'),"
        " (11, 1, 700, DEFAULT, NULL, NULL, NULL), (12, 2, 900, DEFAULT, NULL, NULL, '\\x')"
    ),
)
ALL = ("SELECT * FROM customer ORDER BY id", "SELECT * FROM orders ORDER BY id")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopDatabase]:
    with shop_database(tmp_path_factory.mktemp("tls")) as database:
        yield database


@pytest.fixture
def state(database: ShopDatabase, tmp_path: Path) -> Path:
    database.do(*TABLES)
    state = tmp_path / "state"
    make_state(state, settings=database.settings())
    database.add_tool(state)
    return state


async def _run(served: Served, sql: str) -> CompletedCall:
    async with served.client() as agent:
        return await agent.run(TOOL, {"sql": sql})


async def _undo(served: Served, call: str) -> CompletedCall:
    async with served.client() as agent:
        return await agent.run("workspace.undo", {"call": call.removeprefix("calls/")})


async def test_a_deletion_with_its_cascade_comes_back_to_the_last_value(state: Path, database: ShopDatabase) -> None:
    before = [database.rows(query) for query in ALL]
    with serving(state, **database.environment) as served:
        done = await _run(served, "DELETE FROM customer WHERE name = 'Ada'")
        assert done.state is CallState.SUCCEEDED, (done.outcome, done.stderr)
        assert done.outcome is not None
        assert done.outcome.effect is not None
        assert (done.outcome.effect.removed, done.outcome.effect.added, done.outcome.effect.changed) == (3, 0, 0)
        assert [row[0] for row in database.rows(ALL[1])] == [12]
        undone = await _undo(served, done.name)
        assert undone.state is CallState.SUCCEEDED, (undone.outcome, undone.stderr)
        assert [database.rows(query) for query in ALL] == before
        kept = json.dumps(ledger(state)) + served.log.read_text("utf-8")
    assert PASSWORD not in kept
    assert "Ada" not in kept
    assert PASSWORD.encode() not in done.stderr + done.stdout
    assert command_json(state, "ledger", "verify")["verdict"] == "ok"
    assert command_json(state, "ledger", "rebuild")["equal"]


async def test_the_statement_is_not_run_again_and_a_row_that_moved_stops_it(
    state: Path, database: ShopDatabase
) -> None:
    with serving(state, **database.environment) as served:
        done = await _run(served, "UPDATE orders SET cents = cents + 1 WHERE id = 12")
        assert done.state is CallState.SUCCEEDED, (done.outcome, done.stderr)
        assert database.rows("SELECT cents, euros::text FROM orders WHERE id = 12")[0][0] == 901
        database.do("UPDATE orders SET cents = 5 WHERE id = 12")
        undone = await _undo(served, done.name)
        assert undone.state is CallState.DENIED
        assert undone.outcome is not None
        assert "UNDO_CONFLICT" in undone.outcome.detail
        assert "public.orders/12" in undone.outcome.detail
    assert database.rows("SELECT cents FROM orders WHERE id = 12") == [(5,)]


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE orders",
        "DELETE FROM orders; DELETE FROM customer",
        "UPDATE orders SET cents = (random() * 10)::int",
        "SELECT 1",
        "TRUNCATE orders",
    ],
)
async def test_what_is_no_single_sure_change_is_refused_and_changes_nothing(
    state: Path, database: ShopDatabase, sql: str
) -> None:
    before = [database.rows(query) for query in ALL]
    with serving(state, **database.environment) as served:
        done = await _run(served, sql)
    assert done.state is CallState.FAILED
    assert done.outcome is not None
    assert done.outcome.exit_code == 3, done.stderr
    assert [database.rows(query) for query in ALL] == before
