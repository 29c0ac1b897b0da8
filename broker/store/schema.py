"""The schema in SQLite: tables, and the triggers by which the database itself keeps the ledger append-only."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sqlalchemy import Connection, insert

from broker.errors import DataLossError
from broker.store.tables import ALEMBIC_VERSION, META, Base
from broker.store.versions import check_version, write_version

APPLICATION_ID = 0x61_62_72_31
"""``abr1`` in the header of our SQLite files."""

TRIGGERS: Mapping[str, str] = MappingProxyType(
    {
        "ledger_entry_no_update": (
            "CREATE TRIGGER ledger_entry_no_update BEFORE UPDATE ON ledger_entry BEGIN"
            " SELECT RAISE(ABORT, 'the ledger is append-only: no entry is changed'); END"
        ),
        "ledger_entry_no_delete": (
            "CREATE TRIGGER ledger_entry_no_delete BEFORE DELETE ON ledger_entry BEGIN"
            " SELECT RAISE(ABORT, 'the ledger is append-only: no entry is deleted'); END"
        ),
        # REPLACE and upsert get past the two above on a connection without recursive triggers. So an INSERT is refused
        # unless it is the very next entry, chained to the last one.
        "ledger_entry_only_next": (
            "CREATE TRIGGER ledger_entry_only_next BEFORE INSERT ON ledger_entry"
            " WHEN typeof(NEW.leaf) <> 'blob' OR typeof(NEW.data) <> 'blob' OR typeof(NEW.prev) <> 'text'"
            " OR NEW.seq IS NOT (SELECT coalesce(max(seq) + 1, 0) FROM ledger_entry)"
            " OR NEW.prev IS NOT coalesce((SELECT lower(hex(leaf)) FROM ledger_entry ORDER BY seq DESC LIMIT 1),"
            " '0000000000000000000000000000000000000000000000000000000000000000')"
            " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: only the next entry is added'); END"
        ),
    },
)
"""Name -> the statement, as SQLite keeps it."""


def create_schema(connection: Connection) -> None:
    """Makes all tables and triggers in an empty database."""
    Base.metadata.create_all(connection)
    ALEMBIC_VERSION.create(connection)
    for statement in TRIGGERS.values():
        connection.exec_driver_sql(statement)
    connection.execute(insert(META), [{"key": "in_use", "value": "0"}])
    write_version(connection)


def check_schema(connection: Connection) -> None:
    """Lets a database pass that this version of the broker made.

    Raises:
        FailedPreconditionError: ``STORE_OLD``: an older broker made it.
        DataLossError: it isn't one of ours, is a newer broker's, or lacks a table or trigger.
    """
    check_version(connection)
    names = {row[0] for row in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if missing := Base.metadata.tables.keys() - names:
        raise DataLossError(
            f"the database lacks the table {min(missing)!r}: it is damaged, or no broker database",
            reason="STORE_UNKNOWN_SCHEMA",
            hint="Restore the state directory from a backup, or name the right one with --state.",
        )
    check_triggers(connection)


def check_triggers(connection: Connection) -> None:
    """Lets a database pass whose triggers are ours, to the letter, and no others.

    Raises:
        DataLossError: ``STORE_SCHEMA_CHANGED``.
    """
    rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    found: dict[str, str] = {row[0]: row[1] for row in rows}
    if found != dict(TRIGGERS):
        changed = sorted(name for name in found.keys() | TRIGGERS.keys() if found.get(name) != TRIGGERS.get(name))
        raise schema_changed(f"the trigger {changed[0]!r} of the database is missing, changed or foreign")


def schema_changed(what: str) -> DataLossError:
    """The error about a database whose protection of the ledger isn't as we made it."""
    return DataLossError(
        f"{what}: somebody worked on the database",
        reason="STORE_SCHEMA_CHANGED",
        hint="Run `broker ledger verify`, then find out who changed the database before it is used again.",
    )
