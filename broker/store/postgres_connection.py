"""Connections to PostgreSQL: where it is, how they are opened, what is checked of them, and their errors as ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo
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

STATEMENT_TIMEOUT_S = 300
"""How long one statement of a broker may take. What works on whole tables has no such limit."""

_CONNECT_TIMEOUT_S = 10
_OLDEST = 130000
_OWN_MACHINE = frozenset({"", "localhost", "127.0.0.1", "::1"})
_PASSWORDS = frozenset({"password", "passfile", "sslpassword"})
# What an address may say beside them. `hostaddr`, `service` and the like would name another server than `host` does.
_PARAMETERS = frozenset(
    {
        "host",
        "port",
        "user",
        "dbname",
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "sslcertmode",
        "sslcrl",
        "sslcrldir",
        "sslsni",
        "sslnegotiation",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "channel_binding",
        "require_auth",
        "requirepeer",
        "gssencmode",
        "krbsrvname",
        "target_session_attrs",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
    }
)
# A server that is gone without a word is noticed within half a minute, whatever waits for it.
_ALIVE: Mapping[str, str] = MappingProxyType(
    {
        "keepalives": "1",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "25000",
    }
)
# Neither can be given as "none": an empty service is looked up too, and is refused elsewhere; an empty list of ways to
# authenticate allows none, and what the environment may say of them only narrows what is allowed.
_NOT_EMPTY = frozenset({"service", "require_auth"})
# Where libpq takes no empty text for "not given": what it does then.
_UNSET: Mapping[str, str] = MappingProxyType(
    {
        "client_encoding": "UTF8",
        "sslcertmode": "allow",
        "min_protocol_version": "3.0",
        "max_protocol_version": "3.0",
    }
)
_SESSION: Mapping[str, str] = MappingProxyType(
    {
        # A temporary table can't take the place of one of ours: those come last.
        "search_path": f"{SCHEMA}, pg_temp",
        "lock_timeout": f"{LOCK_TIMEOUT_S}s",
        "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
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
        given = _given(self.url)
        if _PASSWORDS & given.keys():
            raise InvalidArgumentError(
                "the database's address holds a password or the place of one, which would be seen wherever the address is",
                reason="DATABASE_ADDRESS_INVALID",
                hint="Change it, put the new one in a file of mode 0600, and name that by database_password.",
            )
        if foreign := sorted(given.keys() - _PARAMETERS):
            raise InvalidArgumentError(
                f"the database's address has {foreign[0]!r}, which none may have",
                reason="DATABASE_ADDRESS_INVALID",
                hint="Name the server by its host alone; what an address may say is in docs/postgresql.md.",
            )
        if any("," in given.get(name, "") for name in ("host", "port")):
            raise InvalidArgumentError(
                "the database's address names several servers",
                reason="DATABASE_ADDRESS_INVALID",
                hint="Name one: what is acknowledged must be found again.",
            )

    def __str__(self) -> str:
        return self.url


def is_postgres(url: str) -> bool:
    """Does the address say that the database is PostgreSQL's?"""
    return url.startswith(("postgresql://", "postgres://"))


def connect(address: PostgresAddress, *, timeout_s: int = _CONNECT_TIMEOUT_S) -> PostgresDriver:
    """A bare connection in autocommit mode; to another machine only over TLS that proves who answers.

    Only the address says where to: nothing of it is taken from the environment.

    Raises:
        FailedPreconditionError: ``DATABASE_ENVIRONMENT``: a service is named there, which libpq can't be kept from.
        psycopg.Error: as the driver raises it.
    """
    if os.environ.get("PGSERVICE"):
        raise FailedPreconditionError(
            "PGSERVICE is set: a service's file may name another server than the database's address",
            reason="DATABASE_ENVIRONMENT",
            hint="Start without PGSERVICE; the setting database says where the database is.",
        )
    given = {name: value for name, value in _given(address.url).items() if value}
    host = given.get("host", "")
    secure = {} if host in _OWN_MACHINE or host.startswith("/") else {"sslmode": "verify-full"}
    options: dict[str, Any] = {**_not_from_environment(), **_ALIVE, **secure, **given}
    options |= {"connect_timeout": timeout_s, "application_name": "agent-broker"}
    if address.password is not None:
        options["password"] = address.password.reveal().decode()
    return psycopg.connect("", autocommit=True, **options)


def _given(url: str) -> dict[str, str]:
    """What an address says, as libpq reads it: another reader might see another host."""
    try:
        return {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
    except psycopg.Error:
        # The driver's text may quote the address, and what is wrong in it may be a password.
        raise InvalidArgumentError(
            "the database's address can't be read",
            reason="DATABASE_ADDRESS_INVALID",
            hint="It is postgresql://USER@HOST:PORT/NAME; other characters in its parts are written as %XX.",
        ) from None


@cache
def _not_from_environment() -> Mapping[str, str]:
    """Each parameter that libpq would look for in a variable such as ``PGHOST``, with what it takes without one."""
    known = [item for item in Conninfo.get_defaults() if item.envvar]
    found = {item.keyword.decode(): (item.compiled or b"").decode() for item in known}
    return {name: value or _UNSET.get(name, "") for name, value in found.items() if name not in _NOT_EMPTY}


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


def prepare(connection: Connection, *, limited: bool = True) -> None:
    """Sets what a session needs, and reads back on what durability rests.

    Args:
        connection: a new one.
        limited: does a statement end after ``STATEMENT_TIMEOUT_S``?

    Raises:
        FailedPreconditionError: ``STORE_NOT_DURABLE``: the server may lose what it has acknowledged;
            ``STORE_UNFIT``: its version or the database's encoding doesn't do.
    """
    driver = postgres_driver_of(connection)
    names = [*_DURABLE, "server_encoding", "server_version_num"]
    for name, value in _SESSION.items():
        driver.execute("SELECT set_config(%s, %s, false)", (name, value))
    if not limited:
        driver.execute("SELECT set_config('statement_timeout', '0', false)")
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
