"""sqlite.execute on files as programs really make them: what is shown is what is written, and can be taken back."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.outside_steps import Effect, Shop

PRICES = (
    "CREATE TABLE price (item TEXT PRIMARY KEY, cents INTEGER NOT NULL, note TEXT)",
    "INSERT INTO price VALUES ('tea', 250, NULL), ('milk', 120, 'cold'), ('salt', 90, '')",
)


def test_an_update_is_shown_as_rows_and_applied_and_taken_back() -> None:
    shop = Shop.of(*PRICES)
    was = shop.data
    effect = shop.plan("UPDATE price SET cents = cents + ? WHERE item <> 'salt'", 10)
    assert effect == Effect(
        {
            "price/milk": '"item" text = "milk"\n"cents" integer = "120"\n"note" text = "cold"\n',
            "price/tea": '"item" text = "tea"\n"cents" integer = "250"\n"note" null = null\n',
        },
        {
            "price/milk": '"item" text = "milk"\n"cents" integer = "130"\n"note" text = "cold"\n',
            "price/tea": '"item" text = "tea"\n"cents" integer = "260"\n"note" null = null\n',
        },
    )
    shop.done("rehearse", effect)
    shop.done("apply", effect)
    assert shop.data != was
    assert shop.rows("SELECT item, cents FROM price ORDER BY item") == [("milk", 130), ("salt", 90), ("tea", 260)]
    shop.done("undo", effect.back)
    assert shop.rows("SELECT item, cents FROM price ORDER BY item") == [("milk", 120), ("salt", 90), ("tea", 250)]
    assert shop.step("apply", effect=effect.back).code == 5


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO price VALUES ('rye', 1, 'x')",
        "DELETE FROM price",
        "DELETE FROM price WHERE item = 'tea'",
        "UPDATE price SET item = item || '!'",
        "REPLACE INTO price VALUES ('tea', 1, 'x')",
        "INSERT INTO price VALUES ('tea', 1, 'x') ON CONFLICT DO UPDATE SET cents = excluded.cents RETURNING *",
        "UPDATE price SET cents = n FROM (SELECT 'tea' AS i, 5 AS n) WHERE item = i",
        "WITH x(a) AS (VALUES ('rye'), ('oat')) INSERT INTO price SELECT a, length(a), NULL FROM x",
        'INSERT INTO price SELECT value, 1, NULL FROM json_each(\'["rye", "oat"]\')',
        "-- why\n/* and how */ UPDATE price SET note = NULL;",
        "UPDATE price SET cents = cents",
        "UPDATE OR IGNORE price SET item = 'tea'",
    ],
)
def test_statements_of_all_kinds(sql: str) -> None:
    Shop.of(*PRICES).round_trip(sql)


def test_a_statement_that_changes_nothing_has_no_effect() -> None:
    shop = Shop.of(*PRICES)
    assert shop.plan("UPDATE price SET cents = cents * 1, note = NULL WHERE item = 'tea'") == Effect()
    assert shop.plan("DELETE FROM price WHERE item = 'nothing'") == Effect()


VALUES = """
    (1, 9223372036854775807), (2, -9223372036854775808), (3, 0.1), (4, 1e300), (5, 9e999), (6, -9e999), (7, -0.0),
    (8, x''), (9, x'00ff'), (10, ''), (11, 'a' || char(0) || 'b'), (12, char(10, 13, 9, 34, 92, 8232, 127)), (13, NULL),
    (14, 'größe 名前'), (15, 5e-324), (16, 123456789012345678.0), (17, '1'), (18, '1.0')
"""


def test_values_of_all_types_come_back_to_the_bit() -> None:
    shop = Shop.of("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", f"INSERT INTO t VALUES {VALUES}")  # noqa: S608 - of the test
    effect = shop.round_trip("DELETE FROM t")
    shown = {path: text.partition("\n")[2].removesuffix("\n") for path, text in effect.before.items()}
    assert shown["t/1"] == '"v" integer = "9223372036854775807"'
    assert shown["t/3"] == '"v" real = "0.1"'
    assert shown["t/5"] == '"v" real = "inf"'
    assert shown["t/9"] == '"v" blob = "00ff"'
    assert shown["t/11"] == '"v" text = "a\\u0000b"'
    assert shown["t/12"] == '"v" text = "\\n\\r\\t\\"\\\\\u2028\x7f"'
    assert shown["t/13"] == '"v" null = null'
    assert shown["t/14"] == '"v" text = "größe 名前"'
    assert shown["t/17"] == '"v" text = "1"'
    shop.round_trip(f"INSERT INTO t VALUES {VALUES}")  # noqa: S608 - of the test
    shop.round_trip("UPDATE t SET v = CASE WHEN typeof(v) IN ('integer', 'real') THEN CAST(v AS TEXT) ELSE id END")


def test_parameters_keep_their_types() -> None:
    shop = Shop.of("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    effect = shop.round_trip("INSERT INTO t VALUES (1, ?), (2, ?), (3, ?), (4, ?)", "1", 1, 1.0, None)
    assert [effect.after[f"t/{key}"].split()[5] for key in "1234"] == ["text", "integer", "real", "null"]


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("plain-KEY_1.x", "plain-KEY_1.x"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("...", "..."),
        ("a/b", "a%2Fb"),
        ("a,b~%", "a%2Cb%7E%25"),
        ("ü", "%C3%BC"),
        ("\n\x00", "%0A%00"),
        ("x" * 180, "x" * 180),
        ("x" * 181, "sha256-" + hashlib.sha256(b"x" * 181).hexdigest()),
        ("/" * 61, "sha256-" + hashlib.sha256(b"%2F" * 61).hexdigest()),
        ("", "sha256-" + hashlib.sha256(b"").hexdigest()),
    ],
)
def test_keys_as_paths(key: str, path: str) -> None:
    shop = Shop.of('CREATE TABLE "t/ü" (k TEXT PRIMARY KEY)')
    effect = shop.round_trip('INSERT INTO "t/ü" VALUES (?)', key)
    assert list(effect.after) == [f"t%2F%C3%BC/{path}"]


SCHEMAS = {
    "a composite key": "CREATE TABLE t (a TEXT, b INTEGER, v, PRIMARY KEY (b, a))",
    "without rowid": "CREATE TABLE t (a TEXT PRIMARY KEY, b INTEGER, v) WITHOUT ROWID",
    "a key of all columns": "CREATE TABLE t (a TEXT, b INTEGER, v, PRIMARY KEY (a, b, v)) WITHOUT ROWID",
    "strict": "CREATE TABLE t (a TEXT PRIMARY KEY, b INTEGER, v ANY) STRICT",
    "a sequence": "CREATE TABLE t (b INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT, v)",
    "stored": "CREATE TABLE t (a TEXT PRIMARY KEY, b INTEGER, v, s AS (b || '!') STORED, w AS (b + 1))",
    "virtual and indexed": "CREATE TABLE t (a TEXT PRIMARY KEY, w AS (b + 1) UNIQUE, b INTEGER, v)",
    "no case": "CREATE TABLE t (a TEXT PRIMARY KEY COLLATE NOCASE, b INTEGER UNIQUE, v)",
    "a key by its rowid": "CREATE TABLE t (b INTEGER PRIMARY KEY, a TEXT UNIQUE, v)",
    "a descending key": "CREATE TABLE t (b INTEGER PRIMARY KEY DESC, a TEXT UNIQUE, v)",
    "columns called rowid": 'CREATE TABLE t (a TEXT PRIMARY KEY, b INTEGER, v, "ROWID", oid, _rowid_)',
    "checks and defaults": "CREATE TABLE t (a TEXT PRIMARY KEY, b INTEGER CHECK (b < 100), v DEFAULT CURRENT_TIMESTAMP)",
    "an index by expression": "CREATE TABLE t (a TEXT PRIMARY KEY, b INTEGER, v); CREATE INDEX i ON t (lower(a)) WHERE b > 1",
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_tables_of_all_kinds(schema: str) -> None:
    shop = Shop.of(schema, "INSERT INTO t (a, b, v) VALUES ('x', 1, 'one'), ('y', 2, 2), ('z', 3, 3.5)")
    shop.round_trip("UPDATE t SET v = 'first'")
    for sql in (
        "INSERT INTO t (a, b, v) VALUES ('w', 9, 'none')",
        "UPDATE t SET v = 'new' WHERE b < 3",
        "UPDATE t SET a = upper(a)",
        "REPLACE INTO t (a, b, v) VALUES ('X', 1, 'other')",
        "UPDATE t SET b = b + 50, a = a || b",
        "DELETE FROM t WHERE a > 'X1'",
        "INSERT INTO t (a, b, v) VALUES ('n', 77, 0) ON CONFLICT DO NOTHING",
        "DELETE FROM t",
    ):
        shop.quick_trip(sql)


def test_rows_may_swap_what_is_unique() -> None:
    shop = Shop.of("CREATE TABLE t (k TEXT PRIMARY KEY, u UNIQUE)", "INSERT INTO t VALUES ('a', 1), ('b', 2), ('c', 3)")
    with pytest.raises(sqlite3.IntegrityError):
        shop.content("UPDATE t SET u = u % 3 + 1")
    effect = shop.plan("UPDATE t SET u = -u")
    turned = {path: text.replace('"-1"', '"2"').replace('"-2"', '"1"') for path, text in effect.after.items()}
    swap = Effect(
        {path: effect.before[path] for path in ("t/a", "t/b")}, {path: turned[path] for path in ("t/a", "t/b")}
    )
    shop.done("apply", swap)
    assert shop.rows("SELECT k, u FROM t ORDER BY k") == [("a", 2), ("b", 1), ("c", 3)]
    shop.done("undo", swap.back)
    assert shop.rows("SELECT k, u FROM t ORDER BY k") == [("a", 1), ("b", 2), ("c", 3)]


def test_a_changed_row_keeps_its_hidden_rowid() -> None:
    shop = Shop.of("CREATE TABLE t (k TEXT PRIMARY KEY, v)", "INSERT INTO t VALUES ('a', 1), ('b', 2), ('c', 3)")
    shop.round_trip("UPDATE t SET v = v + 1 WHERE k IN ('a', 'c')")
    assert shop.rows("SELECT rowid, k FROM t ORDER BY 1") == [(1, "a"), (2, "b"), (3, "c")]
    effect = shop.plan(
        "WITH x(k, v) AS (VALUES ('c', 9), ('d', 9)) INSERT INTO t SELECT k, v FROM x WHERE true ON CONFLICT DO UPDATE SET v = 0"
    )
    shop.done("apply", effect)
    assert shop.rows("SELECT rowid, k FROM t ORDER BY 1") == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]


def test_a_sequence_stays_ahead_after_an_undo() -> None:
    shop = Shop.of("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v)", "INSERT INTO t (v) VALUES (1)")
    effect = shop.plan("INSERT INTO t (v) VALUES (2)")
    shop.done("rehearse", effect)
    shop.done("apply", effect)
    shop.done("undo", effect.back)
    assert shop.rows("SELECT seq FROM sqlite_sequence") == [(2,)]


AUDIT = """
    CREATE TABLE audit (id INTEGER PRIMARY KEY AUTOINCREMENT, item TEXT, old, new);
    CREATE TRIGGER seen AFTER UPDATE ON price BEGIN
        INSERT INTO audit (item, old, new) VALUES (NEW.item, OLD.cents, NEW.cents);
    END;
"""
TRIGGERS = {
    "an audit": (AUDIT, "UPDATE price SET cents = 1"),
    "a counter": (
        """CREATE TABLE many (what TEXT PRIMARY KEY, n); INSERT INTO many VALUES ('price', 3);
        CREATE TRIGGER up AFTER INSERT ON price BEGIN UPDATE many SET n = n + 1; END;
        CREATE TRIGGER down AFTER DELETE ON price BEGIN UPDATE many SET n = n - 1; END""",
        "REPLACE INTO price VALUES ('tea', 1, NULL), ('rye', 2, NULL)",
    ),
    "a version": (
        """ALTER TABLE price ADD COLUMN version DEFAULT 1;
        CREATE TRIGGER v AFTER UPDATE ON price BEGIN UPDATE price SET version = version + 1 WHERE item = NEW.item; END""",
        "UPDATE price SET cents = 5",
    ),
    "one that takes it back": (
        """CREATE TRIGGER no AFTER UPDATE ON price WHEN NEW.cents > 200 BEGIN
            UPDATE price SET cents = 200 WHERE item = NEW.item;
        END""",
        "UPDATE price SET cents = cents + 100",
    ),
    "one that ignores": (
        "CREATE TRIGGER skip BEFORE DELETE ON price WHEN OLD.item = 'tea' BEGIN SELECT RAISE(IGNORE); END",
        "DELETE FROM price",
    ),
    "one that brings rows": (
        """CREATE TRIGGER pair AFTER INSERT ON price WHEN NEW.item NOT LIKE '%2' BEGIN
            INSERT INTO price VALUES (NEW.item || 2, 0, NULL);
        END""",
        "INSERT INTO price VALUES ('rye', 1, NULL)",
    ),
}


@pytest.mark.parametrize(("schema", "sql"), TRIGGERS.values(), ids=TRIGGERS.keys())
def test_what_triggers_do_is_in_the_effect(schema: str, sql: str) -> None:
    Shop.of(*PRICES, schema).round_trip(sql)


def test_triggers_stay_in_force() -> None:
    shop = Shop.of(*PRICES, AUDIT)
    for number in range(1, 4):
        shop.round_trip("UPDATE price SET cents = cents + 1 WHERE item = 'tea'")
        assert len(shop.rows("SELECT * FROM audit")) == number


def test_what_a_trigger_forbids_is_refused_in_every_step() -> None:
    never = "CREATE TRIGGER never BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'kept for ever'); END"
    shop = Shop.of(*PRICES, AUDIT)
    effect = shop.plan("UPDATE price SET cents = 1 WHERE item = 'tea'")
    guarded = Shop.of(*PRICES, AUDIT, never)
    assert guarded.plan("UPDATE price SET cents = 1 WHERE item = 'tea'") == effect
    refused = guarded.step("rehearse", effect=effect)
    assert refused.reason == "TRIGGER_REFUSED"
    assert "kept for ever" in refused.err
    guarded.done("apply", effect)
    assert guarded.step("undo", effect=effect.back).reason == "TRIGGER_REFUSED"
    assert (
        Shop.of(*PRICES, AUDIT, never, "INSERT INTO audit (id) VALUES (1)").refusal("DELETE FROM audit")
        == "SQL_REFUSED"
    )


FAMILY = (
    "CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT UNIQUE)",
    "CREATE TABLE child (id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE)",
    "CREATE TABLE pet (id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent ON DELETE SET NULL)",
    "CREATE TABLE toy (id INTEGER PRIMARY KEY, c INTEGER REFERENCES child ON DELETE CASCADE)",
    "INSERT INTO parent VALUES (1, 'a'), (2, 'b')",
    "INSERT INTO child VALUES (10, 1), (11, 1), (12, 2)",
    "INSERT INTO pet VALUES (20, 1), (21, 2)",
    "INSERT INTO toy VALUES (30, 10), (31, 12)",
)


def test_cascades_are_in_the_effect() -> None:
    shop = Shop.of(*FAMILY)
    effect = shop.round_trip("DELETE FROM parent WHERE id = 1")
    assert sorted(effect.before) == ["child/10", "child/11", "parent/1", "pet/20", "toy/30"]
    assert list(effect.after) == ["pet/20"]
    Shop.of(*FAMILY).round_trip("REPLACE INTO parent VALUES (3, 'a')")
    Shop.of(*FAMILY, "DELETE FROM pet").round_trip("UPDATE parent SET id = id + 100")


def test_a_child_that_came_meanwhile_is_left_with_its_parent() -> None:
    shop = Shop.of(*FAMILY)
    effect = shop.plan("DELETE FROM parent WHERE id = 2")
    later = Shop.of(*FAMILY, "INSERT INTO child VALUES (13, 2)")
    assert later.step("apply", effect=effect).reason == "FOREIGN_KEY"
    assert shop.refusal("INSERT INTO child VALUES (14, 99)") == "SQL_REFUSED"


def test_rows_that_refer_to_nothing_already_are_nobodys_fault() -> None:
    shop = Shop.of(*FAMILY, "INSERT INTO child VALUES (13, 99)")
    shop.round_trip("DELETE FROM parent WHERE id = 2")


def test_a_file_with_a_write_ahead_log_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "made.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(";".join(PRICES))
    shop = Shop(path.read_bytes())
    effect = shop.round_trip("UPDATE price SET cents = 7")
    assert shop.data[18:20] == b"\x02\x02"
    path.write_bytes(shop.data)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        assert db.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
        assert db.execute("SELECT DISTINCT cents FROM price").fetchall() == [(7,)]
        db.execute("UPDATE price SET cents = 8")
    shop.data = path.read_bytes()
    assert shop.step("undo", effect=effect.back).code == 5


@pytest.mark.parametrize("pragma", ["page_size = 512", "page_size = 65536", "auto_vacuum = FULL", "user_version = 7"])
def test_files_of_all_shapes(pragma: str) -> None:
    shop = Shop.of(f"PRAGMA {pragma}", *PRICES)
    shop.round_trip(
        "INSERT INTO price SELECT 'item' || value, 1, printf('%500d', value) FROM json_each('[1,2,3,4,5,6]')"
    )


def test_other_tables_may_be_of_any_kind() -> None:
    shop = Shop.of(
        *PRICES,
        "CREATE TABLE plain (a, b); INSERT INTO plain VALUES (1, NULL), (1, NULL)",
        "CREATE VIRTUAL TABLE words USING fts5(a); INSERT INTO words VALUES ('some words')",
        "CREATE VIEW cheap AS SELECT * FROM price WHERE cents < 200",
        "CREATE TABLE nulls (k TEXT PRIMARY KEY); INSERT INTO nulls VALUES (NULL), (NULL)",
        f"CREATE TABLE wide ({', '.join(f'c{number}' for number in range(1000))})",
        "INSERT INTO wide (c1) VALUES (1)",
        "ANALYZE",
    )
    shop.round_trip("UPDATE price SET cents = (SELECT count(*) FROM plain, cheap)")


def test_a_row_that_has_moved_stops_all() -> None:
    shop = Shop.of(*PRICES)
    effect = shop.plan("UPDATE price SET cents = 0")
    later = Shop.of(
        *PRICES, "UPDATE price SET note = 'new' WHERE item = 'milk'", "DELETE FROM price WHERE item = 'tea'"
    )
    for step in ("rehearse", "apply", "undo"):
        ran = later.step(step, effect=effect)
        assert ran.code == 5
        assert ran.err.startswith("STATE_MOVED: not as they were: price/milk, price/tea;")
    assert later.step("verify", effect=effect).items("now").keys() == {"price/milk", "price/salt"}
    added = shop.plan("INSERT INTO price VALUES ('rye', 1, NULL)")
    shop.done("apply", added)
    assert shop.step("apply", effect=added).code == 5


@pytest.mark.parametrize(
    "change", ["ALTER TABLE price ADD COLUMN more", "DROP TABLE price", "ALTER TABLE price RENAME cents TO c"]
)
def test_a_table_of_another_shape_is_another_state(change: str) -> None:
    shop = Shop.of(*PRICES)
    for sql in ("UPDATE price SET cents = 0", "INSERT INTO price VALUES ('rye', 1, NULL)"):
        effect = shop.plan(sql)
        later = Shop.of(*PRICES, change)
        assert later.step("apply", effect=effect).code == 5
        assert later.step("verify", effect=effect).code == 4


def test_an_undo_takes_the_arguments_of_the_call_that_it_takes_back() -> None:
    shop = Shop.of(*PRICES)
    effect = shop.plan("DELETE FROM price")
    shop.done("apply", effect)
    origin = {"database": shop.name, "sql": "DELETE FROM price"}
    other = Shop(shop.data, "other.db")
    ran = other.step("undo", effect=effect.back, origin=origin, files={shop.name: shop.data})
    assert ran.code == 0
    assert ran.left[shop.name] != shop.data
    assert ran.left["other.db"] == shop.data


def test_as_many_rows_as_are_allowed_and_one_more() -> None:
    many = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r LIMIT {}) INSERT INTO t SELECT n, 'x' FROM r"
    shop = Shop.of("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    assert len(shop.round_trip(many.format(1000)).after) == 1000
    assert shop.refusal("INSERT INTO t SELECT id + 1000, v FROM t UNION ALL SELECT 0, 'x'") == "TOO_MANY_ROWS"
    half = Shop.of("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", many.format(501))
    assert half.refusal("UPDATE t SET id = id + 1000") == "TOO_MANY_ROWS"


def test_a_default_by_the_clock_is_a_value_once_it_is_planned() -> None:
    shop = Shop.of("CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT DEFAULT CURRENT_TIMESTAMP)")
    effect = shop.plan("INSERT INTO t (id) VALUES (1)")
    shop.done("apply", effect)
    ((at,),) = shop.rows("SELECT at FROM t")
    assert effect.after == {"t/1": f'"id" integer = "1"\n"at" text = "{at}"\n'}


@pytest.mark.parametrize("how", ["REPLACE", "IGNORE", "ABORT"])
def test_a_table_that_settles_conflicts_by_itself_settles_none_here(how: str) -> None:
    schema = f"CREATE TABLE t (k TEXT PRIMARY KEY, u UNIQUE ON CONFLICT {how})"
    effect = Shop.of(schema).plan("INSERT INTO t VALUES ('a', 1)")
    later = Shop.of(schema, "INSERT INTO t VALUES ('b', 1)")
    assert later.step("apply", effect=effect).reason == ("SQL_REFUSED" if how == "ABORT" else "NOT_ACCOUNTED")
