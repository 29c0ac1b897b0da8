"""Real folders in and out of the store: odd names, links, modes, what can't be kept, and what changes meanwhile."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.domain.canonical import digest
from broker.domain.tree import Entry, TreeFile, TreeLink
from broker.errors import BrokerError, ConflictError, InvalidArgumentError
from broker.tree_folder.links import leaves
from broker.tree_folder.reading import FolderReader, FoundFile
from broker.tree_folder.writing import FolderWriter
from broker.workspace.objects import Objects
from broker.workspace.trees import Trees
from tests.workspace_folder import export, import_folder


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(tmp_path / "objects")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    return made


def fill(folder: Path) -> dict[str, Entry]:
    """Odd, but all of it can be kept."""
    wanted: dict[str, Entry] = {}
    for path, data, mode in (
        (".git/HEAD", b"ref", 0o644),
        ("-rf", b"", 0o755),
        ("a b/\u202etxt.exe", b"x" * 3_000_000, 0o400),
        ("caf\u00e9/cafe\u0301", b"\x00\xff", 0o777),
        ("*", b"star", 0o600),
        ("d/d/d/d", b"deep", 0o640),
        ("\U0001f512", b"lock", 0o444),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        (folder / path).chmod(mode)
        wanted[path] = TreeFile(digest(data), len(data), mode)
    for path, target in (("l", "d/d"), ("d/up", "../*"), ("loop", "loop"), ("nowhere", "not/there\n")):
        (folder / path).symlink_to(target)
        wanted[path] = TreeLink(target)
    return wanted


def dump(folder: Path) -> dict[str, tuple[str, bytes | str, int]]:
    found: dict[str, tuple[str, bytes | str, int]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()), 0)
        elif path.is_file():
            found[name] = ("file", path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
    return found


async def test_a_folder_comes_back_as_it_was(objects: Objects, folder: Path, tmp_path: Path) -> None:
    wanted = fill(folder)
    (folder / "empty" / "inner").mkdir(parents=True)
    taken = await import_folder(objects, folder)
    assert taken.entries == wanted
    assert taken.empty == ("empty/inner",)
    trees = Trees(objects)
    root = await trees.of(taken.entries)
    await trees.check(root)
    old = os.umask(0o077)
    try:
        written = await export(objects, root, tmp_path / "out")
    finally:
        os.umask(old)
    assert written == wanted
    assert dump(tmp_path / "out") == dump(folder)
    some = await export(objects, root, tmp_path / "some", under="d/**")
    assert set(some) == {"d/d/d/d", "d/up"} == set(dump(tmp_path / "some"))


def plant_pipe(place: Path) -> None:
    os.mkfifo(place)


def plant_socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(place))


def plant_set_uid(place: Path) -> None:
    place.write_bytes(b"x")
    place.chmod(0o4755)


def plant_odd_name(place: Path) -> None:
    (place.parent / "a\nb").write_bytes(b"x")


def plant_latin(place: Path) -> None:
    Path(os.fsdecode(bytes(place.parent) + b"/\xff")).write_bytes(b"x")


def plant_latin_target(place: Path) -> None:
    place.symlink_to(os.fsdecode(b"\xff"))


def plant_deep(place: Path) -> None:
    place.joinpath(*["d"] * 33).mkdir(parents=True)


@pytest.mark.parametrize(
    ("plant", "why"),
    [
        (plant_pipe, "is a named pipe"),
        (plant_socket, "is a socket"),
        (plant_set_uid, "has the mode 4755, with more than permission bits"),
        (plant_odd_name, "must be valid UTF-8 without control characters"),
        (plant_latin, "must be valid UTF-8 without control characters"),
        (plant_latin_target, "is a link to a name that isn't UTF-8"),
        (plant_deep, "has at most 32 parts of 255 bytes, and less than 1024 bytes in all"),
    ],
)
async def test_what_cannot_be_kept_is_named(
    objects: Objects, folder: Path, plant: object, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(folder)
    monkeypatch.chdir(folder)  # a socket's path is short
    place = Path("d/odd") if plant is plant_socket else folder / "d" / "odd"
    plant(place)  # type: ignore[operator]
    with pytest.raises(InvalidArgumentError) as refused:
        await import_folder(objects, folder)
    error = refused.value
    assert (error.reason, error.metadata["refused"]) == ("FOLDER_UNFIT", "1")
    [violation] = error.violations
    assert violation.field.startswith("d/")
    assert violation.description == why or (plant is plant_deep and violation.description == "lies too deep")
    assert not [path for path in objects.files.folder.rglob("*") if path.is_file() and path.name != "lock"]


async def test_all_refused_paths_are_counted(objects: Objects, folder: Path) -> None:
    for number in range(30):
        os.mkfifo(folder / f"p{number}")
    with pytest.raises(InvalidArgumentError) as refused:
        await import_folder(objects, folder)
    assert refused.value.metadata["refused"] == "30"
    assert len(refused.value.violations) == 20


async def test_limits(objects: Objects, folder: Path) -> None:
    fill(folder)
    for limits in ({"max_files": 10}, {"max_bytes": 3_000_000}):
        with pytest.raises(BrokerError) as refused:
            await import_folder(objects, folder, **limits)
        assert refused.value.reason == "FOLDER_TOO_LARGE"
    assert await import_folder(objects, folder, max_files=11, max_bytes=3_000_100)


async def test_a_link_to_a_folder_is_no_folder(objects: Objects, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    for bad, reason in ((tmp_path / "link", "FOLDER_UNFIT"), (tmp_path / "gone", "FOLDER_MISSING")):
        with pytest.raises(BrokerError) as refused:
            await import_folder(objects, bad)
        assert refused.value.reason == reason
    root = await Trees(objects).empty()
    for into, reason in (
        (tmp_path / "link", "FOLDER_UNFIT"),
        (tmp_path / "no" / "folder", "FOLDER_MISSING"),
        (tmp_path, "FOLDER_NOT_EMPTY"),
    ):
        with pytest.raises(BrokerError) as refused:
            await export(objects, root, into)
        assert refused.value.reason == reason
    (tmp_path / "dangling").symlink_to(tmp_path / "made")
    with pytest.raises(InvalidArgumentError):
        await export(objects, root, tmp_path / "dangling")
    assert not (tmp_path / "made").exists()


def swap_for_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def swap_parent(path: Path) -> None:
    path.parent.rename(path.parent.with_name("was"))
    path.parent.symlink_to("was")


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def overwrite(path: Path) -> None:
    path.write_bytes(b"DEEP")


@pytest.mark.parametrize("change", [swap_for_link, swap_parent, grow, overwrite, Path.unlink])
def test_what_changes_after_the_survey_is_not_taken(folder: Path, change: object) -> None:
    fill(folder)
    with FolderReader(folder) as reader:
        [file] = [item for item in reader.survey().found if item.path == "d/d/d/d"]
        assert isinstance(file, FoundFile)
        assert b"".join(reader.read(file)) == b"deep"
        change(folder / file.path)  # type: ignore[operator]
        with pytest.raises(ConflictError) as refused:
            b"".join(reader.read(file))
    assert (refused.value.reason, refused.value.metadata["path"]) == ("FOLDER_CHANGED", "d/d/d/d")


def test_what_changes_while_it_is_read_is_not_taken(folder: Path) -> None:
    (folder / "big").write_bytes(b"x" * 3_000_000)
    with FolderReader(folder) as reader:
        [file] = reader.survey().found
        assert isinstance(file, FoundFile)
        pieces = reader.read(file)
        next(pieces)
        with (folder / "big").open("r+b") as other:
            other.write(b"y")
        with pytest.raises(ConflictError):
            b"".join(pieces)


FILE = TreeFile(digest(b"x"), 1)


@pytest.mark.parametrize(
    "links",
    [
        {"a": "/etc/passwd"},
        {"a": "../x"},
        {"a": "b/../../x"},
        {"d/a": "../../x"},
        {"p/q/r/d": "../../../top", "e": "p/q/r/d/../../x"},
        {"a": "b", "b": "/x"},
        {"a": "b/c", "b": "d/..", "c": "..", "d/b": "../.."},
        {"a": "/"},
        {"a": ".."},
    ],
)
def test_links_that_lead_out(links: Mapping[str, str], tmp_path: Path) -> None:
    assert any(leaves(path, links) for path in links)
    entries: dict[str, Entry] = {path: TreeLink(target) for path, target in links.items()}
    with pytest.raises(InvalidArgumentError) as refused, FolderWriter(tmp_path / "out", entries):
        pytest.fail("it was begun")
    assert refused.value.reason == "FOLDER_UNFIT"
    assert "leads out of the tree" in refused.value.violations[0].description
    assert not (tmp_path / "out").exists()
    with FolderWriter(tmp_path / "out", entries, allow_links_out=True):
        pass
    assert {path: str((tmp_path / "out" / path).readlink()) for path in links} == links


PARTS = st.sampled_from(["a", "b", "c", "..", "."])
TARGETS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)
LINKS = st.dictionaries(st.sampled_from(["a", "b", "f/a", "f/b", "f/g/a"]), TARGETS, max_size=5)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(links=LINKS)
def test_where_links_lead_is_what_the_kernel_says(
    links: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    outer = tmp_path_factory.mktemp("links", numbered=True) / "x" / "y"
    root = outer / "tree"
    (root / "f" / "g").mkdir(parents=True)
    for path, target in links.items():
        (root / path).symlink_to(target)
    for path in links:
        try:
            real = (root / path).resolve(strict=True)
        except (OSError, RuntimeError):
            continue
        if not real.is_relative_to(root.resolve()):
            assert leaves(path, links), (path, real)


def test_nothing_is_written_through_what_others_put_there(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    entries = {"a/b": FILE, "c": FILE}
    for path, planted in (("a/b", "a"), ("c", "c")):
        out.mkdir(exist_ok=True)
        with FolderWriter(out, entries) as writer:
            (out / planted).symlink_to(elsewhere if planted == "a" else elsewhere / "c")
            with pytest.raises(ConflictError) as refused:
                writer.write(path, FILE, [b"x"])
        assert refused.value.reason == "FOLDER_CHANGED"
        assert list(elsewhere.iterdir()) == []
        (out / planted).unlink()


def test_entries_that_no_tree_holds_are_not_written(tmp_path: Path) -> None:
    for entries in ({"../x": FILE}, {"a": TreeLink("b"), "a/c": FILE}, {"a": FILE, "a/b/c": FILE}):
        with pytest.raises(InvalidArgumentError), FolderWriter(tmp_path / "out", entries):
            pytest.fail("it was begun")
        assert not (tmp_path / "out").exists()


async def test_damage_is_not_exported(objects: Objects, folder: Path, tmp_path: Path) -> None:
    (folder / "a").write_bytes(b"right")
    root = await Trees(objects).of((await import_folder(objects, folder)).entries)
    objects.files.place(digest(b"right")).write_bytes(b"wrong")
    with pytest.raises(BrokerError) as refused:
        await export(objects, root, tmp_path / "out")
    assert refused.value.reason == "TREE_DAMAGED"
    with pytest.raises(BrokerError) as refused:
        await export(objects, root, tmp_path / "none", under="x/*")
    assert refused.value.reason == "PATH_MISSING"
