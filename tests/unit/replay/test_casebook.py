"""A casebook says what the ledger says, of a ledger that was verified, and says so where it wasn't."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.errors import DataLossError
from broker.replay.casebook import Mark
from broker.replay.filing_again import QuickFiler
from broker.replay.making import extract_casebook
from broker.replay.schema import INDEXES, TABLES
from broker.tlog.merkle import leaf_hash
from tests.bundle_world import World, bundle_world
from tests.casebook_world import casebook, clean_up, run_call, tell
from tests.ledger_world import make_ledger

TABLE_NAMES = (
    "entry",
    "call",
    "path",
    "undo",
    "counted",
    "used",
    "vote",
    "approval",
    "decision",
    "egress",
    "act",
    "word",
)
ALL = [f"SELECT * FROM {table} ORDER BY 1, 2" for table in TABLE_NAMES]  # noqa: S608 - ours


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A ledger with the whole story."""
    with bundle_world(tmp_path) as made:
        tell(made)
        yield made


def change(folder: Path, statement: str, *values: object) -> None:
    """Changes the database past all that refuses it."""
    with closing(sqlite3.connect(folder / "broker.db")) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement, values)
        connection.commit()


def test_it_counts_what_the_ledger_says(world: World, tmp_path: Path) -> None:
    with casebook(tmp_path, world) as found:
        assert found.mark.verdict == "ok"
        assert found.mark.sound
        assert found.mark.checkpoint_size == found.mark.entries == world.tree()[0]
        assert found.mark.checkpoint_root == world.tree()[1].hex()
        tables = ("call", "decision", "vote", "approval", "egress", "undo", "question")
        counts = {table: len(found.rows(f"SELECT * FROM {table}")) for table in tables}  # noqa: S608 - ours
        assert counts == {
            "call": 4, "decision": 6, "vote": 4, "approval": 2, "egress": 1, "undo": 1, "question": 2,
        }  # fmt: skip
        assert found.one("SELECT sum(times) FROM decision WHERE call = 0") == (5,)


def test_it_takes_in_what_is_new_and_no_more(world: World, tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "casebook.db"
    with casebook(tmp_path, world, kept) as found:
        before = found.mark
    assert kept.stat().st_mode & 0o777 == 0o600
    run_call(world, "call_5", "files.read")
    clean_up(world, "call_6", "hum_a", "hum_c", undoes="call_1")
    world.publish()
    with casebook(tmp_path, world, kept) as later:
        assert later.mark.sound
        assert later.mark.entries == world.tree()[0] > before.entries
        assert later.mark.checkpoint_size == later.mark.entries
        assert later.mark.votes_checked == before.votes_checked
        rest = [later.rows(statement) for statement in ALL]
    with casebook(tmp_path, world) as anew:
        assert rest == [anew.rows(statement) for statement in ALL]


def test_entries_that_were_read_are_not_read_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "casebook.db"
    with casebook(tmp_path, world, kept):
        pass
    run_call(world, "call_5", "files.read")
    taken: list[int] = []
    whole = QuickFiler.take
    monkeypatch.setattr(
        QuickFiler, "take", lambda self, seq, leaf, data: (taken.append(seq), whole(self, seq, leaf, data))[1]
    )
    with casebook(tmp_path, world, kept) as found:
        assert taken == list(range(found.mark.entries - 3, found.mark.entries))


def test_a_changed_entry_is_marked_with_its_place(world: World, tmp_path: Path) -> None:
    change(tmp_path, "UPDATE ledger_entry SET data = replace(data, 'SUCCEEDED', 'FAILED') WHERE seq = 6")
    with casebook(tmp_path, world) as found:
        assert not found.mark.sound
        assert found.mark.verdict == "tampered"
        assert "entry 6" in found.mark.why
        assert found.one("SELECT count(*) FROM call") == (4,)


def test_an_entry_that_was_changed_since_is_not_given_out(world: World, tmp_path: Path) -> None:
    kept = tmp_path / "casebook.db"
    with casebook(tmp_path, world, kept) as found:
        assert found.entry(6).body["type"] == "outcome"
    change(tmp_path, "UPDATE ledger_entry SET data = replace(data, 'SUCCEEDED', 'FAILED') WHERE seq = 6")
    with casebook(tmp_path, world, kept) as found, pytest.raises(DataLossError) as caught:
        found.entry(6)
    assert caught.value.reason == "LEDGER_CHANGED"


@pytest.mark.usefixtures("world")
def test_a_ledger_that_lost_its_end_is_another_one_from_then_on(tmp_path: Path) -> None:
    kept = tmp_path / "casebook.db"
    with casebook(tmp_path, None, kept) as found:
        size = found.mark.entries
    change(tmp_path, "DELETE FROM ledger_index")
    change(tmp_path, "DELETE FROM ledger_tile")
    change(tmp_path, "DELETE FROM ledger_entry WHERE seq >= ?", size - 2)
    change(tmp_path, "DELETE FROM ledger_agent")
    for _ in range(2):
        with casebook(tmp_path, None, kept) as found:
            assert not found.mark.sound
            assert found.mark.verdict in {"changed", "truncated"}
            assert found.mark.entries == size - 2


def test_a_rewritten_ledger_is_noticed_though_it_verifies(tmp_path: Path) -> None:
    kept = tmp_path / "casebook.db"
    for number, folder in enumerate((tmp_path / "one", tmp_path / "two")):
        with bundle_world(folder) as world:
            if number:
                world.append("policy.changed", {"rules": 9})
            tell(world)
    with casebook(tmp_path / "one", None, kept) as found:
        assert found.mark.sound
    with casebook(tmp_path / "two", None, kept) as found:
        assert (found.mark.verdict, found.mark.sound) == ("changed", False)
        assert "is not the one that was read before" in found.mark.why


def test_a_checkpoint_of_another_history_is_found_when_new_entries_come(world: World, tmp_path: Path) -> None:
    kept = tmp_path / "casebook.db"
    with casebook(tmp_path, world, kept) as found:
        assert found.mark.sound
    run_call(world, "call_5", "files.read")
    world.notes.insert(0, world.lost_note(world.tree()[0] - 1))
    with casebook(tmp_path, world, kept) as found:
        assert found.mark.verdict == "forked"


def test_a_ledger_behind_its_checkpoints_is_noticed_though_nothing_is_new(world: World, tmp_path: Path) -> None:
    """An old backup that ends where the casebook does: the entries alone say nothing."""
    kept = tmp_path / "casebook.db"
    with casebook(tmp_path, world, kept) as found:
        assert found.mark.sound
    world.notes.insert(0, world.lost_note(world.tree()[0] + 5))
    with casebook(tmp_path, world, kept) as found:
        assert found.mark.verdict == "rolled back"


def test_a_ledger_whose_tables_name_more_entries_is_noticed(world: World, tmp_path: Path) -> None:
    kept = tmp_path / "casebook.db"
    with casebook(tmp_path, None, kept) as found:
        size = found.mark.entries
    run_call(world, "call_5", "files.read")
    change(tmp_path, "DELETE FROM ledger_entry WHERE seq >= ?", size)
    with casebook(tmp_path, None, kept) as found:
        assert found.mark.verdict == "truncated"


def test_a_ledger_without_its_log_is_noticed_though_nothing_is_new(tmp_path: Path) -> None:
    kept = tmp_path / "casebook.db"
    with bundle_world(tmp_path / "one") as world:
        tell(world)
        with casebook(tmp_path / "one", None, kept) as found:
            assert found.mark.sound
        # As it lies there while a broker uses it, but for the log that belongs to it.
        with closing(sqlite3.connect(tmp_path / "one" / "broker.db")) as database:
            database.execute("PRAGMA wal_checkpoint(FULL)")
        (tmp_path / "two").mkdir()
        (tmp_path / "two" / "broker.db").write_bytes((tmp_path / "one" / "broker.db").read_bytes())
    with casebook(tmp_path / "two", None, kept) as found:
        assert found.mark.verdict == "truncated"


def test_a_rotated_key_has_all_verified_anew(world: World, tmp_path: Path) -> None:
    kept = tmp_path / "casebook.db"
    with casebook(tmp_path, world, kept):
        pass
    world.rotate()
    world.publish()
    with casebook(tmp_path, world, kept) as found:
        assert found.mark.sound
        assert found.mark.checkpoint_size == found.mark.entries


@pytest.mark.parametrize("content", [b"", b"no casebook", b"SQLite format 3\x00 but damaged"])
def test_a_casebook_that_is_none_is_made_anew(world: World, tmp_path: Path, content: bytes) -> None:
    kept = tmp_path / "casebook.db"
    kept.write_bytes(content)
    with casebook(tmp_path, world, kept) as found:
        assert found.mark.sound
        assert found.one("SELECT count(*) FROM call") == (4,)


def test_every_type_of_entry_is_filed(tmp_path: Path) -> None:
    make_ledger(tmp_path, recovered=True)
    with casebook(tmp_path) as found:
        assert found.mark.verdict == "recovered"
        assert found.one("SELECT count(*) FROM entry") == (found.mark.entries,)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = (
    "call_id", "agent", "lineage", "policy", "refused", "tool", "workflow", "data_classes", "outcome", "effect", "egress",
    "approvals", "approval", "vote", "person", "by", "in_force", "undo", "tier", "ts", "boot_id", "key", "subject",
)  # fmt: skip
TYPES = (
    "decision",
    "intent",
    "plan.outcome",
    "outcome",
    "vote",
    "approval.requested",
    "approval.closed",
    "undo.intent",
    "?",
)


@given(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(MEMBERS), JSON))
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_no_entry_makes_filing_fail(kind: str, members: dict[str, Any]) -> None:
    data = orjson.dumps({**members, "type": kind}) if _plain(members) else b"{"
    with closing(sqlite3.connect("")) as connection:
        connection.executescript(TABLES + INDEXES)
        filer = QuickFiler(connection, bodies=True)
        for seq, item in enumerate((data, data, b"null", b"[", b"\xff")):
            filer.take(seq, leaf_hash(item), item)
        filer.flush()
        assert connection.execute("SELECT count(*) FROM entry").fetchone() == (5,)


def _plain(members: dict[str, Any]) -> bool:
    try:
        orjson.dumps(members)
    except TypeError:
        return False  # an integer beyond 64 bits, or half of a surrogate pair: no reader takes it
    return True


def test_single_entries_carry_the_mark_that_they_came_with() -> None:
    data = orjson.dumps({"type": "heartbeat", "seq": 7})
    mark = Mark("ok", "", "brk", 0, "", extract="call call_1", complete="not shown")
    with extract_casebook([(7, data)], mark) as found:
        assert (found.mark.entries, found.mark.extract, found.mark.head) == (1, "call call_1", leaf_hash(data).hex())
        assert found.entry(7).data == data
        with pytest.raises(DataLossError):
            found.entry(8)


def test_one_that_was_killed_at_work_leaves_nothing_that_is_half_done(world: World, tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "casebook.db"
    for number in range(40):
        run_call(world, f"call_early_{number}", "files.read")
    with casebook(tmp_path, world, kept):
        pass
    for number in range(40):
        run_call(world, f"call_late_{number}", "files.read")
    killed = subprocess.run(
        [sys.executable, "-m", "tests.casebook_killed", str(tmp_path), str(kept)], timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    with casebook(tmp_path, world, kept) as found, casebook(tmp_path, world) as anew:
        assert [found.rows(statement) for statement in ALL] == [anew.rows(statement) for statement in ALL]
        assert found.one("PRAGMA integrity_check") == ("ok",)
