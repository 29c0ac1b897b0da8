"""Trees of many files, and what others take to copy one or to put a change of it away."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHANGED = 10
"""Files that a change is about, each in a folder of its own."""
_IN_FOLDER = 100
_BYTES = 2048


def path_of(number: int) -> str:
    """Path of a tree's file."""
    folder, name = divmod(number, _IN_FOLDER)
    return f"d{folder:04}/f{name:02}.txt"


def changed_paths() -> list[str]:
    """The files that are changed; every tree of 1,000 files and more has them."""
    return [path_of(number * _IN_FOLDER + number) for number in range(CHANGED)]


def make_tree(folder: Path, files: int) -> None:
    """Makes a tree: files of 2 KiB, none like another, 100 in a folder."""
    chance = random.Random(files)  # noqa: S311 - the same bytes each time
    for number in range(files):
        path = folder / path_of(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(_BYTES))


def copied(tree: Path, into: Path) -> float:
    """Milliseconds that `cp -a` of a tree takes; the copy is removed."""
    try:
        return _timed("cp", "-a", str(tree), str(into))
    finally:
        shutil.rmtree(into)


@contextmanager
def stashing(tree: Path) -> Iterator[None]:
    """Meanwhile a tree is a repository with one commit of all its files."""
    _git(tree, "init", "--quiet")
    try:
        _git(tree, "add", ".")
        _git(tree, "commit", "--quiet", "--message", "all")
        yield
    finally:
        shutil.rmtree(tree / ".git")


def stashed(tree: Path, word: str) -> float:
    """Milliseconds that `git stash` of a change takes; ``word`` makes the change another each time."""
    for path in changed_paths():
        (tree / path).write_text(word + path, "utf-8")
    taken = _git(tree, "stash", "--quiet")
    _git(tree, "stash", "drop", "--quiet")
    return taken


def _git(tree: Path, *arguments: str) -> float:
    who = ("-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "commit.gpgsign=false")
    return _timed("git", "-C", str(tree), *who, *arguments)


def _timed(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1e3
