"""Attacks on the ledger's table by who has more than plain SQL: PostgreSQL's roles, and the SQLite file's owner.

What the application role tries is refused by the server. What an owner can do at all is found at the next opening, or by
verifying. ``test_ledger_tables`` has the attacks from a SQLite connection with default pragmas.
"""

# ruff: noqa: S608 - the attacks are constants of this file

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import psycopg
import pytest

from broker.errors import DataLossError
from broker.ledger.ledger import Ledger
from broker.ledger.startup import verify_store
from broker.store.base import SqlStore
from broker.store.database import Database
from broker.store.opening import DatabaseTarget, create_store, open_store, open_store_sync
from tests.postgres_server import OWNER, PostgresServer

Connection = psycopg.Connection[tuple[object, ...]]
_numbers = count()
ENTRIES = 5


def _append(store: SqlStore) -> None:
    ledger = Ledger("origin", "boot_1", lambda: datetime(2026, 1, 1, tzinfo=UTC))
    store.write_sync(lambda tx: ledger.append(tx, "genesis", {}))
    for _ in range(ENTRIES - 1):
        store.write_sync(lambda tx: ledger.append(tx, "heartbeat", {}))


class World:
    """A database with an owner and an application role of its own, and a ledger of five entries."""

    def __init__(self, server: PostgresServer, folder: Path, *, one_role: bool = False) -> None:
        name, path, owner = f"append_only_{next(_numbers)}", folder / "none.db", OWNER
        if one_role:
            owner = "broker"
        self.server = server
        self.name = name
        self.url = server.url(name, owner=owner)
        self.owner_url = server.url(name, owner, owner=owner)
        self.target = DatabaseTarget(path, self.url)
        create_store(self.target, None if one_role else DatabaseTarget(path, self.owner_url))
        with open_store_sync(self.target) as store:
            _append(store)

    def entries(self) -> list[tuple[object, ...]]:
        with self.server.superuser(self.name) as connection:
            return connection.execute("SELECT * FROM broker.ledger_entry ORDER BY seq").fetchall()

    def as_owner(self, *statements: str) -> None:
        with psycopg.connect(self.owner_url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())


@pytest.fixture(scope="module")
def world(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(postgres, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def one_role(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(postgres, tmp_path_factory.mktemp("world"), one_role=True)


@pytest.fixture
def application(world: World) -> Iterator[Connection]:
    with psycopg.connect(world.url, autocommit=True) as connection:
        yield connection


T = "broker.ledger_entry"
USED = f"INSERT INTO {T} SELECT seq, prev, leaf, 'x' FROM {T} WHERE seq = 2"
NEXT_PREV = f"(SELECT encode(leaf, 'hex') FROM {T} WHERE seq = 4)"
LEAF = "decode(repeat('ab', 32), 'hex')"
ROWS = {
    "update": f"UPDATE {T} SET data = 'x' WHERE seq = 2",
    "update of the number": f"UPDATE {T} SET seq = 99 WHERE seq = 4",
    "update from": f"UPDATE {T} SET data = o.data FROM {T} AS o WHERE o.seq = 1",
    "delete": f"DELETE FROM {T} WHERE seq = 4",
    "delete all": f"DELETE FROM {T}",
    "delete and insert": f"WITH gone AS (DELETE FROM {T} WHERE seq = 4 RETURNING *) INSERT INTO {T} SELECT * FROM gone",
    "truncate": f"TRUNCATE {T}",
    "truncate cascade": f"TRUNCATE {T} RESTART IDENTITY CASCADE",
    "insert a used number": USED,
    "insert a used prev": f"INSERT INTO {T} SELECT 5, prev, leaf, 'x' FROM {T} WHERE seq = 2",
    "upsert on the number": f"{USED} ON CONFLICT (seq) DO UPDATE SET data = 'x'",
    "upsert that does nothing": f"{USED} ON CONFLICT DO NOTHING",
    "merge": (
        f"MERGE INTO {T} t USING (VALUES (2)) AS s (seq) ON t.seq = s.seq WHEN MATCHED THEN UPDATE SET data = 'x'"
    ),
    "merge that deletes": f"MERGE INTO {T} t USING (VALUES (2)) AS s (seq) ON t.seq = s.seq WHEN MATCHED THEN DELETE",
    "a fork": f"INSERT INTO {T} VALUES (5, repeat('1', 64), {LEAF}, 'x')",
    "a gap": f"INSERT INTO {T} VALUES (6, {NEXT_PREV}, {LEAF}, 'x')",
    "before the first": f"INSERT INTO {T} VALUES (-1, {NEXT_PREV}, {LEAF}, 'x')",
    "one good entry and a fork": (
        f"INSERT INTO {T} VALUES (5, {NEXT_PREV}, {LEAF}, 'x'), (6, {NEXT_PREV}, {LEAF}, 'x')"
    ),
    "a short hash": f"INSERT INTO {T} VALUES (5, {NEXT_PREV}, 'short', 'x')",
    "an entry too long": f"INSERT INTO {T} VALUES (5, {NEXT_PREV}, {LEAF}, convert_to(repeat('x', 65536), 'UTF8'))",
    "through a view": f"CREATE TEMP VIEW v AS SELECT * FROM {T}; UPDATE v SET data = 'x' WHERE seq = 2",
    "a table of the same name in front": (
        "CREATE TEMP TABLE ledger_entry (seq bigint, prev text, leaf bytea, data bytea);"
        f" SET search_path = pg_temp; INSERT INTO {T} VALUES (5, repeat('0', 64), {LEAF}, 'x')"
    ),
    "as a replica": f"SET session_replication_role = replica; UPDATE {T} SET data = 'x' WHERE seq = 2",
}
"""Changes of entries: refused to everybody."""

RIGHTS = {
    "lock rows": f"SELECT * FROM {T} FOR UPDATE",
    "drop a trigger": f"DROP TRIGGER ledger_entry_no_update ON {T}",
    "disable one trigger": f"ALTER TABLE {T} DISABLE TRIGGER ledger_entry_no_update",
    "disable the users' triggers": f"ALTER TABLE {T} DISABLE TRIGGER USER",
    "disable all triggers": f"ALTER TABLE {T} DISABLE TRIGGER ALL",
    "let replicas through": f"ALTER TABLE {T} ENABLE REPLICA TRIGGER ledger_entry_no_update",
    "another trigger": f"CREATE TRIGGER a_first BEFORE INSERT ON {T} FOR EACH ROW EXECUTE FUNCTION tsvector_update_trigger()",
    "another function": (
        "CREATE OR REPLACE FUNCTION broker.ledger_entry_refuse() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RETURN NEW; END'"
    ),
    "drop a function": "DROP FUNCTION broker.ledger_entry_refuse() CASCADE",
    "a rule": f"CREATE RULE r AS ON INSERT TO {T} DO INSTEAD NOTHING",
    "a policy": f"ALTER TABLE {T} ENABLE ROW LEVEL SECURITY",
    "a child": f"CREATE TABLE pg_temp.child () INHERITS ({T})",
    "unlogged": f"ALTER TABLE {T} SET UNLOGGED",
    "drop the table": f"DROP TABLE {T}",
    "rename the table": f"ALTER TABLE {T} RENAME TO old_entries",
    "move the table": f"ALTER TABLE {T} SET SCHEMA pg_temp",
    "drop a constraint": f"ALTER TABLE {T} DROP CONSTRAINT ledger_entry_pkey",
    "drop the schema": "DROP SCHEMA broker CASCADE",
    "a table beside": "CREATE TABLE broker.other (x int)",
    "become the owner": f"SET ROLE {OWNER}",
    "take the table": f"ALTER TABLE {T} OWNER TO broker",
    "rights for oneself": f"GRANT ALL ON {T} TO broker; UPDATE {T} SET data = 'x'",
    "another version": "UPDATE broker.alembic_version SET version_num = '0001'",
}
"""Changes of what protects the entries: refused to the application role."""


@pytest.mark.parametrize("name", ROWS | RIGHTS)
def test_refused_to_the_application_role(world: World, application: Connection, name: str) -> None:
    before = world.entries()
    assert len(before) == ENTRIES
    with pytest.raises(psycopg.Error) as refused:
        application.execute((ROWS | RIGHTS)[name].encode())
    assert refused.value.sqlstate in {"42501", "23000", "23505", "23514"}, refused.value
    assert world.entries() == before
    with open_store_sync(world.target) as store:  # nothing of the protection has changed either
        assert store.weakness() == ""


def test_refused_to_the_application_role_that_copies_rows_in(world: World, application: Connection) -> None:
    before = world.entries()
    with (
        pytest.raises(psycopg.Error) as refused,
        application.cursor() as cursor,
        cursor.copy(f"COPY {T} FROM STDIN".encode()) as copy,
    ):
        copy.write_row((5, "1" * 64, b"x" * 32, b"x"))
    assert refused.value.sqlstate == "23000"
    assert world.entries() == before


def test_what_is_refused_above_is_the_attack_and_not_the_statement(postgres: PostgresServer, tmp_path: Path) -> None:
    world = World(postgres, tmp_path)
    with psycopg.connect(world.url, autocommit=True) as connection:
        connection.execute(f"INSERT INTO {T} VALUES (5, {NEXT_PREV}, {LEAF}, 'x')".encode())
        with pytest.raises(psycopg.errors.IntegrityError):
            connection.execute(f"INSERT INTO {T} VALUES (5, {NEXT_PREV}, {LEAF}, 'x')".encode())
    assert len(world.entries()) == ENTRIES + 1


@pytest.mark.parametrize("name", ROWS)
def test_refused_by_the_triggers_where_one_role_is_owner_and_application(one_role: World, name: str) -> None:
    before = one_role.entries()
    with psycopg.connect(one_role.url, autocommit=True) as connection, pytest.raises(psycopg.Error) as refused:
        connection.execute(ROWS[name].encode())
    assert refused.value.sqlstate in {"42501", "23000", "23505", "23514"}, refused.value
    assert one_role.entries() == before
    with open_store_sync(one_role.target) as store:
        assert "owns the ledger's table" in store.weakness()


@pytest.mark.parametrize("name", ["update", "delete", "truncate", "insert a used number", "as a replica"])
def test_refused_even_to_a_superuser_who_says_to_be_a_replica(world: World, name: str) -> None:
    before = world.entries()
    with world.server.superuser(world.name) as connection:
        connection.execute(b"SET session_replication_role = replica")
        with pytest.raises(psycopg.Error) as refused:
            connection.execute(ROWS[name].encode())
    assert refused.value.sqlstate == "23000"
    assert world.entries() == before


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TRIGGER ledger_entry_no_update ON broker.ledger_entry",
        "ALTER TABLE broker.ledger_entry DISABLE TRIGGER ledger_entry_no_delete",
        "ALTER TABLE broker.ledger_entry ENABLE TRIGGER ledger_entry_only_next",
        "ALTER TABLE broker.ledger_entry ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE broker.ledger_entry SET UNLOGGED",
        "CREATE TABLE broker.child () INHERITS (broker.ledger_entry)",
        "CREATE RULE r AS ON INSERT TO broker.ledger_entry DO INSTEAD NOTHING",
        "CREATE RULE r AS ON UPDATE TO broker.session DO INSTEAD NOTHING",
        "CREATE TABLE broker.extra (x int)",
        "DROP TABLE broker.ledger_tile",
        (
            "CREATE OR REPLACE FUNCTION broker.ledger_entry_refuse() RETURNS trigger LANGUAGE plpgsql"
            " SET search_path = pg_catalog AS 'BEGIN RETURN NEW; END'"
        ),
        "ALTER FUNCTION broker.ledger_entry_only_next() SET search_path = public, pg_catalog",
        "ALTER FUNCTION broker.ledger_entry_only_next() STABLE",
        (
            "DROP TRIGGER ledger_entry_only_next ON broker.ledger_entry; CREATE TRIGGER ledger_entry_only_next BEFORE INSERT"
            " ON broker.ledger_entry FOR EACH ROW WHEN (NEW.seq > 9) EXECUTE FUNCTION broker.ledger_entry_only_next();"
            " ALTER TABLE broker.ledger_entry ENABLE ALWAYS TRIGGER ledger_entry_only_next"
        ),
    ],
)
def test_what_the_tables_owner_changes_is_found_at_opening(
    postgres: PostgresServer, tmp_path: Path, statement: str
) -> None:
    world = World(postgres, tmp_path)
    world.as_owner(statement)
    with pytest.raises(DataLossError) as refused, open_store_sync(world.target):
        pytest.fail("it opened")
    assert refused.value.reason == "STORE_SCHEMA_CHANGED"


@pytest.mark.parametrize(
    ("statement", "verdict"),
    [
        (
            f"UPDATE {T} SET data = convert_to(replace(convert_from(data, 'UTF8'), 'boot_1', 'boot_2'), 'UTF8')",
            "tampered",
        ),
        (f"UPDATE {T} SET prev = repeat('1', 64) WHERE seq = 3", "tampered"),
        (f"DELETE FROM {T} WHERE seq = 2", "gapped"),
        (f"DELETE FROM {T}", "truncated"),
    ],
)
async def test_entries_that_the_tables_owner_changes_are_found_by_verifying(
    postgres: PostgresServer, tmp_path: Path, statement: str, verdict: str
) -> None:
    world = World(postgres, tmp_path)
    async with open_store(world.target) as store:
        await verify_store(store)
    # The triggers are as before when it is opened again.
    off, on = (f"ALTER TABLE {T} {word} TRIGGER USER" for word in ("DISABLE", "ENABLE"))
    names = ("no_update", "no_delete", "no_truncate", "only_next")
    always = [f"ALTER TABLE {T} ENABLE ALWAYS TRIGGER ledger_entry_{name}" for name in names]
    world.as_owner(off, statement, on, *always)
    async with open_store(world.target) as store:
        with pytest.raises(DataLossError) as refused:
            await verify_store(store)
    assert refused.value.metadata["verdict"] == verdict


def _rewrite(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Database.create(tmp_path / "broker.db")
    with Database.open_sync(tmp_path / "broker.db") as store:
        _append(store)
    return tmp_path / "broker.db"


@pytest.mark.parametrize(
    "statements",
    [
        ("DROP TRIGGER ledger_entry_no_update",),
        (
            "CREATE TEMP TRIGGER t AFTER INSERT ON ledger_entry BEGIN SELECT 1; END",
            "DROP TRIGGER ledger_entry_no_delete",
        ),
        ("ALTER TABLE ledger_entry RENAME TO old_entries", "CREATE TABLE ledger_entry AS SELECT * FROM old_entries"),
        ("CREATE TRIGGER a_first BEFORE INSERT ON ledger_entry BEGIN SELECT RAISE(IGNORE); END",),
        (
            "PRAGMA writable_schema = ON",
            "UPDATE sqlite_master SET sql = replace(sql, 'UPDATE ON', 'UPDATE OF rowid ON') WHERE name = 'ledger_entry_no_update'",
        ),
        (
            "PRAGMA writable_schema = ON",
            "DELETE FROM sqlite_master WHERE name = 'ledger_entry_only_next'",
        ),
    ],
)
def test_what_the_files_owner_changes_is_found_at_opening(path: Path, statements: tuple[str, ...]) -> None:
    _rewrite(path, *statements)
    with pytest.raises(DataLossError) as refused, Database.open_sync(path):
        pytest.fail("it opened")
    assert refused.value.reason == "STORE_SCHEMA_CHANGED"


@pytest.mark.parametrize(
    "pragma",
    ["ignore_check_constraints = ON", "recursive_triggers = OFF", "foreign_keys = OFF", "defer_foreign_keys = ON"],
)
def test_no_pragma_of_the_files_owner_lets_a_replacement_through(path: Path, pragma: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        before = connection.execute("SELECT * FROM ledger_entry").fetchall()
        connection.execute(f"PRAGMA {pragma}")
        for statement in (
            "REPLACE INTO ledger_entry SELECT seq, prev, leaf, x'00' FROM ledger_entry WHERE seq = 2",
            "UPDATE OR REPLACE ledger_entry SET data = x'00' WHERE seq = 2",
            "DELETE FROM ledger_entry",
        ):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(statement)
        assert connection.execute("SELECT * FROM ledger_entry").fetchall() == before


async def test_entries_that_the_files_owner_changes_are_found_by_verifying(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        (text,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'ledger_entry_no_update'").fetchone()
        leaf = hashlib.sha256(b"\x00{}").digest()
        connection.execute("DROP TRIGGER ledger_entry_no_update")
        connection.execute("UPDATE ledger_entry SET data = x'7b7d', leaf = ? WHERE seq = 2", (leaf,))
        connection.execute(text)
    async with Database.open(path) as store:
        with pytest.raises(DataLossError) as refused:
            await verify_store(store)
    assert refused.value.reason == "LEDGER_NOT_VERIFIED"
