"""Core statements compiled once and run by the driver itself, for those that every call needs.

SQLAlchemy's own execution costs several times what the database needs for such a statement. A statement is compiled for
each kind of database on which it is run; drivers are ``sqlite3`` and ``psycopg``, and what both share is in ``Driver``.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, Protocol

from sqlalchemy import Connection, Dialect
from sqlalchemy.dialects.sqlite import dialect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.expression import UpdateBase
from sqlalchemy.sql.selectable import Select

from broker.errors import InternalError

_DIALECT = dialect(paramstyle="qmark")


class Cursor(Protocol):
    """What the results of both drivers have in common."""

    @property
    def rowcount(self) -> int:
        """Rows that the statement changed."""

    def fetchone(self) -> Any:  # noqa: ANN401 - a row of any columns
        """The next row, or ``None``."""

    def fetchall(self) -> list[Any]:
        """All further rows."""

    def __iter__(self) -> Iterator[Any]:
        """The further rows, one after the other."""


class Driver(Protocol):
    """What the connections of both drivers have in common."""

    def execute(self, statement: Any, values: Any = ..., /, **options: Any) -> Any:  # noqa: ANN401 - of each driver's own
        """Runs a statement; gives a ``Cursor``."""

    def cursor(self) -> Any:  # noqa: ANN401 - of each driver's own
        """A fresh cursor."""


class Prepared:
    """One statement; values go in by the names of its bind parameters, as plain types of the driver."""

    def __init__(self, statement: Select[*tuple[object, ...]] | UpdateBase) -> None:
        self._statement = statement
        compiled = statement.compile(dialect=_DIALECT)
        self._sql = str(compiled)
        names = compiled.positiontup or []
        # By their places: SQLite would be asked for the name of each.
        self._places: Callable[[Mapping[str, object]], tuple[object, ...]] = (
            itemgetter(*names) if len(names) > 1 else lambda values: tuple(values[name] for name in names)
        )
        self._fixed: dict[str, object] = {name: value for name, value in compiled.params.items() if value is not None}

    def run(self, driver: Driver, values: Mapping[str, object]) -> Cursor:
        """Runs it.

        Raises:
            sqlite3.Error, psycopg.Error: as the driver raises it.
        """
        if self._fixed:
            values = {**self._fixed, **values}
        if isinstance(driver, sqlite3.Connection):
            return driver.execute(self._sql, self._places(values))
        found: Cursor = driver.execute(self._postgres, values, binary=True)  # bytes come as they are, not as hex
        return found

    def run_many(self, driver: Driver, rows: Iterable[Mapping[str, object]]) -> None:
        """Runs it once for each row of values.

        Raises:
            sqlite3.Error, psycopg.Error: as the driver raises it.
        """
        if self._fixed:
            rows = [{**self._fixed, **values} for values in rows]
        if isinstance(driver, sqlite3.Connection):
            driver.executemany(self._sql, map(self._places, rows))
        else:
            driver.cursor().executemany(self._postgres, list(rows))

    @cached_property
    def _postgres(self) -> str:
        from sqlalchemy.dialects.postgresql import psycopg  # noqa: PLC0415 - costs a start that needs no PostgreSQL

        spoken: Dialect = psycopg.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's, without types
        return str(self._statement.compile(dialect=spoken))


def driver_of(connection: Connection) -> Driver:
    """The driver's connection under one of SQLAlchemy's.

    Raises:
        InternalError: it is closed.
    """
    driver: Any = connection.connection.dbapi_connection
    if driver is None:
        raise InternalError("the database connection is closed", reason="STORE_FAILED")
    found: Driver = driver
    return found


def sqlite_driver_of(connection: Connection) -> sqlite3.Connection:
    """Like ``driver_of``, where it must be SQLite's.

    Raises:
        InternalError: it isn't.
    """
    driver = connection.connection.dbapi_connection
    if not isinstance(driver, sqlite3.Connection):
        raise InternalError("the connection is not one of SQLite", reason="STORE_FAILED")
    return driver


def integrity_errors() -> tuple[type[Exception], ...]:
    """What the drivers raise when a row breaks a constraint; for ``except``, which asks only once something is raised."""
    found: Sequence[type[Exception]] = (sqlite3.IntegrityError, IntegrityError)
    psycopg = sys.modules.get("psycopg")  # no error can come from a driver that was never loaded
    return (*found, psycopg.IntegrityError) if psycopg else tuple(found)
