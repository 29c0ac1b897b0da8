"""Somebody changes a directory of the host while the broker puts an effect there: nothing of theirs is overwritten or
lost, and nothing is written outside of it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from broker.domain.tree import Change, Effect, TreeLink
from broker.errors import DataLossError, FailedPreconditionError, InvalidArgumentError
from broker.tree_folder import moving, staging
from broker.tree_folder.journal import Journal, decode, encode
from tests.folder_effects import (
    AFTER,
    BEFORE,
    CALL,
    Way,
    content_of,
    dump,
    fresh,
    make_device,
    mount,
    seal,
    whole,
    with_mounts,
)

OTHERS = b"somebody else's"


@pytest.fixture
def way(tmp_path: Path) -> Way:
    return fresh(tmp_path / "way")


def outside(way: Way) -> Path:
    """A folder beside it, with a file that has to stay as it is."""
    place = way.place / "outside"
    place.mkdir()
    (place / "two").write_bytes(b"outside")
    return place


def make_pipe(place: Path) -> None:
    place.unlink(missing_ok=True)
    os.mkfifo(place)


def make_folder(place: Path) -> None:
    place.unlink(missing_ok=True)
    place.mkdir()


def make_link(place: Path) -> None:
    place.unlink(missing_ok=True)
    place.symlink_to("/etc/passwd")


def make_other(place: Path) -> None:
    place.write_bytes(OTHERS)


def make_mode(place: Path) -> None:
    place.chmod(0o666)


def make_hard_link(place: Path) -> None:
    os.link(place, place.parents[1] / f"{place.name}-too")


def remove(place: Path) -> None:
    place.unlink()


KINDS = [make_pipe, make_device, make_folder, make_link, make_other, make_mode, make_hard_link, remove]


@pytest.mark.parametrize("path", ["README.md", "was-file", "kept/one"], ids=["replaced", "other kind", "removed"])
@pytest.mark.parametrize("change", KINDS)
def test_what_was_changed_since_the_plan_is_a_conflict(way: Way, change: Callable[[Path], None], path: str) -> None:
    change(way.folder / path)
    before = dump(way.folder)
    with way.opened() as effect:
        found = effect.prepare(content_of(AFTER), seal)
    assert list(found) == [path]
    assert dump(way.folder) == before
    assert way.file.read() is None


@pytest.mark.parametrize("change", KINDS)
def test_what_is_changed_before_its_step_stops_the_effect(way: Way, change: Callable[[Path], None]) -> None:
    with way.opened() as effect:
        assert effect.prepare(content_of(AFTER), seal) == {}
        change(way.folder / "run.sh")
        theirs = entry(way.folder / "run.sh")
        stop = effect.carry_out()
        assert stop is not None
        assert stop.path == "run.sh"
        assert effect.finish(begun=True) == ()
    assert entry(way.folder / "run.sh") == theirs
    assert not [path for path in way.folder.iterdir() if path.name.startswith(".broker")]


@pytest.mark.parametrize("change", [make_pipe, make_device, make_folder, make_link, make_other, make_mode, remove])
@pytest.mark.parametrize("path", ["run.sh", "kept/one"], ids=["replaced", "removed"])
def test_what_is_changed_in_the_very_moment_is_put_back(
    way: Way, change: Callable[[Path], None], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last look at a path and the step that changes it."""
    real = moving._rename
    theirs: list[object] = []

    def racing(folder: int, name: str, into: int, new: str, how: int) -> None:
        if not theirs and Path(path).name in {name, new}:
            change(way.folder / path)
            theirs.append(entry(way.folder / path))
        real(folder, name, into, new, how)

    with way.opened() as effect:
        assert effect.prepare(content_of(AFTER), seal) == {}
        monkeypatch.setattr(moving, "_rename", racing)
        stop = effect.carry_out()
        assert stop is not None
        assert stop.path == path
        assert effect.finish(begun=True) == ()
    assert theirs == [entry(way.folder / path)]


def test_what_comes_into_being_in_the_very_moment_is_not_overwritten(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    real = moving._rename

    def racing(folder: int, name: str, into: int, new: str, how: int) -> None:
        if new == "three":
            (way.folder / "kept" / "three").write_bytes(OTHERS)
        real(folder, name, into, new, how)

    with way.opened() as effect:
        assert effect.prepare(content_of(AFTER), seal) == {}
        monkeypatch.setattr(moving, "_rename", racing)
        stop = effect.carry_out()
        assert stop is not None
        assert (stop.path, stop.why, stop.others) == ("kept/three", "something else is there", ("kept/three",))
        assert effect.finish(begun=True) == ()
    assert (way.folder / "kept" / "three").read_bytes() == OTHERS


def test_what_cannot_be_put_back_is_kept_and_named(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    real = moving._rename
    count = 0

    def racing(folder: int, name: str, into: int, new: str, how: int) -> None:
        nonlocal count
        if "one" in {name, new}:
            count += 1
            if count == 1:
                make_other(way.folder / "kept" / "one")
            else:
                (way.folder / "kept" / "one").write_bytes(b"a third one")
        real(folder, name, into, new, how)

    with way.opened() as effect:
        assert effect.prepare(content_of(AFTER), seal) == {}
        monkeypatch.setattr(moving, "_rename", racing)
        stop = effect.carry_out()
        assert stop is not None
        assert stop.path == "kept/one"
        [left] = effect.finish(begun=True)
    assert left in stop.why
    assert (way.folder / left).read_bytes() == OTHERS
    assert (way.folder / "kept" / "one").read_bytes() == b"a third one"


@pytest.mark.parametrize("path", ["kept", "becomes-file", "old"])
def test_a_link_in_a_parents_place_leads_nowhere(way: Way, path: str) -> None:
    place = outside(way)
    with way.opened() as effect:
        assert effect.prepare(content_of(AFTER), seal) == {}
        (way.folder / path).rename(way.place / "moved")
        (way.folder / path).symlink_to(place)
        stop = effect.carry_out()
        assert stop is not None
        assert stop.path.startswith(path)
        effect.finish(begun=True)
    assert dump(place) == {"two": (b"outside", 0o644)}


def test_a_link_in_a_parents_place_is_a_conflict_before(way: Way) -> None:
    place = outside(way)
    (way.folder / "kept").rename(way.place / "moved")
    (way.folder / "kept").symlink_to(place)
    with way.opened() as effect:
        found = effect.prepare(content_of(AFTER), seal)
    assert {"kept/one", "kept/three"} <= found.keys()
    assert dump(place) == {"two": (b"outside", 0o644)}


def test_a_parent_that_is_moved_out_in_the_very_moment_is_noticed(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file goes into the folder that was open, wherever that is now, and the effect isn't taken for done."""
    real = moving._rename

    def racing(folder: int, name: str, into: int, new: str, how: int) -> None:
        if new == "three":
            (way.folder / "kept").rename(way.place / "moved")
            (way.folder / "kept").symlink_to(way.place / "outside")
        real(folder, name, into, new, how)

    place = outside(way)
    with way.opened() as effect:
        assert effect.prepare(content_of(AFTER), seal) == {}
        monkeypatch.setattr(moving, "_rename", racing)
        stop = effect.carry_out()
        assert stop is not None
        effect.finish(begun=True)
    assert dump(place) == {"two": (b"outside", 0o644)}


def test_a_file_with_another_name_outside_keeps_its_bytes_there(way: Way) -> None:
    place = outside(way)
    with way.opened() as effect:
        assert effect.prepare(content_of(AFTER), seal) == {}
        os.link(way.folder / "untouched", place / "untouched")
        assert effect.carry_out() is None
        os.link(way.folder / "README.md", place / "readme")
        effect.finish(begun=True)
    assert (place / "untouched").read_bytes() == b"untouched"
    (way.folder / "README.md").unlink()
    (place / "readme").rename(way.folder / "README.md")
    (place / "untouched").unlink()
    assert dump(way.folder) == whole(AFTER)


def test_what_was_made_ready_and_then_changed_is_not_used(way: Way) -> None:
    with way.opened() as effect:
        assert effect.prepare(content_of(AFTER), seal) == {}
        (ready,) = way.folder.glob(".broker-staged-*")
        assert stat.S_IMODE(ready.stat().st_mode) == 0o700
        for place in ready.iterdir():
            if not place.is_symlink():
                place.write_bytes(b"forged")
        stop = effect.carry_out()
        assert stop is not None
        left = effect.finish(begun=True)
    forged = {path for path, item in dump(way.folder).items() if item is not None and item[0] == b"forged"}
    assert forged == set(left) != set()
    assert all(path.startswith(way.journal.staging) for path in forged)


def test_what_was_done_and_then_changed_stops_what_goes_on(way: Way) -> None:
    """After a kill, before the outcome is on record."""
    with way.opened() as effect:
        assert effect.prepare(content_of(AFTER), seal) == {}
        way.said("intent").touch()
        assert effect.carry_out() is None
    (way.folder / "run.sh").write_bytes(OTHERS)
    stop = way.recover()
    assert stop is not None
    assert (stop.path, stop.why, stop.others, stop.left) == ("run.sh", "it was changed meanwhile", ("run.sh",), ())
    assert (way.folder / "run.sh").read_bytes() == OTHERS
    assert way.file.read() is None


@pytest.mark.parametrize("path", ["../out", "/etc/out", "kept/../../out", "a/./b", "", "a//b", ".broker-restore/x"])
def test_a_path_that_leads_out_is_none(way: Way, path: str) -> None:
    effect = Effect((Change(path, None, TreeLink("x")),))
    journal = Journal(CALL, str(way.folder), way.journal.staging, effect)
    with pytest.raises(InvalidArgumentError), way.opened(journal):
        pass
    with pytest.raises(DataLossError, match="can't be read") as refused:
        decode(encode(journal))
    assert refused.value.reason == "JOURNAL_DAMAGED"
    assert not (way.place / "out").exists()


@pytest.mark.parametrize("keep", [0, 1, 60, 66, 200, -1])
def test_a_journal_that_was_cut_is_none(way: Way, keep: int) -> None:
    data = encode(way.journal)
    way.file.path.write_bytes(data[:keep])
    way.file.path.chmod(0o600)
    with pytest.raises(DataLossError) as refused:
        way.file.read()
    assert refused.value.reason == "JOURNAL_DAMAGED"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b".broker-staged-", b".broker-stageD-"),
        (b".broker-staged-", b"../broker-stage"),
        (b'"call"', b'"Call"'),
        (b"broker.folder-journal.v1", b"broker.folder-journal.v2"),
        (b'"ready":true', b'"ready":1'),
    ],
)
def test_a_journal_that_is_made_anew_and_says_something_else_is_none(way: Way, old: bytes, new: bytes) -> None:
    rest = encode(replace(way.journal, ready=True)).partition(b"\n")[2]
    assert old in rest
    for changed, head in ((rest.replace(old, new), rest.replace(old, new)), (rest.replace(old, new), rest)):
        with pytest.raises(DataLossError) as refused:
            decode(hashlib.sha256(head).hexdigest().encode() + b"\n" + changed)
        assert refused.value.reason == "JOURNAL_DAMAGED"


def test_a_journal_that_names_other_paths_writes_none_of_them(way: Way) -> None:
    """Even one whose digest and seal are right: what lies ready is compared with what it says."""
    with way.opened() as effect:
        assert effect.prepare(content_of(AFTER), seal) == {}
    changes = [replace(item, path=f"{item.path}x", before=None) for item in way.journal.effect.changes if item.after]
    forged = replace(way.journal, effect=Effect.of(changes), ready=True)
    way.file.write(replace(forged, seal=seal(forged.text())))
    way.said("intent").touch()
    assert way.recover() is not None
    found = {path: item for path, item in dump(way.folder).items() if item and not path.startswith(".broker")}
    assert found == BEFORE


def test_a_journal_that_others_may_write_is_not_read(way: Way) -> None:
    way.file.write(way.journal)
    way.file.path.chmod(0o620)
    with pytest.raises(FailedPreconditionError) as refused:
        way.file.read()
    assert refused.value.reason == "KEY_EXPOSED"


def test_a_staging_folder_that_is_anothers_is_not_used(way: Way) -> None:
    with way.opened() as effect:
        assert effect.prepare(content_of(AFTER), seal) == {}
    (way.folder / way.journal.staging).rename(way.place / "theirs")
    (way.folder / way.journal.staging).mkdir(mode=0o777)
    (way.folder / way.journal.staging).chmod(0o777)
    way.said("intent").touch()
    with pytest.raises(PermissionError):
        way.recover()
    assert (way.folder / "README.md").read_bytes() == b"# Shop\n"


def test_a_file_system_that_cannot_exchange_is_refused_before(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(staging, "swap", unable)
    with way.opened() as effect, pytest.raises(FailedPreconditionError) as refused:
        effect.prepare(content_of(AFTER), seal)
    assert refused.value.reason == "FOLDER_UNFIT"
    assert dump(way.folder) == whole(BEFORE)
    assert way.file.read() is None


def test_a_full_disk_changes_nothing(way: Way) -> None:
    def content(_: str) -> tuple[bytes, ...]:
        raise OSError(28, "No space left on device")

    with way.opened() as effect, pytest.raises(FailedPreconditionError) as refused:
        effect.prepare(content, seal)
    assert "No space left" in refused.value.message
    assert dump(way.folder) == whole(BEFORE)
    assert way.file.read() is None


def test_what_lies_on_another_mount_is_a_conflict(way: Way) -> None:
    """Of the same file system even, so that nothing but the kernel's number of the mount tells."""
    theirs = way.place / "theirs"
    (way.folder / "kept").rename(theirs)
    (way.folder / "kept").mkdir()

    def work() -> None:
        mount("--bind", theirs, way.folder / "kept")
        with way.opened() as effect:
            found = effect.prepare(content_of(AFTER), seal)
        assert set(found) == {"kept/one", "kept/three"}
        assert set(found.values()) == {"it lies on another file system"}

    assert with_mounts(work) == 0


def test_a_folder_that_gives_way_must_hold_nothing_else(way: Way) -> None:
    (way.folder / "becomes-file" / "deep" / "more").mkdir()
    with way.opened() as effect:
        found = effect.prepare(content_of(AFTER), seal)
    assert list(found) == ["becomes-file"]
    assert "'more'" in found["becomes-file"]
    (way.folder / "becomes-file" / "deep" / "more").rmdir()
    (way.folder / "becomes-file" / "theirs").write_bytes(OTHERS)
    with way.opened() as effect:
        found = effect.prepare(content_of(AFTER), seal)
    assert list(found) == ["becomes-file"]


def entry(place: Path) -> object:
    """What lies at a path, as far as one sees it; ``None`` where nothing does."""
    try:
        facts = place.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISREG(facts.st_mode):
        return place.read_bytes(), facts.st_mode
    return (str(place.readlink()) if stat.S_ISLNK(facts.st_mode) else ""), facts.st_mode
