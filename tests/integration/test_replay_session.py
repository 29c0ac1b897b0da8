"""A session's calls once more, on a scratch tree: to a point, exported, with each step's way told."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.replay_world import Recorded, answer, everything, recorded
from tests.served import command
from tests.terminal import Terminal
from tests.tree_world import FILES

pytestmark = pytest.mark.docker

CHANGED = ("write", "undo", "again", "rows", "tier4")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Recorded]:
    with recorded(tmp_path_factory.mktemp("recorded"), repository) as made:
        yield made


def replay(world: Recorded, *options: str) -> tuple[int, dict[str, Any], dict[str, dict[str, Any]]]:
    """Exit code, answer, and the steps by what they are."""
    code, found = answer(world.state, "replay", "session", world.session, *options)
    names = {f"calls/{call}": name for name, call in world.calls.items()}
    return code, found, {names[item["call"]]: item for item in found.get("steps", ())}


def test_the_whole_session_on_a_scratch_tree(world: Recorded, repository: Path) -> None:
    before, came = everything(world.state), (len(world.requests), list(world.shelf.asked))
    code, found, steps = replay(world)
    jsonschema.validate(found, json.loads((repository / "docs" / "cli" / "replay-session.json").read_text("utf-8")))
    assert everything(world.state) == before
    assert (len(world.requests), world.shelf.asked) == came
    assert list(steps) == [name for name in world.calls if name != "slow"]
    assert (code, found["verdict"], found["whole"]) == (20, "differs", True)
    for name in CHANGED:
        step = steps[name]
        assert (step["how"], step["rerun"]["verdict"], step["as_recorded"]) == ("rerun", "reproduced", True), step
        assert step["before"] == step["recorded_before"]
        assert step["rerun"]["frames"].startswith("sha256:")
    assert found["start"] == steps["write"]["before"] == steps["undo"]["after"]
    assert found["state"] == steps["tier4"]["after"]
    assert steps["waits"]["rerun"]["verdict"] == "reproduced"
    assert "never applied" in steps["waits"]["notes"][0]
    assert (steps["never"]["how"], steps["never"]["rerun"]) == ("left_out", None)
    assert steps["outside"]["how"] == "left_out"
    assert [item["reason"] for item in steps["outside"]["obstacles"]] == ["ANSWERS_NOT_KEPT"]
    assert steps["chance"]["rerun"]["verdict"] == "differs"


def test_it_stops_before_the_bad_call_and_gives_the_tree(world: Recorded, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _, found, steps = replay(world, "--before", world.calls["tier4"], "--export", str(out))
    assert "tier4" not in steps
    assert found["exported"] == {"folder": str(out), "files": 9, "bytes": found["exported"]["bytes"]}
    assert not found["whole"]
    assert (out / "data" / "blob.bin").read_bytes() == FILES["data/blob.bin"]
    assert (out / "README.md").read_text() == "# Demo\nagain\n"
    assert (out / "src" / "old" / "a.txt").exists()
    with closing(sqlite3.connect(out / "data" / "shop.db")) as db:
        assert db.execute("SELECT name FROM customer").fetchall() == [("Grace",)]
    assert (out / "inside").readlink() == Path("README.md")
    code, refused = answer(world.state, "replay", "session", world.session, "--export", str(out))
    assert (code, refused["reason"]) == (2, "FOLDER_NOT_EMPTY")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    assert answer(world.state, "replay", "session", world.session, "--export", str(link))[1]["reason"] == (
        "FOLDER_NOT_EMPTY"
    )


def test_it_stops_after_a_call(world: Recorded) -> None:
    code, found, steps = replay(world, "--to", world.calls["plain"])
    assert (code, list(steps), found["state"], found["exported"]) == (0, ["plain"], "", None)


def test_points_that_are_none(world: Recorded) -> None:
    plain, slow = world.calls["plain"], world.calls["slow"]
    assert answer(world.state, "replay", "session", world.session, "--to", slow)[1]["reason"] == "CALL_NOT_IN_SESSION"
    both = answer(world.state, "replay", "session", world.session, "--to", plain, "--before", plain)
    assert (both[0], both[1]["reason"]) == (2, "POINT_TWICE")
    missing = answer(world.state, "replay", "session", "ses_01jx0000000000000000000000")
    assert (missing[0], missing[1]["reason"]) == (2, "SESSION_NOT_FOUND")
    assert answer(world.state, "replay", "session", world.session, "--step")[1]["reason"] == "NO_TERMINAL"


def test_what_can_not_be_run_again_comes_from_what_is_kept(world: Recorded, tmp_path: Path) -> None:
    world = world.copy(tmp_path / "state")
    with closing(sqlite3.connect(world.state / "broker.db", isolation_level=None, timeout=30)) as db:
        ((data,),) = db.execute(
            'SELECT data FROM ledger_entry WHERE instr(data, ?) AND instr(data, \'"type":"decision"\')',
            (world.calls["write"],),
        ).fetchall()
        spec = f"spec_{json.loads(data)['tool']['version'][7:39]}"
        for table, column in (("vault_chunk", "object_id"), ("vault_object", "id")):
            assert db.execute(f"DELETE FROM {table} WHERE {column} = ?", (spec,)).rowcount  # noqa: S608 - of this test
    erased = command(world.state, "ledger", "erase", "--subject", world.calls["again"], "--yes", "--json", check=False)
    assert erased.returncode == 0, erased.stdout
    code, found, steps = replay(world)
    assert (steps["write"]["how"], steps["write"]["as_recorded"]) == ("effect", True)
    assert [item["reason"] for item in steps["write"]["obstacles"]] == ["SPEC_NOT_KEPT"]
    assert (steps["undo"]["how"], steps["undo"]["as_recorded"]) == ("rerun", True)
    assert (steps["again"]["how"], steps["again"]["as_recorded"]) == ("state", True)
    assert [item["reason"] for item in steps["again"]["obstacles"]] == ["CONTENT_ERASED"]
    assert (steps["tier4"]["how"], steps["tier4"]["as_recorded"]) == ("rerun", True)
    assert code == 20, found["verdict"]


def test_a_person_goes_step_by_step(world: Recorded) -> None:
    environment = {"BROKER_STATE": str(world.state)}
    with Terminal("replay", "session", world.session, "--step", env=environment) as terminal:
        assert "reproduced" in terminal.until("Enter goes on, q stops:")
        terminal.type("")
        assert "differs" in terminal.until("Enter goes on, q stops:")
        terminal.type("q")
        terminal.until("2, not all of the session's")
        assert terminal.end() == 20
