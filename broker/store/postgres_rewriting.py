"""Makes new files of the tables from which something was erased: VACUUM alone leaves its bytes in free space."""

from __future__ import annotations

import re
import secrets
import time

import psycopg
from psycopg.errors import LockNotAvailable

from broker.errors import FailedPreconditionError, UnavailableError
from broker.store.postgres_connection import PostgresAddress, PostgresDriver, postgres_driver_of
from broker.store.postgres_making import connected
from broker.store.postgres_schema import REWRITTEN_TABLES

STATEMENT = "VACUUM FULL " + ", ".join(f"broker.{table}" for table in REWRITTEN_TABLES)
"""What the owner of the tables may run by hand."""

_LOCK_TIMEOUT = "500ms"
"""Everybody else who wants the table waits behind us for as long."""
_LOOK_EVERY_S = 0.2
_AGAIN_AFTER_S = 2.0
_HORIZON = "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::xid::text"
# Whoever began before the horizon may still see what was erased before it, and VACUUM would carry it over.
_OLDER = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity
        WHERE pid <> pg_backend_pid() AND (datname = current_database() OR datname IS NULL)
        AND (age(backend_xmin) > age(%(horizon)s::xid) OR age(backend_xid) > age(%(horizon)s::xid)))
    OR EXISTS (SELECT FROM pg_catalog.pg_prepared_xacts
        WHERE database = current_database() AND age(transaction) > age(%(horizon)s::xid))
    OR EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE age(xmin) > age(%(horizon)s::xid))
"""


def rewrite(address: PostgresAddress, owner: PostgresAddress | None = None, *, patience_s: float) -> tuple[str, ...]:
    """Rewrites the tables that an erasure touches without what was erased before; the old files are given back.

    Each table is locked for as long as that takes. The server's own account of it is believed, not that no error came:
    a table that a role may not vacuum is only skipped.

    Args:
        address: the database, as the role that the broker serves with.
        owner: the same database as the role that owns the tables, where that is another.
        patience_s: how long to wait for others who use the tables, or may still see what was erased.

    Returns:
        The tables that the role may not rewrite: none where everything was done.

    Raises:
        UnavailableError: ``STORE_BUSY``: others were in the way; or the server can't be used.
        FailedPreconditionError: ``DATABASE_DIFFERS``: the two addresses are of different databases.
    """
    deadline = time.monotonic() + patience_s
    if owner is not None:
        _check_same(address, owner)
    with connected(owner or address) as connection:
        driver = postgres_driver_of(connection)
        driver.execute("SELECT set_config('lock_timeout', %s, false)", (_LOCK_TIMEOUT,))
        row = driver.execute(_HORIZON).fetchone()
        horizon = "" if row is None else str(row[0])
        while _is_older(driver, horizon):
            _wait(deadline, _LOOK_EVERY_S)
        return tuple(table for table in REWRITTEN_TABLES if not _rewrite_one(driver, table, deadline))


def _rewrite_one(driver: PostgresDriver, table: str, deadline: float) -> bool:
    """Rewrites a table until nothing deleted is left in it; false where the role may not."""
    while True:
        try:
            kept = _vacuum(driver, table)
        except LockNotAvailable:
            _wait(deadline, _LOOK_EVERY_S)
            continue
        if kept is None:
            return False
        if not kept:
            return True
        _wait(deadline, _AGAIN_AFTER_S)


def _vacuum(driver: PostgresDriver, table: str) -> int | None:
    """How many deleted rows the server says that it had to carry over; ``None`` where it didn't do anything."""
    details: list[str] = []

    def note(told: psycopg.errors.Diagnostic) -> None:
        details.append(told.message_detail or "")

    driver.add_notice_handler(note)
    try:
        driver.execute(f"VACUUM (FULL, VERBOSE) broker.{table}".encode())
    finally:
        driver.remove_notice_handler(note)
    # "0 dead row versions cannot be removed yet.": in any language of the server the number comes first.
    counts = [int(found[0]) for detail in details if (found := re.search(r"\d+", detail))]
    return max(counts) if counts else None


def _is_older(driver: PostgresDriver, horizon: str) -> bool:
    row = driver.execute(_OLDER, {"horizon": horizon}).fetchone()
    return row is None or bool(row[0])


def _wait(deadline: float, seconds: float) -> None:
    if time.monotonic() + seconds > deadline:
        raise UnavailableError(
            "other users of the database hold its tables, or may still see what was deleted",
            reason="STORE_BUSY",
            hint="Run the same command again once they are done; see pg_stat_activity, pg_prepared_xacts and"
            " pg_replication_slots.",
            retry_after_s=1.0,
        )
    time.sleep(seconds)


def _check_same(address: PostgresAddress, owner: PostgresAddress) -> None:
    """Lets two addresses of one database pass: a lock counts for one database of one server."""
    key = secrets.randbits(62)
    with connected(address) as one, connected(owner) as other:
        postgres_driver_of(one).execute("SELECT pg_catalog.pg_advisory_lock(%s::bigint)", (key,))
        row = postgres_driver_of(other).execute("SELECT pg_catalog.pg_try_advisory_lock(%s::bigint)", (key,)).fetchone()
    if row is None or row[0]:
        raise FailedPreconditionError(
            "the owner's address is of another database than the broker's",
            reason="DATABASE_DIFFERS",
            hint="Name the same host and database with --database-owner as in the setting database.",
        )
