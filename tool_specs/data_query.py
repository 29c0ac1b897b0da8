# ruff: noqa: INP001 - runs alone inside a sandbox, as `__main__`
"""data.query: one reading SQL statement over the CSV, TSV and SQLite files in the working folder.

Each CSV or TSV file becomes a table named after it; each SQLite file is attached, read-only, under its name. Standard
library only. Exit code 1 and a sentence on standard error say what is wrong with the input.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_RESULT_BYTES = 900_000
MAX_FIELD = 2**20
MAX_SAFE_INTEGER = 2**53 - 1
CELL = 60
SQLITE_HEADER = b"SQLite format 3\x00"
DELIMITERS = {".csv": ",", ".tsv": "\t"}
INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
REAL = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?([eE][-+]?[0-9]{1,3})?")
ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"}


class BadInputError(Exception):
    """The files or the statement can't be used; the text is for the caller."""


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def input_files() -> list[Path]:
    """The plain files of the working folder, without what the broker put there for this run."""
    own = {os.path.realpath(os.environ[name]) for name in ("BROKER_ARGUMENTS", "BROKER_RESULT") if name in os.environ}
    found = sorted(path for path in Path().rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in found if os.path.realpath(path) not in own and path.parts[0] != "out"]


def name_of(path: Path, taken: dict[str, Path]) -> str:
    """The name under which SQL sees a file: its stem, with anything but letters, digits and _ as _."""
    name = re.sub(r"\W", "_", path.stem) or "table"
    if name[0].isdigit() or name.lower() in {"main", "temp"} or name.lower().startswith("sqlite_"):
        name = f"t_{name}"
    if name.lower() in taken:
        raise BadInputError(f"{path} and {taken[name.lower()]} would both be called {name}; rename one of them")
    taken[name.lower()] = path
    return name


def checked_lines(path: Path, encoding: str) -> Iterator[str]:
    """The lines of a text file; refuses another encoding, and NUL."""
    number = 0
    try:
        with path.open(encoding="utf-8-sig" if encoding == "utf-8" else encoding, newline="") as stream:
            for number, line in enumerate(stream, 1):
                if "\x00" in line:
                    raise BadInputError(f"{path}: line {number} holds a NUL character, so this is no CSV text")
                yield line
    except UnicodeError as error:
        raise BadInputError(
            f"{path}: not {encoding} after line {number} ({error}); name the right `encoding`, such as windows-1252"
        ) from error


def records(path: Path, delimiter: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """The rows with their line numbers, blank lines left out, the header first; refuses bad quoting and ragged rows."""
    reader = csv.reader(checked_lines(path, encoding), delimiter=delimiter, strict=True)
    width = 0
    try:
        for row in reader:
            if not row:
                continue
            width = width or len(row)
            if len(row) != width:
                raise BadInputError(
                    f"{path}: the row that ends on line {reader.line_num} has {len(row)} fields, the header {width}"
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise BadInputError(f"{path}: line {reader.line_num}: {error}; is the quoting right?") from error


def header(row: list[str]) -> list[str]:
    """Column names: blank ones become column_N, repeated ones (in whatever case) get _2, _3, ... at the end."""
    names: list[str] = []
    seen: set[str] = set()
    for index, text in enumerate(row, 1):
        base = " ".join(text.split()) or f"column_{index}"
        name, count = base, 1
        while name.lower() in seen:
            count += 1
            name = f"{base}_{count}"
        seen.add(name.lower())
        names.append(name)
    return names


def narrower(kind: str, text: str) -> str:
    """The type of a column that was ``kind`` so far and has this value too."""
    if kind == "INTEGER" and not INTEGER.fullmatch(text):
        kind = "REAL"
    if kind == "REAL" and not (REAL.fullmatch(text) and math.isfinite(float(text))):
        kind = "TEXT"
    return kind


def types_of(rows: Iterator[tuple[int, list[str]]], width: int) -> list[str]:
    """The type of each column by all of its values; that of a column without any is TEXT."""
    kinds = [""] * width
    for _, row in rows:
        for index, text in enumerate(row):
            if text and kinds[index] != "TEXT":
                kinds[index] = narrower(kinds[index] or "INTEGER", text)
    return [kind or "TEXT" for kind in kinds]


def load_text(db: sqlite3.Connection, table: str, path: Path, delimiter: str, encoding: str) -> None:
    """Makes a table of a CSV or TSV file; read twice: for the types, then for the rows."""
    rows = records(path, delimiter, encoding)
    first = next(rows, None)
    if first is None:
        raise BadInputError(f"{path}: empty; a header line with the column names is needed")
    names = header(first[1])
    kinds = types_of(rows, len(names))
    columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in zip(names, kinds, strict=True))
    db.execute(f"CREATE TABLE {quoted(table)} ({columns})")
    marks = ", ".join("?" * len(names))
    values = records(path, delimiter, encoding)
    next(values)
    # SQLite itself turns the text into the column's type; an empty field is NULL.
    rows_in = ([text or None for text in row] for _, row in values)
    db.executemany(f"INSERT INTO {quoted(table)} VALUES ({marks})", rows_in)  # noqa: S608 - a quoted name


def attach(db: sqlite3.Connection, schema: str, path: Path) -> None:
    """Attaches a SQLite file for reading, with the write-ahead log that was given beside it, if any."""
    with path.open("rb") as stream:
        start = stream.read(20)
    has_log = Path(f"{path}-wal").is_file()
    wal = len(start) == 20 and 2 in start[18:20]
    # A database in WAL mode can't be opened read-only without its log; where none was given there is nothing in it.
    mode = "mode=rw" if has_log else "mode=ro&immutable=1" if wal else "mode=ro"
    try:
        db.execute(f"ATTACH DATABASE ? AS {quoted(schema)}", (f"{path.resolve().as_uri()}?{mode}",))
        db.execute(f"SELECT count(*) FROM {quoted(schema)}.sqlite_master").fetchone()  # noqa: S608 - a quoted name
    except sqlite3.Error as error:
        raise BadInputError(f"{path}: can't be read as a SQLite database: {error}") from error


def load(db: sqlite3.Connection, arguments: dict[str, Any]) -> None:
    """Makes all input files visible to SQL."""
    files = input_files()
    if not files:
        raise BadInputError("no file was given; give CSV, TSV or SQLite files with the call")
    taken: dict[str, Path] = {}
    for path in files:
        with path.open("rb") as stream:
            is_database = stream.read(16) == SQLITE_HEADER
        if path.name.endswith(("-wal", "-shm")) and Path(str(path)[:-4]) in files:
            continue
        suffix = path.suffix.lower()
        if is_database or suffix in {".db", ".sqlite", ".sqlite3"}:
            attach(db, name_of(path, taken), path)
        elif suffix in DELIMITERS:
            delimiter = arguments.get("delimiter", DELIMITERS[suffix])
            load_text(db, name_of(path, taken), path, delimiter, arguments.get("encoding", "utf-8"))
        else:
            raise BadInputError(f"{path}: neither .csv, .tsv nor a SQLite database")


def authorise(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """SQLite asks before each thing that a statement would do: reading is allowed, and nothing else."""
    if action == sqlite3.SQLITE_FUNCTION and (second or first or "").lower() in FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in ALLOWED else sqlite3.SQLITE_DENY


def text_or_bytes(data: bytes) -> str | bytes:
    """TEXT as SQLite holds it; bytes where it is not what JSON calls text."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return data
    return data if "\x00" in text else text


def plain(value: object) -> object:
    """A value as JSON carries it exactly, or else as text: blobs as x'HEX', long integers as digits."""
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, int) and abs(value) > MAX_SAFE_INTEGER:
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def known_tables(db: sqlite3.Connection) -> str:
    """The tables and their columns, for an error message."""
    found = []
    for _, schema, _ in db.execute("PRAGMA database_list").fetchall():
        listing = f"SELECT name FROM {quoted(schema)}.sqlite_master WHERE type IN ('table', 'view')"  # noqa: S608 - a quoted name
        for (table,) in db.execute(listing).fetchall():
            columns = [row[1] for row in db.execute(f"PRAGMA {quoted(schema)}.table_info({quoted(table)})")]
            shown = table if schema == "main" else f"{schema}.{table}"
            found.append(f"{shown}({', '.join(columns)})")
    return "; ".join(found)[:4000]


def query(db: sqlite3.Connection, sql: str, max_rows: int) -> dict[str, Any]:
    """Runs the statement and keeps as many rows as fit."""
    db.set_authorizer(authorise)
    try:
        cursor = db.execute(sql)
        if cursor.description is None:
            raise BadInputError("the statement gives no rows; write one SELECT, VALUES or WITH statement")
        columns = [column[0] for column in cursor.description]
        rows: list[list[object]] = []
        size, truncated = len(json.dumps(columns)), False
        for raw in cursor:
            row = [plain(value) for value in raw]
            size += len(json.dumps(row, ensure_ascii=False).encode()) + 1
            truncated = len(rows) == max_rows or size > MAX_RESULT_BYTES
            if truncated:
                break
            rows.append(row)
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        db.set_authorizer(None)
        detail = str(error)
        if "authorized" in detail or "prohibited" in detail:
            detail += "; only one reading statement may run: SELECT, VALUES or WITH"
        raise BadInputError(f"SQL: {detail}\ntables: {known_tables(db)}") from error
    if truncated and not rows:
        raise BadInputError(f"the first row alone is longer than {MAX_RESULT_BYTES} bytes; select less of it")
    return {"columns": columns, "rows": rows, "row_count": len(rows), "truncated": truncated}


def show(result: dict[str, Any]) -> None:
    """Prints the rows as a table; long cells are cut, which an ellipsis shows."""
    lines = [[cell(value) for value in row] for row in [result["columns"], *result["rows"]]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for index, line in enumerate(lines):
        sys.stdout.write(
            " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() + "\n"
        )
        if index == 0:
            sys.stdout.write("-+-".join("-" * width for width in widths) + "\n")
    more = "; there are more, cut here" if result["truncated"] else ""
    sys.stdout.write(f"({result['row_count']} rows{more})\n")


def cell(value: object) -> str:
    """One value on one line of a terminal."""
    text = (
        ""
        if value is None
        else "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(value))
    )
    return text if len(text) <= CELL else text[: CELL - 1] + "\N{HORIZONTAL ELLIPSIS}"


def main() -> int:
    """Reads the arguments, runs the query, writes the result."""
    arguments = json.loads(Path(os.environ["BROKER_ARGUMENTS"]).read_text("utf-8"))
    csv.field_size_limit(MAX_FIELD)
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr] # a real stream outside tests of this line
    db = sqlite3.connect(":memory:", isolation_level=None, uri=True)
    try:
        db.text_factory = text_or_bytes
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 64 * 2**20)
        for pragma in ("temp_store = MEMORY", "trusted_schema = OFF", "synchronous = OFF", "journal_mode = OFF"):
            db.execute(f"PRAGMA {pragma}")
        load(db, arguments)
        db.execute("PRAGMA query_only = ON")
        result = query(db, arguments["sql"], arguments.get("max_rows", 1000))
    except (BadInputError, sqlite3.Error) as error:
        sys.stderr.write(f"data.query: {error}\n")
        return 1
    finally:
        db.close()
    Path(os.environ["BROKER_RESULT"]).write_text(json.dumps(result, ensure_ascii=False, allow_nan=False), "utf-8")
    show(result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
