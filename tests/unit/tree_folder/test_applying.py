"""An effect on a directory of the host: what is there afterwards, with modes and folders."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from broker.tree_folder.journal import Journal
from broker.tree_folder.staging import staging_name
from tests.folder_effects import AFTER, BEFORE, CALL, Tree, Way, content_of, dump, effect_of, fresh, seal, whole


@pytest.fixture
def way(tmp_path: Path) -> Way:
    return fresh(tmp_path / "way")


def apply(way: Way, before: Tree, after: Tree) -> None:
    """Applies what makes one of the other."""
    journal = Journal(CALL, str(way.folder), staging_name(), effect_of(before, after))
    with way.opened(journal) as effect:
        assert effect.prepare(content_of(after), seal) == {}
        assert effect.carry_out() is None
        assert effect.finish(begun=True) == ()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], ids=oct)
def test_an_effect_is_there_whole_and_can_be_taken_back(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        way = fresh(tmp_path / "way")
        assert way.apply() is None
        assert dump(way.folder) == whole(AFTER)
        apply(way, AFTER, BEFORE)
    finally:
        os.umask(old)
    assert dump(way.folder) == whole(BEFORE)
    assert way.file.read() is None


def test_a_new_folder_is_no_more_open_than_the_one_that_it_lies_in(way: Way) -> None:
    (way.folder / "kept").chmod(0o750)
    old = os.umask(0o022)
    try:
        apply(way, {}, {"kept/inner/deep/file": (b"x", 0o644)})
    finally:
        os.umask(old)
    modes = [stat.S_IMODE((way.folder / path).stat().st_mode) for path in ("kept/inner", "kept/inner/deep")]
    assert modes == [0o750, 0o750]


def test_a_new_folder_takes_the_group_where_its_folder_says_so(way: Way) -> None:
    group = 12345 if os.geteuid() == 0 else max(os.getgroups())
    os.chown(way.folder / "kept", -1, group)
    (way.folder / "kept").chmod(0o2755)
    apply(way, {}, {"kept/inner/file": (b"x", 0o644)})
    assert (way.folder / "kept" / "inner").stat().st_gid == group
    apply(way, {"kept/inner/file": (b"x", 0o644)}, {})
    assert not (way.folder / "kept" / "inner").exists()


@pytest.mark.parametrize("how", ["mode", *(["owner", "group"] if os.geteuid() == 0 else [])])
def test_an_emptied_folder_stays_that_would_not_be_made_again_as_it_is(way: Way, how: str) -> None:
    if how == "mode":
        (way.folder / "old").chmod(0o700)
    else:
        os.chown(way.folder / "old", 12345 if how == "owner" else -1, 12345 if how == "group" else -1)
    before = (way.folder / "old").stat()
    assert way.apply() is None
    assert not [path for path in (way.folder / "old").rglob("*") if not path.is_dir()]
    apply(way, AFTER, BEFORE)
    after = (way.folder / "old").stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_folders_that_were_empty_before_stay(way: Way) -> None:
    (way.folder / "old" / "inner" / "empty").mkdir()
    assert way.apply() is None
    assert (way.folder / "old" / "inner" / "empty").is_dir()
    assert (way.folder / "empty").is_dir()


def test_what_isnt_changed_keeps_its_inode_and_times(way: Way) -> None:
    before = (way.folder / "untouched").stat()
    assert way.apply() is None
    after = (way.folder / "untouched").stat()
    assert (before.st_ino, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_ino,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


def test_what_a_kill_left_of_a_journals_writing_goes(way: Way) -> None:
    state = way.file.path.parent
    mine = [state / f".{name}.0011.new" for name in ("shop.journal", "shop.memory")]
    others = [state / ".shop-2.journal.0011.new", state / "shop.memory"]
    for path in (*mine, *others):
        path.touch()
    way.file.clear_drafts()
    assert [path.exists() for path in (*mine, *others)] == [False, False, True, True]
