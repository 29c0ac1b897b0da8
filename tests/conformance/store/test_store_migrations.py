"""Databases of older brokers become this one's; what the migrations make is what a new database has, to the letter."""

# ruff: noqa: S608 - the names are of our own tables

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from broker.domain.ports import Head, LedgerTable, Transaction
from broker.errors import DataLossError, FailedPreconditionError
from broker.ledger.tree import Tree, grow
from broker.store import connection as sqlite
from broker.store.database import Database
from broker.store.migrating import configuration, migrate
from broker.store.opening import DatabaseTarget, address_of, create_store, open_store_sync
from broker.store.postgres_connection import postgres_driver_of
from broker.store.postgres_making import connected
from broker.store.postgres_schema import check_schema, grant
from broker.store.tables import Base
from broker.store.versions import HEAD, REVISIONS
from tests.postgres_server import APPLICATION, OWNER, PostgresServer

FIRST = Path(__file__).with_name("first_schema.sql")
ENTRIES = 256 * 256 + 700  # so that there are tiles on three levels
_numbers = count()


@contextmanager
def _sqlite(path: Path) -> Iterator[Connection]:
    engine = sqlite.engine_for(path)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "broker.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(FIRST.read_text("utf-8"))
    return path


def _fill_old(path: Path, entries: int, agents: int = 3) -> list[bytes]:
    leaves: list[bytes] = []
    prev = "0" * 64
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        # Only the speed of filling is at stake: the trigger asks for the newest entry at each row.
        for seq in range(entries):
            leaf = hashlib.sha256(b"leaf %d" % seq).digest()
            connection.execute("INSERT INTO ledger_entry VALUES (?, ?, ?, ?)", (seq, prev, leaf, b"entry %d" % seq))
            leaves.append(leaf)
            prev = leaf.hex()
        for agent in range(min(agents, entries)):
            connection.execute("INSERT INTO ledger_agent VALUES (?, ?, ?)", (f"agt_{agent}", agent, leaves[-1 - agent]))
        connection.execute("COMMIT")
    return leaves


def _facts(path: Path) -> set[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {(name, " ".join(sql.split())) for name, sql in rows}


def test_the_newest_version_is_the_last_migration() -> None:
    scripts = ScriptDirectory(str(Path(sys.modules[migrate.__module__].__file__ or "").with_name("migrations")))
    assert [script.revision for script in scripts.walk_revisions()] == list(reversed(REVISIONS))
    assert scripts.get_heads() == [HEAD]


def test_the_first_migration_is_what_the_first_broker_made(old: Path, tmp_path: Path) -> None:
    path = tmp_path / "again.db"
    sqlite3.connect(path).close()
    with _sqlite(path) as connection:
        command.upgrade(configuration(connection), REVISIONS[0])
    theirs, ours = _facts(old), {fact for fact in _facts(path) if fact[0] != "alembic_version"}
    assert {name for name, _ in theirs} == {name for name, _ in ours}
    assert {fact for fact in theirs if "TRIGGER" in fact[1]} == {fact for fact in ours if "TRIGGER" in fact[1]}
    with closing(sqlite3.connect(old)) as one, closing(sqlite3.connect(path)) as other:
        for table in (name for name, text in theirs if text.startswith("CREATE TABLE")):
            for pragma in ("table_info", "index_list", "foreign_key_list"):
                query = f"SELECT * FROM pragma_{pragma}('{table}')"
                if pragma == "index_list":  # in any order
                    query = f"SELECT name, \"unique\", origin, partial FROM pragma_{pragma}('{table}') ORDER BY name"
                assert one.execute(query).fetchall() == other.execute(query).fetchall(), (table, pragma)


def test_nothing_differs_between_tables_and_migrations_on_sqlite(tmp_path: Path) -> None:
    migrated, fresh = tmp_path / "migrated.db", tmp_path / "fresh.db"
    sqlite3.connect(migrated).close()
    Database.create(fresh)
    with _sqlite(migrated) as connection:
        command.upgrade(configuration(connection), HEAD)
    for path in (migrated, fresh):
        with _sqlite(path) as connection:
            context = MigrationContext.configure(
                connection, opts={"compare_type": True, "compare_server_default": True}
            )
            assert compare_metadata(context, Base.metadata) == []
    theirs, ours = _facts(migrated), _facts(fresh)
    assert {fact for fact in theirs if fact[1].startswith("CREATE TRIGGER")} == {
        fact for fact in ours if fact[1].startswith("CREATE TRIGGER")
    }
    assert {name for name, _ in theirs} == {name for name, _ in ours}


FACTS = (
    (
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'broker'::regnamespace ORDER BY 1, 2"
    ),
    "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'broker' ORDER BY 1, 2",
    "SELECT relname, relkind, reloptions FROM pg_class WHERE relnamespace = 'broker'::regnamespace ORDER BY 1",
    (
        "SELECT table_name, column_name, ordinal_position, data_type, is_nullable, column_default, collation_name"
        " FROM information_schema.columns WHERE table_schema = 'broker' ORDER BY 1, 3"
    ),
    "SELECT tgname, pg_get_triggerdef(oid), tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
    "SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'broker'::regnamespace ORDER BY 1",
)


def test_nothing_differs_between_tables_and_migrations_on_postgres(postgres: PostgresServer, tmp_path: Path) -> None:
    facts = []
    for name in ("drift_migrated", "drift_fresh"):
        target = DatabaseTarget(tmp_path / "none.db", postgres.url(name))
        if name == "drift_fresh":
            create_store(target)
        with connected(address_of(target)) as connection:
            driver = postgres_driver_of(connection)
            if name == "drift_migrated":
                driver.execute("CREATE SCHEMA broker")
                command.upgrade(configuration(connection), HEAD)
                grant(connection, APPLICATION)
            context = MigrationContext.configure(
                connection, opts={"compare_type": True, "compare_server_default": True}
            )
            assert compare_metadata(context, Base.metadata) == []
            check_schema(connection)
            facts.append([driver.execute(query.encode()).fetchall() for query in FACTS])
    assert facts[0] == facts[1]


def test_a_column_that_drifted_would_be_found(tmp_path: Path) -> None:
    Database.create(tmp_path / "broker.db")
    with _sqlite(tmp_path / "broker.db") as connection:
        connection.exec_driver_sql("ALTER TABLE call ADD COLUMN extra TEXT")
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) != []


def _tiles(table: LedgerTable) -> dict[tuple[int, int], bytes]:
    found = {}
    for level in range(4):
        for index in range(ENTRIES):
            tile = table.tile(level, index)
            if tile is None:
                break
            found[level, index] = tile
    return found


class _Kept:
    """The tiles that appends would have kept, entry by entry."""

    def __init__(self, leaves: list[bytes]) -> None:
        self._leaves = leaves
        self.tiles: dict[tuple[int, int], bytes] = {}

    def leaves(self, first: int, limit: int) -> list[bytes]:
        return self._leaves[first : first + limit]

    def tile(self, level: int, index: int) -> bytes | None:
        return self.tiles.get((level, index))

    def put_tile(self, level: int, index: int, hashes: bytes) -> None:
        self.tiles[level, index] = hashes


def test_an_old_database_is_refused_then_migrated_with_all_its_entries(old: Path) -> None:
    leaves = _fill_old(old, ENTRIES)
    with pytest.raises(FailedPreconditionError) as refused, Database.open_sync(old):
        pytest.fail("it opened")
    assert refused.value.reason == "STORE_OLD"
    assert "broker migrate" in refused.value.hint

    done = migrate(DatabaseTarget(old))
    assert (done.before, done.after) == ("0001", HEAD)
    kept = _Kept(leaves)
    for size in range(256, ENTRIES + 1, 256):
        grow(kept, size)  # type: ignore[arg-type]  # what it needs of a table

    def look(tx: Transaction) -> None:
        assert list(tx.ledger.leaves(0, ENTRIES + 1)) == leaves
        assert tx.ledger.entries(700, 1)[0].data == b"entry 700"
        assert [agent for agent, _ in tx.ledger.agent_heads()] == ["agt_2", "agt_1", "agt_0"]
        assert list(tx.ledger.agent_heads(ENTRIES - 2)) == [
            ("agt_1", Head(1, leaves[-2])),
            ("agt_0", Head(0, leaves[-1])),
        ]
        assert _tiles(tx.ledger) == kept.tiles
        assert {level for level, _ in kept.tiles} == {0, 1, 2}
        assert Tree(tx.ledger, ENTRIES).root() == Tree(kept, ENTRIES).root()  # type: ignore[arg-type]

    with Database.open_sync(old) as database:
        database.read_sync(look)
    assert migrate(DatabaseTarget(old)).before == HEAD


def test_an_old_database_that_somebody_worked_on_is_not_migrated(old: Path) -> None:
    before = _facts(old)
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("DROP TRIGGER ledger_entry_no_delete")
    with pytest.raises(DataLossError) as refused:
        migrate(DatabaseTarget(old))
    assert refused.value.reason == "STORE_SCHEMA_CHANGED"
    assert {name for name, _ in before} - {name for name, _ in _facts(old)} == {"ledger_entry_no_delete"}


def test_a_migration_that_fails_changes_nothing(old: Path) -> None:
    _fill_old(old, 600)
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        connection.execute("UPDATE ledger_agent SET leaf = randomblob(32) WHERE agent = 'agt_1'")
    before = _facts(old)
    with pytest.raises(DataLossError) as refused:
        migrate(DatabaseTarget(old))
    assert refused.value.reason == "LEDGER_DAMAGED"
    assert _facts(old) == before
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("SELECT value FROM store_meta WHERE key = 'schema_version'").fetchone() == ("1",)


def test_an_old_postgres_database_is_migrated_by_its_owner(postgres: PostgresServer, tmp_path: Path) -> None:
    path, name = tmp_path / "none.db", f"old_{next(_numbers)}"
    owner = DatabaseTarget(path, postgres.url(name, OWNER, owner=OWNER))
    target = DatabaseTarget(path, postgres.url(name, owner=OWNER))
    with connected(address_of(owner)) as connection:
        postgres_driver_of(connection).execute("CREATE SCHEMA broker")
        command.upgrade(configuration(connection), REVISIONS[0])
        driver = postgres_driver_of(connection)
        leaf = hashlib.sha256(b"x").digest()
        driver.execute("INSERT INTO ledger_entry VALUES (0, repeat('0', 64), %s, 'x')", (leaf,))
        driver.execute("INSERT INTO ledger_agent VALUES ('agt_1', 0, %s)", (leaf,))
        grant_some = "GRANT USAGE ON SCHEMA broker TO broker; GRANT SELECT ON ALL TABLES IN SCHEMA broker TO broker"
        driver.execute(grant_some.encode())
    with pytest.raises(FailedPreconditionError) as refused, open_store_sync(target):
        pytest.fail("it opened")
    assert refused.value.reason == "STORE_OLD"
    with pytest.raises(FailedPreconditionError) as refused:
        migrate(target)
    assert refused.value.reason == "STORE_FORBIDDEN"
    assert migrate(target, owner).before == "0001"
    with open_store_sync(target) as store:
        assert store.read_sync(lambda tx: tx.ledger.agent_heads()) == [("agt_1", Head(0, leaf))]
        assert store.weakness() == ""


def test_a_normal_start_needs_neither_alembic_nor_the_other_driver(tmp_path: Path) -> None:
    Database.create(tmp_path / "broker.db")
    program = (
        "import sys; from pathlib import Path; from broker.store.opening import *\n"
        "with open_store_sync(DatabaseTarget(Path(sys.argv[1]))) as store: store.read_sync(lambda tx: tx.ledger.head())\n"
        "print([name for name in ('alembic', 'psycopg') if name in sys.modules])"
    )
    path = str(tmp_path / "broker.db")
    ran = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "[]", ran.stderr
