"""``sql.execute`` and what rows may hold: every kind of type, of key and of name comes back as it was."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.sql_world import SqlWorld

VALUES = {
    "smallint": "'-32768'",
    "bigint": "9223372036854775807",
    "numeric": "'-12345678901234567890.123456789012345678901234567890'",
    "numeric(12,4)": "'NaN'",
    "real": "1.1",
    "double precision": "0.1::float8 + 0.2::float8",
    "money": "'-1234567.89'",
    "boolean": "true",
    "text": "E'two\\nlines\\t\"quoted\" \\\\ back, comma (paren) {brace} ''apostrophe'' \\u2028 \\U0001F600'",
    "character varying(5)": "'abc  '",
    "character(5)": "'ab'",
    '"char"': "'x'",
    "name": "'a name'",
    "bytea": "'\\x00ff0a5c22'",
    "date": "'infinity'",
    "time without time zone": "'24:00:00'",
    "time with time zone": "'12:34:56.789+05:30'",
    "timestamp without time zone": "'0044-03-15 12:00:00 BC'",
    "timestamp with time zone": "'2026-02-28 23:59:59.999999-11'",
    "interval": "'-1 year -2 mons +3 days -04:05:06.7'",
    "uuid": "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
    "json": """'{"b":1,  "a": [1, null, "x"], "b": 2}'""",
    "jsonb": """'{"b":1,  "a": [1, null, "x\\\\u00e9"]}'""",
    "xml": "'<a href=\"x\">&amp;</a>'",
    "inet": "'192.168.1.5'",
    "cidr": "'10.0.0.0/8'",
    "macaddr": "'08:00:2b:01:02:03'",
    "bit(3)": "B'101'",
    "bit varying": "B'1'",
    "tsvector": "'a:1 fat:2A ''it''''s'':3'",
    "tsquery": "'fat & !cat'",
    "point": "'(1.5,-2)'",
    "polygon": "'((0,0),(1,1),(1,0))'",
    "int4range": "'[1,5)'",
    "tstzrange": "'[2026-01-01 00:00+02,)'",
    "datemultirange": "'{[2026-01-01,2026-02-01),[2026-03-01,)}'",
    "integer[]": "'[0:1]={1,NULL}'",
    "text[]": "ARRAY['a,b', '\"q\"', '', NULL, 'NULL', '{}', E'\\\\']",
    "integer[][]": "'{{1,2},{3,4}}'",
    "regclass": "'pg_class'",
    "pg_lsn": "'16/B374D848'",
    "mood": "'so so'",
    '"Größe ""x"""': "'L, (XL)'",
    "positive": "7",
    "list": "ARRAY[1,2]",
    "pair": "ROW(1, E'a\"b,\\\\')",
    "pair[]": "ARRAY[ROW(1, 'a')::pair, NULL, ROW(NULL, '')::pair]",
    "span": "'[a,b)'",
}
TYPES = (
    "CREATE TYPE mood AS ENUM ('sad', 'so so', 'ok')",
    'CREATE TYPE "Größe ""x""" AS ENUM (\'S\', \'L, (XL)\')',
    "CREATE DOMAIN positive AS integer NOT NULL CHECK (VALUE > 0)",
    "CREATE DOMAIN list AS integer[]",
    "CREATE TYPE pair AS (a integer, b text)",
    "CREATE TYPE span AS RANGE (subtype = text)",
)


@pytest.fixture
def typed(sql: SqlWorld) -> SqlWorld:
    columns = ", ".join(f"c{number} {kind}" for number, kind in enumerate(VALUES))
    sql.do(
        *TYPES,
        f"CREATE TABLE full_row (id integer PRIMARY KEY, note text, {columns})",
        f"INSERT INTO full_row VALUES (1, 'one', {', '.join(VALUES.values())})",
    )
    return sql


def test_every_type_comes_back_when_its_row_was_removed(typed: SqlWorld) -> None:
    planned = typed.there_and_back("DELETE FROM full_row")
    lines = planned.before["public.full_row/1"].splitlines()
    # Some of the text forms, so that a setting that slips in is seen.
    for line in (
        '"c3" numeric(12,4) = "NaN"',
        '"c5" double precision = "0.30000000000000004"',
        '"c6" money = "-$1,234,567.89"',
        '"c10" character(5) = "ab   "',
        '"c13" bytea = "\\\\x00ff0a5c22"',
        '"c17" timestamp without time zone = "0044-03-15 12:00:00 BC"',
        '"c18" timestamp with time zone = "2026-03-01 10:59:59.999999+00"',
        '"c19" interval = "-1 years -2 mons +3 days -04:05:06.7"',
        '"c24" inet = "192.168.1.5"',
        '"c39" regclass = "pg_class"',
        '"c41" public.mood = "so so"',
        '"c42" public."Größe ""x""" = "L, (XL)"',
    ):
        assert line in lines


def test_every_type_can_be_set_to_null_and_back(typed: SqlWorld) -> None:
    nullable = [number for number, kind in enumerate(VALUES) if kind != "positive"]
    planned = typed.there_and_back(f"UPDATE full_row SET {', '.join(f'c{number} = NULL' for number in nullable)}")
    assert planned.after["public.full_row/1"].count(" = null\n") == len(nullable)


def test_a_row_of_every_type_is_added(typed: SqlWorld) -> None:
    names = ", ".join(f"c{number}" for number in range(len(VALUES)))
    typed.there_and_back(f"INSERT INTO full_row (id, {names}) SELECT 2, {names} FROM full_row")


def test_the_roles_own_settings_change_no_text(typed: SqlWorld) -> None:
    texts = typed.plan("DELETE FROM full_row").before
    for setting in (
        "DateStyle = 'German'",
        "IntervalStyle = 'iso_8601'",
        "TimeZone = 'Asia/Kolkata'",
        "bytea_output = 'escape'",
        "extra_float_digits = -5",
        "quote_all_identifiers = on",
        "client_encoding = 'LATIN1'",
        "search_path = pg_catalog",
    ):
        typed.do(f"ALTER ROLE clerk IN DATABASE {typed.database} SET {setting}")
    assert typed.plan("DELETE FROM public.full_row").before == texts
    typed.there_and_back("DELETE FROM public.full_row")


def test_long_values_come_back(sql: SqlWorld) -> None:
    sql.do(
        "CREATE TABLE long (id integer PRIMARY KEY, a text, b bytea)",
        "INSERT INTO long SELECT 1, string_agg(md5(n::text), ''), decode(string_agg(md5(n::text), ''), 'hex')"
        " FROM generate_series(1, 20000) n",
    )
    sql.there_and_back("UPDATE long SET a = a || 'x'")
    sql.there_and_back("DELETE FROM long")


def test_generated_and_identity_columns_come_back(sql: SqlWorld) -> None:
    sql.do(
        "CREATE TABLE made (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gone text, a integer,"
        " twice integer GENERATED ALWAYS AS (a * 2) STORED, serial bigint GENERATED BY DEFAULT AS IDENTITY)",
        "ALTER TABLE made DROP COLUMN gone",
        "INSERT INTO made (a) VALUES (1), (2)",
    )
    planned = sql.there_and_back("INSERT INTO made (a) VALUES (21)")
    assert [text for text in planned.after.values() if '"twice" integer = "42"' in text]
    sql.there_and_back("UPDATE made SET a = a + 1 WHERE id = 1")
    sql.there_and_back("UPDATE made SET id = DEFAULT WHERE id = 1")
    sql.there_and_back("DELETE FROM made")


def test_an_identity_column_beside_the_key_comes_back(sql: SqlWorld) -> None:
    sql.do(
        "CREATE TABLE made (id text PRIMARY KEY, n integer GENERATED ALWAYS AS IDENTITY)",
        "INSERT INTO made VALUES ('a')",
    )
    sql.there_and_back("UPDATE made SET n = DEFAULT")


NAMES = ('"Group ""x"", y"', '"a.b"."c.d"', "größe", '"' + "ü" * 31 + '"."' + "n" * 63 + '"', '"order"', '"t; DROP"')


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_quoted(sql: SqlWorld, name: str) -> None:
    if "." in name:
        schema = name.partition(".")[0] if '"."' not in name else name.partition('"."')[0] + '"'
        sql.do(f"CREATE SCHEMA {schema}", f"GRANT USAGE ON SCHEMA {schema} TO clerk")
    sql.do(
        f'CREATE TABLE {name} ("primary key" integer PRIMARY KEY, "t" text, "n" text, "sel\'ect ""$1"" {{}}" text)',
        f"INSERT INTO {name} VALUES (1, 'a', 'b', 'c'), (2, 'd', 'e', 'f')",
    )
    planned = sql.there_and_back(f'UPDATE {name} SET "sel\'ect ""$1"" {{}}" = $$it\'s$$, n = NULL')
    assert len(planned.before) == 2
    for path in planned.before:
        assert len(path.split("/")) == 2
        assert all(0 < len(part.encode()) <= 200 for part in path.split("/"))
    sql.there_and_back(f"DELETE FROM {name}")


def test_names_that_differ_by_a_dot_are_other_tables(sql: SqlWorld) -> None:
    sql.do('CREATE SCHEMA "a.b"', "CREATE SCHEMA a", 'GRANT USAGE ON SCHEMA a, "a.b" TO clerk')
    for name in ('"a.b".c', 'a."b.c"'):
        sql.do(f"CREATE TABLE {name} (id integer PRIMARY KEY)", f"INSERT INTO {name} VALUES (1)")
    first, second = (sql.there_and_back(f"DELETE FROM {name}") for name in ('"a.b".c', 'a."b.c"'))
    assert (set(first.before), set(second.before)) == ({"a%2Eb.c/1"}, {"a.b%2Ec/1"})


KEYS = {
    "text": ("''", "'.'", "'..'", "'/'", "'a,b'", "'%2C'", "'~'", "'ä'", f"'{'x' * 300}'", "E'\\n'", "'sha256-00'"),
    "numeric": ("1.0", "'NaN'", "-0.00001"),
    "timestamptz": ("'2026-01-01 00:00+02'",),
    "uuid": ("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",),
    "integer[]": ("'{1,2}'", "'{}'"),
    "bytea": ("''", "'\\x2f'"),
    "double precision": ("'-Infinity'", "1e300"),
    "inet": ("'10.1.2.3'",),
    "boolean": ("true", "false"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_any_key_names_its_row(sql: SqlWorld, kind: str) -> None:
    sql.do(f"CREATE TABLE keyed (k {kind}, v integer, PRIMARY KEY (k) INCLUDE (v))")
    for number, key in enumerate(KEYS[kind]):
        sql.do(f"INSERT INTO keyed VALUES ({key}, {number})")
    planned = sql.there_and_back("UPDATE keyed SET v = v + 100")
    assert len(planned.before) == len(KEYS[kind])
    sql.there_and_back("DELETE FROM keyed")


def test_paths_of_keys_are_as_they_are_described(sql: SqlWorld) -> None:
    sql.do(
        "CREATE TABLE pair (b text, a integer, c integer, PRIMARY KEY (a, b))",
        "INSERT INTO pair VALUES ('x,y z.', 1), ('', 2), ('..', 3)",
        f"INSERT INTO pair VALUES ('{'y' * 200}', 4)",
    )
    sql.do("CREATE TABLE one (a text PRIMARY KEY)", "INSERT INTO one VALUES ('..'), ('')")
    digest = hashlib.sha256(f"4,{'y' * 200}".encode()).hexdigest()
    assert set(sql.plan("DELETE FROM pair").before) == {
        "public.pair/1,x%2Cy%20z.",
        "public.pair/2,",
        "public.pair/3,..",
        f"public.pair/sha256-{digest}",
    }
    empty = hashlib.sha256(b"").hexdigest()
    assert set(sql.plan("DELETE FROM one").before) == {"public.one/%2E%2E", f"public.one/sha256-{empty}"}


def test_a_changed_key_is_one_row_less_and_one_more(sql: SqlWorld) -> None:
    sql.do("CREATE TABLE t (id integer PRIMARY KEY, mail text UNIQUE)", "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    planned = sql.there_and_back("UPDATE t SET id = 3 WHERE id = 1")
    assert (set(planned.before), set(planned.after)) == ({"public.t/1"}, {"public.t/3"})
    sql.there_and_back("UPDATE t SET id = id + 100")


def test_a_key_that_is_written_otherwise_is_a_changed_key(sql: SqlWorld) -> None:
    sql.do("CREATE TABLE t (id numeric PRIMARY KEY)", "INSERT INTO t VALUES (1.00)")
    planned = sql.there_and_back("UPDATE t SET id = 1.0")
    assert (set(planned.before), set(planned.after)) == ({"public.t/1.00"}, {"public.t/1.0"})


def test_values_that_are_unique_are_passed_on(sql: SqlWorld) -> None:
    sql.do(
        "CREATE TABLE place (id integer PRIMARY KEY, rank integer UNIQUE, seat integer UNIQUE DEFERRABLE)",
        "INSERT INTO place SELECT n, n, n FROM generate_series(1, 9) n",
    )
    sql.there_and_back("UPDATE place SET seat = 10 - seat")
    sql.do("DELETE FROM place", "INSERT INTO place SELECT n, n, n FROM generate_series(9, 1, -1) n")
    sql.there_and_back("UPDATE place SET rank = rank + 1")


def test_keys_are_exchanged_where_they_are_looked_at_later(sql: SqlWorld) -> None:
    sql.do("CREATE TABLE t (id integer PRIMARY KEY DEFERRABLE, a text)", "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    planned = sql.there_and_back("UPDATE t SET id = 3 - id")
    assert set(planned.before) == set(planned.after) == {"public.t/1", "public.t/2"}


def test_a_type_of_an_extension_with_its_own_equality_is_a_key(sql: SqlWorld) -> None:
    sql.do(
        "CREATE SCHEMA ext",
        "GRANT USAGE ON SCHEMA ext TO clerk",
        "CREATE EXTENSION citext SCHEMA ext",
        "CREATE TABLE t (id ext.citext PRIMARY KEY, a integer)",
        "INSERT INTO t VALUES ('Foo', 1)",
    )
    sql.there_and_back("UPDATE t SET a = 2")
    planned = sql.there_and_back("UPDATE t SET id = 'fOO'")
    assert (set(planned.before), set(planned.after)) == ({"public.t/Foo"}, {"public.t/fOO"})


def test_a_cast_that_somebody_made_changes_no_text(sql: SqlWorld) -> None:
    sql.do(
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE FUNCTION lie(mood) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'lie' $$",
        "CREATE FUNCTION believe(text) RETURNS mood IMMUTABLE LANGUAGE sql AS $$ SELECT enum_first(NULL::mood) $$",
        "CREATE CAST (mood AS text) WITH FUNCTION lie(mood) AS IMPLICIT",
        "CREATE CAST (text AS mood) WITH FUNCTION believe(text) AS IMPLICIT",
        "CREATE TABLE t (id integer PRIMARY KEY, m mood, b boolean)",
        "INSERT INTO t VALUES (1, 'ok', true)",
    )
    planned = sql.there_and_back("DELETE FROM t")
    assert '"m" public.mood = "ok"\n"b" boolean = "t"\n' in planned.before["public.t/1"]


def test_functions_that_stand_in_the_roles_path_are_not_taken_for_the_servers(sql: SqlWorld) -> None:
    """Somebody who may make functions must not get into the program's own statements."""
    sql.do(
        "CREATE TABLE t (id integer PRIMARY KEY, a text)",
        "INSERT INTO t VALUES (1, 'a')",
        "CREATE FUNCTION public.unnest(t[]) RETURNS SETOF t LANGUAGE sql AS $$ SELECT 1/0, 'x' $$",
        "CREATE FUNCTION public.age(xid) RETURNS integer LANGUAGE sql AS $$ SELECT 1/0 $$",
        "CREATE FUNCTION public.never(integer, integer) RETURNS boolean LANGUAGE sql AS $$ SELECT false $$",
        "CREATE OPERATOR public.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = public.never)",
        f"ALTER ROLE clerk IN DATABASE {sql.database} SET search_path = public, pg_catalog",
    )
    sql.there_and_back("UPDATE t SET a = 'b'")


def test_a_table_of_one_thousand_columns(sql: SqlWorld) -> None:
    columns = ", ".join(f"c{number} integer DEFAULT {number}" for number in range(1000))
    sql.do(
        f"CREATE TABLE wide (id integer PRIMARY KEY, {columns})",
        "INSERT INTO wide SELECT n FROM generate_series(1, 5) n",
    )
    planned = sql.there_and_back("UPDATE wide SET c999 = 0")
    assert len(planned.before["public.wide/1"].splitlines()) == 1001
    sql.there_and_back("DELETE FROM wide")


def test_another_encoding_of_the_database_changes_no_text(sql: SqlWorld) -> None:
    name = f"{sql.database}_latin"
    with sql.server.superuser() as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1'".encode())
    latin = type(sql)(sql.server, name, sql.scratch)
    latin.do(
        "CREATE TABLE größe (id integer PRIMARY KEY, a text)",
        "INSERT INTO größe VALUES (1, 'é')",
        "GRANT ALL ON größe TO clerk",
    )
    planned = latin.there_and_back("UPDATE größe SET a = a || 'ü'")
    assert json.loads(planned.after["public.gr%C3%B6%C3%9Fe/1"].splitlines()[1].partition(" = ")[2]) == "éü"
