"""The broker is killed at each step of an effect on a directory of the host: the next start leaves all of it, or nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.folder_effects import AFTER, BEFORE, Steps, Way, dump, fresh, in_child, whole


def steps_taken(place: Path) -> list[str]:
    """The steps of the whole way, by their names, in order."""
    way = fresh(place)
    with Steps().watching() as steps:
        assert way.apply() is None
    return steps.names


def settled(way: Way) -> None:
    """All or nothing, decided by the intent; and nothing lies about."""
    begun = way.said("intent").exists()  # which is said only once all is ready
    assert dump(way.folder) == whole(AFTER if begun else BEFORE)
    assert way.file.read() is None
    assert way.said("outcome").exists() is begun
    assert not way.said("stopped").exists()


def test_every_step_is_there(tmp_path: Path) -> None:
    taken = steps_taken(tmp_path / "counted")
    assert {"mkdir", "open", "symlink", "fsync", "fchmod", "unlink", "rmdir", "replace", "touch", "_rename"} <= set(
        taken
    )
    assert "sync_file_system_of" in taken
    settled(Way(tmp_path / "counted"))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_each_step_all_or_nothing_is_there(tmp_path: Path, *, after: bool) -> None:
    taken = steps_taken(tmp_path / "counted")
    outcomes = set()
    for number in range(len(taken)):
        way = fresh(tmp_path / "way")
        with Steps(number, after=after).watching():
            assert in_child(way.apply) == -9, taken[number]
        assert way.recover() is None, (number, taken[number])
        settled(way)
        outcomes.add(way.said("intent").exists())
    assert outcomes == {False, True}


def test_killed_again_while_it_goes_on(tmp_path: Path) -> None:
    taken = steps_taken(tmp_path / "counted")
    chance = random.Random(5)  # noqa: S311 - the same moments each time
    for _ in range(60):
        way = fresh(tmp_path / "way")
        with Steps(chance.randrange(len(taken)), after=True).watching():
            assert in_child(way.apply) == -9
        for again in range(3):
            with Steps(chance.randrange(25), after=chance.random() < 0.5).watching():
                code = in_child(way.recover)
            assert code in {0, -9}, again
        assert way.recover() is None
        settled(way)
