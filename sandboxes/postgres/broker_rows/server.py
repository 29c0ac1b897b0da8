"""A connection to the server: statements one at a time by the extended protocol, values as the server's own text."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pg8000.core import CoreConnection
from pg8000.exceptions import DatabaseError, InterfaceError

from broker_rows.endings import RefusedError

Value = str | None
Row = tuple[Value, ...]

STATEMENT_TIMEOUT_S = 60
LOCK_TIMEOUT_S = 10
_ANSWER_TIMEOUT_S = STATEMENT_TIMEOUT_S + 15
_OLDEST = 140000
"""``server_version_num`` of the first release with ``BEGIN ATOMIC``."""

_SETTINGS = {
    "search_path": "pg_catalog, pg_temp",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "xmloption": "content",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    "row_security": "off",  # what a policy would hide is an error, never a row less
    "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
    "lock_timeout": f"{LOCK_TIMEOUT_S}s",
    "idle_in_transaction_session_timeout": "300s",
}
"""What the text of a value, or the meaning of a statement, could depend on; and how long anything may take."""

_FIELDS = {"n": "constraint", "t": "table", "c": "column", "d": "type"}
"""Names in an error report that come from the catalogue, never from a row."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is reached: inside the sandbox that is the broker's gate, which does TLS and knows the password."""

    host: str
    port: int
    database: str
    user: str


class ServerError(Exception):
    """The server refused a statement; ``message`` may hold values of rows, ``names`` holds none."""

    def __init__(self, sqlstate: str, message: str, names: str) -> None:
        super().__init__(f"SQLSTATE {sqlstate}{names}")
        self.sqlstate = sqlstate
        self.message = message
        self.names = names


class ConnectionLostError(Exception):
    """The connection can't be made, or broke."""


class _Wire(CoreConnection):  # type: ignore[misc]  # the driver has no types
    """The driver, which hands out values as they came, and drops rows that nobody reads."""

    keeps_rows = True

    def handle_DATA_ROW(self, data: bytes, context: object) -> None:  # noqa: N802  # the driver's name
        """Takes one row of a result."""
        if self.keeps_rows:
            super().handle_DATA_ROW(data, context)


class Connection:
    """One connection, set up so that every value has one text.

    Raises:
        ConnectionLostError: nobody answers there.
        RefusedError: the server, or the role, isn't one that this can be done with safely.
    """

    def __init__(self, address: Address) -> None:
        try:
            self._wire = _Wire(
                address.user,
                host=address.host,
                port=address.port,
                database=address.database,
                ssl_context=False,
                timeout=_ANSWER_TIMEOUT_S,
                application_name="agent-broker",
            )
        except DatabaseError as error:
            raise RefusedError("CONNECTION_REFUSED", f"the server says: {_report(error).message}") from error
        except (InterfaceError, OSError, struct.error) as error:
            raise ConnectionLostError(str(error)) from error
        self._wire.pg_types = defaultdict(lambda: str)
        try:
            self.path = self._set_up()
        except BaseException:
            self.close()
            raise

    def rows(self, sql: str, *values: Value) -> list[Row]:
        """The rows that a statement gives, each value as the text of its type's output function.

        Raises:
            ServerError: the server refused it.
            ConnectionLostError: whether it was carried out is unknown.
        """
        try:
            return [tuple(row) for row in self._wire.execute_unnamed(sql, values).rows or ()]
        except DatabaseError as error:
            raise _report(error) from error
        except (InterfaceError, OSError, struct.error) as error:
            raise ConnectionLostError(str(error)) from error

    def run(self, sql: str, *values: Value) -> None:
        """Carries a statement out, whatever rows it gives.

        Raises:
            ServerError, ConnectionLostError: as ``rows``.
        """
        self._wire.keeps_rows = False
        try:
            self.rows(sql, *values)
        finally:
            self._wire.keeps_rows = True

    def one(self, sql: str, *values: Value) -> str:
        """The only value that a statement gives; a null one is empty."""
        return self.rows(sql, *values)[0][0] or ""

    def resolve_as_the_role(self) -> None:
        """From now on names mean what they mean to the role: for its statement, and for what triggers do."""
        self.run("SELECT pg_catalog.set_config('search_path', $1, false)", self.path)

    def resolve_nothing(self) -> None:
        """From now on only the server's own names are found without their schema."""
        self.run("SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)")

    def close(self) -> None:
        """Ends the connection; a transaction that is open is rolled back by the server."""
        try:
            self._wire.close()
        except (InterfaceError, OSError):
            return

    def _set_up(self) -> str:
        path = self.rows(
            "SELECT pg_catalog.quote_ident(s.name)"
            " FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS s(name, place)"
            " ORDER BY s.place"
        )
        for name, value in _SETTINGS.items():
            self.run("SELECT pg_catalog.set_config($1, $2, false)", name, value)
        self._check()
        return ", ".join(name for (name,) in path if name)

    def _check(self) -> None:
        facts = self.rows(
            "SELECT current_setting('server_version_num'), current_setting('server_encoding'),"
            " current_setting('track_counts'), current_setting('session_replication_role'),"
            " current_setting('synchronous_commit'), rolsuper FROM pg_roles WHERE rolname = current_user"
        )
        version, encoding, counts, replication, synchronous, superuser = facts[0]
        if int(version or "0") < _OLDEST:
            raise RefusedError("SERVER_UNSUITED", "PostgreSQL 14 or newer is needed, which can analyse a statement")
        if encoding == "SQL_ASCII":
            raise RefusedError("SERVER_UNSUITED", "the database's encoding is SQL_ASCII: its texts have no one meaning")
        if counts != "on":
            raise RefusedError("SERVER_UNSUITED", "track_counts is off: what was changed can't be accounted for")
        if replication != "origin":
            raise RefusedError("SERVER_UNSUITED", "session_replication_role isn't origin: constraints aren't checked")
        if superuser == "t":
            raise RefusedError("ROLE_TOO_STRONG", "the role is a superuser; give the tool a role of its own")
        if synchronous == "off":
            self.run("SELECT set_config('synchronous_commit', 'on', false)")


def _report(error: DatabaseError) -> ServerError:
    fields = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    names = "".join(f", {word} {json.dumps(fields[code])}" for code, word in _FIELDS.items() if fields.get(code))
    return ServerError(str(fields.get("C", "")), str(fields.get("M", "")), names)


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def array(values: Iterable[Value]) -> str:
    """Some values as the text of an array."""
    return "{" + ",".join(map(_element, values)) + "}"


def record(values: Sequence[Value]) -> str:
    """Some values as the text of a row."""
    return "(" + ",".join("" if value is None else _element(value) for value in values) + ")"


def _element(value: Value) -> str:
    if value is None:
        return "NULL"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
