"""A hostile statement for ``sql.execute``: it smuggles another one in, calls what acts, or hides what it changes."""

from __future__ import annotations

import json

import pytest

from tests.sql_world import SqlWorld

TABLE = ("CREATE TABLE t (id integer PRIMARY KEY, a text)", "INSERT INTO t VALUES (1, 'one'), (2, 'two')")


@pytest.fixture
def small(sql: SqlWorld) -> SqlWorld:
    """One table, and another one that nobody may touch."""
    sql.do(*TABLE, "CREATE TABLE victim (id integer PRIMARY KEY)", "INSERT INTO victim VALUES (1)")
    return sql


SMUGGLED = {
    "two statements": "UPDATE t SET a = 'x'; DELETE FROM victim",
    "a commit between": "UPDATE t SET a = 'x'; COMMIT; DROP TABLE victim",
    "a commit alone": "COMMIT",
    "the end of the function": "UPDATE t SET a = 'x'; END; DELETE FROM victim",
    "the end of the function, hidden": "UPDATE t SET a = 'x';\nEND; DROP TABLE victim; --",
    "the end, and what balances it": "DELETE FROM victim; END; CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE sql"
    " BEGIN ATOMIC UPDATE t SET a = 'x'",
    "a comment that isn't closed": "UPDATE t SET a = 'x' /*",
    "a comment in a comment": "UPDATE t SET a = 'x' /* /* */",
    "a line comment over the end": "UPDATE t SET a = 'x' -- \r ; DELETE FROM victim\n; DELETE FROM victim",
    "a string that isn't closed": "UPDATE t SET a = 'x",
    "a dollar quote that isn't closed": "UPDATE t SET a = $$x",
    "an identifier that isn't closed": 'UPDATE t SET a = "x',
    "explain that runs": "ANALYZE UPDATE t SET a = 'x'",
    "an option of explain": "(ANALYZE) UPDATE t SET a = 'x'",
    "explain within": "EXPLAIN ANALYZE DELETE FROM victim",
    "more options of explain": ", ANALYZE) DELETE FROM victim",
    "an open parenthesis": "(UPDATE t SET a = 'x'",
    "nothing": "",
    "nothing but a comment": "/* UPDATE t SET a = 'x' */",
    "nothing but ends": ";;",
    "a select": "SELECT * FROM t",
    "a select that locks": "SELECT * FROM t FOR UPDATE",
    "a select into a table": "SELECT * INTO u FROM t",
    "values": "VALUES (1)",
    "a return": "RETURN 1",
    "a table that is made": "CREATE TABLE u AS SELECT * FROM t",
    "a table that is emptied": "TRUNCATE victim",
    "a table that is dropped": "DROP TABLE victim",
    "a copy": "COPY t FROM PROGRAM 'id'",
    "a copy of a change": "COPY (DELETE FROM victim RETURNING id) TO PROGRAM 'cat'",
    "a merge": "MERGE INTO t USING victim v ON v.id = t.id WHEN MATCHED THEN DELETE",
    "a block": "DO $$ BEGIN DELETE FROM victim; END $$",
    "a call": "CALL p()",
    "a prepared statement": "EXECUTE p",
    "a cursor": "DECLARE c CURSOR FOR SELECT 1",
    "a lock": "LOCK TABLE victim",
    "a setting": "SET row_security = on",
    "a notice": "NOTIFY x",
    "a role": "SET ROLE postgres",
    "a parameter": "UPDATE t SET a = $1",
    "a change within": "WITH gone AS (DELETE FROM victim RETURNING id) UPDATE t SET a = 'x' FROM gone",
    "a change within a select": "WITH gone AS (DELETE FROM victim RETURNING id) SELECT * FROM gone",
    "two changes within": "WITH a AS (DELETE FROM victim), b AS (DELETE FROM t) INSERT INTO t VALUES (5)",
    "a change within a change": "INSERT INTO t WITH gone AS (DELETE FROM victim RETURNING id) SELECT id FROM gone",
}


@pytest.mark.parametrize("case", SMUGGLED)
def test_another_statement_is_smuggled_in(small: SqlWorld, case: str) -> None:
    was = small.everything()
    done = small.plan(SMUGGLED[case])
    assert (done.code, done.reason in {"STATEMENT_REFUSED", "NOT_ONE_CHANGE"}) == (3, True), done.error
    assert len(done.error.splitlines()) == 1
    assert (done.before, done.after, small.everything()) == ({}, {}, was)


HARMLESS = {
    "a comment at the end": "UPDATE t SET a = 'x' -- ; DELETE FROM victim",
    "an end at the end": "UPDATE t SET a = 'x';",
    "many ends": "UPDATE t SET a = 'x' ; ; -- \n ;",
    "words in a string": "UPDATE t SET a = '; END; COMMIT; DROP TABLE victim; --'",
    "words in a comment": "/* ; END; */ UPDATE t SET a = /* /* nested */ ; */ 'x' --",
    "a dollar quote": "UPDATE t SET a = $end$ ' ; END; $end$",
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_only_looks_like_another_statement_is_one(small: SqlWorld, case: str) -> None:
    assert set(small.there_and_back(HARMLESS[case]).after) == {"public.t/1", "public.t/2"}


def test_a_nul_ends_the_statement_for_the_server_alone(small: SqlWorld) -> None:
    small.refused("UPDATE t SET a = 'x'\x00\x00\x00; DELETE FROM victim", "SQL_NOT_TEXT")
    small.refused("UPDATE t SET a = '\ud800'", "SQL_NOT_TEXT")
    small.refused(f"UPDATE t SET a = '{'x' * 20_000}'", "SQL_TOO_LONG")


def test_other_arguments(small: SqlWorld) -> None:
    for arguments in (
        {},
        {"sql": 1},
        {"sql": ["DELETE FROM t"]},
        {"sql": "DELETE FROM t", "host": "x"},
        ["sql"],
        "sql",
    ):
        done = small.step("plan", small.folder(), arguments)
        assert (done.code, done.reason) == (3, "ARGUMENTS"), done.error


def test_a_statement_as_deep_as_it_can_be(small: SqlWorld) -> None:
    for sql in (
        f"UPDATE t SET id = {'- ' * 9_000}1",
        f"UPDATE t SET id = {'(' * 9_000}1{')' * 9_000}",
        f"DELETE FROM t WHERE {'NOT ' * 4_000}true",
        f"DELETE FROM t WHERE id IN {'(SELECT 1 WHERE 1 IN ' * 300}(1){')' * 300}",
    ):
        done = small.plan(sql)
        assert done.code in {0, 3}, done.error
        assert len(done.error.splitlines()) <= 1


ACTING = (
    "CREATE TABLE mark (n integer)",
    (
        "CREATE FUNCTION act(anyelement) RETURNS anyelement VOLATILE SECURITY DEFINER LANGUAGE plpgsql"
        " AS $$ BEGIN INSERT INTO mark VALUES (1); RETURN $1; END $$"
    ),
    (
        "CREATE FUNCTION act_too(integer, integer) RETURNS boolean VOLATILE SECURITY DEFINER LANGUAGE plpgsql"
        " AS $$ BEGIN INSERT INTO mark VALUES (1); RETURN true; END $$"
    ),
    (
        "CREATE FUNCTION act_more(integer, integer) RETURNS integer VOLATILE SECURITY DEFINER LANGUAGE plpgsql"
        " AS $$ BEGIN INSERT INTO mark VALUES (1); RETURN 1; END $$"
    ),
    "CREATE FUNCTION many() RETURNS SETOF integer VOLATILE LANGUAGE plpgsql AS $$ BEGIN RETURN NEXT 1; END $$",
    "CREATE OPERATOR === (LEFTARG = integer, RIGHTARG = integer, FUNCTION = act_too)",
    "CREATE AGGREGATE total (integer) (SFUNC = act_more, STYPE = integer, INITCOND = '0')",
    "CREATE TYPE mood AS ENUM ('sad', 'ok')",
    "CREATE FUNCTION feel(integer) RETURNS mood VOLATILE LANGUAGE sql AS $$ SELECT 'ok'::mood $$",
    "CREATE CAST (integer AS mood) WITH FUNCTION feel(integer) AS IMPLICIT",
    "CREATE TABLE felt (id integer PRIMARY KEY, m mood)",
    "CREATE DOMAIN checked AS integer CHECK (act(VALUE) > 0)",
    "CREATE DOMAIN twice AS checked",
    "CREATE VIEW acting AS SELECT act(id) AS id FROM t",
    "CREATE VIEW behind AS SELECT id FROM acting",
    "CREATE VIEW safe AS SELECT 1 AS id WHERE EXISTS (SELECT FROM behind)",
    "GRANT ALL ON acting, behind, safe TO clerk",
)

CALLS = {
    "in the values": "UPDATE t SET a = act('x'::text)",
    "in the condition": "DELETE FROM t WHERE act(id) = 1",
    "in the condition that is false": "DELETE FROM t WHERE false AND act(id) = 1",
    "in what is returned": "DELETE FROM t RETURNING act(id)",
    "under the name of a field": 'DELETE FROM t RETURNING act(id) AS ":expr"',
    "under the name of a field of a table": 'DELETE FROM t AS ":rtable" RETURNING act(":rtable".id) AS ":funcid"',
    "under a name with braces": 'DELETE FROM t RETURNING act(id) AS "} {X :expr <>"',
    "in a subquery": "DELETE FROM t WHERE id = (SELECT max(act(id)) FROM t)",
    "in a common table expression": "WITH x AS (SELECT act(1) AS id) DELETE FROM t USING x WHERE t.id = x.id",
    "in the order": "INSERT INTO t SELECT id + 9 FROM t ORDER BY act(id) LIMIT 1",
    "in the limit": "INSERT INTO t SELECT id + 9 FROM t LIMIT act(1)",
    "in a filter": "DELETE FROM t WHERE id = (SELECT count(*) FILTER (WHERE act(id) > 0) FROM t)",
    "in a window": "INSERT INTO t SELECT id + 9, sum(id) OVER (PARTITION BY act(id)) FROM t",
    "in a group": "INSERT INTO t SELECT max(id) + 9 FROM t GROUP BY act(id)",
    "in a join": "DELETE FROM t USING t AS u JOIN t AS v ON act(u.id) = v.id WHERE t.id = u.id",
    "in a conflict": "INSERT INTO t VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET a = act('x'::text)",
    "in the condition of a conflict": "INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 'x' WHERE act(1) = 1",
    "in an array": "DELETE FROM t WHERE id = ANY (ARRAY[act(1)])",
    "in a case": "UPDATE t SET a = CASE WHEN id = 1 THEN act('x'::text) ELSE 'y' END",
    "in a coalesce": "UPDATE t SET a = COALESCE(act('x'::text), 'y')",
    "in a row": "DELETE FROM t WHERE (id, act(id)) < (9, 9)",
    "in a function that gives rows": "INSERT INTO t SELECT 9 FROM many()",
    "in rows from": "INSERT INTO t SELECT 9 FROM ROWS FROM (generate_series(1, 2), many())",
    "laterally": "INSERT INTO t SELECT 9 FROM t, LATERAL (SELECT act(t.id)) x",
    "as an operator": "DELETE FROM t WHERE id === 1",
    "as an operator for any": "DELETE FROM t WHERE 1 === ANY (ARRAY[1])",
    "as an operator of a subquery": "DELETE FROM t WHERE 1 === ALL (SELECT id FROM t)",
    "as an aggregate": "DELETE FROM t WHERE id = (SELECT total(id) FROM t)",
    "as a window function": "INSERT INTO t SELECT 9 + total(id) OVER () FROM t",
    "as a cast": "DELETE FROM t WHERE id::mood = 'ok'",
    "as a cast that nobody wrote": "INSERT INTO felt SELECT id, id FROM t",
    "as a check of a domain": "DELETE FROM t WHERE id::checked = 1",
    "as a check of a domain of a domain": "DELETE FROM t WHERE 1 = 1::twice",
    "as a check of a domain in an array": "DELETE FROM t WHERE '{1}'::checked[] = '{1}'",
    "in a view": "DELETE FROM t USING acting WHERE t.id = acting.id",
    "in a view behind a view": "DELETE FROM t WHERE id IN (SELECT id FROM behind)",
    "in the condition of a view": "INSERT INTO t SELECT 9 FROM safe",
    "in xml of a view": "UPDATE t SET a = table_to_xml('acting', true, true, '')",
    "in xml of a schema": "UPDATE t SET a = schema_to_xml('public', true, true, '')",
    "in xml of a query": "UPDATE t SET a = query_to_xml('DELETE FROM victim', true, true, '')",
    "in statistics of a query": "DELETE FROM t USING ts_stat('SELECT to_tsvector(a) FROM t') s WHERE s.word = a",
    "to wait": "UPDATE t SET a = pg_sleep(100)::text",
    "to change a setting": "UPDATE t SET a = set_config('row_security', 'on', false)",
    "to take a number": "INSERT INTO t VALUES (nextval('numbers'))",
    "to set a number": "INSERT INTO t VALUES (setval('numbers', 1000))",
    "to tell somebody": "DELETE FROM t WHERE pg_notify('x', a) IS NULL",
    "to take a lock": "DELETE FROM t WHERE pg_advisory_lock(1) IS NULL",
    "to read a file": "UPDATE t SET a = pg_read_file('/etc/passwd')",
    "to make a large object": "INSERT INTO t VALUES (lo_create(0))",
    "to end somebody": "DELETE FROM t WHERE pg_terminate_backend(pid := 1)",
    "by chance": "DELETE FROM t WHERE random() < 0.5",
    "by a sample by chance": "DELETE FROM t WHERE id IN (SELECT id FROM t TABLESAMPLE bernoulli (50))",
}


@pytest.mark.parametrize("case", CALLS)
def test_a_function_that_acts_is_called(small: SqlWorld, case: str) -> None:
    small.do(*ACTING, "CREATE SEQUENCE numbers", "GRANT ALL ON SEQUENCE numbers TO clerk")
    small.refused(CALLS[case], "VOLATILE_FUNCTION")
    assert small.ask("SELECT n FROM mark") == []
    assert small.ask("SELECT is_called FROM numbers") == [False]


TABLES_THAT_ACT = {
    "a default": "CREATE TABLE u (id integer PRIMARY KEY, n integer DEFAULT act(1))",
    "a default within": "CREATE TABLE u (id integer PRIMARY KEY, n bigint DEFAULT act(nextval('numbers')))",
    "a check": "CREATE TABLE u (id integer PRIMARY KEY, CHECK (act(id) > 0))",
    "a check of a domain": "CREATE TABLE u (id integer PRIMARY KEY, n twice)",
    "a check of a domain in a row": "CREATE TABLE u (id integer PRIMARY KEY, n holder[])",
}


@pytest.mark.parametrize("case", TABLES_THAT_ACT)
def test_a_table_calls_a_function_that_acts(small: SqlWorld, case: str) -> None:
    small.do(*ACTING, "CREATE SEQUENCE numbers", "CREATE TYPE holder AS (c checked)", TABLES_THAT_ACT[case])
    small.refused("INSERT INTO u VALUES (1)", "VOLATILE_FUNCTION", "act")
    assert small.ask("SELECT n FROM mark") == []


def test_a_default_that_acts_is_reached_by_a_key(small: SqlWorld) -> None:
    small.do(
        *ACTING, "CREATE TABLE u (id integer PRIMARY KEY, t integer DEFAULT act(1) REFERENCES t ON DELETE SET DEFAULT)"
    )
    small.refused("DELETE FROM t", "VOLATILE_FUNCTION", "act")


def test_a_trigger_that_writes_elsewhere(small: SqlWorld) -> None:
    small.do(
        "CREATE FUNCTION spill() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql"
        " AS $$ BEGIN DELETE FROM victim; RETURN NULL; END $$",
        "CREATE TABLE u (id integer PRIMARY KEY, t integer REFERENCES t ON DELETE CASCADE)",
        "CREATE TABLE v (id integer PRIMARY KEY, u integer REFERENCES u ON DELETE CASCADE)",
        "INSERT INTO u VALUES (1, 1)",
        "INSERT INTO v VALUES (1, 1)",
        "CREATE TRIGGER spill AFTER DELETE ON v FOR EACH STATEMENT EXECUTE FUNCTION spill()",
    )
    small.refused("DELETE FROM v", "TRIGGERS", "public.v.spill")
    small.refused("DELETE FROM t", "TRIGGERS", "public.v.spill")
    small.there_and_back("UPDATE t SET a = 'x'")
    planned = small.plan("DELETE FROM t", SQL_TRIGGERS="public.v.spill")
    assert "public.victim/1" in planned.before, "what a trigger does in this database is seen"


def test_a_trigger_beside_the_one_that_is_vouched_for(small: SqlWorld) -> None:
    small.do(
        "CREATE FUNCTION spill() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql"
        " AS $$ BEGIN DELETE FROM victim; RETURN NEW; END $$",
        "CREATE TRIGGER b AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION spill()",
        'CREATE TRIGGER "b,c" AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION spill()',
        "CREATE TRIGGER w AFTER DELETE ON victim FOR EACH ROW EXECUTE FUNCTION spill()",
    )
    for named in ("public.t.b", 'public.t."b,c"', "public.t.*", "t.t.b"):
        small.refused("INSERT INTO t VALUES (7)", "TRIGGERS", SQL_TRIGGERS=named)
    small.refused("INSERT INTO t VALUES (7)", "TRIGGERS", "public.victim.w", SQL_TRIGGERS='public.t.b,public.t."b,c"')


UNSUITED = {
    "with a rule": ("CREATE RULE r AS ON INSERT TO u DO ALSO DELETE FROM victim", "rules"),
    "with a rule that does nothing": ("CREATE RULE r AS ON DELETE TO u DO INSTEAD NOTHING", "rules"),
    "without a key": ("ALTER TABLE u DROP CONSTRAINT u_pkey", "primary key"),
    "with children": ("CREATE TABLE w () INHERITS (u)", "inherited"),
    "that isn't logged": ("ALTER TABLE u SET UNLOGGED", "unlogged"),
    "with row security": ("ALTER TABLE u ENABLE ROW LEVEL SECURITY", "row security"),
}


@pytest.mark.parametrize("case", UNSUITED)
def test_a_table(small: SqlWorld, case: str) -> None:
    statement, word = UNSUITED[case]
    small.do("CREATE TABLE u (id integer PRIMARY KEY, t integer REFERENCES t ON DELETE CASCADE)", statement)
    for sql in ("INSERT INTO u VALUES (1)", "DELETE FROM u", "DELETE FROM t"):
        done = small.plan(sql)
        assert done.code == 3, done.error
        assert (
            word in done.error
            or "no ordinary table" in done.error
            or "row-level security" in done.error
            or "NOT_ONE" in done.error
        )
    small.refused("DELETE FROM t", "TABLE_UNSUITED", "public.u", word)


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE u (id integer PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE VIEW u AS SELECT * FROM t",
        "CREATE VIEW u AS SELECT * FROM t WITH LOCAL CHECK OPTION",
        "CREATE MATERIALIZED VIEW u AS SELECT * FROM t",
        (
            "CREATE TABLE up (id integer PRIMARY KEY, a text) PARTITION BY RANGE (id);"
            " CREATE TABLE u PARTITION OF up FOR VALUES FROM (0) TO (9)"
        ),
    ],
)
def test_what_is_no_ordinary_table(small: SqlWorld, made: str) -> None:
    small.do(*made.split(";"), "GRANT ALL ON u TO clerk")
    for sql in ("DELETE FROM u", "INSERT INTO u VALUES (3)", "UPDATE u SET id = 5"):
        done = small.plan(sql)
        assert (
            done.code,
            done.reason in {"TABLE_UNSUITED", "STATEMENT_REFUSED", "NOT_ONE_CHANGE", "DATABASE_REFUSED"},
        ) == (3, True), done.error


def test_the_servers_own_tables(small: SqlWorld) -> None:
    small.do("GRANT ALL ON pg_description, information_schema.sql_parts TO clerk")
    small.refused("DELETE FROM pg_description", "PERMISSION_DENIED")
    small.refused("DELETE FROM information_schema.sql_parts", "TABLE_UNSUITED", "belongs to the server")


def test_a_table_on_another_server(small: SqlWorld) -> None:
    small.do(
        "CREATE FOREIGN DATA WRAPPER w",
        "CREATE SERVER s FOREIGN DATA WRAPPER w",
        "CREATE FOREIGN TABLE far (id integer) SERVER s",
        "CREATE TABLE parts (id integer) PARTITION BY RANGE (id)",
        "CREATE FOREIGN TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (9) SERVER s",
        "CREATE VIEW hidden AS SELECT id FROM far",
        "GRANT ALL ON far, parts, hidden TO clerk",
    )
    for source in ("far", "parts", "hidden"):
        small.refused(
            f"DELETE FROM t USING {source} AS f WHERE f.id = t.id",
            "FOREIGN_TABLE",
            "far" if source != "parts" else "part",
        )
    small.refused("INSERT INTO far VALUES (1)", "FOREIGN_TABLE")


def test_rows_that_a_policy_hides_are_cascaded_to(small: SqlWorld) -> None:
    small.do(
        "CREATE TABLE u (id integer PRIMARY KEY, t integer REFERENCES t ON DELETE CASCADE)",
        "INSERT INTO u VALUES (1, 1), (2, 1)",
        "ALTER TABLE u ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY first ON u USING (id = 1)",
    )
    small.refused("DELETE FROM t WHERE id = 1", "TABLE_UNSUITED", "public.u", "row security")
    small.refused("UPDATE t SET a = 'x' WHERE id IN (SELECT t FROM u)", "STATEMENT_REFUSED", "row-level security")


def test_rows_that_the_role_may_not_see_are_changed(small: SqlWorld) -> None:
    small.do(
        "CREATE TABLE u (id integer PRIMARY KEY, t integer REFERENCES t ON DELETE CASCADE, secret text)",
        "INSERT INTO u VALUES (1, 1, 'hush')",
        "REVOKE ALL ON u FROM clerk",
        "GRANT SELECT (id, t) ON u TO clerk",
    )
    small.refused("DELETE FROM t WHERE id = 1", "PERMISSION_DENIED", "table u")


LEAKS = {
    "a cast": "UPDATE t SET id = (SELECT word FROM secret)::integer",
    "a name": "DELETE FROM t WHERE id = (SELECT word FROM secret)::regclass",
    "a value that a constraint shows": "INSERT INTO taken SELECT word FROM secret",
    "a pattern": "DELETE FROM t WHERE a ~ (SELECT '(' || word FROM secret)",
}


@pytest.mark.parametrize("case", LEAKS)
def test_a_message_carries_what_lies_in_a_row(small: SqlWorld, case: str) -> None:
    small.do(
        "CREATE TABLE secret (word text PRIMARY KEY)",
        "INSERT INTO secret VALUES ('hunter2')",
        "CREATE TABLE taken (word text PRIMARY KEY)",
        "INSERT INTO taken VALUES ('hunter2')",
    )
    done = small.plan(LEAKS[case])
    assert done.code == 3
    assert "hunter2" not in done.error
    assert "SQLSTATE" in done.error


def test_a_hundred_thousand_rows(small: SqlWorld) -> None:
    small.do("INSERT INTO t SELECT n, 'x' FROM generate_series(3, 100000) n")
    small.refused("UPDATE t SET a = a RETURNING *", "TOO_MANY_ROWS", "100000", "1000")
    small.refused("DELETE FROM t", "TOO_MANY_ROWS")
    small.refused("DELETE FROM t WHERE id < 4", "TOO_MANY_ROWS", SQL_MAX_ROWS="2")
    assert len(small.plan("DELETE FROM t WHERE id < 4", SQL_MAX_ROWS="3").before) == 3
    small.do(
        "CREATE TABLE u (id integer PRIMARY KEY, t integer REFERENCES t ON DELETE CASCADE)",
        "INSERT INTO u VALUES (1, 1), (2, 2)",
    )
    small.refused("DELETE FROM t WHERE id < 3", "TOO_MANY_ROWS", "4", SQL_MAX_ROWS="3")


def test_rows_too_long_to_be_shown(small: SqlWorld) -> None:
    small.refused("UPDATE t SET a = repeat('x', 20000000)", "TOO_LARGE")


@pytest.mark.parametrize(
    "words",
    [{"SQL_MAX_ROWS": "0"}, {"SQL_MAX_ROWS": "-1"}, {"SQL_PORT": "x"}, {"SQL_USER": ""}, {"SQL_TRIGGERS": "t.b"}],
)
def test_a_specification_that_says_nonsense(small: SqlWorld, words: dict[str, str]) -> None:
    small.refused("DELETE FROM t", "SPECIFICATION", **words)


def test_a_role_that_is_too_strong(small: SqlWorld) -> None:
    small.refused("DELETE FROM t", "ROLE_TOO_STRONG", SQL_USER="postgres")


def test_a_server_that_counts_nothing(small: SqlWorld) -> None:
    small.do(f"ALTER ROLE clerk IN DATABASE {small.database} SET track_counts = off")
    small.refused("DELETE FROM t", "SERVER_UNSUITED", "track_counts")


def test_a_session_that_checks_no_constraints(small: SqlWorld) -> None:
    small.do(f"ALTER ROLE clerk IN DATABASE {small.database} SET session_replication_role = replica")
    small.refused("DELETE FROM t", "SERVER_UNSUITED", "session_replication_role")


def test_a_role_that_may_make_nothing_temporary(small: SqlWorld) -> None:
    small.do(f"REVOKE TEMP ON DATABASE {small.database} FROM PUBLIC")
    small.refused("DELETE FROM t", "SERVER_UNSUITED", "TEMP")


def test_a_role_or_a_database_that_isnt_there(small: SqlWorld) -> None:
    small.refused("DELETE FROM t", "CONNECTION_REFUSED", SQL_USER="nobody")
    small.refused("DELETE FROM t", "CONNECTION_REFUSED", SQL_DATABASE="nowhere")


def test_no_server(small: SqlWorld) -> None:
    done = small.plan("DELETE FROM t", SQL_PORT="1")
    assert (done.code, done.reason) == (1, "CONNECTION_LOST")


def test_steps_that_arent_any(small: SqlWorld) -> None:
    done = small.step("destroy", small.folder(), {"sql": "DELETE FROM t"})
    assert (done.code, done.reason) == (3, "STEP_UNKNOWN")


def test_an_undo_is_asked_with_other_arguments(small: SqlWorld) -> None:
    folder = small.folder()
    (folder / "origin").mkdir()
    (folder / "origin" / "arguments.json").write_text(json.dumps({"sql": "DELETE FROM t WHERE id = 1"}))
    done = small.step("plan", folder, {"sql": "DELETE FROM victim"})
    assert (done.code, set(done.before)) == (0, {"public.t/1"})
