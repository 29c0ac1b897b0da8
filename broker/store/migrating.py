"""Brings a database of an older broker up to this one's schema, whole or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError

from broker.errors import FailedPreconditionError
from broker.store import connection as sqlite_connection
from broker.store import schema as sqlite_schema
from broker.store.opening import DatabaseTarget, address_of
from broker.store.prepared import sqlite_driver_of
from broker.store.tables import ALEMBIC_VERSION
from broker.store.usage import UseMark
from broker.store.versions import HEAD, REVISIONS, read_version, refusal

_MIGRATIONS = Path(__file__).with_name("migrations")


@dataclass(frozen=True, slots=True)
class Migrated:
    """Which version of the schema a database had, and which it has."""

    before: str
    after: str


def migrate(target: DatabaseTarget, owner: DatabaseTarget | None = None) -> Migrated:
    """Migrates a database to the newest version; one that has it keeps it, and on PostgreSQL gets its grants anew.

    Nobody may serve it meanwhile: the caller sees to that.

    Args:
        target: the database, as the role that the broker serves with.
        owner: the same PostgreSQL database as the role that owns the tables, where that is another.

    Raises:
        FailedPreconditionError: there is no database (``STORE_MISSING``), or the role doesn't own the tables.
        DataLossError: it isn't one of ours, is a newer broker's, or its triggers were changed (``STORE_SCHEMA_CHANGED``).
        UnavailableError: it can't be used now; nothing was changed.
    """
    return _migrate_postgres(target, owner or target) if target.url else _migrate_sqlite(target.path)


def configuration(connection: Connection) -> Config:
    """What Alembic is told: where the migrations are, and the connection to run them on."""
    found = Config()
    found.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    found.set_main_option("path_separator", "os")
    found.attributes["connection"] = connection
    return found


def _upgrade(connection: Connection) -> Migrated:
    before = read_version(connection)
    if before not in REVISIONS:
        raise refusal(before)
    if ALEMBIC_VERSION.name not in inspect(connection).get_table_names():
        command.stamp(configuration(connection), before)
    if before != HEAD:
        command.upgrade(configuration(connection), HEAD)
    after = MigrationContext.configure(connection).get_current_revision() or ""
    return Migrated(before, after)


def _migrate_sqlite(path: Path) -> Migrated:
    if not path.is_file():
        raise FailedPreconditionError(
            f"there is no broker database at {path}",
            reason="STORE_MISSING",
            hint="Name the right state directory with --state. If a database should be there, restore it.",
        )
    engine = sqlite_connection.engine_for(path)
    mark = UseMark(path)
    try:
        with engine.connect() as connection:
            sqlite_connection.prepare(connection, read_only=False)
            if (found := read_version(connection)) not in REVISIONS:
                raise refusal(found)
            mark.take(connection)
            with _sqlite_transaction(connection):
                sqlite_schema.check_triggers(connection)
                done = _upgrade(connection)
                sqlite_schema.check_schema(connection)
            mark.give_back(connection)
    except (DBAPIError, sqlite3.Error) as error:
        raise sqlite_connection.translate(error) from error
    finally:
        mark.close()
        engine.dispose()
    return done


@contextmanager
def _sqlite_transaction(connection: Connection) -> Iterator[None]:
    driver = sqlite_driver_of(connection)
    driver.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if driver.in_transaction:
            driver.execute("ROLLBACK")
        raise
    driver.execute("COMMIT")


def _migrate_postgres(target: DatabaseTarget, owner: DatabaseTarget) -> Migrated:
    from broker.store import postgres_schema  # noqa: PLC0415 - the driver is loaded only where it is needed
    from broker.store.postgres_making import connected, one_transaction  # noqa: PLC0415 - as above

    with connected(address_of(target)) as connection:
        role = postgres_schema.role_of(connection)
    with connected(address_of(owner)) as connection:
        if not postgres_schema.owns_ledger(connection):
            raise FailedPreconditionError(
                "the tables belong to another role than the one that shall migrate them",
                reason="STORE_FORBIDDEN",
                hint="Name the owner's address with --database-owner.",
            )
        with one_transaction(connection):
            postgres_schema.check_triggers(connection)
            done = _upgrade(connection)
            postgres_schema.grant(connection, role)
            postgres_schema.check_schema(connection)
    return done
