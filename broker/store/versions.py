"""Which version a database's schema has: one row in ``alembic_version``, read here without Alembic."""

from __future__ import annotations

from sqlalchemy import Connection, insert, inspect, select

from broker.errors import BrokerError, DataLossError, FailedPreconditionError
from broker.store.tables import ALEMBIC_VERSION, META

REVISIONS = ("0001", "0002", "0003", "0004", "0005")
"""All versions that there were, oldest first. A database is used only with the last one."""

HEAD = REVISIONS[-1]

_BEFORE_ALEMBIC = "1"
"""What ``store_meta`` calls the first version; no database has that since Alembic counts."""


def write_version(connection: Connection) -> None:
    """Says of a new database that it has the newest schema."""
    connection.execute(insert(ALEMBIC_VERSION), [{"version_num": HEAD}])


def read_version(connection: Connection) -> str:
    """The version of a database; empty where it says none.

    Raises:
        DBAPIError: it isn't readable.
    """
    names = set(inspect(connection).get_table_names())
    if ALEMBIC_VERSION.name in names:
        return str(connection.execute(select(ALEMBIC_VERSION.c.version_num)).scalar() or "")
    if META.name in names:
        old = connection.execute(select(META.c.value).where(META.c.key == "schema_version")).scalar()
        return REVISIONS[0] if old == _BEFORE_ALEMBIC else f"{old or ''}"
    return ""


def check_version(connection: Connection) -> None:
    """Lets a database pass whose schema is this broker's.

    Raises:
        FailedPreconditionError: ``STORE_OLD``: it is older, and can be migrated.
        DataLossError: ``STORE_UNKNOWN_SCHEMA``: it isn't one of ours, or a newer broker's.
    """
    found = read_version(connection)
    if found != HEAD:
        raise refusal(found)


def refusal(found: str) -> BrokerError:
    """The error about a database with another schema than this broker's."""
    if found in REVISIONS:
        return FailedPreconditionError(
            f"the database has schema version {found}; this broker needs {HEAD}",
            reason="STORE_OLD",
            hint="Stop the broker, keep a copy of the database, then bring it up to date with: broker migrate",
        )
    if found:
        return DataLossError(
            f"the database has schema version {found!r}; this broker knows only those up to {HEAD}",
            reason="STORE_UNKNOWN_SCHEMA",
            hint="Use the version of the broker that made it.",
        )
    return DataLossError(
        "the database says no schema version: it is damaged, or no broker database",
        reason="STORE_UNKNOWN_SCHEMA",
        hint="Restore the state directory from a backup, or name the right one with --state.",
    )
