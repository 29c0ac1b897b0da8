"""Any difference between two states that keep the constraints is applied, and taking it back is the identity."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker_rows import items, steps
from broker_rows.server import ServerError
from broker_rows.steps import Rules
from tests.sql_world import SqlWorld, inside

Key = str
Fields = tuple[str | None, ...]
State = dict[str, dict[Key, Fields]]
"""Rows by table and key, each value as the server writes it."""

SHAPES = {
    "node": (("up", "text"), ("rank", "integer"), ("words", "text[]"), ("sum", "numeric")),
    "leaf": (("node", "text"), ("note", "character varying(9)"), ("raw", "bytea"), ("twice", "integer")),
}
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=9)
KEYS = TEXT
NUMBERS = st.integers(-3, 3).map(str)
SETTINGS = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def words(values: list[str]) -> str:
    """A list of texts as the server writes it, in its own way of quoting."""
    plain = [value if value.isalnum() and value.isascii() and value.upper() != "NULL" else None for value in values]
    return "{" + ",".join(value for value in plain if value) + "}"


@st.composite
def states(draw: st.DrawFn, keys: list[Key]) -> State:
    """A state in which every reference leads to a row, and ranks are unique."""
    there = draw(st.lists(st.sampled_from(keys), unique=True, max_size=len(keys)))
    target = st.none() | st.sampled_from(there) if there else st.none()
    ranks = draw(st.permutations(range(len(keys))))
    node = {
        key: (
            draw(target),
            draw(st.sampled_from([str(rank), None])),
            draw(st.lists(TEXT, max_size=3).map(words)),
            draw(st.none() | st.sampled_from(["1", "1.0", "1.00", "-0.5", "NaN", "Infinity"])),
        )
        for key, rank in zip(there, ranks, strict=False)
    }
    leaves = draw(st.lists(st.sampled_from(keys), unique=True, max_size=4))
    raw = st.binary(max_size=4).map(lambda data: f"\\x{data.hex()}")
    leaf = {key: (draw(target), draw(st.none() | TEXT), draw(raw), draw(NUMBERS)) for key in leaves}
    return {"node": node, "leaf": leaf}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[State, State]:
    keys = draw(st.lists(KEYS, unique=True, min_size=1, max_size=6))
    return draw(states(keys)), draw(states(keys))


@dataclass
class Tables:
    """Two tables that refer to each other, and to themselves."""

    sql: SqlWorld
    rules: Rules
    folder: Path

    def set(self, state: State) -> None:
        with self.sql.admin() as connection, connection.transaction():
            connection.execute("SET CONSTRAINTS ALL DEFERRED")
            connection.execute("TRUNCATE node, leaf")
            connection.execute("ALTER TABLE node DISABLE TRIGGER ALL")
            for key, row in state["node"].items():
                connection.execute("INSERT INTO node VALUES (%s, %s, %s, %s, %s)", (key, *row))
            connection.execute("ALTER TABLE node ENABLE TRIGGER ALL")
            for key, row in state["leaf"].items():
                connection.execute("INSERT INTO leaf VALUES (%s, %s, %s, %s, %s)", (key, *row))

    def get(self) -> State:
        def rows(table: str) -> dict[Key, Fields]:
            columns = ", ".join(f'"{name}"::text' for name, _ in SHAPES[table])
            return {str(row[0]): tuple(row[1:]) for row in self.sql.ask(f"SELECT id, {columns} FROM {table}")}

        return {table: rows(table) for table in SHAPES}

    def change(self, before: State, after: State) -> None:
        """Lays the difference between two states out as items, and applies it."""
        for side, state, other in (("before", before, after), ("after", after, before)):
            shutil.rmtree(self.folder / side, ignore_errors=True)
            for table, rows in state.items():
                for key, row in rows.items():
                    if other[table].get(key) != row:
                        path = self.folder / side / f"public.{table}" / items.key_part([key])
                        path.parent.mkdir(parents=True, exist_ok=True)
                        shape = (("id", "text"), *SHAPES[table])
                        path.write_bytes(items.content(shape, (key, *row)).encode())
        with inside(self.folder):
            steps.apply(self.rules)


def make(sql: SqlWorld, tmp_path: Path, rank: str, reference: str) -> Tables:
    sql.do(
        f"CREATE TABLE node (id text PRIMARY KEY, up text REFERENCES node {reference}, rank integer {rank},"
        " words text[], sum numeric)",
        f"CREATE TABLE leaf (id text PRIMARY KEY, node text REFERENCES node {reference}, note varchar(9), raw bytea,"
        " twice integer)",
    )
    folder = tmp_path / "random"
    folder.mkdir()
    return Tables(sql, Rules(sql.address, 1000, frozenset()), folder)


@pytest.fixture(params=["", "ON DELETE CASCADE", "ON DELETE SET NULL ON UPDATE CASCADE", "DEFERRABLE"])
def free(request: pytest.FixtureRequest, sql: SqlWorld, tmp_path: Path) -> Tables:
    """Nothing stands in the way of any order."""
    return make(sql, tmp_path, "UNIQUE DEFERRABLE", request.param)


@pytest.fixture
def strict(sql: SqlWorld, tmp_path: Path) -> Tables:
    """Unique values are looked at row by row."""
    return make(sql, tmp_path, "UNIQUE", "")


@SETTINGS
@given(pairs())
def test_any_difference_is_applied_and_taken_back(free: Tables, states: tuple[State, State]) -> None:
    before, after = states
    free.set(before)
    free.change(before, after)
    assert free.get() == after
    free.change(after, before)
    assert free.get() == before


@SETTINGS
@given(pairs())
def test_what_no_order_allows_is_refused_whole(strict: Tables, states: tuple[State, State]) -> None:
    before, after = states
    strict.set(before)
    refusal = ""
    try:
        strict.change(before, after)
    except ServerError as error:
        refusal = error.sqlstate
    assert refusal in {"", "23505", "23503"}
    assert strict.get() == (before if refusal else after)
