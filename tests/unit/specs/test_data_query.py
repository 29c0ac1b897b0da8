"""data.query on files as people and programs really make them."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.specs.catalogue import Catalogue, Tool
from broker.specs.shipped import shipped_folder

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def tool() -> Tool:
    found = Catalogue.load([shipped_folder()]).get("data.query")
    assert found is not None
    return found


@pytest.fixture
def query(run_script: Run, tool: Tool) -> Run:
    def run(sql: str, files: dict[str, bytes], **arguments: Any) -> Any:  # noqa: ANN401 - whatever the schema takes
        tool.validate_arguments({"sql": sql, **arguments})
        ran = run_script("data_query.py", {"sql": sql, **arguments}, files)
        if ran.code == 0:
            assert tool.validate_result(ran.result_bytes) == ran.result
        else:
            assert ran.code == 1
            assert not ran.result_bytes
            assert ran.err.startswith("data.query: ")
            assert "Traceback" not in ran.err
        return ran

    return run


def test_csv_becomes_a_typed_table(query: Run) -> None:
    data = b"id,name,height,code,note\r\n1,Oslo,12.5,007,\r\n2,Bonn,-3,010,x\r\n"
    ran = query(
        "SELECT *, typeof(id), typeof(height), typeof(code), typeof(note) FROM cities ORDER BY id", {"cities.csv": data}
    )
    assert ran.result["rows"] == [
        [1, "Oslo", 12.5, "007", None, "integer", "real", "text", "null"],
        [2, "Bonn", -3.0, "010", "x", "integer", "real", "text", "text"],
    ]
    assert ran.result["columns"][:5] == ["id", "name", "height", "code", "note"]
    assert "(2 rows)" in ran.out


def test_tables_join_across_csv_and_sqlite(query: Run, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "made.db") as db:
        db.execute("CREATE TABLE country (code TEXT, name TEXT)")
        db.execute("INSERT INTO country VALUES ('NO', 'Norway')")
    db.close()
    files = {"world.db": (tmp_path / "made.db").read_bytes(), "data/cities.csv": b"city,cc\nOslo,NO\n"}
    ran = query("SELECT city, c.name FROM cities JOIN world.country c ON c.code = cc", files)
    assert ran.result["rows"] == [["Oslo", "Norway"]]


def test_sqlite_in_wal_mode_with_and_without_its_log(query: Run, tmp_path: Path) -> None:
    path = tmp_path / "made.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA wal_autocheckpoint=0")
    db.execute("CREATE TABLE t (a)")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.execute("INSERT INTO t VALUES (42)")
    with_log = {"a.db": path.read_bytes(), "a.db-wal": Path(f"{path}-wal").read_bytes()}
    db.close()
    alone = {"a.db": path.read_bytes()}
    assert query("SELECT a FROM t", with_log).result["rows"] == [[42]]
    assert query("SELECT a FROM t", alone).result["rows"] == [[42]]


@pytest.mark.parametrize(
    ("data", "columns"),
    [
        (b"a,a,A\n1,2,3\n", ["a", "a_2", "A_3"]),
        (b",b,\n1,2,3\n", ["column_1", "b", "column_3"]),
        (b"\xef\xbb\xbfid,x\n1,2\n", ["id", "x"]),
        (b'"say ""hi""","select","x;--"\n1,2,3\n', ['say "hi"', "select", "x;--"]),
        (b" padded , two  words\n1,2\n", ["padded", "two words"]),
        ("größe,名前\n1,2\n".encode(), ["größe", "名前"]),
        (b"only\n", ["only"]),
    ],
)
def test_odd_headers(query: Run, data: bytes, columns: list[str]) -> None:
    assert query("SELECT * FROM t", {"t.csv": data}).result["columns"] == columns


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (b"", {}, "empty; a header line"),
        (b"\n\n\n", {}, "empty; a header line"),
        (b"a,b\n1,2,3\n", {}, "the row that ends on line 2 has 3 fields, the header 2"),
        (b"a,b\n1\n", {}, "has 1 fields, the header 2"),
        (b'a,b\n"x"y,2\n', {}, "line 2: ',' expected after '\"'"),
        (b'a,b\n"never closed,2\n', {}, "unexpected end of data"),
        (b"a\n" + b"x" * (2**20 + 1) + b"\n", {}, "field larger than field limit"),
        (b"a,b\ncaf\xe9,2\n", {}, "not utf-8"),
        (b"a\x00b\n1\n", {}, "line 1 holds a NUL"),
        (b"a\nb\n", {"encoding": "utf-16"}, "not utf-16"),
        (b",".join(b"c%d" % number for number in range(3000)) + b"\n", {}, "too many columns"),
    ],
)
def test_bad_files_are_refused_with_the_reason(
    query: Run, data: bytes, arguments: dict[str, str], message: str
) -> None:
    ran = query("SELECT * FROM t", {"t.csv": data}, **arguments)
    assert ran.code == 1
    assert message in ran.err
    assert "t.csv" in ran.err or "on t" in ran.err


def test_named_encoding_and_delimiter(query: Run) -> None:
    ran = query("SELECT a, b FROM t", {"t.csv": b"a;b\ncaf\xe9;1\n"}, encoding="windows-1252", delimiter=";")
    assert ran.result["rows"] == [["café", 1]]
    assert query("SELECT b FROM t", {"t.tsv": b"a\tb\n1\t2\n"}).result["rows"] == [[2]]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (1)",
        "DELETE FROM t",
        "DROP TABLE t",
        "CREATE TABLE x (a)",
        "ATTACH '/etc/passwd' AS x",
        "PRAGMA query_only = OFF",
        "SELECT * FROM pragma_database_list",
        "SELECT load_extension('x')",
        "VACUUM INTO 'out/copy.db'",
        "SELECT 1; DROP TABLE t",
        "BEGIN",
        "",
        ";",
        "-- nothing",
        "SELECT * FROM nowhere",
        "SELECT",
    ],
)
def test_anything_but_one_reading_statement_is_refused(run_script: Run, sql: str) -> None:
    ran = run_script("data_query.py", {"sql": sql}, {"t.csv": b"a\n1\n"})
    assert ran.code == 1
    assert ran.err.startswith("data.query: ")
    assert "Traceback" not in ran.err
    assert not ran.result_bytes


def test_an_unknown_table_is_answered_with_the_known_ones(query: Run) -> None:
    ran = query("SELECT * FROM citys", {"cities.csv": b"id,name\n1,Oslo\n"})
    assert "no such table: citys" in ran.err
    assert "cities(id, name)" in ran.err


def test_a_damaged_database_and_a_stranger_are_refused(query: Run) -> None:
    assert "not a database" in query("SELECT 1", {"x.sqlite": b"SQLite format 3\x00" + b"\xff" * 4096}).err
    assert "neither .csv, .tsv nor" in query("SELECT 1", {"x.pdf": b"%PDF"}).err
    assert "no file was given" in query("SELECT 1", {}).err
    assert "both be called a_b" in query("SELECT 1", {"a-b.csv": b"x\n", "a b.csv": b"x\n"}).err


def test_rows_beyond_the_limits_are_said_to_be_missing(query: Run) -> None:
    data = b"n\n" + b"\n".join(b"%d" % number for number in range(2000)) + b"\n"
    ran = query("SELECT n FROM t", {"t.csv": data})
    assert (ran.result["row_count"], ran.result["truncated"]) == (1000, True)
    assert "there are more" in ran.out
    exact = query("SELECT n FROM t LIMIT 3", {"t.csv": data}, max_rows=3)
    assert (exact.result["row_count"], exact.result["truncated"]) == (3, False)
    wide = query("SELECT printf('%.*c', 100000, 'x') FROM t", {"t.csv": data}, max_rows=10000)
    assert wide.result["truncated"]
    assert 5 <= wide.result["row_count"] < 10
    assert "first row alone" in query("SELECT printf('%.*c', 1000000, 'x')", {"t.csv": data}).err


def test_values_that_json_cannot_carry_come_as_text(query: Run) -> None:
    sql = "SELECT 9007199254740993, x'00ff', char(0), 1e999, -1e999, 9007199254740991, NULL"
    ran = query(sql, {"t.csv": b"a\n"})
    assert ran.result["rows"] == [
        ["9007199254740993", "x'00ff'", "x'00'", "Infinity", "-Infinity", 9007199254740991, None]
    ]


def test_numbers_keep_their_digits(query: Run) -> None:
    data = b"a,b,c\n12345678901234567890,0.1234567890123456789,1e999\n"
    ran = query("SELECT * FROM t", {"t.csv": data})
    assert ran.result["rows"] == [["12345678901234567890", "0.1234567890123456789", "1e999"]]


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(TEXT, min_size=width, max_size=width), min_size=1, max_size=5)
    )
)
def test_any_csv_that_the_standard_library_writes_is_read_back(run_script: Run, rows: list[list[str]]) -> None:
    stream = io.StringIO(newline="")
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([["h" + cell for cell in rows[0]], *rows])

    ran = run_script("data_query.py", {"sql": "SELECT * FROM t"}, {"t.csv": stream.getvalue().encode("utf-8")})
    assert ran.code == 0, ran.err
    read = [["" if value is None else value for value in row] for row in json.loads(ran.result_bytes)["rows"]]
    assert len(read) == len(rows)
    for got, want in zip(read, rows, strict=True):
        for value, text in zip(got, want, strict=True):
            assert value == text if isinstance(value, str) else float(value) == float(text)
