# ruff: noqa: S608 - statements are made of the words of this file
"""Random small tables and statements: applied, the rows are what the statement itself makes of them; undone, as before."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress

from hypothesis import event, given, note, settings
from hypothesis import strategies as st

from tests.outside_steps import Shop, sqlite_execute

KEYS = {
    "k INTEGER PRIMARY KEY": "",
    "k INTEGER PRIMARY KEY AUTOINCREMENT": "",
    "k TEXT PRIMARY KEY": "",
    "k TEXT COLLATE NOCASE PRIMARY KEY": "",
    "k PRIMARY KEY": "",
    "k BLOB PRIMARY KEY": " WITHOUT ROWID",
    "k REAL PRIMARY KEY NOT NULL": " WITHOUT ROWID",
}
TYPES = (
    *("", "INTEGER", "TEXT", "REAL", "NUMERIC", "BLOB", "TEXT COLLATE NOCASE UNIQUE", "UNIQUE", "DEFAULT 7"),
    *("UNIQUE ON CONFLICT REPLACE", "UNIQUE ON CONFLICT IGNORE", "NOT NULL ON CONFLICT REPLACE DEFAULT 5"),
)
VALUES = (
    *(
        "NULL",
        "0",
        "1",
        "-1",
        "2",
        "3",
        "1.0",
        "1.5",
        "-0.0",
        "9e999",
        "-9223372036854775808",
        "''",
        "'a'",
        "'A'",
        "'b'",
    ),
    *("'1'", "'1.0'", "'é'", "'sha256-'", "x''", "x'61'", "x'31'", "'a' || char(0)", "'2'"),
)
FOREIGN = (
    "",
    " REFERENCES t(k) ON DELETE CASCADE ON UPDATE CASCADE",
    " REFERENCES t(k) ON DELETE SET NULL ON UPDATE SET NULL",
    " REFERENCES t(k) DEFERRABLE INITIALLY DEFERRED",
)
TRIGGERS = (
    "CREATE TRIGGER g1 AFTER INSERT ON t BEGIN INSERT INTO log (what) VALUES ('came ' || typeof(NEW.k)); END",
    "CREATE TRIGGER g2 AFTER DELETE ON t BEGIN UPDATE log SET what = coalesce(what, '') || '-' WHERE id < 3; END",
    "CREATE TRIGGER g3 AFTER UPDATE OF a ON t BEGIN INSERT INTO log (what) VALUES (OLD.a); DELETE FROM log WHERE id = 1; END",
    "CREATE TRIGGER g4 BEFORE UPDATE ON t WHEN NEW.a IS 3 BEGIN SELECT RAISE(IGNORE); END",
    "CREATE TRIGGER g5 AFTER INSERT ON u BEGIN UPDATE t SET b = NEW.id; END",
)
value = st.sampled_from(VALUES)


@st.composite
def schemas(draw: st.DrawFn) -> list[str]:
    key = draw(st.sampled_from(sorted(KEYS)))
    a, b = draw(st.sampled_from(TYPES)), draw(st.sampled_from(TYPES))
    generated = draw(st.sampled_from(("", ", g AS (a || '/' || b) STORED", ", g AS (typeof(a)) VIRTUAL")))
    foreign = draw(st.sampled_from(FOREIGN))
    return [
        f"CREATE TABLE t ({key}, a {a}, b {b}{generated}){KEYS[key]}",
        f"CREATE TABLE u (id INTEGER, part TEXT DEFAULT 'p', r{foreign}, PRIMARY KEY (part, id))",
        "CREATE TABLE log (id INTEGER PRIMARY KEY, what); INSERT INTO log VALUES (1, NULL), (2, 'x')",
        *draw(st.lists(st.sampled_from(TRIGGERS), unique=True, max_size=2)),
    ]


@st.composite
def conditions(draw: st.DrawFn) -> str:
    column = draw(st.sampled_from(("k", "a", "b")))
    test = draw(st.sampled_from(("=", "<", ">=", "IS", "IS NOT")))
    return draw(st.sampled_from(("true", f"{column} {test} {draw(value)}", f"typeof({column}) <> 'text'")))


@st.composite
def statements(draw: st.DrawFn) -> str:
    rows = draw(st.lists(st.tuples(value, value, value), min_size=1, max_size=3))
    listed = ", ".join(f"({', '.join(row)})" for row in rows)
    how = draw(st.sampled_from(("INSERT", "INSERT OR IGNORE", "REPLACE", "INSERT OR FAIL")))
    verb = draw(st.sampled_from(("UPDATE", "UPDATE OR IGNORE", "UPDATE OR REPLACE")))
    column = draw(st.sampled_from(("k", "a", "b")))
    to = draw(
        st.sampled_from(
            (draw(value), "k", "a", "b", "b || a", "a + 1", "upper(k)", "k || 'x'", "-k", "CAST(k AS BLOB)")
        )
    )
    set_null = "UPDATE SET a = excluded.b, b = NULL"
    choices = (
        f"{how} INTO t (k, a, b) VALUES {listed}",
        f"INSERT INTO t (k, a, b) VALUES {listed} ON CONFLICT DO {draw(st.sampled_from(('NOTHING', set_null)))}",
        f"INSERT INTO t (a, b) VALUES {', '.join(f'({row[0]}, {row[1]})' for row in rows)}",
        f"{verb} t SET {column} = {to} WHERE {draw(conditions())}",
        f"UPDATE t SET a = b, b = a WHERE {draw(conditions())}",
        f"DELETE FROM t WHERE {draw(conditions())}",
        f"INSERT INTO u (id, r) SELECT abs(random_.column1), k FROM (VALUES (5), (6)) AS random_, t WHERE {draw(conditions())}",
        f"REPLACE INTO u (id, r) VALUES (1, {draw(value)}), (2, (SELECT max(k) FROM t))",
        f"DELETE FROM u WHERE r IS {draw(value)}",
    )
    return draw(st.sampled_from(choices))


@st.composite
def fillings(draw: st.DrawFn) -> list[str]:
    rows = draw(st.lists(st.tuples(value, value, value), max_size=5))
    children = draw(st.lists(st.tuples(st.integers(0, 9), value), max_size=3))
    return [
        *(f"INSERT OR IGNORE INTO t (k, a, b) VALUES ({', '.join(row)})" for row in rows),
        *(f"INSERT OR IGNORE INTO u (id, r) VALUES ({number}, {to})" for number, to in children),
    ]


def made(schema: list[str], filling: list[str]) -> Shop:
    """A file with what of the rows SQLite takes."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for statement in schema:
            db.executescript(statement)
        for statement in filling:
            with suppress(sqlite3.Error):
                db.execute(statement)
        return Shop(db.serialize())


@settings(max_examples=200)
@given(schema=schemas(), filling=fillings(), sql=st.lists(statements(), min_size=1, max_size=3))
def test_an_effect_is_what_the_statement_does_and_an_undo_what_was_there(
    schema: list[str], filling: list[str], sql: list[str]
) -> None:
    shop = made(schema, filling)
    program = sqlite_execute()
    for statement in sql:
        note(statement)
        try:
            shop.content(statement)
        except sqlite3.Error:
            event("SQLite refuses")
            refused = False
            try:
                program.run(shop.data, statement, [])
            except (sqlite3.Error, program.RefusedError):
                refused = True
            assert refused
            continue
        refusal, result = "", Shop(program.run(shop.data, statement, [])[0])
        dangling = [*shop.rows("PRAGMA foreign_key_check"), *result.rows("PRAGMA foreign_key_check")]
        try:
            shop.quick_trip(statement)
        except program.RefusedError as error:
            refusal = str(error)
        reason = refusal.partition(":")[0]
        event(reason or "made and taken back")
        # A row that referred to nothing would do so again after an undo, where nobody can tell that it did before. And
        # SQLite leaves such rows behind itself where parent and child hold 0 and '0'.
        assert reason in {"", "NULL_KEY", *(["FOREIGN_KEY"] if dangling else [])} or (
            reason == "NOT_ACCOUNTED" and "keys" in refusal
        )
