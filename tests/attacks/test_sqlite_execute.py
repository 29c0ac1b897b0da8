# ruff: noqa: S608 - statements are made of the words of this file
"""Attacks on sqlite.execute: by the statement, by the file, by its schema, and by the items of a plan."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from broker.specs.shipped import shipped_folder
from tests.outside_steps import Effect, Shop, run_step, sqlite_execute

PRICES = (
    "CREATE TABLE price (item TEXT PRIMARY KEY, cents INTEGER NOT NULL, note TEXT)",
    "INSERT INTO price VALUES ('tea', 250, NULL), ('milk', 120, 'cold'), ('salt', 90, '')",
)
HOSTILE = (
    *PRICES,
    "CREATE TABLE loose (a); CREATE TABLE seq (id INTEGER PRIMARY KEY AUTOINCREMENT, v); INSERT INTO seq (v) VALUES (1)",
    "CREATE VIEW cheap AS SELECT * FROM price WHERE cents < 200",
    "CREATE TRIGGER instead INSTEAD OF INSERT ON cheap BEGIN DELETE FROM price; END",
    "CREATE VIEW lucky AS SELECT random() AS n",
    "CREATE VIRTUAL TABLE words USING fts5(a); INSERT INTO words VALUES ('some words')",
    "ANALYZE",
)

STATEMENTS = {
    "two statements": "DELETE FROM price; DELETE FROM seq",
    "a second statement behind a comment": "DELETE FROM price /* ; */ ; -- \n DROP TABLE price",
    "nothing": " ",
    "a comment alone": "-- DELETE FROM price",
    "an open comment": "/* DELETE FROM price",
    "reading": "SELECT * FROM price",
    "reading behind WITH": "WITH x AS (SELECT 1) SELECT * FROM x",
    "EXPLAIN": "EXPLAIN DELETE FROM price",
    "ATTACH": "ATTACH '/etc/passwd' AS x",
    "DETACH": "DETACH main",
    "PRAGMA": "PRAGMA writable_schema = ON",
    "VACUUM INTO": "VACUUM INTO 'copy.db'",
    "BEGIN": "BEGIN",
    "COMMIT": "COMMIT",
    "SAVEPOINT": "SAVEPOINT x",
    "DROP": "DROP TABLE price",
    "CREATE": "CREATE TABLE x (a)",
    "CREATE TEMP TRIGGER": "CREATE TEMP TRIGGER x AFTER DELETE ON price BEGIN DELETE FROM seq; END",
    "ALTER": "ALTER TABLE price ADD COLUMN x",
    "REINDEX": "REINDEX",
    "ANALYZE": "ANALYZE",
    "the schema": "UPDATE sqlite_schema SET sql = 'x'",
    "the schema by its old name": "DELETE FROM sqlite_master",
    "the temporary schema": "INSERT INTO sqlite_temp_schema DEFAULT VALUES",
    "a sequence": "UPDATE sqlite_sequence SET seq = 99",
    "statistics": "DELETE FROM sqlite_stat1",
    "a view with a trigger": "INSERT INTO cheap VALUES ('a', 1, NULL)",
    "a virtual table": "INSERT INTO words VALUES ('more')",
    "a virtual table's command": "INSERT INTO words(words) VALUES ('rebuild')",
    "a shadow table": "UPDATE words_data SET block = x'00'",
    "reading a virtual table": "UPDATE price SET note = (SELECT a FROM words)",
    "reading a shadow table": "UPDATE price SET note = (SELECT hex(block) FROM words_data)",
    "reading the schema": "UPDATE price SET note = (SELECT sql FROM sqlite_schema)",
    "reading pragmas": "UPDATE price SET note = (SELECT file FROM pragma_database_list)",
    "reading pages": "UPDATE price SET note = (SELECT count(*) FROM dbstat)",
    "another schema": "UPDATE temp.price SET note = 1",
    "a hidden rowid": "UPDATE price SET rowid = rowid + 10",
    "a hidden rowid by another name": "UPDATE price SET _rowid_ = 5 WHERE item = 'tea'",
    "a limit": "SELECT 1 UNION DELETE FROM price",
    "too long": "DELETE FROM price WHERE item = '" + "x" * 20_000 + "'",
}


@pytest.mark.parametrize("sql", STATEMENTS.values(), ids=STATEMENTS.keys())
def test_a_statement_that_is_more_than_one_change_of_rows(sql: str) -> None:
    assert Shop.of(*HOSTILE).refusal(sql) in {"STATEMENT_REFUSED", "SQL_REFUSED"}


FUNCTIONS = (
    *(
        "random()",
        "RANDOM()",
        '"random"()',
        "hex(randomblob(8))",
        "changes()",
        "total_changes()",
        "last_insert_rowid()",
    ),
    *("CURRENT_TIMESTAMP", "current_date", "datetime('now')", "date()", "julianday()", "unixepoch()", "strftime('%s')"),
    *("load_extension('x')", "sqlite_version()", "sqlite_log(1, 'x')", "fts5(NULL)", "sqlite_compileoption_get(1)"),
    *("(SELECT n FROM lucky)", "(SELECT max(random()) OVER ())"),
)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_that_reads_the_clock_or_chance_or_the_connection(function: str) -> None:
    shop = Shop.of(*HOSTILE)
    assert shop.refusal(f"UPDATE price SET note = {function}") == "FUNCTION_REFUSED"
    assert shop.refusal(f"DELETE FROM price WHERE {function} IS NOT NULL") == "FUNCTION_REFUSED"
    assert shop.refusal(f"INSERT INTO price VALUES ('a', 1, '') RETURNING {function}") == "FUNCTION_REFUSED"


TRIGGERS = {
    "the clock": ("UPDATE price SET note = datetime('now')", "FUNCTION_REFUSED"),
    "the clock, two triggers on": ("INSERT INTO seq (v) VALUES (2)", "FUNCTION_REFUSED"),
    "a virtual table": ("INSERT INTO words VALUES (NEW.item)", "STATEMENT_REFUSED"),
    "a shadow table": ("DELETE FROM words_data", "STATEMENT_REFUSED"),
    "a table without a key": ("INSERT INTO loose VALUES (1)", "NO_PRIMARY_KEY"),
    "a view": ("INSERT INTO cheap VALUES (1, 2, 3)", "STATEMENT_REFUSED"),
}


@pytest.mark.parametrize(("body", "reason"), TRIGGERS.values(), ids=TRIGGERS.keys())
def test_a_trigger_that_does_what_a_statement_may_not(body: str, reason: str) -> None:
    shop = Shop.of(
        *HOSTILE,
        f"CREATE TRIGGER up AFTER UPDATE OF cents ON price BEGIN {body}; END",
        f"CREATE TRIGGER down AFTER DELETE ON price BEGIN {body}; END",
        "CREATE TRIGGER further AFTER INSERT ON seq BEGIN UPDATE seq SET v = random() WHERE id = NEW.id; END",
    )
    assert shop.refusal("UPDATE price SET cents = 1") == reason
    # It isn't led to by the statement itself, but by what takes that back.
    effect = shop.plan("INSERT INTO price VALUES ('rye', 1, NULL)")
    assert shop.step("rehearse", effect=effect).reason == reason


BOMBS = {
    "endless recursion": (
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n FROM r) DELETE FROM price WHERE cents IN r",
        "TOO_MUCH_WORK",
    ),
    "a product of products": (
        "DELETE FROM price WHERE cents = (SELECT count(*) FROM {} a, {} b, {} c, {} d)",
        "TOO_MUCH_WORK",
    ),
    "growth": ("INSERT INTO seq (v) SELECT zeroblob(1000000) FROM {} a", "TOO_MUCH_GROWTH"),
    "one great value": ("UPDATE price SET note = zeroblob(100000000)", "SQL_REFUSED"),
    "a great text": ("UPDATE price SET note = replace(hex(zeroblob(5000000)), '0', 'aaaa')", "SQL_REFUSED"),
    "memory": (
        "UPDATE price SET note = (SELECT count(*) FROM (SELECT DISTINCT zeroblob(15000000) || a.value FROM {} a))",
        "TOO_MUCH_MEMORY",
    ),
    "an effect nobody reads": ("INSERT INTO seq (v) SELECT zeroblob(500000) FROM {} a LIMIT 20", "EFFECT_TOO_LARGE"),
    "a deep expression": ("UPDATE price SET cents = " + "(" * 900 + "1" + ")" * 900, "SQL_REFUSED"),
    "a deep sum": ("UPDATE price SET cents = " + "1+" * 900 + "1", "SQL_REFUSED"),
    "a pattern that takes for ever": (
        "DELETE FROM price WHERE '" + "a" * 9000 + "' LIKE '" + "%a" * 5000 + "b'",
        "SQL_REFUSED",
    ),
    "many rows": ("INSERT INTO seq (v) SELECT 1 FROM {} a, {} b", "TOO_MANY_ROWS"),
}
MANY = "json_each('[" + ",".join(map(str, range(300))) + "]')"


@pytest.mark.parametrize(("sql", "reason"), BOMBS.values(), ids=BOMBS.keys())
def test_a_statement_that_takes_all_there_is(sql: str, reason: str) -> None:
    assert Shop.of(*HOSTILE).refusal(sql.replace("{}", MANY)) == reason


def test_a_trigger_that_never_ends() -> None:
    loop = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"
    shop = Shop.of(*PRICES, f"CREATE TRIGGER gone AFTER DELETE ON price BEGIN {loop}; END")
    effect = shop.plan("INSERT INTO price VALUES ('rye', 1, NULL)")
    assert shop.step("rehearse", effect=effect).reason == "TOO_MUCH_WORK"
    assert shop.refusal("DELETE FROM price WHERE item = 'tea'") == "TOO_MUCH_WORK"


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ([1], "SQL_REFUSED"),
        ([1, 2, 3], "SQL_REFUSED"),
        ([True, 2], "STATEMENT_REFUSED"),
        ([[1], 2], "STATEMENT_REFUSED"),
        ([{"a": 1}, 2], "STATEMENT_REFUSED"),
        ([2**63, 2], "SQL_REFUSED"),
        (["\ud800", 2], "SQL_REFUSED"),
    ],
)
def test_parameters_that_cant_be_bound(parameters: list[object], reason: str) -> None:
    assert Shop.of(*PRICES).refusal("UPDATE price SET cents = ? WHERE cents = ?", *parameters) == reason


def test_a_statement_that_is_no_text() -> None:
    shop = Shop.of(*PRICES)
    assert shop.refusal("DELETE FROM price\x00 WHERE item = 'tea'") == "SQL_REFUSED"
    assert shop.refusal("DELETE FROM price WHERE item = '\ud800'") == "SQL_REFUSED"


def spoiled(data: bytes, *changes: tuple[int, bytes]) -> bytes:
    spoilt = bytearray(data)
    for place, new in changes:
        spoilt[place : place + len(new)] = new
    return bytes(spoilt)


GOOD = Shop.of(*PRICES, "CREATE INDEX by_cents ON price (cents)").data
FILES = {
    "nothing": b"",
    "a header alone": GOOD[:100],
    "text": b"SQLite format 4\x00" + GOOD[16:],
    "encrypted": bytes(range(256)) * 32,
    "cut short": GOOD[:-4096],
    "cut within a page": GOOD[:-100],
    "something behind it": GOOD + b"x",
    "a page behind it": GOOD + bytes(4096),
    "another version": spoiled(GOOD, (18, b"\x03\x03")),
    "an odd page size": spoiled(GOOD, (16, b"\x00\x03")),
    "a page that leads nowhere": spoiled(GOOD, (4096, b"\xff" * 200)),
    "a schema that is none": spoiled(GOOD, (100, b"\x00" * 3000)),
    "a schema with other words": GOOD.replace(b"CREATE TABLE price", b"CREATE TABLE (rice"),
    "an index of other values": GOOD.replace(b"\x01salt", b"\x01salz", 1),
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
def test_a_file_that_is_no_sound_database(data: bytes) -> None:
    assert data != GOOD
    effect = Shop(GOOD).plan("DELETE FROM price")
    shop = Shop(data)
    assert shop.refusal("DELETE FROM price") == "DATABASE_REFUSED"
    for step in ("rehearse", "apply", "undo"):
        assert shop.step(step, effect=effect).reason == "DATABASE_REFUSED"
    assert shop.step("verify", effect=effect).code == 4


def test_every_byte_of_a_small_file_may_be_spoiled() -> None:
    """Whatever comes of it, it is refused or it is sound: nothing crashes, and nothing is taken that can't be put back."""
    program, good = sqlite_execute(), Shop.of("PRAGMA page_size = 512", *PRICES).data
    outcomes = set()
    for place in range(0, len(good), 11):
        for new in (good[place] ^ 0xFF, good[place] ^ 0x01):
            try:
                taken = program.sound("it", spoiled(good, (place, bytes([new]))))
                Shop(taken).quick_trip("UPDATE price SET cents = cents + 1")
                outcomes.add("")
            except (program.RefusedError, program.MovedError, sqlite3.Error, ValueError) as error:
                outcomes.add(type(error).__name__)
    assert {"", "RefusedError"} <= outcomes


def test_a_file_whose_text_is_utf_16() -> None:
    assert Shop.of("PRAGMA encoding = 'UTF-16'", *PRICES).refusal("DELETE FROM price") == "DATABASE_REFUSED"


def test_a_file_that_is_too_large() -> None:
    assert Shop(GOOD + bytes(64 * 2**20)).refusal("DELETE FROM price") == "DATABASE_REFUSED"


@pytest.mark.parametrize("end", ["-wal", "-journal"])
def test_a_journal_that_lies_beside_the_file(end: str) -> None:
    shop = Shop(GOOD)
    ran = shop.step("plan", "DELETE FROM price", files={shop.name + end: b"x"})
    assert ran.reason == "DATABASE_REFUSED"
    assert shop.step("plan", "DELETE FROM price", files={shop.name + end: b""}).code == 0


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "gone.db",
        "data",
        "../data/shop.db",
        "data/../data/shop.db",
        "/etc/passwd",
        "a\x00b",
        "x" * 300,
        "/dev/zero",
    ],
)
def test_a_name_that_is_no_file_of_the_workspace(name: str) -> None:
    shop = Shop(GOOD)
    files = {"data/shop.db": GOOD}
    ran = Shop(GOOD, "other.db").step(
        "plan", "DELETE FROM price", origin={"database": name, "sql": "DELETE FROM price"}, files=files
    )
    assert ran.code == 3
    assert shop.data == GOOD


@pytest.mark.parametrize("folder", ["before", "after", "now", "origin"])
def test_a_database_among_the_items(folder: str) -> None:
    name = f"{folder}/x.db"
    ran = run_step(
        "sqlite_execute.py", "plan", {"database": name, "sql": "DELETE FROM price"}, files={name: GOOD, "x.db": GOOD}
    )
    assert ran.reason == "DATABASE_REFUSED"


def test_a_link_for_a_file(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "outside.db").write_bytes(GOOD)
    (work / "link.db").symlink_to(tmp_path / "outside.db")
    (work / "folder").symlink_to(tmp_path)
    for name in ("link.db", "folder/outside.db", str(work / "link.db"), str(tmp_path / "outside.db")):
        told = tmp_path / "arguments.json"
        told.write_text(f'{{"database": "{name}", "sql": "DELETE FROM price"}}')
        done = subprocess.run(
            [sys.executable, "-I", shipped_folder() / "sqlite_execute.py", "plan"],
            cwd=work,
            env={"BROKER_ARGUMENTS": str(told)},
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr.partition(b":")[0]) == (3, b"DATABASE_REFUSED")


SCHEMAS = {
    "a generated column that loads": "CREATE TABLE t (k INTEGER PRIMARY KEY, g AS (load_extension('x')))",
    "a check that loads": "CREATE TABLE t (k INTEGER PRIMARY KEY, CHECK (load_extension('x')))",
    "a check that never ends": """CREATE TABLE t (k INTEGER PRIMARY KEY,
        CHECK (length(replace(hex(zeroblob(8000000)), '0', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'))))""",
    "a collation that nobody knows": "CREATE TABLE t (k TEXT COLLATE mine PRIMARY KEY)",
    "a module that nobody knows": "CREATE VIRTUAL TABLE t USING nobody(k)",
    "a reference to no key": "CREATE TABLE p (a); CREATE TABLE t (k INTEGER PRIMARY KEY REFERENCES p(a))",
    "a view of itself": "CREATE VIEW t AS SELECT * FROM t",
    "a virtual table for json_each": "CREATE VIRTUAL TABLE json_each USING fts5(value); CREATE TABLE t (k INTEGER PRIMARY KEY)",
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_a_schema_that_would_have_its_way(schema: str) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema = ON")
        for number, statement in enumerate(schema.split("; ")):
            name = statement.split()[3] if "VIRTUAL" in statement else statement.split()[2]
            db.execute(f"CREATE TABLE made{number} (k INTEGER PRIMARY KEY, a)")
            values = ("view" if "VIEW" in statement else "table", name, name, statement, f"made{number}")
            db.execute("UPDATE sqlite_schema SET type = ?, name = ?, tbl_name = ?, sql = ? WHERE name = ?", values)
        shop = Shop(db.serialize())
    assert shop.refusal("INSERT INTO t (k) SELECT value FROM json_each('[1]')") in {
        "DATABASE_REFUSED",
        "SQL_REFUSED",
        "STATEMENT_REFUSED",
    }


def test_a_table_that_takes_the_name_of_a_function() -> None:
    shop = Shop.of(
        "CREATE TABLE json_each (k INTEGER PRIMARY KEY, value)", "CREATE VIEW json_tree AS SELECT 7 AS value"
    )
    effect = shop.round_trip("INSERT INTO json_each SELECT 1, value FROM json_tree")
    assert effect.after == {"json_each/1": '"k" integer = "1"\n"value" integer = "7"\n'}
    assert shop.refusal("INSERT INTO json_each SELECT 2, value FROM json_tree('[1]')") == "SQL_REFUSED"


NAMES = (
    'a"b',
    "a'b",
    "a\nb",
    "a.b",
    "a/b",
    "..",
    "a`]b",
    "{}",
    "%s",
    "größe",
    "select",
    "sqlite-",
    "x" * 300,
    "a b;--",
    "\u202e",
)


@pytest.mark.parametrize("name", NAMES)
def test_names_that_would_break_out(name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    shop = Shop.of(
        f"CREATE TABLE {quoted} ({quoted} TEXT PRIMARY KEY, v)",
        f"CREATE TRIGGER {quoted} AFTER UPDATE ON {quoted} BEGIN SELECT 1; END",
    )
    for sql in (f"INSERT INTO {quoted} VALUES ('../..', 1)", f"UPDATE {quoted} SET v = 2", f"DELETE FROM {quoted}"):
        effect = shop.round_trip(sql)
        for path in effect.before.keys() | effect.after.keys():
            assert path.isascii()
            assert path.isprintable()
            assert path.count("/") == 1
            assert not {*path.split("/")} & {".", "..", ""}
    assert "\n" not in shop.step("plan", f"INSERT INTO {quoted} ({quoted}) VALUES (1), (1)").err.removesuffix("\n")


@pytest.mark.parametrize("rows", ["(1), ('1')", "(x'61'), ('61')", "(x'31'), (31)", "('1.5'), (1.5)"])
def test_two_rows_that_would_be_one_item(rows: str) -> None:
    shop = Shop.of("CREATE TABLE t (k PRIMARY KEY) WITHOUT ROWID")
    assert shop.refusal(f"INSERT INTO t VALUES {rows}") == "NOT_ACCOUNTED"


def test_a_row_that_would_become_another_under_the_same_item() -> None:
    shop = Shop.of("CREATE TABLE t (k PRIMARY KEY) WITHOUT ROWID", "INSERT INTO t VALUES (1)")
    assert shop.refusal("UPDATE t SET k = '1'") == "NOT_ACCOUNTED"
    assert shop.round_trip("UPDATE t SET k = 1.0").after.keys() == {"t/1.0"}


def test_a_key_that_looks_like_the_digest_of_another() -> None:
    shop = Shop.of("CREATE TABLE t (k PRIMARY KEY) WITHOUT ROWID")
    long = "x" * 200
    (path,) = shop.plan("INSERT INTO t VALUES (?)", long).after
    assert shop.refusal("INSERT INTO t VALUES (?), (?)", long, path.removeprefix("t/")) == "NOT_ACCOUNTED"


def test_a_text_that_is_no_text() -> None:
    shop = Shop.of(*PRICES, "INSERT INTO price VALUES ('bad', 1, CAST(x'ff00' AS TEXT))")
    assert shop.refusal("UPDATE price SET cents = 0") == "NOT_TEXT"
    assert shop.refusal("INSERT INTO price VALUES (CAST(x'c0' AS TEXT), 1, NULL)") == "NOT_TEXT"
    shop.round_trip("UPDATE price SET cents = 0 WHERE item <> 'bad'")
    shop.round_trip("INSERT INTO price SELECT 'rye', 1, CAST(note AS BLOB) FROM price WHERE item = 'bad'")


def test_rows_that_cant_be_told_apart() -> None:
    shop = Shop.of(*HOSTILE, "CREATE TABLE nulls (k TEXT PRIMARY KEY, v); INSERT INTO nulls VALUES (NULL, 1), ('a', 1)")
    assert shop.refusal("INSERT INTO loose VALUES (1)") == "NO_PRIMARY_KEY"
    assert shop.refusal("INSERT INTO nulls VALUES (NULL, 2)") == "NULL_KEY"
    assert shop.refusal("UPDATE nulls SET v = 2 WHERE k = 'a'") == "NULL_KEY"
    hidden = "CREATE TABLE hidden (rowid, oid, _rowid_); INSERT INTO hidden VALUES (1, 1, 1)"
    assert Shop.of(*PRICES, hidden).refusal("DELETE FROM price") == "DATABASE_REFUSED"
    wide = ", ".join(f"c{number}" for number in range(201))
    assert (
        Shop.of(f"CREATE TABLE w (k INTEGER PRIMARY KEY, {wide})").refusal("INSERT INTO w (k) VALUES (1)")
        == "TOO_MANY_COLUMNS"
    )


TEA = '"item" text = "tea"\n"cents" integer = "250"\n"note" null = null\n'
ITEMS = {
    "another path": {"price/milk": TEA},
    "a deeper path": {"price/tea/x": TEA},
    "a path of one part": {"tea": TEA},
    "a path in other words": {"price/t%65a": TEA},
    "a line more": {"price/tea": TEA + '"more" null = null\n'},
    "a line less": {"price/tea": TEA.partition("\n")[2]},
    "no line": {"price/tea": ""},
    "a deep nest": {"price/tea": "[" * 100_000},
    "a deep nest for a value": {"price/tea": '"item" text = ' + "[" * 100_000},
    "lines in another order": {"price/tea": "".join(reversed(TEA.splitlines(keepends=True)))},
    "no last newline": {"price/tea": TEA[:-1]},
    "other newlines": {"price/tea": TEA.replace("\n", "\r\n")},
    "another type": {"price/tea": TEA.replace("integer", "real")},
    "no type": {"price/tea": TEA.replace("integer", "number")},
    "a number in other digits": {"price/tea": TEA.replace('"250"', '"0250"')},
    "a number with a sign": {"price/tea": TEA.replace('"250"', '"+250"')},
    "a number of another script": {"price/tea": TEA.replace('"250"', '"٢٥٠"')},
    "a number that is too large": {"price/tea": TEA.replace('"250"', '"9223372036854775808"')},
    "a number that is far too large": {"price/tea": TEA.replace('"250"', f'"{"9" * 9000}"')},
    "a number that is none": {"price/tea": TEA.replace('integer = "250"', 'real = "nan"')},
    "a bare number": {"price/tea": TEA.replace('"250"', "250")},
    "an escape too many": {"price/tea": TEA.replace('"tea"', '"t\\u0065a"')},
    "half a character": {"price/tea": TEA.replace('"tea"', '"\\ud800"')},
    "a blob in capitals": {"price/tea": TEA.replace('text = "tea"', 'blob = "AA"')},
    "a null with a value": {"price/tea": TEA.replace("null = null", 'null = "x"')},
    "a null as its key": {"price/": TEA.replace('text = "tea"', "null = null")},
    "a shadow table": {"words_config/version": '"k" text = "version"\n"v" integer = "4"\n'},
    "a sequence": {"sqlite_sequence/seq": '"name" text = "seq"\n"seq" integer = "1"\n'},
    "a table without a key": {"loose/1": '"a" integer = "1"\n'},
    "a view": {"cheap/salt": '"item" text = "salt"\n"cents" integer = "90"\n"note" text = ""\n'},
    "the schema": {"sqlite_schema/1": '"type" text = "table"\n'},
}


@pytest.mark.parametrize("items", ITEMS.values(), ids=ITEMS.keys())
def test_items_that_no_plan_wrote(items: dict[str, str]) -> None:
    shop, program = Shop.of(*HOSTILE), sqlite_execute()
    tea = {"price/tea": TEA}
    for before, after in (({}, items), (tea, items), (items, tea), (items, items)):
        with pytest.raises((program.RefusedError, program.MovedError, sqlite3.Error, OverflowError)):
            program.rewritten(shop.data, before, after)
    ran = shop.step("apply", effect=Effect(items, {}))
    assert ran.code in {3, 5}
    assert ran.err.startswith(("ITEMS_INVALID: ", "STATE_MOVED: ", "SQL_REFUSED: "))
    assert shop.step("verify", effect=Effect(items, {})).items("now").keys() <= {"price/tea"}


def test_an_item_that_is_a_link_or_no_text(tmp_path: Path) -> None:
    (tmp_path / "work/before/price").mkdir(parents=True)
    (tmp_path / "work/shop.db").write_bytes(GOOD)
    (tmp_path / "arguments.json").write_text('{"database": "shop.db", "sql": "DELETE FROM price"}')
    (tmp_path / "tea").write_text(TEA)
    item = tmp_path / "work/before/price/tea"
    for make in (lambda: item.symlink_to(tmp_path / "tea"), lambda: item.write_bytes(b"\xff"), lambda: os.mkfifo(item)):
        make()
        done = subprocess.run(
            [sys.executable, "-I", shipped_folder() / "sqlite_execute.py", "apply"],
            cwd=tmp_path / "work",
            env={"BROKER_ARGUMENTS": str(tmp_path / "arguments.json")},
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr.partition(b":")[0]) == (3, b"ITEMS_INVALID")
        item.unlink()
    assert (tmp_path / "work/shop.db").read_bytes() == GOOD


def test_a_key_that_is_taken_in_other_letters() -> None:
    schema = "CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY, v)"
    effect = Shop.of(schema).plan("INSERT INTO t VALUES ('tea', 1)")
    other = Shop.of(schema, "INSERT INTO t VALUES ('TEA', 2)")
    assert other.step("apply", effect=effect).reason == "SQL_REFUSED"
    assert other.step("verify", effect=effect).items("now") == {}


def test_an_effect_of_which_half_is_there() -> None:
    shop = Shop.of(*PRICES)
    effect = shop.plan("UPDATE price SET cents = cents + 1")
    half = Shop.of(*PRICES, "UPDATE price SET cents = cents + 1 WHERE item = 'tea'")
    assert half.step("apply", effect=effect).code == 5
    assert half.step("undo", effect=effect.back).code == 5


def test_a_file_that_cant_be_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, path = sqlite_execute(), tmp_path / "shop.db"
    path.write_bytes(GOOD)
    path.chmod(0o640)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(program.shutil, "copymode", full)
        with pytest.raises(OSError, match="No space"):
            program.save(path, b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("shop.db", GOOD)]
    program.save(path, b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("shop.db", b"new")]
    assert path.stat().st_mode & 0o777 == 0o640


def test_every_function_that_is_allowed_is_built_in_and_reads_nothing_else() -> None:
    """By SQLite's own word; aggregates and window functions don't carry the mark, and are given by their names here."""
    over_rows = {
        *("avg", "count", "cume_dist", "dense_rank", "first_value", "group_concat", "lag", "last_value", "lead"),
        *("nth_value", "ntile", "percent_rank", "rank", "row_number", "sum", "total"),
    }
    deterministic = 0x800
    with closing(sqlite3.connect(":memory:")) as db:
        listed = db.execute("SELECT name, builtin, flags FROM pragma_function_list").fetchall()
    marked = {name for name, builtin, flags in listed if builtin and flags & deterministic}
    assert sqlite_execute().FUNCTIONS - marked == over_rows
    assert over_rows <= {name for name, builtin, _ in listed if builtin}


def test_a_change_that_nobody_has_told_of() -> None:
    program = sqlite_execute()
    was = Shop.of(*HOSTILE).data
    hidden = (
        "UPDATE price SET cents = 1 WHERE item = 'tea'",
        "UPDATE loose SET a = 1; INSERT INTO loose VALUES (2)",
        "INSERT INTO words VALUES ('more')",
        "UPDATE sqlite_stat1 SET stat = '9'",
        "CREATE TABLE more (a)",
        "DROP TRIGGER instead",
    )
    for statement in hidden:
        with pytest.raises(program.RefusedError, match="NOT_ACCOUNTED"):
            program.changes(was, Shop.of(*HOSTILE, statement).data, {"seq"})


def test_a_value_that_its_column_would_turn_into_another() -> None:
    """Somebody has changed the column's type behind SQLite's back: whoever writes the row anew writes a number."""
    shop = Shop.of(
        "CREATE TABLE t (k TEXT PRIMARY KEY, v, w); INSERT INTO t VALUES ('a', '1', 0)",
        """PRAGMA writable_schema = ON;
        UPDATE sqlite_schema SET sql = 'CREATE TABLE t (k TEXT PRIMARY KEY, v INTEGER, w)' WHERE name = 't'""",
    )
    assert shop.refusal("UPDATE t SET w = 1") == "DATABASE_REFUSED"


@pytest.mark.parametrize("more", ["UPDATE price SET note = 1 WHERE item = 'salt'", "INSERT INTO loose VALUES (1)"])
def test_a_write_that_writes_more_than_its_items(more: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, shop = sqlite_execute(), Shop.of(*HOSTILE)
    effect = shop.plan("UPDATE price SET cents = 1 WHERE item = 'tea'")
    write = program.write
    monkeypatch.setattr(program, "write", lambda db, old, new: (write(db, old, new), db.execute(more)))
    with pytest.raises(program.RefusedError, match="NOT_ACCOUNTED"):
        program.rewritten(shop.data, effect.before, effect.after)


def test_a_way_back_that_leads_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = sqlite_execute()
    (tmp_path / "shop.db").write_bytes(GOOD)
    elsewhere = Shop.of(
        *PRICES, "CREATE INDEX by_cents ON price (cents)", "UPDATE price SET cents = 1 WHERE item = 'tea'"
    ).data
    monkeypatch.setattr(program, "rewritten", lambda *_: (elsewhere, {"price"}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(program.RefusedError, match="NOT_ACCOUNTED"):
        program.take("rehearse", {"database": "shop.db"})
