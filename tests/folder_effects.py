"""Folders of the host, an effect on one with all that an effect can do, and the way of it that a kill may cut anywhere."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import stat
import subprocess
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from broker.domain.canonical import digest
from broker.domain.tree import Effect, Entry, TreeFile, TreeLink
from broker.tree_folder import moving, placing, staging
from broker.tree_folder.applying import FolderEffect, Stopped
from broker.tree_folder.journal import Journal, JournalFile
from broker.tree_folder.staging import staging_name

CALL = "call_01jxr6m4a2c3e4g5h6j7k8m9na"

Tree = Mapping[str, tuple[bytes, int] | str]
"""Path -> bytes and mode of a file, or a link's target."""

BEFORE: Tree = {
    "README.md": (b"# Shop\n", 0o644),
    "run.sh": (b"#!/bin/sh\n", 0o755),
    "latest": "README.md",
    "was-file": (b"file", 0o600),
    "was-link": "nowhere",
    "becomes-folder": (b"x", 0o644),
    "becomes-file/a": (b"a", 0o644),
    "becomes-file/deep/b": (b"b", 0o644),
    "old/only": (b"gone", 0o644),
    "old/inner/also": (b"gone too", 0o644),
    "kept/one": (b"1", 0o644),
    "kept/two": (b"2", 0o644),
    "untouched": (b"untouched", 0o640),
}
AFTER: Tree = {
    "README.md": (b"# Shop\n\nMore.\n", 0o644),
    "run.sh": (b"#!/bin/sh\n", 0o700),
    "latest": "run.sh",
    "was-file": "README.md",
    "was-link": (b"a file now", 0o644),
    "becomes-folder/inner/new": (b"new", 0o640),
    "becomes-file": (b"", 0o644),
    "kept/two": (b"2", 0o644),
    "kept/three": (b"3" * 3000, 0o644),
    "new/folder/file": (b"new", 0o644),
    "new/link": "../kept/two",
    "untouched": (b"untouched", 0o640),
}


def entries_of(tree: Tree) -> dict[str, Entry]:
    """What a tree holds, as a state has it."""
    return {
        path: TreeLink(item) if isinstance(item, str) else TreeFile(digest(item[0]), len(item[0]), item[1])
        for path, item in tree.items()
    }


def effect_of(before: Tree, after: Tree) -> Effect:
    """What makes one of the other."""
    return Effect.between(entries_of(before), entries_of(after))


def content_of(*trees: Tree) -> Callable[[str], Iterable[bytes]]:
    """The bytes of files, by digest."""
    known = {digest(item[0]): item[0] for tree in trees for item in tree.values() if not isinstance(item, str)}
    return lambda which: (known[which],)


def seal(text: bytes) -> str:
    """Seals a journal."""
    return digest(b"secret" + text)


def write_tree(folder: Path, tree: Tree) -> None:
    """Makes a folder with a tree, and an empty folder beside it."""
    folder.mkdir(parents=True)
    for path, item in tree.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(item, str):
            place.symlink_to(item)
        else:
            place.write_bytes(item[0])
            place.chmod(item[1])
    (folder / "empty").mkdir()


def dump(folder: Path) -> dict[str, tuple[bytes, int] | str | None]:
    """All that is in a folder; an empty folder is ``None``, and of devices and the like only the mode is told."""
    found: dict[str, tuple[bytes, int] | str | None] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        elif not path.is_dir():
            found[name] = (b"", path.stat().st_mode)
        elif not any(path.iterdir()):
            found[name] = None
    return found


def whole(tree: Tree) -> dict[str, tuple[bytes, int] | str | None]:
    """What ``dump`` gives of a folder that ``write_tree`` made."""
    return {**tree, "empty": None}


@dataclass
class Way:
    """An effect on a folder, with files that stand for the ledger's intent and outcome."""

    place: Path
    journal: Journal = field(init=False)
    file: JournalFile = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.place / "folder"
        (self.place / "state").mkdir(parents=True, exist_ok=True)
        self.file = JournalFile(self.place / "state" / "shop.journal")
        self.journal = Journal(CALL, str(self.folder), staging_name(), effect_of(BEFORE, AFTER))

    @contextmanager
    def opened(self, journal: Journal | None = None) -> Iterator[FolderEffect]:
        """The effect, on the open folder."""
        root = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with FolderEffect(root, self.file, journal or self.journal) as effect:
                yield effect
        finally:
            os.close(root)

    def said(self, what: str) -> Path:
        """The file that stands for an entry."""
        return self.place / "state" / what

    def apply(self) -> dict[str, str] | Stopped | None:
        """Takes it all the way; what stood in the way, if anything did."""
        with self.opened() as effect:
            if found := effect.prepare(content_of(AFTER), seal):
                return found
            self.said("intent").touch()
            stop = effect.carry_out()
            self.said("stopped" if stop else "outcome").touch()
            effect.finish(begun=True)
            return stop

    def recover(self) -> Stopped | None:
        """As a start of the broker does."""
        journal = self.file.read()
        if journal is None:
            return None
        with self.opened(journal) as effect:
            begun = journal.ready and self.said("intent").exists()
            assert journal.seal == seal(replace(journal, seal="").text())
            stop = None
            if begun and not self.said("outcome").exists():
                stop = effect.carry_out()
                self.said("stopped" if stop else "outcome").touch()
            effect.finish(begun=begun)
            return stop


class Steps:
    """Counts what is done to the file system, and kills the process before or after one of these steps.

    Args:
        at: which step, from 0; ``None`` only counts.
        after: kill once it is done, and not before.
    """

    def __init__(self, at: int | None = None, *, after: bool = False) -> None:
        self._at = at
        self._after = after
        self.names: list[str] = []

    @contextmanager
    def watching(self) -> Iterator[Steps]:
        """Until the block ends."""
        owners: list[tuple[Any, str]] = [
            (os, "mkdir"),
            (os, "open"),
            (os, "symlink"),
            (os, "fsync"),
            (os, "fchmod"),
            (os, "unlink"),
            (os, "rmdir"),
            (os, "replace"),
            (moving, "_rename"),
            (staging, "sync_file_system_of"),
            (placing, "sync_file_system_of"),
            (Path, "touch"),
        ]
        kept = [(owner, name, getattr(owner, name)) for owner, name in owners]
        for owner, name, real in kept:
            setattr(owner, name, self._around(name, real))
        try:
            yield self
        finally:
            for owner, name, real in kept:
                setattr(owner, name, real)

    def _around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - as the function has it
            if name == "open" and not (len(arguments) > 1 and arguments[1] & os.O_CREAT):
                return real(*arguments, **named)
            which = len(self.names)
            self.names.append(name)
            if which == self._at and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*arguments, **named)
            finally:
                if which == self._at:
                    os.kill(os.getpid(), signal.SIGKILL)

        return wrapped


def in_child(work: Callable[[], object]) -> int:
    """Runs something in a process of its own; its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - it is told, and the process ends
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def with_mounts(work: Callable[[], object]) -> int:
    """The same where what is mounted is seen by nobody else, and is gone with it."""
    own, user = 0x00020000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER
    flags = own if os.geteuid() == 0 else own | user
    me = os.geteuid()

    def alone() -> object:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(flags) == 0, os.strerror(ctypes.get_errno())
        if flags & user:
            Path("/proc/self/uid_map").write_text(f"0 {me} 1", "ascii")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        return work()

    return in_child(alone)


def mount(*arguments: str | Path) -> None:
    """Runs ``mount``."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def make_device(place: Path) -> None:
    """A device, where the user of the tests may make one; else a socket."""
    place.unlink(missing_ok=True)
    if os.geteuid() == 0:
        os.mknod(place, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        return
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(place))


def fresh(place: Path) -> Way:
    """A folder as it is before, and nothing on its way."""
    shutil.rmtree(place, ignore_errors=True)
    way = Way(place)
    write_tree(way.folder, BEFORE)
    return way
