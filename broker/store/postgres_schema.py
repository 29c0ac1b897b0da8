"""The schema in PostgreSQL: tables, the triggers that keep the ledger append-only, and what the broker's role may do.

Tables belong to an owner. The role that the broker serves with may read and add entries, and do no more with them. Where
owner and that role are one, the triggers still hold, but that role could take them off; opening finds that.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from psycopg import sql
from sqlalchemy import Connection

from broker.errors import ConflictError, FailedPreconditionError
from broker.store.postgres_connection import SCHEMA, PostgresDriver, postgres_driver_of
from broker.store.schema import schema_changed
from broker.store.tables import ALEMBIC_VERSION, LEDGER_ENTRY, META, Base
from broker.store.versions import check_version, write_version

SCRUBBED_TABLES = ("vault_object", "vault_chunk", "workspace_key", "identity", "refusal", "chat_account")
"""Tables from which deleted and older rows must go soon: they hold encrypted content, its keys, names and accounts."""

REWRITTEN_TABLES = (*SCRUBBED_TABLES, "call")
"""Tables that an erasure touches: those, and the calls, from which it takes what their clients wrote as request ids."""

_UNSAMPLED = (
    ("workspace_key", "wrapped"),
    ("vault_object", "wrapped"),
    ("vault_object", "digest"),
    ("vault_chunk", "sealed"),
    ("identity", "name"),
    ("refusal", "body"),
    ("chat_account", "team"),
    ("chat_account", "user"),
    ("call", "request_id"),
    ("call", "request_digest"),
)
"""Columns of which the planner's statistics take no samples: those would outlive an erasure."""

_REFUSE = """
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: no entry is changed or deleted'
        USING ERRCODE = 'integrity_constraint_violation';
END
"""
# A table of the same name in somebody's own schema can't be taken for the ledger: the name is given in full.
_ONLY_NEXT = """
DECLARE
    last_seq bigint;
    last_leaf bytea;
BEGIN
    SELECT seq, leaf INTO last_seq, last_leaf FROM broker.ledger_entry ORDER BY seq DESC LIMIT 1;
    IF NEW.seq IS DISTINCT FROM coalesce(last_seq + 1, 0)
        OR NEW.prev IS DISTINCT FROM coalesce(encode(last_leaf, 'hex'), repeat('0', 64)) THEN
        RAISE EXCEPTION 'the ledger is append-only: only the next entry is added'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
"""
FUNCTIONS: Mapping[str, str] = MappingProxyType(
    {"ledger_entry_refuse": _REFUSE, "ledger_entry_only_next": _ONLY_NEXT},
)
"""Name -> body, as PostgreSQL keeps it."""

TRIGGERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "ledger_entry_no_update": ("BEFORE UPDATE ON ledger_entry FOR EACH ROW", "ledger_entry_refuse"),
        "ledger_entry_no_delete": ("BEFORE DELETE ON ledger_entry FOR EACH ROW", "ledger_entry_refuse"),
        "ledger_entry_no_truncate": ("BEFORE TRUNCATE ON ledger_entry FOR EACH STATEMENT", "ledger_entry_refuse"),
        # Before anything else of an INSERT, also of one with ON CONFLICT.
        "ledger_entry_only_next": ("BEFORE INSERT ON ledger_entry FOR EACH ROW", "ledger_entry_only_next"),
    },
)
"""Name -> when it fires, and the function."""

_FIRES: Mapping[str, int] = MappingProxyType(
    {
        # pg_trigger.tgtype: 1 for each row, 2 before, 4 insert, 8 delete, 16 update, 32 truncate
        "ledger_entry_no_update": 1 + 2 + 16,
        "ledger_entry_no_delete": 1 + 2 + 8,
        "ledger_entry_no_truncate": 2 + 32,
        "ledger_entry_only_next": 1 + 2 + 4,
    }
)
_FOUND_FUNCTIONS = """
SELECT proname, prosrc || '|' || l.lanname || '|' || prosecdef || '|' || provolatile::text || '|'
    || coalesce(array_to_string(proconfig, ','), '')
FROM pg_catalog.pg_proc JOIN pg_catalog.pg_language l ON l.oid = prolang
WHERE pronamespace = 'broker'::regnamespace
"""
_FOUND_TRIGGERS = """
SELECT tgname, c.relname || '|' || tgtype || '|' || tgenabled::text || '|' || p.proname || '|' || n.nspname
    || '|' || (tgqual IS NULL) || '|' || tgnargs || '|' || (tgattr::text = '')
FROM pg_catalog.pg_trigger
    JOIN pg_catalog.pg_class c ON c.oid = tgrelid
    JOIN pg_catalog.pg_proc p ON p.oid = tgfoid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE c.relnamespace = 'broker'::regnamespace AND NOT tgisinternal
"""
# An unlogged table is empty after a crash; a rule or a policy changes what is asked; a child's rows count as the parent's.
_FOUND_TABLES = """
SELECT relname, relkind::text || relpersistence::text || '|' || relrowsecurity || '|'
    || EXISTS (SELECT FROM pg_catalog.pg_rewrite WHERE ev_class = c.oid) || '|'
    || EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhparent = c.oid OR inhrelid = c.oid)
FROM pg_catalog.pg_class c WHERE relnamespace = 'broker'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')
"""


def create_schema(connection: Connection, role: str) -> None:
    """Makes the schema ``broker`` with all tables and triggers, for a role to serve with; in the caller's transaction.

    Raises:
        ConflictError: ``STORE_EXISTS``: there is one.
    """
    driver = postgres_driver_of(connection)
    if _has_schema(driver):
        raise ConflictError(
            f"the database has a schema {SCHEMA!r} already; a ledger is never made over another",
            reason="STORE_EXISTS",
            hint="Use the state directory that belongs to it, or another database. If a `broker init` made it that failed,"
            " and no state directory belongs to it: DROP SCHEMA broker CASCADE",
        )
    driver.execute("CREATE SCHEMA broker")
    Base.metadata.create_all(connection)
    ALEMBIC_VERSION.create(connection)
    protect(driver)
    write_version(connection)
    grant(connection, role)


def drop_schema(connection: Connection) -> None:
    """Takes back what ``create_schema`` made."""
    postgres_driver_of(connection).execute("DROP SCHEMA broker CASCADE")


def protect(driver: PostgresDriver) -> None:
    """Makes functions and triggers anew, and sets how soon deleted rows leave the tables with encrypted content."""
    for name, body in FUNCTIONS.items():
        text = f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $body${body}$body$"
        driver.execute(text.encode())
    for name, (fires, function) in TRIGGERS.items():
        driver.execute(f"DROP TRIGGER IF EXISTS {name} ON ledger_entry".encode())
        driver.execute(f"CREATE TRIGGER {name} {fires} EXECUTE FUNCTION {function}()".encode())
        # Also in a session that says it is a replica.
        driver.execute(f"ALTER TABLE ledger_entry ENABLE ALWAYS TRIGGER {name}".encode())
    for table in SCRUBBED_TABLES:
        soon = "autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0"
        driver.execute(f"ALTER TABLE {table} SET ({soon})".encode())
    for table, column in _UNSAMPLED:
        driver.execute(f'ALTER TABLE {table} ALTER COLUMN "{column}" SET STATISTICS 0'.encode())


def grant(connection: Connection, role: str) -> None:
    """Lets a role do what the broker does, and nothing else; it may be the owner, who keeps all rights."""
    driver = postgres_driver_of(connection)
    whom = sql.Identifier(role)
    owner = driver.execute("SELECT current_user").fetchone()
    driver.execute("REVOKE ALL ON SCHEMA broker FROM PUBLIC")
    driver.execute("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA broker FROM PUBLIC")
    if owner is not None and owner[0] == role:
        return
    driver.execute(sql.SQL("REVOKE ALL ON ALL TABLES IN SCHEMA broker FROM {}").format(whom))
    driver.execute(sql.SQL("GRANT USAGE ON SCHEMA broker TO {}").format(whom))
    driver.execute(sql.SQL("GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA broker TO {}").format(whom))
    may = {LEDGER_ENTRY.name: "SELECT, INSERT", META.name: "SELECT", ALEMBIC_VERSION.name: "SELECT"}
    for table in (*Base.metadata.tables, ALEMBIC_VERSION.name):
        rights = may.get(table, "SELECT, INSERT, UPDATE, DELETE")
        driver.execute(sql.SQL("GRANT {} ON {} TO {}").format(sql.SQL(rights), sql.Identifier(table), whom))
    if driver.info.server_version >= 170000:
        for table in REWRITTEN_TABLES:
            driver.execute(sql.SQL("GRANT MAINTAIN ON {} TO {}").format(sql.Identifier(table), whom))


def role_of(connection: Connection) -> str:
    """The role that a connection is for."""
    row = postgres_driver_of(connection).execute("SELECT current_user").fetchone()
    return "" if row is None else str(row[0])


def owns_ledger(connection: Connection) -> bool:
    """Could the connection's role take the triggers off: as the ledger's owner, a member of it, or a superuser?"""
    asked = (
        "SELECT pg_has_role(current_user, relowner, 'MEMBER') FROM pg_catalog.pg_class"
        " WHERE relnamespace = 'broker'::regnamespace AND relname = 'ledger_entry'"
    )
    row = postgres_driver_of(connection).execute(asked).fetchone()
    return row is None or bool(row[0])


def check_schema(connection: Connection) -> None:
    """Lets a database pass that this version of the broker made.

    Raises:
        FailedPreconditionError: ``STORE_MISSING``: there is no schema ``broker``; ``STORE_OLD``: an older broker made it.
        DataLossError: it isn't one of ours, is a newer broker's, or its tables, triggers or functions were changed.
    """
    driver = postgres_driver_of(connection)
    if not _has_schema(driver):
        raise FailedPreconditionError(
            f"the database has no schema {SCHEMA!r}",
            reason="STORE_MISSING",
            hint="Run `broker init` for a new state directory, or name the right database. If a ledger should be there,"
            " don't make a new one: restore it.",
        )
    check_version(connection)
    check_protection(connection)


def check_protection(connection: Connection) -> None:
    """Lets a database pass whose tables, triggers and functions are ours, with nothing added or changed.

    Raises:
        DataLossError: ``STORE_SCHEMA_CHANGED``; names what differs.
    """
    names = (*Base.metadata.tables, ALEMBIC_VERSION.name)
    _compare(connection, "table", _FOUND_TABLES, dict.fromkeys(names, "rp|false|false|false"))
    check_triggers(connection)


def check_triggers(connection: Connection) -> None:
    """Lets a database pass whose triggers and functions are ours, to the letter, and no others.

    Raises:
        DataLossError: ``STORE_SCHEMA_CHANGED``; names what differs.
    """
    functions = {name: f"{body}|plpgsql|false|v|search_path=pg_catalog" for name, body in FUNCTIONS.items()}
    triggers = {
        name: f"ledger_entry|{_FIRES[name]}|A|{function}|broker|true|0|true" for name, (_, function) in TRIGGERS.items()
    }
    _compare(connection, "function", _FOUND_FUNCTIONS, functions)
    _compare(connection, "trigger", _FOUND_TRIGGERS, triggers)


def _compare(connection: Connection, kind: str, query: str, wanted: Mapping[str, str]) -> None:
    rows = postgres_driver_of(connection).execute(query.encode()).fetchall()
    found = {str(row[0]): str(row[1]) for row in rows}
    if found != wanted:
        changed = min(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise schema_changed(f"the {kind} {changed!r} of the database is missing, changed or foreign")


def _has_schema(driver: PostgresDriver) -> bool:
    return driver.execute("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = 'broker'").fetchone() is not None
