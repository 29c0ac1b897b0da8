"""A directory of the host as a workspace's tree: its state, what is read again, and what is noticed meanwhile."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.domain.tree import Effect, TreeFile
from broker.errors import FailedPreconditionError, ResourceExhaustedError
from broker.tree_folder.memory import TICK_NS
from broker.workspace import host_folder
from broker.workspace.host_folder import HostFolder
from broker.workspace.objects import Objects
from broker.workspace.trees import Trees
from tests.folder_effects import BEFORE, entries_of, mount, with_mounts, write_tree

OLD_NS = TICK_NS + 500_000_000


class World:
    """A directory, and the store."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.folder = place / "shop"
        self.kept = place / "shop.memory"
        self.objects = Objects(place / "objects")
        self.trees = Trees(self.objects)
        write_tree(self.folder, BEFORE)

    def opened(self, *, max_files: int = 1000, max_bytes: int = 1 << 20) -> HostFolder:
        """The directory, as at a start of the broker."""
        return HostFolder(
            "shop", self.folder, self.kept, self.objects, self.trees, max_files=max_files, max_bytes=max_bytes
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Counted:
    """Which files were read, look by look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        real = host_folder.read_found

        def counting(root: int, file: host_folder.FoundFile) -> object:
            self.paths.append(file.path)
            return real(root, file)

        monkeypatch.setattr(host_folder, "read_found", counting)

    def taken(self) -> list[str]:
        """Since the last time."""
        found, self.paths = self.paths, []
        return found


def grown_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock goes on until all times are old."""
    real = time.time_ns
    monkeypatch.setattr(host_folder.time, "time_ns", lambda: real() + OLD_NS)


async def test_a_directory_has_the_state_of_what_is_in_it(world: World) -> None:
    folder = world.opened()
    state = await folder.read("")
    assert await world.trees.select(state, ("**",)) == entries_of(BEFORE)
    await world.trees.check(state)
    assert await folder.read(state) == state
    assert await world.opened().read(state) == state


async def test_reading_again_reads_what_changed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    grown_old(monkeypatch)
    counted = Counted(monkeypatch)
    folder = world.opened()
    first = await folder.read("")
    assert len(counted.taken()) == len([item for item in BEFORE.values() if not isinstance(item, str)])
    assert await folder.read(first) == first
    assert counted.taken() == []
    (world.folder / "README.md").write_bytes(b"other")
    (world.folder / "kept" / "two").unlink()
    (world.folder / "more").mkdir()
    (world.folder / "more" / "file").write_bytes(b"new")
    (world.folder / "latest").unlink()
    (world.folder / "latest").symlink_to("more")
    second = await folder.read(first)
    assert sorted(counted.taken()) == ["README.md", "more/file"]
    changed = await world.trees.diff(first, second)
    assert sorted(changed.paths) == ["README.md", "kept/two", "latest", "more/file"]


async def test_the_next_start_reads_what_changed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    grown_old(monkeypatch)
    folder = world.opened()
    state = await folder.read("")
    await folder.close()
    (world.folder / "run.sh").write_bytes(b"other")
    counted = Counted(monkeypatch)
    again = await world.opened().read(state)
    assert counted.taken() == ["run.sh"]
    assert sorted((await world.trees.diff(state, again)).paths) == ["run.sh"]


async def test_a_change_within_the_clocks_tick_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same inode, size and times as far as the file system tells them: nothing but its bytes differ."""
    folder = world.opened()
    state = await folder.read("")
    real = host_folder.scan
    facts: dict[str, host_folder.Facts] = {}

    def coarse(*arguments: object, **named: object) -> host_folder.Scan:
        found = real(*arguments, **named)  # type: ignore[arg-type]
        facts.setdefault("untouched", found.found["untouched"])
        return found

    monkeypatch.setattr(host_folder, "scan", coarse)
    await folder.read(state)
    place = world.folder / "untouched"
    place.write_bytes(b"UNTOUCHED")
    known = facts["untouched"]
    monkeypatch.setattr(host_folder, "scan", lambda *a, **n: _with(real(*a, **n), "untouched", known))
    monkeypatch.setattr(host_folder, "read_found", lambda *_: iter((place.read_bytes(),)))
    after = await folder.read(state)
    entry = await world.trees.get(after, "untouched")
    assert isinstance(entry, TreeFile)
    assert entry != entries_of(BEFORE)["untouched"]


def _with(found: host_folder.Scan, path: str, facts: host_folder.Facts) -> host_folder.Scan:
    found.found[path] = facts
    return found


async def test_times_that_are_set_back_hide_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    grown_old(monkeypatch)
    folder = world.opened()
    state = await folder.read("")
    place = world.folder / "untouched"
    facts = place.stat()
    place.write_bytes(b"UNTOUCHED")
    os.utime(place, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert place.stat().st_size == facts.st_size
    assert await folder.read(state) != state


async def test_what_changes_while_it_is_looked_at_is_of_one_moment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file goes from a folder that isn't looked at yet into one that was: it is neither lost nor there twice."""
    real = host_folder.scan
    moves = iter((("kept/one", "a-first/one"), ("a-first/one", "kept/one"), ("kept/one", "a-first/one")))
    (world.folder / "a-first").mkdir()

    def moving(*arguments: object, **named: object) -> host_folder.Scan:
        found = real(*arguments, **named)  # type: ignore[arg-type]
        if (move := next(moves, None)) is not None:
            (world.folder / move[0]).rename(world.folder / move[1])
        return found

    monkeypatch.setattr(host_folder, "scan", moving)
    state = await world.opened().read("")
    there = await world.trees.select(state, ("kept/one", "a-first/one"))
    assert list(there) == ["a-first/one"]


async def test_what_is_changed_all_the_time_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = host_folder.scan
    count = 0

    def writing(*arguments: object, **named: object) -> host_folder.Scan:
        nonlocal count
        count += 1
        found = real(*arguments, **named)  # type: ignore[arg-type]
        (world.folder / "log").write_text(f"line {count}\n" * count)
        return found

    monkeypatch.setattr(host_folder, "scan", writing)
    folder = world.opened()
    with pytest.raises(FailedPreconditionError) as refused:
        await folder.read("")
    assert refused.value.reason == "FOLDER_BUSY"
    monkeypatch.setattr(host_folder, "scan", real)
    assert (await world.trees.size(await folder.read(""))).files == len(BEFORE) + 1


async def test_a_link_that_comes_between_the_look_and_the_reading_is_not_followed(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "one").write_bytes(b"secret")
    real = host_folder.read_found

    def swapping(root: int, file: host_folder.FoundFile) -> object:
        if file.path == "kept/one" and not (world.folder / "kept").is_symlink():
            (world.folder / "kept").rename(tmp_path / "moved")
            (world.folder / "kept").symlink_to(secret)
        return real(root, file)

    monkeypatch.setattr(host_folder, "read_found", swapping)
    state = await world.opened().read("")
    found = await world.trees.select(state, ("**",))
    assert "kept" in found
    assert not [path for path in found if path.startswith("kept/")]
    assert not [
        place for place in world.objects.files.folder.rglob("*") if place.is_file() and place.read_bytes() == b"secret"
    ]


def plant_pipe(place: Path) -> None:
    os.mkfifo(place)


def plant_socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(place))


def plant_set_uid(place: Path) -> None:
    place.write_bytes(b"x")
    place.chmod(0o4755)


def plant_hard_link(place: Path) -> None:
    outside = place.parents[2] / "outside"
    outside.write_bytes(b"outside")
    os.link(outside, place)


def plant_latin(place: Path) -> None:
    Path(os.fsdecode(bytes(place.parent) + b"/\xff")).write_bytes(b"x")


def plant_latin_target(place: Path) -> None:
    place.symlink_to(os.fsdecode(b"\xff"))


def plant_deep(place: Path) -> None:
    place.joinpath(*["d"] * 33).mkdir(parents=True)


def plant_staging(place: Path) -> None:
    (place.parents[1] / f".broker-staged-{'0' * 32}").mkdir()


def plant_restore(place: Path) -> None:
    (place.parents[1] / ".broker-restore").write_bytes(b"x")


@pytest.mark.parametrize(
    ("plant", "why"),
    [
        (plant_pipe, "is a named pipe"),
        (plant_socket, "is a socket"),
        (plant_set_uid, "has the mode 4755"),
        (plant_hard_link, "has 2 names (hard links)"),
        (plant_latin, "must be valid UTF-8"),
        (plant_latin_target, "is a link to a name that isn't UTF-8"),
        (plant_deep, "lies too deep"),
        (plant_staging, "is left of an effect that was cut"),
        (plant_restore, "begins with .broker-restore"),
    ],
)
async def test_what_cannot_be_kept_is_named(
    world: World, plant: Callable[[Path], None], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = world.opened()
    state = await folder.read("")
    monkeypatch.chdir(world.place)  # a socket's path is short
    plant(Path("shop/kept/odd") if plant is plant_socket else world.folder / "kept" / "odd")
    with pytest.raises(FailedPreconditionError) as refused:
        await folder.read(state)
    assert (refused.value.reason, refused.value.metadata["refused"]) == ("FOLDER_UNFIT", "1")
    assert why in refused.value.violations[0].description
    assert str(world.place) not in refused.value.message


async def test_a_file_that_gets_another_name_is_refused(world: World) -> None:
    """Its own facts but for the number of its names, and those times, are as they were."""
    folder = world.opened()
    state = await folder.read("")
    os.link(world.folder / "untouched", world.place / "elsewhere")
    with pytest.raises(FailedPreconditionError, match="untouched"):
        await folder.read(state)


@pytest.mark.parametrize(("files", "size"), [(len(BEFORE) - 1, 1 << 20), (1000, 20)], ids=["files", "bytes"])
async def test_one_that_is_too_large_is_refused(world: World, files: int, size: int) -> None:
    with pytest.raises(ResourceExhaustedError) as refused:
        await world.opened(max_files=files, max_bytes=size).read("")
    assert refused.value.reason == "FOLDER_TOO_LARGE"


async def test_one_that_is_gone_or_another_is_refused(world: World) -> None:
    folder = world.opened()
    state = await folder.read("")
    world.folder.rename(world.place / "away")
    with pytest.raises(FailedPreconditionError) as refused:
        await folder.read(state)
    assert refused.value.reason == "FOLDER_MISSING"
    write_tree(world.folder, {"other": (b"x", 0o644)})
    with pytest.raises(FailedPreconditionError) as refused:
        await folder.read(state)
    assert refused.value.reason == "FOLDER_REPLACED"
    assert await world.opened().read(state) != state
    (world.folder / "other").unlink()
    with pytest.raises(FailedPreconditionError) as refused:
        await world.opened().read(state)
    assert refused.value.reason == "FOLDER_EMPTY"


@pytest.mark.parametrize("inside", [False, True], ids=["itself", "inside"])
def test_a_file_system_that_is_mounted_or_vanishes_is_noticed(world: World, *, inside: bool) -> None:
    def work() -> None:
        place = world.folder / "empty" if inside else world.folder
        folder = world.opened()
        if inside:
            state = asyncio.run(folder.read(""))
            mount("-t", "tmpfs", "tmpfs", place)
            with pytest.raises(FailedPreconditionError, match="'empty' is on another file system"):
                asyncio.run(folder.read(state))
            return
        mount("-t", "tmpfs", "tmpfs", place)
        (place / "mounted").write_bytes(b"x")
        state = asyncio.run(folder.read(""))
        subprocess.run(["umount", place], check=True)
        with pytest.raises(FailedPreconditionError) as refused:
            asyncio.run(folder.read(state))
        assert refused.value.reason == "FOLDER_REPLACED"

    assert with_mounts(work) == 0


@pytest.mark.parametrize("which", ["itself", "above"])
async def test_a_link_in_its_place_is_not_followed(world: World, which: str, tmp_path: Path) -> None:
    real = world.folder if which == "itself" else world.place
    link = tmp_path.parent / f"link-{tmp_path.name}"
    link.symlink_to(real)
    path = link if which == "itself" else link / "shop"
    folder = HostFolder("shop", path, world.kept, world.objects, world.trees, max_files=9, max_bytes=9)
    with pytest.raises(FailedPreconditionError) as refused:
        await folder.read("")
    assert refused.value.reason == "FOLDER_MISSING"


async def test_an_empty_one_has_a_state(world: World) -> None:
    world.folder = world.place / "new"
    world.folder.mkdir()
    folder = world.opened()
    state = await folder.read("")
    assert (await world.trees.size(state)).files == 0
    assert await folder.read(state) == state


@pytest.mark.parametrize("damage", ["cut", "exposed", "of another"])
async def test_a_memory_that_is_damaged_is_not_believed(
    world: World, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown_old(monkeypatch)
    folder = world.opened()
    state = await folder.read("")
    await folder.close()
    if damage == "cut":
        world.kept.write_bytes(world.kept.read_bytes()[:-1])
    elif damage == "exposed":
        world.kept.chmod(0o666)
    else:
        world.folder.rename(world.place / "away")
        write_tree(world.folder, BEFORE)
    counted = Counted(monkeypatch)
    assert await world.opened().read(state) == state
    assert len(counted.taken()) == len([item for item in BEFORE.values() if not isinstance(item, str)])


async def test_a_known_state_that_is_another_is_compared_whole(world: World) -> None:
    folder = world.opened()
    state = await folder.read("")
    other = await world.trees.apply(state, Effect.between(entries_of(BEFORE), {"x": entries_of(BEFORE)["run.sh"]}))
    found = await folder.read(other)
    assert await world.trees.select(found, ("**",)) == entries_of(BEFORE)


async def test_bytes_that_were_swept_meanwhile_are_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was read, and the broker died before anything named what it had read."""
    grown_old(monkeypatch)
    folder = world.opened()
    state = await folder.read("")
    (world.folder / "README.md").write_bytes(b"other")
    lost = await folder.read(state)
    assert lost != state
    await world.trees.sweep([state], now=time.time() + 7200)
    found = await folder.read(state)
    assert found == lost
    await world.trees.check(found)


async def test_what_the_broker_puts_there_is_no_change(world: World) -> None:
    folder = world.opened()
    state = await folder.read("")
    digest, size = await world.objects.put_bytes(b"other")
    effect = Effect.between(entries_of(BEFORE), {**entries_of(BEFORE), "README.md": TreeFile(digest, size, 0o644)})
    after = await world.trees.apply(state, effect)
    (world.folder / "README.md").write_bytes(b"other")
    await folder.applied(after, effect)
    assert await folder.read(after) == after
