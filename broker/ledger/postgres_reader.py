"""A ledger in a PostgreSQL database, read without the broker: on one snapshot, by a transaction that can't write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from broker.errors import DataLossError, InvalidArgumentError, UnavailableError
from broker.ledger.projections import PROJECTIONS, TILES, named_beyond, tiles_beyond
from broker.ledger.source import Reopen, Row, UnreadableError

_CONNECT_TIMEOUT_S = 10
_ROWS = 2000
"""Rows that the server sends at once."""
_OWN_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
_SETTINGS = (
    "SET search_path TO broker, pg_temp",
    "SET statement_timeout TO 0",
    "SET idle_in_transaction_session_timeout TO 0",
    "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
)
_ENTRIES = "SELECT seq, prev, leaf, data FROM ledger_entry WHERE seq >= %s"
_COLUMNS = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'broker' AND table_name = %s"

_Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"


class LedgerDatabase:
    """An open database: a ``broker.ledger.source.Source``."""

    incomplete = ""
    """A server shows what it has committed, and nothing else."""

    def __init__(self, how: Reopen, connection: _Connection) -> None:
        self.reopen: Reopen | None = how
        self.name = how.name
        self._connection = connection

    def count(self) -> int:
        """Number of entries, by the last one's number: quick, and not verified."""
        rows = self._run("SELECT max(seq) FROM ledger_entry")
        return rows[0][0] + 1 if isinstance(rows[0][0], int) else 0

    def rows(self, first: int = 0, last: int | None = None) -> Iterator[Row]:
        """Entries from a number on, up to another one (included), as they are stored.

        Raises:
            UnreadableError: the server doesn't send any more.
        """
        lowest = first or -(2**63)  # a row with a number below 0 is seen, and found
        statement, values = (_ENTRIES, [lowest]) if last is None else (f"{_ENTRIES} AND seq <= %s", [lowest, last])
        try:
            with self._connection.cursor("entries", withhold=False) as cursor:
                cursor.itersize = _ROWS
                cursor.execute(f"{statement} ORDER BY seq", values, binary=True)
                yield from map(Row._make, cursor)
        except psycopg.Error as error:
            raise UnreadableError(_text(error)) from error

    def beyond(self, count: int) -> str:
        """What names an entry that the first ``count`` entries don't have; empty where nothing does.

        Raises:
            UnreadableError: the server doesn't say.
        """
        for item in PROJECTIONS:
            if item.column in self._columns(item.table):
                statement = sql.SQL("SELECT max({}) FROM {}").format(
                    sql.Identifier(item.column), sql.Identifier(item.table)
                )
                if why := named_beyond(self._run(statement)[0][0], count, item):
                    return why
        return tiles_beyond(self._run(TILES), count) if "hashes" in self._columns("ledger_tile") else ""

    def _columns(self, table: str) -> set[object]:
        return {row[0] for row in self._run(_COLUMNS, (table,))}

    def _run(self, statement: str | sql.Composed, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except psycopg.Error as error:
            raise UnreadableError(_text(error)) from error


def _options(how: Reopen) -> dict[str, Any]:
    """What is said to the driver besides the address, so that the environment can't send a password elsewhere.

    Raises:
        InvalidArgumentError: ``DATABASE_ADDRESS_INVALID``: the address doesn't name one server by its host.
    """
    try:
        given = conninfo_to_dict(how.target)
    except psycopg.ProgrammingError as error:
        raise _address("it can't be read") from error
    host = str(given.get("host") or "")
    if given.keys() & {"hostaddr", "service"} or "," in host or os.environ.get("PGSERVICE"):
        raise _address("it must name one server by its host, and no service may be named in the environment")
    remote = bool(host) and host not in _OWN_MACHINE and not host.startswith("/")
    return {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "application_name": "broker ledger verify",
        "host": host,
        "hostaddr": "",
        "sslmode": given.get("sslmode") or ("verify-full" if remote else "prefer"),
        **({"password": how.password} if how.password else {}),
    }


def _address(why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"the database's address is unfit: {why}",
        reason="DATABASE_ADDRESS_INVALID",
        hint="Such as postgresql://USER@HOST:PORT/NAME; docs/postgresql.md says more.",
    )


@contextmanager
def open_target(how: Reopen) -> Iterator[LedgerDatabase]:
    """Opens a database for reading, on one consistent snapshot. To another machine only over TLS that proves who answers.

    Raises:
        InvalidArgumentError: ``DATABASE_ADDRESS_INVALID``.
        UnavailableError: ``LEDGER_UNREACHABLE``.
        DataLossError: ``LEDGER_UNREADABLE``: it holds no ledger of a broker.
    """
    options = _options(how)
    try:
        connection = psycopg.connect(how.target, autocommit=True, **options)
    except psycopg.Error as error:
        # The driver's text may hold what the address says: it is left out.
        raise UnavailableError(
            f"the database of the ledger can't be reached: {_text(error)}",
            reason="LEDGER_UNREACHABLE",
            hint="Check the address, and the password in PGPASSWORD or ~/.pgpass.",
        ) from error
    with connection:
        try:
            for statement in _SETTINGS:
                connection.execute(statement)
            connection.execute("SELECT seq, prev, leaf, data FROM ledger_entry LIMIT 0")
        except psycopg.Error as error:
            raise DataLossError(
                f"the database can't be read as a ledger: {_text(error)}",
                reason="LEDGER_UNREADABLE",
                hint="Name a broker's database, as a role that may read its tables.",
            ) from error
        yield LedgerDatabase(how, connection)


def _text(error: psycopg.Error) -> str:
    return f"{type(error).__name__} (SQLSTATE {error.sqlstate or 'none'})"
