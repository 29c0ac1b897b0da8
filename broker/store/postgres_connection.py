"""Connections to PostgreSQL: where it is, how they are opened, what is checked of them, and their errors as ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

import psycopg
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from broker.domain.secret import Secret
from broker.errors import (
    BrokerError,
    DataLossError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    UnavailableError,
)

SCHEMA = "broker"
"""The schema that holds all of the broker's tables, and nothing else."""

LOCK_TIMEOUT_S = 30
"""How long a statement waits for another process's transaction."""

_CONNECT_TIMEOUT_S = 10
_OLDEST = 130000
_OWN_MACHINE = frozenset({"", "localhost", "127.0.0.1", "::1"})
_SESSION: Mapping[str, str] = MappingProxyType(
    {
        # A temporary table can't take the place of one of ours: those come last.
        "search_path": f"{SCHEMA}, pg_temp",
        "lock_timeout": f"{LOCK_TIMEOUT_S}s",
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "default_transaction_read_only": "off",
        "default_transaction_deferrable": "off",
        "client_encoding": "UTF8",
    }
)
_SETTINGS = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY(%s)"
_DURABLE: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        # setting: what must be read back
        "fsync": frozenset({"on"}),
        "full_page_writes": frozenset({"on"}),
        "synchronous_commit": frozenset({"on", "remote_apply"}),
    }
)

PostgresDriver: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """Where a database is and as whom: ``postgresql://user@host:port/name``; the password is kept apart from it."""

    url: str
    password: Secret | None = None

    def __post_init__(self) -> None:
        if not is_postgres(self.url):
            raise InvalidArgumentError(
                "a database's address is postgresql://USER@HOST:PORT/NAME", reason="DATABASE_ADDRESS_INVALID"
            )
        parts = urlsplit(self.url)
        if parts.password is not None or "password" in parse_qs(parts.query):
            raise InvalidArgumentError(
                "the database's address holds a password, which would be seen wherever the address is",
                reason="DATABASE_ADDRESS_INVALID",
                hint="Change it, put the new one in a file of mode 0600, and name that by database_password.",
            )

    def __str__(self) -> str:
        return self.url


def is_postgres(url: str) -> bool:
    """Does the address say that the database is PostgreSQL's?"""
    return url.startswith(("postgresql://", "postgres://"))


def connect(address: PostgresAddress) -> PostgresDriver:
    """A bare connection in autocommit mode; to another machine only over TLS that proves who answers.

    Raises:
        psycopg.Error: as the driver raises it.
    """
    options: dict[str, Any] = {"connect_timeout": _CONNECT_TIMEOUT_S, "application_name": "agent-broker"}
    given = parse_qs(urlsplit(address.url).query)
    hosts = given.get("host", []) or [urlsplit(address.url).hostname or ""]
    if "sslmode" not in given and not all(host in _OWN_MACHINE or host.startswith("/") for host in hosts):
        options["sslmode"] = "verify-full"
    if address.password is not None:
        options["password"] = address.password.reveal().decode()
    return psycopg.connect(address.url, autocommit=True, **options)


def engine_for(address: PostgresAddress) -> Engine:
    """An engine whose connections are made new each time."""
    return create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(address),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        use_native_hstore=False,
    )


def postgres_driver_of(connection: Connection) -> PostgresDriver:
    """The driver's connection under one of SQLAlchemy's.

    Raises:
        InternalError: it isn't PostgreSQL's.
    """
    driver = connection.connection.dbapi_connection
    if not isinstance(driver, psycopg.Connection):
        raise InternalError("the connection is not one of PostgreSQL", reason="STORE_FAILED")
    return driver


def prepare(connection: Connection) -> None:
    """Sets what a session needs, and reads back on what durability rests.

    Raises:
        FailedPreconditionError: ``STORE_NOT_DURABLE``: the server may lose what it has acknowledged;
            ``STORE_UNFIT``: its version or the database's encoding doesn't do.
    """
    driver = postgres_driver_of(connection)
    names = [*_DURABLE, "server_encoding", "server_version_num"]
    for name, value in _SESSION.items():
        driver.execute("SELECT set_config(%s, %s, false)", (name, value))
    found = _read_settings(driver, names)
    if found["synchronous_commit"] not in _DURABLE["synchronous_commit"]:
        driver.execute("SELECT set_config('synchronous_commit', 'on', false)")
        found = _read_settings(driver, names)
    for name, wanted in _DURABLE.items():
        if found[name] not in wanted:
            raise FailedPreconditionError(
                f"the PostgreSQL server has {name} = {found[name]}: a crash would lose what it has acknowledged",
                reason="STORE_NOT_DURABLE",
                hint=f"Set {name} = on in the server's postgresql.conf, and restart or reload it.",
            )
    if found["server_encoding"] != "UTF8" or int(found["server_version_num"]) < _OLDEST:
        raise FailedPreconditionError(
            "the broker needs PostgreSQL 13 or newer, and a database with the encoding UTF8",
            reason="STORE_UNFIT",
            hint="Make one with: CREATE DATABASE broker TEMPLATE template0 ENCODING 'UTF8'",
        )


def _read_settings(driver: PostgresDriver, names: list[str]) -> dict[str, str]:
    return {row[0]: row[1] for row in driver.execute(_SETTINGS, (names,)).fetchall()}


def is_lost(driver: PostgresDriver) -> bool:
    """Has the connection ended?"""
    return driver.closed or driver.broken


def close(connection: Connection) -> None:
    """Closes a connection, also one that was lost."""
    with suppress(DBAPIError, psycopg.Error):
        if not connection.invalidated and is_lost(postgres_driver_of(connection)):
            connection.invalidate()  # there is nobody to roll anything back
        connection.close()


def origin_of(error: Exception) -> Exception:
    """The driver's error under one of SQLAlchemy's."""
    return error.orig if isinstance(error, DBAPIError) and isinstance(error.orig, Exception) else error


def error_name(error: Exception) -> str:
    """What kind of error it is: nothing of SQL or its values."""
    origin = origin_of(error)
    state = getattr(origin, "sqlstate", None)
    return f"SQLSTATE {state}" if state else type(origin).__name__


def translate(error: Exception) -> BrokerError:
    """An error of PostgreSQL as one of ours, where nothing was written. SQL and parameters are left out."""
    state: str = getattr(origin_of(error), "sqlstate", None) or ""
    name = error_name(error)
    for states, translated in _TRANSLATIONS:
        if state.startswith(states):
            return translated(name)
    if not state:
        return _unusable(name)
    return InternalError(f"the database failed ({name}); nothing was written", reason="STORE_FAILED")


def _read_only(_: str) -> BrokerError:
    return InternalError("a reading function tried to write", reason="STORE_READ_ONLY")


def _busy(_: str) -> BrokerError:
    return UnavailableError(
        f"another process held the database for more than {LOCK_TIMEOUT_S} s; nothing was written",
        reason="STORE_BUSY",
        hint="Find the session that holds it in pg_stat_activity; then try again.",
        retry_after_s=1.0,
    )


def _forbidden(name: str) -> BrokerError:
    return FailedPreconditionError(
        f"the broker's role may not use something of the database, or it isn't there ({name}); nothing was written",
        reason="STORE_FORBIDDEN",
        hint="`broker migrate` with the owner's address grants what the broker needs.",
    )


def _not_let_in(name: str) -> BrokerError:
    return FailedPreconditionError(
        f"PostgreSQL doesn't let the broker in ({name})",
        reason="STORE_FORBIDDEN",
        hint="Check user and database in the setting database, and the setting database_password.",
    )


def _refused(name: str) -> BrokerError:
    return InternalError(f"the database refused a row ({name}); nothing was written", reason="STORE_REFUSED")


def _damaged(name: str) -> BrokerError:
    return DataLossError(
        f"the database is damaged ({name})",
        reason="STORE_CORRUPT",
        hint="Stop the broker, look at the server's log, and restore a backup.",
    )


def _unusable(name: str) -> BrokerError:
    return UnavailableError(
        f"the database can't be used ({name}); nothing was written",
        reason="STORE_FAILED",
        hint="Check that PostgreSQL runs, can be reached, lets the broker in, and has room on its disk.",
        retry_after_s=1.0,
    )


_TRANSLATIONS: tuple[tuple[tuple[str, ...], Callable[[str], BrokerError]], ...] = (
    # Beginnings of SQLSTATE, as PostgreSQL's manual lists them.
    (("25006",), _read_only),
    (("55P03", "40P01", "40001"), _busy),
    (("42501", "42P01", "3F000"), _forbidden),
    (("28", "3D"), _not_let_in),
    (("22", "23"), _refused),
    (("XX0",), _damaged),
    (("08", "53", "57", "58"), _unusable),
)
