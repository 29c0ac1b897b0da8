"""``sql.execute`` where a change goes on: foreign keys that cascade, triggers that somebody vouches for."""

from __future__ import annotations

import pytest

from tests.sql_world import SqlWorld

FAMILY = (
    "CREATE TABLE parent (id integer PRIMARY KEY, code text UNIQUE, name text)",
    "INSERT INTO parent VALUES (0, 'none', ''), (1, 'a', 'Ann'), (2, 'b', 'Bob')",
)


def child(action: str, column: str = "parent integer DEFAULT 0 REFERENCES parent") -> tuple[str, str]:
    return (
        f"CREATE TABLE child (id integer PRIMARY KEY, {column} {action})",
        "INSERT INTO child VALUES (11, 1), (12, 1), (21, 2)",
    )


def test_what_a_cascade_removes_is_planned_and_comes_back(sql: SqlWorld) -> None:
    sql.do(*FAMILY, *child("ON DELETE CASCADE"))
    sql.do("CREATE TABLE toy (id integer PRIMARY KEY, child integer REFERENCES child ON DELETE CASCADE)")
    sql.do("INSERT INTO toy VALUES (111, 11), (211, 21)")
    planned = sql.there_and_back("DELETE FROM parent WHERE id = 1")
    assert set(planned.before) == {"public.parent/1", "public.child/11", "public.child/12", "public.toy/111"}
    assert planned.after == {}


@pytest.mark.parametrize(("action", "value"), [("SET NULL", "null"), ("SET DEFAULT", '"0"')])
def test_what_a_key_sets_elsewhere_is_planned_and_comes_back(sql: SqlWorld, action: str, value: str) -> None:
    sql.do(*FAMILY, *child(f"ON DELETE {action}"))
    planned = sql.there_and_back("DELETE FROM parent WHERE id = 1")
    assert set(planned.before) == {"public.parent/1", "public.child/11", "public.child/12"}
    assert planned.after["public.child/11"] == f'"id" integer = "11"\n"parent" integer = {value}\n'


def test_a_changed_key_that_is_carried_on_comes_back(sql: SqlWorld) -> None:
    sql.do(*FAMILY, *child("ON UPDATE CASCADE"))
    sql.do("ALTER TABLE parent DROP CONSTRAINT parent_code_key")
    planned = sql.there_and_back("UPDATE parent SET id = 7 WHERE id = 1")
    assert set(planned.after) == {"public.parent/7", "public.child/11", "public.child/12"}


def test_a_changed_unique_value_that_is_carried_on_comes_back(sql: SqlWorld) -> None:
    sql.do(
        *FAMILY,
        "CREATE TABLE child (id integer PRIMARY KEY, code text REFERENCES parent (code) ON UPDATE CASCADE)",
        "INSERT INTO child VALUES (11, 'a'), (12, 'a'), (21, 'b')",
    )
    planned = sql.there_and_back("UPDATE parent SET code = 'z' || code WHERE id > 0")
    assert len(planned.after) == 5


def test_rows_that_refer_to_each_other_come_back(sql: SqlWorld) -> None:
    sql.do(
        "CREATE TABLE tree (id integer PRIMARY KEY, up integer REFERENCES tree)",
        "INSERT INTO tree VALUES (1, 1), (2, 1), (3, 2)",
        "CREATE TABLE a (id integer PRIMARY KEY, b integer)",
        "CREATE TABLE b (id integer PRIMARY KEY, a integer REFERENCES a ON DELETE CASCADE)",
        "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b ON DELETE CASCADE DEFERRABLE",
        "INSERT INTO a VALUES (1, NULL)",
        "INSERT INTO b VALUES (1, 1)",
        "UPDATE a SET b = 1",
    )
    sql.there_and_back("DELETE FROM tree")
    sql.there_and_back("DELETE FROM tree WHERE id > 1")
    sql.there_and_back("UPDATE tree SET up = 3 WHERE id = 3")
    sql.there_and_back("DELETE FROM a")


def test_a_row_that_two_keys_change_is_one_item(sql: SqlWorld) -> None:
    sql.do(
        *FAMILY,
        "CREATE TABLE tie (id integer PRIMARY KEY, l integer REFERENCES parent ON DELETE SET NULL,"
        " r integer REFERENCES parent ON DELETE SET NULL)",
        "INSERT INTO tie VALUES (1, 1, 2), (2, 1, 1)",
    )
    planned = sql.there_and_back("DELETE FROM parent WHERE id > 0")
    assert planned.after["public.tie/1"] == '"id" integer = "1"\n"l" integer = null\n"r" integer = null\n'


def test_a_deferred_key_is_looked_at_before_the_plan_ends(sql: SqlWorld) -> None:
    sql.do(*FAMILY, *child("DEFERRABLE INITIALLY DEFERRED"))
    done = sql.refused("DELETE FROM parent WHERE id = 1", "CONSTRAINT", '"child_parent_fkey"')
    assert "Ann" not in done.error


def test_a_key_without_an_action_refuses(sql: SqlWorld) -> None:
    sql.do(*FAMILY, *child(""))
    sql.refused("DELETE FROM parent WHERE id = 1", "CONSTRAINT", '"child_parent_fkey"')
    sql.there_and_back("DELETE FROM child")


def test_an_upsert_is_planned_as_what_it_does(sql: SqlWorld) -> None:
    sql.do(*FAMILY)
    planned = sql.there_and_back(
        "INSERT INTO parent VALUES (2, 'b', 'Bea'), (3, 'c', 'Cat') ON CONFLICT (id) DO UPDATE SET name = excluded.name"
    )
    assert (set(planned.before), set(planned.after)) == ({"public.parent/2"}, {"public.parent/2", "public.parent/3"})
    done = sql.plan("INSERT INTO parent VALUES (2, 'x', '') ON CONFLICT DO NOTHING")
    assert (done.code, done.after) == (0, {})


def test_a_statement_may_read_other_tables(sql: SqlWorld) -> None:
    sql.do(*FAMILY, *child(""), "CREATE VIEW named AS SELECT id, upper(name) AS name FROM parent")
    sql.there_and_back(
        "WITH picked AS (SELECT id FROM named WHERE name LIKE 'A%') UPDATE child SET parent = 0 FROM picked WHERE parent = picked.id"
    )
    sql.there_and_back("DELETE FROM child USING named WHERE child.parent = named.id AND named.name = 'BOB'")
    sql.there_and_back("INSERT INTO child SELECT g, (SELECT max(id) FROM parent) FROM generate_series(100, 110) g")


def test_values_of_sequences_and_clocks_are_those_of_the_plan(sql: SqlWorld) -> None:
    sql.do(
        "CREATE TABLE log (id serial PRIMARY KEY, u uuid DEFAULT gen_random_uuid(), at timestamptz DEFAULT clock_timestamp(),"
        " a text)"
    )
    planned = sql.there_and_back("INSERT INTO log (a) VALUES ('x'), ('y')")
    assert sql.apply(planned).code == 0
    more = sql.plan("INSERT INTO log (a) VALUES ('z')")
    assert set(more.after) == {"public.log/3"}, "a number that a plan took is given to nobody else"


TOTALS = (
    "CREATE TABLE bill (id integer PRIMARY KEY, total integer NOT NULL DEFAULT 0)",
    "CREATE TABLE line (id integer PRIMARY KEY, bill integer REFERENCES bill, cents integer)",
    """CREATE FUNCTION add_up() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    IF TG_OP <> 'INSERT' THEN UPDATE bill SET total = total - OLD.cents WHERE id = OLD.bill; END IF;
    IF TG_OP <> 'DELETE' THEN UPDATE bill SET total = total + NEW.cents WHERE id = NEW.bill; END IF;
    RETURN NULL; END $$""",
    "INSERT INTO bill VALUES (1), (2)",
    "CREATE TRIGGER totals AFTER INSERT OR UPDATE OR DELETE ON line FOR EACH ROW EXECUTE FUNCTION add_up()",
    "INSERT INTO line VALUES (1, 1, 5), (2, 1, 7), (3, 2, 11)",
)


def test_a_trigger_that_is_vouched_for_is_planned_with_what_it_does(sql: SqlWorld) -> None:
    sql.do(*TOTALS)
    sql.refused("DELETE FROM line WHERE bill = 1", "TRIGGERS", "public.line.totals", "SQL_TRIGGERS")
    sql.env["SQL_TRIGGERS"] = "public.line.totals"
    planned = sql.there_and_back("INSERT INTO line VALUES (4, 1, 100), (5, 1, 200), (6, 2, 300)")
    assert planned.after["public.bill/1"] == '"id" integer = "1"\n"total" integer = "312"\n'
    planned = sql.there_and_back("DELETE FROM line WHERE bill = 1")
    assert set(planned.before) == {"public.line/1", "public.line/2", "public.bill/1"}
    sql.there_and_back("UPDATE line SET bill = 2, cents = cents + 1")


def test_a_trigger_that_cleans_up_after_an_error_is_accounted_for(sql: SqlWorld) -> None:
    """Its rows carry the number of a subtransaction, and some of what it does is counted, but not there."""
    sql.do(
        "CREATE TABLE t (id integer PRIMARY KEY, a integer)",
        "CREATE TABLE seen (a integer PRIMARY KEY, n integer)",
        "INSERT INTO seen VALUES (1, 0), (2, 0)",
        """CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
        BEGIN UPDATE seen SET n = 7 WHERE a = NEW.a; EXCEPTION WHEN division_by_zero THEN NULL; END;
        BEGIN INSERT INTO seen VALUES (9, 9); PERFORM 1/0; EXCEPTION WHEN division_by_zero THEN NULL; END;
        RETURN NULL; END $$""",
        "CREATE TRIGGER see AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION see()",
    )
    sql.env["SQL_TRIGGERS"] = "public.t.see"
    planned = sql.plan("INSERT INTO t VALUES (1, 1), (2, 2)")
    assert planned.code == 0, planned.error
    assert set(planned.after) == {"public.t/1", "public.t/2", "public.seen/1", "public.seen/2"}
    assert set(planned.before) == {"public.seen/1", "public.seen/2"}
    assert sql.apply(planned).code == 0
    assert sql.undo(planned).code == 0


@pytest.mark.parametrize(
    "body",
    ["NEW.at = clock_timestamp(); RETURN NEW;", "INSERT INTO audit (what) VALUES (NEW.id); RETURN NEW;"],
    ids=["stamp", "audit"],
)
def test_a_trigger_that_never_does_the_same_twice_fails_the_rehearsal(sql: SqlWorld, body: str) -> None:
    sql.do(
        "CREATE TABLE t (id integer PRIMARY KEY, at timestamptz)",
        "CREATE TABLE audit (id serial PRIMARY KEY, what integer)",
        "INSERT INTO t VALUES (1, NULL)",
        f"CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN {body} END $$",
        "CREATE TRIGGER act BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION act()",
    )
    sql.env["SQL_TRIGGERS"] = "public.t.act"
    was = sql.everything()
    planned = sql.plan("UPDATE t SET at = '2026-01-01'")
    assert planned.code == 0, planned.error
    done = sql.rehearse(planned)
    assert (done.code, done.reason) == (3, "REHEARSAL_FAILED")
    done = sql.apply(planned)
    assert (done.code, done.reason) == (3, "NOT_ACCOUNTED")
    assert sql.everything() == was


def test_a_trigger_that_only_taking_back_sets_off_fails_the_rehearsal(sql: SqlWorld) -> None:
    sql.do(
        "CREATE TABLE t (id integer PRIMARY KEY)",
        "CREATE TABLE gone (id integer PRIMARY KEY)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
        " AS $$ BEGIN INSERT INTO gone VALUES (OLD.id); RETURN OLD; END $$",
        "CREATE TRIGGER note AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION note()",
    )
    sql.env["SQL_TRIGGERS"] = "public.t.note"
    planned = sql.plan("INSERT INTO t VALUES (1)")
    done = sql.rehearse(planned)
    assert (done.code, done.reason) == (3, "REHEARSAL_FAILED")
    assert "public.gone/1" in done.error


def test_a_trigger_with_any_name_is_vouched_for(sql: SqlWorld) -> None:
    sql.do(
        'CREATE TABLE "T, 1" (id integer PRIMARY KEY)',
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
        'CREATE TRIGGER "a.b, ""c""" BEFORE INSERT ON "T, 1" FOR EACH ROW EXECUTE FUNCTION nothing()',
        'CREATE TRIGGER b BEFORE INSERT ON "T, 1" FOR EACH ROW EXECUTE FUNCTION nothing()',
        'CREATE TRIGGER off BEFORE INSERT ON "T, 1" FOR EACH ROW EXECUTE FUNCTION nothing()',
        'ALTER TABLE "T, 1" DISABLE TRIGGER off',
    )
    statement = 'INSERT INTO "T, 1" VALUES (1)'
    sql.refused(statement, "TRIGGERS", '"a.b, ""c""", public."T, 1".b would')
    sql.env["SQL_TRIGGERS"] = 'public."T, 1"."a.b, ""c""" ,public."T, 1".b'
    sql.there_and_back(statement)
