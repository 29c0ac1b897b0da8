"""Between plan and apply: the database moves, items are edited, two apply at once, the connection breaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from broker_rows import server, work
from broker_rows.endings import UnknownOutcomeError
from broker_rows.server import Address
from tests.sql_cutting import cutting
from tests.sql_world import Done, SqlWorld, finished, lay

UPDATE = "UPDATE t SET a = 'new' WHERE id = 1"
PATH = "public.t/1"


@pytest.fixture
def small(sql: SqlWorld) -> SqlWorld:
    sql.do(
        "CREATE TABLE t (id integer PRIMARY KEY, a text, n numeric)",
        "INSERT INTO t VALUES (1, 'one', 1.0), (2, 'two', 2)",
        "CREATE TABLE u (id integer PRIMARY KEY, t integer REFERENCES t ON DELETE CASCADE)",
        "INSERT INTO u VALUES (1, 2)",
    )
    return sql


def nothing_done(world: SqlWorld, done: Done, code: int, reason: str, was: object) -> None:
    assert (done.code, done.reason) == (code, reason), (done.code, done.error)
    assert len(done.error.splitlines()) == 1
    assert world.everything() == was


MOVES = {
    "another value": "UPDATE t SET a = 'other' WHERE id = 1",
    "a value that isn't changed": "UPDATE t SET n = 7 WHERE id = 1",
    "a value that is equal, and written otherwise": "UPDATE t SET n = 1.00 WHERE id = 1",
    "the row is gone": "DELETE FROM t WHERE id = 1",
    "the row has another key": "UPDATE t SET id = 9 WHERE id = 1",
    "null": "UPDATE t SET a = NULL WHERE id = 1",
    "a column more": "ALTER TABLE t ADD more integer",
    "a column less": "ALTER TABLE t DROP n",
    "another type": "ALTER TABLE t ALTER n TYPE numeric(10,2)",
    "another name": "ALTER TABLE t RENAME n TO m",
    "another order of columns": "ALTER TABLE t DROP a, ADD a text DEFAULT 'one'",
    "another table": "ALTER TABLE t RENAME TO was_t",
    "another schema": "ALTER TABLE t SET SCHEMA another",
}


@pytest.mark.parametrize("case", MOVES)
def test_the_state_moved(small: SqlWorld, case: str) -> None:
    planned = small.plan(UPDATE)
    small.do("CREATE SCHEMA another", MOVES[case])
    was = small.everything()
    for step in ("rehearse", "apply", "undo"):
        nothing_done(small, small.on(step, planned.before, planned.after), 5, "STATE_MOVED", was)
    nothing_done(small, small.undo(planned), 5, "STATE_MOVED", was)


def test_another_key_of_the_table_since_the_plan(small: SqlWorld) -> None:
    planned = small.plan(UPDATE)
    small.do("ALTER TABLE u DROP CONSTRAINT u_t_fkey", "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, n)")
    was = small.everything()
    nothing_done(small, small.apply(planned), 3, "ITEM_UNREADABLE", was)


def test_changes_beside_the_items_are_none_of_theirs(small: SqlWorld) -> None:
    planned = small.plan(UPDATE)
    small.do(
        "UPDATE t SET a = 'x' WHERE id = 2", "INSERT INTO t VALUES (3, 'three', 3)", "ALTER TABLE t ADD CHECK (id > 0)"
    )
    assert small.apply(planned).code == 0
    assert small.ask("SELECT a FROM t ORDER BY id") == ["new", "x", "three"]


@pytest.mark.parametrize("put", ["(5, 'mine', 5)", "(5.0, 'new', 1)"])
def test_a_row_is_there_that_has_to_be_absent(small: SqlWorld, put: str) -> None:
    planned = small.plan("INSERT INTO t VALUES (5, 'new', 1)")
    small.do(f"INSERT INTO t VALUES {put}")
    was = small.everything()
    nothing_done(small, small.apply(planned), 5, "STATE_MOVED", was)


def test_a_row_is_there_under_another_spelling_of_its_key(sql: SqlWorld) -> None:
    sql.do("CREATE TABLE k (id numeric PRIMARY KEY, a text)")
    planned = sql.plan("INSERT INTO k VALUES (1.0, 'x')")
    sql.do("INSERT INTO k VALUES (1.00, 'x')")
    nothing_done(sql, sql.apply(planned), 5, "STATE_MOVED", sql.everything())


def test_one_of_many_rows_moved(small: SqlWorld) -> None:
    small.do("INSERT INTO t SELECT n, 'x', n FROM generate_series(10, 400) n")
    planned = small.plan("UPDATE t SET a = a || '!'")
    small.do("DELETE FROM t WHERE id = 333")
    was = small.everything()
    done = small.apply(planned)
    nothing_done(small, done, 5, "STATE_MOVED", was)
    assert "public.t/333" in done.error


def test_a_row_that_would_now_be_carried_along(small: SqlWorld) -> None:
    planned = small.plan("DELETE FROM t WHERE id = 2")
    small.do("INSERT INTO u VALUES (7, 2)")
    was = small.everything()
    done = small.apply(planned)
    nothing_done(small, done, 3, "NOT_ACCOUNTED", was)
    assert "public.u/7" in done.error


def test_a_trigger_since_the_plan(small: SqlWorld) -> None:
    planned = small.plan(UPDATE)
    small.do(
        "CREATE FUNCTION spill() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql"
        " AS $$ BEGIN DELETE FROM u; RETURN NEW; END $$",
        "CREATE TRIGGER spill BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION spill()",
    )
    was = small.everything()
    nothing_done(small, small.apply(planned), 3, "TRIGGERS", was)
    nothing_done(small, small.apply(planned, SQL_TRIGGERS="public.t.spill"), 3, "NOT_ACCOUNTED", was)


def test_a_constraint_since_the_plan(small: SqlWorld) -> None:
    planned = small.plan(UPDATE)
    small.do("ALTER TABLE t ADD CONSTRAINT old CHECK (a <> 'new')")
    was = small.everything()
    done = small.apply(planned)
    nothing_done(small, done, 3, "CONSTRAINT", was)
    assert '"old"' in done.error
    nothing_done(small, small.rehearse(planned), 3, "REHEARSAL_FAILED", was)


def test_what_an_undo_needs_is_gone(small: SqlWorld) -> None:
    planned = small.plan("DELETE FROM u")
    assert small.apply(planned).code == 0
    small.do("DELETE FROM t")
    nothing_done(small, small.undo(planned), 3, "CONSTRAINT", small.everything())


def test_the_role_lost_a_privilege(small: SqlWorld) -> None:
    planned = small.plan(UPDATE)
    small.do("REVOKE UPDATE ON t FROM clerk")
    nothing_done(small, small.apply(planned), 3, "PERMISSION_DENIED", small.everything())


OLD = '"id" integer = "1"\n"a" text = "one"\n"n" numeric = "1.0"\n'
NEW = '"id" integer = "1"\n"a" text = "new"\n"n" numeric = "1.0"\n'

EDITS: dict[str, tuple[str, int, str]] = {
    "a column more": (NEW + '"x" text = "1"\n', 5, "STATE_MOVED"),
    "a column less": (NEW.rpartition('"n"')[0], 5, "STATE_MOVED"),
    "a column twice": (NEW + NEW.splitlines()[2] + "\n", 5, "STATE_MOVED"),
    "another order": ("".join(reversed(NEW.splitlines(keepends=True))), 5, "STATE_MOVED"),
    "another type": (NEW.replace(" text ", " bytea "), 5, "STATE_MOVED"),
    "sql for a type": (NEW.replace(" text ", " text; DROP TABLE t; -- "), 5, "STATE_MOVED"),
    "another name": (NEW.replace('"a"', '"b"'), 5, "STATE_MOVED"),
    "no end": (NEW.rstrip("\n"), 5, "STATE_MOVED"),
    "an empty line": (NEW + "\n", 5, "STATE_MOVED"),
    "nothing": ("", 5, "STATE_MOVED"),
    "another key": (NEW.replace('= "1"', '= "2"'), 3, "ITEM_UNREADABLE"),
    "no key": (NEW.replace('= "1"', "= null"), 3, "ITEM_UNREADABLE"),
    "the key written otherwise": (NEW.replace('= "1"', '= "01"'), 3, "ITEM_UNREADABLE"),
    "a value that isn't text": (NEW.replace('"new"', "7"), 3, "ITEM_UNREADABLE"),
    "a value that isn't json": (NEW.replace('"new"', "new"), 3, "ITEM_UNREADABLE"),
    "a value with more behind it": (NEW.replace('"new"', '"new" "x"'), 3, "ITEM_UNREADABLE"),
    "a value written otherwise": (NEW.replace('"new"', '"\\u006eew"'), 3, "ITEM_UNREADABLE"),
    "a blank before a value": (NEW.replace('"new"', ' "new"'), 3, "ITEM_UNREADABLE"),
    "deep json": (NEW.replace('"new"', "[" * 100_000), 3, "ITEM_UNREADABLE"),
    "a nul": (NEW.replace('"new"', '"n\\u0000w"'), 3, "ITEM_UNREADABLE"),
    "half a character": (NEW.replace('"new"', '"n\\ud800w"'), 3, "ITEM_UNREADABLE"),
    "a value that isn't of the type": (NEW.replace('"1.0"', '"one"'), 3, "DATABASE_REFUSED"),
    "sql for a value of the type": (NEW.replace('"1.0"', '"1.0); DROP TABLE t; --"'), 3, "DATABASE_REFUSED"),
    "a value that is written otherwise by the server": (NEW.replace('"1.0"', '"1e0"'), 3, "NOT_ACCOUNTED"),
}


@pytest.mark.parametrize("case", EDITS)
def test_an_item_is_edited(small: SqlWorld, case: str) -> None:
    text, code, reason = EDITS[case]
    was = small.everything()
    nothing_done(small, small.on("apply", {PATH: OLD}, {PATH: text}), code, reason, was)
    nothing_done(small, small.on("undo", {PATH: OLD}, {PATH: text}), code, reason, was)


def test_what_looks_like_sql_in_a_value_is_a_value(small: SqlWorld) -> None:
    for text in ("'); DROP TABLE t; --", '\\", \\"2\\")', "{}", "(,)", "\\\\", "$1", "NULL", "null", ""):
        new = NEW.replace('"new"', f'"{text}"')
        assert small.on("apply", {PATH: OLD}, {PATH: new}).code == 0
        assert small.on("verify", {PATH: OLD}, {PATH: new}).now == {PATH: new}
        assert small.on("undo", {PATH: new}, {PATH: OLD}).code == 0


@pytest.mark.parametrize(
    ("path", "code", "reason"),
    [
        ("public.t/2", 3, "ITEM_UNREADABLE"),
        ("public.t/%31", 3, "ITEM_UNREADABLE"),
        ("public.t", 3, "ITEM_UNREADABLE"),
        ("public.t/1/x", 3, "ITEM_UNREADABLE"),
        ("public.T/1", 5, "STATE_MOVED"),
        ("t/1", 5, "STATE_MOVED"),
        ('"public".t/1', 5, "STATE_MOVED"),
        ("pg_catalog.pg_class/1", 5, "STATE_MOVED"),
        ("public.t; DROP TABLE t/1", 5, "STATE_MOVED"),
    ],
)
def test_an_item_lies_at_another_path(small: SqlWorld, path: str, code: int, reason: str) -> None:
    was = small.everything()
    nothing_done(small, small.on("apply", {path: OLD}, {path: NEW}), code, reason, was)


def test_an_item_is_a_link_or_no_text(small: SqlWorld) -> None:
    was = small.everything()
    folder = small.folder()
    lay(folder / "before", {PATH: OLD})
    (folder / "after" / "public.t").mkdir(parents=True)
    (small.scratch / "elsewhere").write_text(NEW)
    item = folder / "after" / PATH
    item.symlink_to(small.scratch / "elsewhere")
    nothing_done(small, small.step("apply", folder), 3, "ITEM_UNREADABLE", was)
    item.unlink()
    item.write_bytes(NEW.encode().replace(b"new", b"n\xffw"))
    nothing_done(small, small.step("apply", folder), 3, "ITEM_UNREADABLE", was)


def test_an_item_of_a_table_that_may_not_be_changed(small: SqlWorld) -> None:
    small.do("CREATE TABLE loose (id integer)", "INSERT INTO loose VALUES (1)")
    row = '"id" integer = "1"\n'
    was = small.everything()
    nothing_done(small, small.on("apply", {"public.loose/1": row}, {}), 3, "TABLE_UNSUITED", was)


def test_verify_of_a_table_that_is_another_can_t_tell(small: SqlWorld) -> None:
    planned = small.plan(UPDATE)
    small.do("ALTER TABLE t ADD more integer")
    done = small.on("verify", planned.before, planned.after)
    assert (done.code, done.reason, done.now) == (4, "STATE_MOVED", {})


def test_a_row_that_is_written_anew_sets_off_what_the_change_does_not(small: SqlWorld) -> None:
    """Removing a row to add it again would run what nobody vouches for, and what may reach out of this database."""
    small.do(
        "CREATE TABLE place (id integer PRIMARY KEY, rank integer UNIQUE)",
        "INSERT INTO place SELECT n, n FROM generate_series(3, 1, -1) n",
        "CREATE TABLE seat (id integer PRIMARY KEY, place integer REFERENCES place ON DELETE CASCADE)",
        "INSERT INTO seat VALUES (1, 1)",
        "CREATE SEQUENCE ran",
        "CREATE FUNCTION run() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql"
        " AS $$ BEGIN PERFORM nextval('ran'); RETURN OLD; END $$",
        "CREATE TRIGGER run BEFORE DELETE ON seat FOR EACH ROW EXECUTE FUNCTION run()",
    )
    planned = small.plan("UPDATE place SET rank = rank + 1")
    was = small.everything()
    nothing_done(small, small.rehearse(planned), 3, "REHEARSAL_FAILED", was)
    nothing_done(small, small.apply(planned), 3, "CONSTRAINT", was)
    assert small.ask("SELECT is_called FROM ran") == [False]


# Several at once.


def waiting(world: SqlWorld, count: int) -> None:
    """Returns when so many sessions wait for a lock."""
    while world.ask("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")[0] < count:
        pass


def begin(world: SqlWorld, planned: Done, count: int, step: str = "apply") -> list[Callable[[], Done]]:
    """Starts the same step several times; each gives how it ended."""
    started = []
    for _ in range(count):
        folder = world.folder()
        lay(folder / "before", planned.before)
        lay(folder / "after", planned.after)
        started.append((world.start(step, folder), folder))
    return [lambda process=process, folder=folder: finished(process, folder) for process, folder in started]


@pytest.mark.parametrize("statement", [UPDATE, "DELETE FROM t WHERE id = 1", "INSERT INTO t VALUES (5, 'x', 1)"])
def test_two_applies_at_once(small: SqlWorld, statement: str) -> None:
    planned = small.plan(statement)
    with small.admin() as holder, holder.transaction():
        # What both need is held until both wait for it, or for the other.
        holder.execute("LOCK TABLE t IN SHARE ROW EXCLUSIVE MODE")
        both = begin(small, planned, 2)
        waiting(small, 2)
    done = [each() for each in both]
    assert sorted(each.code for each in done) == [0, 5], [each.error for each in done]
    assert small.on("verify", planned.before, planned.after).now == planned.after


def test_somebody_changes_a_row_while_it_is_applied(small: SqlWorld) -> None:
    planned = small.plan(UPDATE)
    with small.admin() as holder, holder.transaction():
        holder.execute("UPDATE t SET a = 'theirs' WHERE id = 1")
        (ends,) = begin(small, planned, 1)
        waiting(small, 1)
    done = ends()
    assert (done.code, done.reason) == (5, "STATE_MOVED"), done.error
    assert small.ask("SELECT a FROM t WHERE id = 1") == ["theirs"]


def test_somebody_takes_back_what_was_in_the_way(small: SqlWorld) -> None:
    planned = small.plan(UPDATE)
    with small.admin() as holder, holder.transaction(force_rollback=True):
        holder.execute("UPDATE t SET a = 'theirs' WHERE id = 1")
        (ends,) = begin(small, planned, 1)
        waiting(small, 1)
    done = ends()
    assert done.code == 0, done.error
    assert small.ask("SELECT a FROM t WHERE id = 1") == ["new"]


def test_somebody_holds_a_row_for_ever(small: SqlWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(server._SETTINGS, "lock_timeout", "100ms")
    planned = small.plan(UPDATE)
    with small.admin() as holder, holder.transaction():
        holder.execute("SELECT FROM t WHERE id = 1 FOR UPDATE")
        for done in (small.apply(planned), small.rehearse(planned), small.plan(UPDATE)):
            assert (done.code, done.reason) == (3, "BUSY"), done.error
    assert small.ask("SELECT a FROM t WHERE id = 1") == ["one"]


def test_it_takes_for_ever(small: SqlWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(server._SETTINGS, "statement_timeout", "1s")
    small.refused("DELETE FROM t WHERE id = (SELECT count(*) FROM generate_series(1, 10000000000))", "TIMEOUT")


def test_rows_that_others_only_hold_are_told_apart(small: SqlWorld) -> None:
    """A row that others refer to is marked by them, alone and together with the change."""
    small.do("INSERT INTO t SELECT n, 'x', n FROM generate_series(10, 60) n")
    small.do("INSERT INTO u SELECT n, n FROM generate_series(10, 30) n")
    with small.admin() as first, small.admin() as second, first.transaction(), second.transaction():
        for holder in (first, second):
            holder.execute("SELECT FROM t WHERE id BETWEEN 20 AND 50 FOR KEY SHARE")
        planned = small.there_and_back("UPDATE t SET a = 'y' WHERE id BETWEEN 15 AND 45")
    assert set(planned.before) == {f"public.t/{number}" for number in range(15, 46)}


def test_others_change_the_same_table_meanwhile(small: SqlWorld) -> None:
    """What others change is none of the plan's, however it is marked."""
    small.do("INSERT INTO t SELECT n, 'x', n FROM generate_series(10, 60) n")
    with small.admin() as holder, holder.transaction():
        holder.execute("UPDATE t SET a = 'theirs' WHERE id >= 40")
        holder.execute("DELETE FROM t WHERE id = 39")
        holder.execute("INSERT INTO t VALUES (99, 'theirs', 9)")
        planned = small.plan("UPDATE t SET a = 'y' WHERE id BETWEEN 15 AND 30")
    assert set(planned.before) == set(planned.after) == {f"public.t/{number}" for number in range(15, 31)}
    assert small.apply(planned).code == 0


def test_others_change_the_same_table_while_the_plan_waits(small: SqlWorld) -> None:
    """Their numbers come after the plan's own, as those of its subtransactions do."""
    small.do("INSERT INTO t SELECT n, 'x', n FROM generate_series(10, 60) n")
    folder = small.folder()
    with small.admin() as holder, holder.transaction(force_rollback=True):
        holder.execute("UPDATE t SET a = 'held' WHERE id = 30")
        process = small.start("plan", folder, {"sql": "UPDATE t SET a = 'y' WHERE id BETWEEN 15 AND 30"})
        waiting(small, 1)
        small.do(
            "UPDATE t SET a = 'theirs' WHERE id >= 40",
            "DELETE FROM t WHERE id = 39",
            "INSERT INTO t VALUES (99, 'theirs', 9)",
        )
    planned = finished(process, folder)
    assert planned.code == 0, planned.error
    assert set(planned.before) == set(planned.after) == {f"public.t/{number}" for number in range(15, 31)}
    assert small.apply(planned).code == 0


# The connection breaks while the transaction is committed.


def test_the_answer_to_the_commit_is_lost_and_the_server_knows(small: SqlWorld) -> None:
    planned = small.plan(UPDATE)
    with cutting(small.server.port, arrives=True, ends=False) as way:
        done = small.apply(planned, SQL_PORT=str(way.port))
    assert (done.code, way.commits) == (0, 1), done.error
    assert small.ask("SELECT a FROM t WHERE id = 1") == ["new"]


def test_the_commit_is_lost_and_the_server_knows(small: SqlWorld) -> None:
    planned = small.plan(UPDATE)
    was = small.everything()
    with cutting(small.server.port, arrives=False, ends=False) as way:
        nothing_done(small, small.apply(planned, SQL_PORT=str(way.port)), 3, "COMMIT_FAILED", was)
    assert way.commits == 1


@pytest.mark.parametrize("arrives", [True, False])
def test_nobody_knows_what_became_of_the_commit(
    small: SqlWorld, monkeypatch: pytest.MonkeyPatch, *, arrives: bool
) -> None:
    monkeypatch.setattr(work, "ASKING_S", 1)
    with cutting(small.server.port, arrives=arrives, ends=True) as way:
        address = Address("127.0.0.1", way.port, small.database, "clerk")
        with work.working(address) as doing:
            doing.main.run("UPDATE public.t SET a = 'new' WHERE id OPERATOR(pg_catalog.=) 1")
            with pytest.raises(UnknownOutcomeError, match=r"^UNKNOWN: .*look at the rows") as caught:
                doing.commit()
    assert caught.value.code == 6
    while small.ask(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'clerk' AND datname = current_database()"
    ) != [0]:
        pass
    assert small.ask("SELECT a FROM t WHERE id = 1") == ["new" if arrives else "one"]


def test_the_tool_is_killed_in_the_middle(small: SqlWorld, tmp_path: Path) -> None:
    planned = small.plan("UPDATE t SET a = a || '!'")
    folder = tmp_path / "killed"
    lay(folder / "before", planned.before)
    lay(folder / "after", planned.after)
    was = small.everything()
    with small.admin() as holder, holder.transaction():
        holder.execute("SELECT FROM t WHERE id = 2 FOR UPDATE")
        process = small.start("apply", folder)
        waiting(small, 1)
        process.kill()
        process.communicate()
    while small.ask(
        "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.usename = 'clerk'"
    ) != [0]:
        pass
    assert small.everything() == was
    assert small.apply(planned).code == 0
