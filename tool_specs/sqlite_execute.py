# ruff: noqa: INP001, S608 - runs alone inside a sandbox, as `__main__`; names in SQL are quoted, values bound
"""sqlite.execute: one INSERT, UPDATE or DELETE on a SQLite file of the workspace, as rows that are seen first.

The steps are `plan`, `rehearse`, `apply`, `undo` and `verify`. All work on copies in memory; only `apply` and `undo` put
a new file in place, as a whole, at their end. What a statement did is told by comparing all tables before and after it,
so triggers, cascades and replaced rows need no account of their own. Rows are then written as they were agreed to, with
the database's triggers set aside. Before that the triggers fire on a copy that is thrown away: what one of them forbids
is refused. Only the content of rows is brought back: sqlite_sequence stays ahead, and a row that comes back may have
another hidden rowid. Standard library only. Exit codes: 0 done, 3 refused, 4 can't tell, 5 rows aren't as they were.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

MAX_DATABASE = 64 * 2**20
MAX_GROWTH = 16 * 2**20
MAX_EFFECT = 8 * 2**20
MAX_ROWS = 1000
MAX_COLUMNS = 200
MAX_SQL = 20_000
MAX_PART = 180
MAX_NAMED = 10
TICK = 100_000
"""So many of SQLite's operations; a second has some five hundred to a thousand."""
STATEMENT_TICKS = 1000
COMPARISON_TICKS = 3000
"""For what looks at all rows of a file."""
FACTS = ("encoding", "page_size", "page_count")
FOLDERS = {"before", "after", "now", "origin", "/"}
"""Where no database of a workspace lies."""
HEADER = b"SQLite format 3\x00"
JOURNAL = slice(18, 20)
"""Where the header says how the file is written and read: 1 with a rollback journal, 2 with a write-ahead log."""
PRAGMAS = ("hard_heap_limit = 335544320", "trusted_schema = OFF", "cell_size_check = ON", "temp_store = MEMORY")
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 16 * 2**20,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 250_000,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_ATTACHED: 1,
}
START = re.compile(
    r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*+(WITH|INSERT|REPLACE|UPDATE|DELETE)\b", re.IGNORECASE | re.DOTALL
)
WRITES = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}
READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
TABLE_FUNCTIONS = {"json_each", "json_tree"}
FUNCTIONS = set(
    """-> ->> abs acos acosh asin asinh atan atan2 atanh avg ceil ceiling char coalesce cos cosh count cume_dist degrees
    dense_rank exp first_value floor format glob group_concat hex ifnull iif instr json json_array json_array_length
    json_extract json_group_array json_group_object json_insert json_object json_patch json_quote json_remove
    json_replace json_set json_type json_valid lag last_value lead length like likelihood likely ln log log10 log2 lower
    ltrim max min mod nth_value ntile nullif percent_rank pi pow power printf quote radians rank replace round
    row_number rtrim sign sin sinh soundex sqrt substr substring sum tan tanh total trim trunc typeof unicode unlikely
    upper zeroblob""".split()  # noqa: SIM905 - a list would take a line a word
)
"""Built in, and the same for the same values: nothing of the clock, of chance or of the connection."""

Value = None | int | float | bytearray | bytes
"""As rows are read: text is a bytearray, which tells it from a blob, and may not be UTF-8."""
Values = tuple[Value, ...]


class RefusedError(Exception):
    """Exit code 3. The text is `REASON: what, which, what to do next`; nothing was changed."""


class MovedError(Exception):
    """Exit code 5: what is there isn't what the items say; nothing was changed."""


@dataclass(frozen=True)
class Table:
    """A table of the file's own, also one that SQLite or an extension keeps for itself."""

    name: str
    is_ordinary: bool
    columns: tuple[str, ...]
    """Those with content: all but virtual generated ones, in the table's order."""
    given: tuple[str, ...]
    """Those that can be written: no generated ones."""
    key: tuple[str, ...]
    """Of the declared primary key, in its order; empty where there is none."""
    rowid: str
    """The name of its rowid; empty where it has none, or its columns have taken all names of it."""
    rowid_is_key: bool


@dataclass(frozen=True)
class Row:
    """A row of a table with a key."""

    table: Table
    values: Values

    @property
    def key(self) -> Values:
        """The values of its key."""
        return tuple(self.values[self.table.columns.index(name)] for name in self.table.key)

    @property
    def path(self) -> str:
        """The item that it is."""
        return f"{part(self.table.name)}/{part(*(str(text_of(value)) for value in self.key))}"

    @property
    def text(self) -> str:
        """Its content, a column a line."""
        pairs = zip(self.table.columns, self.values, strict=True)
        return "".join(f"{as_json(name)} {kind(value)} = {as_json(text_of(value))}\n" for name, value in pairs)

    @property
    def where(self) -> tuple[str, list[Any]]:
        """The condition that finds it by its key, and the values of that."""
        condition = " AND ".join(f"{quoted(name)} = ?" for name in self.table.key)
        return f"WHERE {condition}", [bound(value) for value in self.key]

    @property
    def given(self) -> dict[str, Any]:
        """What is to be written: column -> value."""
        values = dict(zip(self.table.columns, self.values, strict=True))
        return {name: bound(values[name]) for name in self.table.given}


Rows = dict[str, Row]
"""By their paths."""


def texts(rows: Rows) -> dict[str, str]:
    """Rows as items: path -> content."""
    return {path: row.text for path, row in rows.items()}


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def as_json(value: str | None) -> str:
    """A text, or NULL, as JSON on one line."""
    return json.dumps(value, ensure_ascii=False)


def kind(value: Value) -> str:
    """The storage class of a value."""
    return {type(None): "null", int: "integer", float: "real", bytearray: "text", bytes: "blob"}[type(value)]


def typed(values: Values) -> list[tuple[str, Value]]:
    """Values that are equal only where their types are: 1 and 1.0 differ, and so do a text and a blob."""
    return [(kind(value), value) for value in values]


def text_of(value: Value) -> str | None:
    """A value in the database's text form.

    Raises:
        RefusedError: a text that isn't UTF-8.
    """
    if isinstance(value, bytearray):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise RefusedError(
                f"NOT_TEXT: a text isn't UTF-8 and can't be shown: {bytes(value[:40])!r}; store it as a blob"
            ) from None
    return None if value is None else value.hex() if isinstance(value, bytes) else repr(value)


def bound(value: Value) -> Any:  # noqa: ANN401 - what the sqlite3 module takes
    """A value as the sqlite3 module keeps its type."""
    return value.decode() if isinstance(value, bytearray) else value


def part(*values: str) -> str:
    """Values as one part of an item's path."""
    text = ",".join(quote(value, safe="").replace("~", "%7E") for value in values)
    text = text.replace(".", "%2E") if text in {".", ".."} else text
    return text if 0 < len(text) <= MAX_PART else f"sha256-{hashlib.sha256(text.encode()).hexdigest()}"


def refusal_of(error: Exception) -> RefusedError:
    """What SQLite or Python say of bad input."""
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_INTERRUPT":
        return RefusedError(
            "TOO_MUCH_WORK: it takes more steps than are allowed; touch fewer rows, or end the recursion"
        )
    if name == "SQLITE_FULL":
        return RefusedError(
            f"TOO_MUCH_GROWTH: the file would grow by more than {MAX_GROWTH} bytes; write less in one call"
        )
    if isinstance(error, MemoryError):
        return RefusedError("TOO_MUCH_MEMORY: it takes more memory than is allowed; touch less in one call")
    if isinstance(error, OSError):
        return RefusedError(f"FILE_REFUSED: {error.strerror}; look at the file's place and size")
    return RefusedError(f"SQL_REFUSED: {error}; mend the statement, or the database")


def opened(data: bytes, most_ticks: int = COMPARISON_TICKS) -> sqlite3.Connection:
    """A copy of a database in memory, with bounds on what is done with it."""
    db = sqlite3.connect(":memory:", isolation_level=None, cached_statements=0)
    for limit, most in LIMITS.items():
        db.setlimit(limit, most)
    ticks = iter(range(most_ticks))
    db.set_progress_handler(lambda: next(ticks, None) is None, TICK)
    db.deserialize(data)
    for pragma in PRAGMAS:
        db.execute(f"PRAGMA {pragma}")
    return db


def listed(db: sqlite3.Connection) -> dict[str, tuple[str, bool]]:
    """What lies in a database and has columns: name -> table, shadow, virtual or view, and whether it has no rowid."""
    db.text_factory = str
    found = db.execute("PRAGMA main.table_list").fetchall()
    db.text_factory = bytearray
    return {name: (sort, bool(wr)) for _, name, sort, _, wr, _ in found if name != "sqlite_schema"}


def tables_of(db: sqlite3.Connection) -> dict[str, Table]:
    """The tables that hold rows, by name."""
    return {
        name: table_of(db, name, is_shadow=sort == "shadow", has_rowid=not wr)
        for name, (sort, wr) in listed(db).items()
        if sort in {"table", "shadow"}
    }


def table_of(db: sqlite3.Connection, name: str, *, is_shadow: bool, has_rowid: bool) -> Table:
    """One table."""
    db.text_factory = str
    columns = [row[1:3] + row[5:7] for row in db.execute(f"PRAGMA main.table_xinfo({quoted(name)})").fetchall()]
    db.text_factory = bytearray
    taken = {column.lower() for column, *_ in columns}
    key = sorted((place, column, declared) for column, declared, place, _ in columns if place)
    return Table(
        name=name,
        is_ordinary=not is_shadow and not name.lower().startswith("sqlite_"),
        columns=tuple(column for column, _, _, hidden in columns if hidden in {0, 3}),
        given=tuple(column for column, _, _, hidden in columns if hidden == 0),
        key=tuple(column for _, column, _ in key),
        rowid=next((word for word in ("rowid", "oid", "_rowid_") if word not in taken), "") if has_rowid else "",
        rowid_is_key=len(key) == 1 and key[0][2].upper() == "INTEGER",
    )


class Guard:
    """Stands before all that a connection does from now on: its statements, and the triggers and views they lead to."""

    def __init__(self, db: sqlite3.Connection) -> None:
        names = listed(db)
        self.tables = tables_of(db)
        self.written: set[str] = set()
        self.refusal = ""
        functions = TABLE_FUNCTIONS - {name.lower() for name in names}
        self.readable = {name for name, (sort, _) in names.items() if sort in {"table", "view"}} | functions
        for name in sorted(functions):
            db.execute(f"SELECT 1 FROM {name}('[]')")
        db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        db.set_authorizer(self)

    def __call__(self, action: int, first: str | None, second: str | None, schema: str | None, _: str | None) -> int:
        """SQLite asks this; SQLITE_OK or SQLITE_DENY."""
        why = self._why_not(action, first or "", second or "", schema)
        self.refusal = self.refusal or why
        return sqlite3.SQLITE_DENY if why else sqlite3.SQLITE_OK

    def _why_not(self, action: int, first: str, second: str, schema: str | None) -> str:
        if action in WRITES:
            return self._why_not_write(first, second, schema)
        if action == sqlite3.SQLITE_FUNCTION and second.lower() not in FUNCTIONS:
            return (
                f"FUNCTION_REFUSED: {second}() may not be used here, nor in triggers and views; write its value instead"
            )
        if action == sqlite3.SQLITE_READ and not (schema is None or (schema == "main" and first in self.readable)):
            return f"STATEMENT_REFUSED: {first} can't be read; read tables, views, json_each and json_tree"
        if action in READS:
            return ""
        return "STATEMENT_REFUSED: it does more than change rows; write one INSERT, UPDATE or DELETE"

    def _why_not_write(self, name: str, column: str, schema: str | None) -> str:
        table = self.tables.get(name)
        if schema != "main" or table is None or not table.is_ordinary:
            return f"STATEMENT_REFUSED: {name} is no ordinary table, nor may a trigger write it; name a table"
        if not table.key:
            return f"NO_PRIMARY_KEY: table {name} declares no primary key, which tells its rows apart; declare one"
        if len(table.columns) > MAX_COLUMNS:
            return f"TOO_MANY_COLUMNS: table {name} has more than {MAX_COLUMNS}; change it by hand"
        if column == "ROWID" and column not in table.columns and not table.rowid_is_key:
            return f"STATEMENT_REFUSED: the rowid of table {name} isn't its key, so no effect shows it; leave it alone"
        self.written.add(name)
        return ""

    def execute(self, db: sqlite3.Connection, sql: str, values: list[Any]) -> None:
        """Runs a statement to its end.

        Raises:
            RefusedError: the guard has refused some part of it.
            sqlite3.Error: SQLite has.
        """
        try:
            with closing(db.execute(sql, values)) as cursor:
                for _ in cursor:  # what it returns is nobody's
                    pass
        except sqlite3.Error:
            if self.refusal:
                raise RefusedError(self.refusal) from None
            raise


def run(data: bytes, sql: str, parameters: list[Any]) -> tuple[bytes, set[str]]:
    """What a statement makes of a database, and the tables that it may have written."""
    if len(sql) > MAX_SQL or not START.match(sql):
        raise RefusedError(
            f"STATEMENT_REFUSED: `sql` is no INSERT, UPDATE or DELETE of up to {MAX_SQL} characters; write one"
        )
    if any(isinstance(value, bool) or not isinstance(value, str | int | float | None) for value in parameters):
        raise RefusedError("STATEMENT_REFUSED: `parameters` are texts, numbers and nulls; write others in `sql`")
    with closing(opened(data, STATEMENT_TICKS)) as db:
        (size,), (count,) = (db.execute(f"PRAGMA {fact}").fetchone() for fact in ("page_size", "page_count"))
        db.execute(f"PRAGMA max_page_count = {count + MAX_GROWTH // size}")
        db.execute("PRAGMA foreign_keys = ON")
        guard = Guard(db)
        db.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 4 * MAX_SQL)
        guard.execute(db, sql, parameters)
        if not guard.written:
            raise RefusedError("STATEMENT_REFUSED: it changes nothing; read with data.query")
        db.set_authorizer(None)
        return db.serialize(), guard.written


def missing(db: sqlite3.Connection, table: Table, schemas: tuple[str, str], on: Iterable[str]) -> list[Values]:
    """Rows of a table in the first schema that aren't, with all types and bytes, in the second: one more than may be."""
    x, y = ([f"{row}.{quoted(name)}" for name in table.columns] for row in "xy")
    pairs = [f"x.{quoted(name)} = y.{quoted(name)}" for name in on]
    forms = ("{} COLLATE BINARY", "typeof({})")
    pairs += [f"({', '.join(map(form.format, x))}) IS ({', '.join(map(form.format, y))})" for form in forms]
    first, second = (f"{schema}.{quoted(table.name)}" for schema in schemas)
    there = f"SELECT 1 FROM {second} AS y WHERE {' AND '.join(pairs)}"
    query = f"SELECT {', '.join(x)} FROM {first} AS x NOT INDEXED WHERE NOT EXISTS ({there})"
    return db.execute(query).fetchmany(MAX_ROWS + 1)


def changes(data: bytes, result: bytes, written: Iterable[str]) -> tuple[Rows, Rows]:
    """The rows that differ, before and after, in the tables that may have been written; nothing else may differ."""
    old: Rows = {}
    new: Rows = {}
    with closing(opened(result)) as db:
        db.execute("ATTACH ':memory:' AS base")
        db.deserialize(data, name="base")
        schemas = [db.execute(f"SELECT rowid, * FROM {name}.sqlite_schema").fetchall() for name in ("base", "main")]
        if schemas[0] != schemas[1]:
            raise RefusedError("NOT_ACCOUNTED: more than rows would change; use another statement")
        for table in tables_of(db).values():
            is_shown = table.name in written
            on = (table.rowid,) if table.rowid and not is_shown else table.key
            if not on:
                raise RefusedError(
                    f"DATABASE_REFUSED: rows of table {table.name} can't be told apart; declare a primary key"
                )
            gone = missing(db, table, ("base", "main"), on)
            come = missing(db, table, ("main", "base"), on)
            if is_shown:
                take_in(old, table, gone)
                take_in(new, table, come)
            elif (gone or come) and table.name != "sqlite_sequence":
                raise RefusedError(f"NOT_ACCOUNTED: table {table.name} would change unseen; use another statement")
    check_pairs(old, new)
    if len(old | new) > MAX_ROWS:
        raise too_many_rows()
    return old, new


def take_in(rows: Rows, table: Table, found: list[Values]) -> None:
    """Adds rows of a table to a side of what changes."""
    if len(found) > MAX_ROWS:
        raise too_many_rows()
    for values in found:
        row = Row(table, values)
        if None in row.key:
            raise RefusedError(f"NULL_KEY: table {table.name} has NULL in its primary key; give all rows a key first")
        if row.path in rows:
            raise RefusedError(f"NOT_ACCOUNTED: two rows would both be called {row.path}; give them other keys")
        rows[row.path] = row
    if sum(len(row.text.encode()) for row in rows.values()) > MAX_EFFECT:
        raise RefusedError(f"EFFECT_TOO_LARGE: the rows that change have more than {MAX_EFFECT} bytes; change fewer")


def too_many_rows() -> RefusedError:
    """More than one call may change."""
    return RefusedError(f"TOO_MANY_ROWS: more than {MAX_ROWS} rows would change; change fewer in one call")


def check_pairs(old: Rows, new: Rows) -> None:
    """Refuses an item that would be one row before and another after."""
    for path in old.keys() & new.keys():
        if typed(old[path].key) != typed(new[path].key):
            raise RefusedError(
                f"NOT_ACCOUNTED: {path} would name two rows, whose keys differ in type; give them other keys"
            )


def items_in(folder: str) -> dict[str, str]:
    """The items of a folder: path -> content."""
    items = {}
    for file in Path(folder).rglob("*"):
        path = file.relative_to(folder).as_posix()
        if file.is_symlink() or not (file.is_file() or file.is_dir()):
            raise bad_item(path)
        if file.is_file():
            try:
                items[path] = file.read_bytes().decode()
            except UnicodeDecodeError:
                raise bad_item(path) from None
    return items


def bad_item(path: str) -> RefusedError:
    """What `plan` never wrote."""
    return RefusedError(f"ITEMS_INVALID: {path} isn't a row as `plan` writes it; plan the call again")


def rows_of(items: Mapping[str, str], tables: Mapping[str, Table]) -> Rows:
    """Items as rows; each must be, to the byte, what is written of the row that it is read as."""
    by_part = {part(table.name): table for table in tables.values() if table.is_ordinary and table.key}
    rows = {}
    for path, text in items.items():
        table = by_part.get(path.partition("/")[0])
        try:
            names, values = zip(*map(cell, text.removesuffix("\n").split("\n")), strict=True)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise bad_item(path) from None
        if table is None or names != table.columns:
            raise MovedError(f"the table of {path} is gone, or has other columns")
        rows[path] = row = Row(table, values)
        if None in row.key or (row.path, row.text) != (path, text):
            raise bad_item(path)
    return rows


def cell(line: str) -> tuple[str, Value]:
    """Column and value of a line; the errors of its parsers are bad input."""
    name, end = json.JSONDecoder().raw_decode(line)
    sort, _, form = line[end + 1 :].partition(" = ")
    value = json.loads(form)
    if sort == "null":
        return name, None
    if sort == "text":
        return name, bytearray(value.encode())
    read: Mapping[str, Any] = {"integer": int, "real": float, "blob": bytes.fromhex}
    return name, read[sort](value)


def present(db: sqlite3.Connection, rows: Rows) -> dict[str, str]:
    """Content of the items that are there now, of those that are given: rows with the very types and bytes of their keys."""
    there = {}
    for path, row in rows.items():
        where, key = row.where
        columns = ", ".join(map(quoted, row.table.columns))
        for values in db.execute(f"SELECT {columns} FROM {quoted(row.table.name)} {where}", key):
            now = Row(row.table, values)
            if typed(now.key) == typed(row.key):
                there[path] = now.text
    return there


def rewritten(data: bytes, before: dict[str, str], after: dict[str, str]) -> tuple[bytes, set[str]]:
    """A database whose rows are as ``after`` says, and the tables that they are of.

    They have to be as ``before`` says, and no others change.
    """
    with closing(opened(data)) as db:
        tables = tables_of(db)
        old, new = rows_of(before, tables), rows_of(after, tables)
        check_pairs(old, new)
        there = present(db, old | new)
        moved = sorted(path for path in old | new if there.get(path) != before.get(path))
        if moved:
            more = f" and {len(moved) - MAX_NAMED} more" if len(moved) > MAX_NAMED else ""
            raise MovedError(f"not as they were: {', '.join(moved[:MAX_NAMED])}{more}")
        fire(data, old, new)
        dangling = references_to_nothing(db)
        with triggers_set_aside(db):
            write(db, old, new)
        if references_to_nothing(db) - dangling:
            raise RefusedError(
                "FOREIGN_KEY: a row would refer to one that isn't there; look at what refers to these rows"
            )
        result = db.serialize()
    written = {row.table.name for row in (old | new).values()}
    if tuple(map(texts, changes(data, result, written))) != (before, after):
        raise RefusedError("NOT_ACCOUNTED: other rows would change, or in another way; plan the call again")
    return result, written


def fire(data: bytes, old: Rows, new: Rows) -> None:
    """Changes rows on a copy where the database's own triggers fire, and hears the one that forbids it."""
    with closing(opened(data, STATEMENT_TICKS)) as db:
        if db.execute("SELECT 1 FROM sqlite_schema WHERE type = 'trigger'").fetchone() is None:
            return
        guard = Guard(db)
        for path in sorted(old | new, key=lambda path: (path in new, path not in old)):
            try:
                guard.execute(db, *statement(old.get(path), new.get(path)))
            except sqlite3.IntegrityError as error:
                if error.sqlite_errorname == "SQLITE_CONSTRAINT_TRIGGER":
                    raise RefusedError(
                        f"TRIGGER_REFUSED: a trigger of the database forbids it: {error}; ask its owner"
                    ) from None
                # Another trigger may have brought the row already, and what is written in earnest is written without.


def statement(old: Row | None, new: Row | None) -> tuple[str, list[Any]]:
    """What has a row come, go or change, as an application would."""
    if old is None:
        assert new is not None  # noqa: S101 - an item has a side
        return insertion(new.table, new.given)
    where, key = old.where
    if new is None:
        return f"DELETE FROM {quoted(old.table.name)} {where}", key
    were = old.given
    given = {name: value for name, value in new.given.items() if (type(value), value) != (type(were[name]), were[name])}
    setting = ", ".join(f"{quoted(name)} = ?" for name in given)
    return f"UPDATE {quoted(new.table.name)} SET {setting} {where}", [*given.values(), *key]


def insertion(table: Table, given: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """What adds a row."""
    names, marks = ", ".join(map(quoted, given)), ", ".join("?" * len(given))
    return f"INSERT INTO {quoted(table.name)} ({names}) VALUES ({marks})", list(given.values())


def write(db: sqlite3.Connection, old: Rows, new: Rows) -> None:
    """Takes away all that changes, then puts in what is to be: no two rows are in each other's way."""
    rowids = {}
    for path, row in old.items():
        table, (where, key) = row.table, row.where
        if path in new and table.rowid and not table.rowid_is_key:
            (rowids[path],) = db.execute(f"SELECT {table.rowid} FROM {quoted(table.name)} {where}", key).fetchone()
        db.execute(f"DELETE FROM {quoted(table.name)} {where}", key)
    for path in sorted(new, key=lambda path: path not in rowids):
        row = new[path]
        hidden = {row.table.rowid: rowids[path]} if path in rowids else {}
        db.execute(*insertion(row.table, row.given | hidden))


@contextmanager
def triggers_set_aside(db: sqlite3.Connection) -> Iterator[None]:
    """Has a copy be without its triggers for a while. Where that fails the copy is of no use."""
    columns = "rowid, type, name, tbl_name, rootpage, sql"
    triggers = db.execute(f"SELECT {columns} FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    db.execute("PRAGMA writable_schema = ON")
    db.execute("DELETE FROM sqlite_schema WHERE type = 'trigger'")
    db.execute("PRAGMA writable_schema = RESET")
    yield
    db.execute("PRAGMA writable_schema = ON")
    for trigger in triggers:
        db.execute(f"INSERT INTO sqlite_schema ({columns}) VALUES (?, ?, ?, ?, ?, ?)", [*map(bound, trigger)])
    db.execute("PRAGMA writable_schema = RESET")


def references_to_nothing(db: sqlite3.Connection) -> Counter[str]:
    """The rows whose foreign key leads nowhere."""
    return Counter(map(repr, db.execute("PRAGMA foreign_key_check")))


def load(name: str) -> tuple[Path, bytes, bytes]:
    """The database's file; its bytes as if with a rollback journal; and the header's own word on that."""
    path = Path(name)
    if path.resolve() != Path.cwd() / name or {*path.parts[:1]} & FOLDERS or not path.is_file():
        raise RefusedError(f"DATABASE_REFUSED: {name} is no file of the workspace; give its path in there")
    if any(Path(name + end).is_file() and Path(name + end).stat().st_size for end in ("-journal", "-wal")):
        raise RefusedError(
            f"DATABASE_REFUSED: a journal lies beside {name}; have the program that left it close the file"
        )
    if path.stat().st_size > MAX_DATABASE:
        raise RefusedError(f"DATABASE_REFUSED: {name} has more than {MAX_DATABASE} bytes; change it by hand")
    data = path.read_bytes()
    return path, sound(name, data), data[JOURNAL]


def sound(name: str, data: bytes) -> bytes:
    """A database that can be worked with, as if it had a rollback journal: one with a write-ahead log has it in its file."""
    if not data.startswith(HEADER) or data[JOURNAL] not in {b"\x01\x01", b"\x02\x02"}:
        raise RefusedError(f"DATABASE_REFUSED: {name} is no SQLite database, or is encrypted; name another file")
    plain = data[: JOURNAL.start] + b"\x01\x01" + data[JOURNAL.stop :]
    try:
        with closing(opened(plain)) as db:
            encoding, size, count = (db.execute(f"PRAGMA {fact}").fetchone()[0] for fact in FACTS)
            (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.Error as error:
        raise RefusedError(f"DATABASE_REFUSED: {name} can't be read: {error}; restore a good copy") from None
    if verdict != "ok" or size * count != len(data):
        raise RefusedError(f"DATABASE_REFUSED: {name} is damaged: {verdict}; restore a good copy")
    if encoding != "UTF-8":
        raise RefusedError(f"DATABASE_REFUSED: the texts of {name} are {encoding}; write it anew as UTF-8")
    return plain


def save(path: Path, data: bytes) -> None:
    """Puts a file in another's place, as a whole."""
    handle, name = tempfile.mkstemp(dir=path.parent)
    new = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        shutil.copymode(path, new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def save_items(folder: str, items: Mapping[str, str]) -> None:
    """Writes items as files."""
    for path, text in items.items():
        file = Path(folder, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())


def take(step: str, arguments: dict[str, Any]) -> str:
    """Takes a step; what to say of it."""
    path, data, journal = load(arguments["database"])
    if step == "plan":
        old, new = changes(data, *run(data, arguments["sql"], arguments.get("parameters", [])))
        save_items("before", texts(old))
        save_items("after", texts(new))
        return f"{len(old | new)} row(s) would change"
    before, after = items_in("before"), items_in("after")
    if step == "verify":
        with closing(opened(data)) as db:
            tables = tables_of(db)
            now = present(db, rows_of(before, tables) | rows_of(after, tables))
        save_items("now", now)
        return f"{len(now)} of {len(before | after)} row(s) are there"
    result, written = rewritten(data, before, after)
    if step == "rehearse":
        back, _ = rewritten(result, after, before)
        if changes(data, back, written) != ({}, {}):
            raise RefusedError("NOT_ACCOUNTED: taking it back brings back something else; use another statement")
        return f"{len(before | after)} row(s) changed on a copy and taken back"
    save(path, result[: JOURNAL.start] + journal + result[JOURNAL.stop :])
    return f"{len(before | after)} row(s) changed"


def main() -> int:
    """Takes the step that it is started for."""
    step, origin = sys.argv[1], Path("origin/arguments.json")
    file = origin if origin.is_file() else Path(os.environ["BROKER_ARGUMENTS"])
    try:
        said, code = take(step, json.loads(file.read_text("utf-8"))), 0
    except MovedError as error:
        said, code = f"STATE_MOVED: {error}; look at what is there now, and call again", 5
    except RefusedError as error:
        said, code = str(error), 3
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError, OSError) as error:
        said, code = str(refusal_of(error)), 3
    line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in said)
    (sys.stderr if code else sys.stdout).write(f"{line}\n")
    return 4 if code and step == "verify" else code


if __name__ == "__main__":
    raise SystemExit(main())
