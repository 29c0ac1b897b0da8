"""The broker is killed at each step of an effect on a directory of the host: the next start leaves all of it, or nothing."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from broker.tree_folder import placing, staging
from tests.folder_effects import AFTER, BEFORE, Steps, Way, dump, effect_of, fresh, in_child, whole


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


@pytest.mark.parametrize("few", [False, True], ids=["many", "few"])
def test_all_is_on_the_disk_before_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, few: bool) -> None:
    """Before the intent what comes and its names, before the outcome the names that changed, in this order."""
    way = fresh(tmp_path / "way")
    if few:
        wanted = {path: AFTER[path] for path in ("README.md", "new/link", "kept/three")}
        way.journal = replace(way.journal, effect=effect_of(BEFORE, {**BEFORE, **wanted}))
    synced: list[str] = []
    real_sync, real_touch = os.fsync, Path.touch

    def sync(handle: int) -> None:
        real_sync(handle)
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink().relative_to(way.place)))

    def sync_everything(_: int) -> None:
        synced.append("everything")

    def touch(path: Path) -> None:
        synced.append(f"said {path.name}")
        real_touch(path)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(staging, "sync_file_system_of", sync_everything)
    monkeypatch.setattr(placing, "sync_file_system_of", sync_everything)
    monkeypatch.setattr(Path, "touch", touch)
    with Steps().watching() as steps:
        assert way.apply() is None
    assert steps.names
    first, second = synced.index("said intent"), synced.index("said outcome")
    ready, placed, cleared = synced[:first], synced[first + 1 : second], synced[second + 1 :]
    folder, own = "folder", f"folder/{way.journal.staging}"
    if few:
        assert {f"{own}/0", f"{own}/1", own, folder} <= set(ready)
        assert {own, folder, "folder/new", "folder/kept"} <= set(placed)
    else:
        assert "everything" in ready
        assert placed == ["everything"]
    # Said by the journal that all is ready, once it is; and gone, once what was made ready is.
    journals = [index for index, path in enumerate(ready) if path == "state"]
    assert journals[0] < ready.index(own if few else "everything") < journals[-1]
    assert cleared == [folder, "state"]


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
