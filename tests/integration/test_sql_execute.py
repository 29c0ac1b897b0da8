"""``sql.execute`` on a real PostgreSQL: planned, rehearsed, applied, verified and taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres_server import PostgresServer
from tests.sql_world import SqlWorld, sql_world

ITEMS = (
    "CREATE TABLE item (id integer PRIMARY KEY, name text NOT NULL, cents numeric(10,2))",
    "INSERT INTO item VALUES (1, 'apple', 10), (2, 'pear', NULL), (3, 'plum', 30.5)",
)


@pytest.fixture
def sql(trusting_postgres: PostgresServer, tmp_path: Path) -> SqlWorld:
    """Each step is a process, as it is for the broker."""
    world = sql_world(trusting_postgres, tmp_path)
    world.as_program = True
    return world


def test_an_update_is_planned_as_rows_and_applied_and_taken_back(sql: SqlWorld) -> None:
    sql.do(*ITEMS)
    planned = sql.there_and_back("UPDATE item SET cents = cents + 1 WHERE id >= 2")
    start = '"id" integer = "3"\n"name" text = "plum"\n"cents" numeric(10,2) = '
    assert planned.before == {"public.item/3": start + '"30.50"\n'}
    assert planned.after == {"public.item/3": start + '"31.50"\n'}


def test_an_insert_is_planned_as_rows_and_applied_and_taken_back(sql: SqlWorld) -> None:
    sql.do(*ITEMS)
    planned = sql.there_and_back("INSERT INTO item VALUES (4, 'fig', 1), (5, 'kiwi', 2) RETURNING id")
    assert planned.before == {}
    assert planned.after.keys() == {"public.item/4", "public.item/5"}


def test_a_delete_is_planned_as_rows_and_applied_and_taken_back(sql: SqlWorld) -> None:
    sql.do(*ITEMS)
    planned = sql.there_and_back("DELETE FROM item WHERE name LIKE 'p%'")
    assert planned.after == {}
    assert planned.before.keys() == {"public.item/2", "public.item/3"}


def test_a_statement_that_changes_nothing_has_no_items(sql: SqlWorld) -> None:
    sql.do(*ITEMS)
    for statement in ("UPDATE item SET name = name", "DELETE FROM item WHERE id = 9", "DELETE FROM item WHERE false"):
        done = sql.plan(statement)
        assert (done.code, done.before, done.after) == (0, {}, {}), done.error
