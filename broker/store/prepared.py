"""Core statements compiled once and run by the driver itself, for those that every call needs.

SQLAlchemy's own execution costs several times what SQLite needs for such a statement.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection
from sqlalchemy.dialects.sqlite import dialect
from sqlalchemy.sql.expression import UpdateBase
from sqlalchemy.sql.selectable import Select

from broker.errors import InternalError

_DIALECT = dialect(paramstyle="named")


class Prepared:
    """One statement; values go in by the names of its bind parameters, as plain SQLite types."""

    def __init__(self, statement: Select[*tuple[object, ...]] | UpdateBase) -> None:
        compiled = statement.compile(dialect=_DIALECT)
        self._sql = str(compiled)
        self._fixed: dict[str, object] = {name: value for name, value in compiled.params.items() if value is not None}

    def run(self, driver: sqlite3.Connection, values: Mapping[str, object]) -> sqlite3.Cursor:
        """Runs it.

        Raises:
            sqlite3.Error: as the driver raises it.
        """
        return driver.execute(self._sql, {**self._fixed, **values})

    def run_many(self, driver: sqlite3.Connection, rows: Iterable[Mapping[str, object]]) -> None:
        """Runs it once for each row of values.

        Raises:
            sqlite3.Error: as the driver raises it.
        """
        driver.executemany(self._sql, ({**self._fixed, **values} for values in rows))


def driver_of(connection: Connection) -> sqlite3.Connection:
    """The driver's connection under one of SQLAlchemy's.

    Raises:
        InternalError: it isn't SQLite's.
    """
    driver = connection.connection.dbapi_connection
    if not isinstance(driver, sqlite3.Connection):
        raise InternalError("the connection is not one of SQLite", reason="STORE_FAILED")
    return driver
