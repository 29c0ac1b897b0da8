"""A directory of the host as a workspace's tree: reading it again, and putting a change of ten files there.

What a call adds to it (policy, people, containers, ledger) is the same as for any tree: see ``undo``.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.report import Measure, Report, percentile
from benchmarks.trees import CHANGED, changed_paths, make_tree
from broker.domain.canonical import digest
from broker.domain.ids import new_id
from broker.domain.tree import Change, Effect, TreeFile
from broker.tree_folder.applying import FolderEffect
from broker.tree_folder.journal import Journal, JournalFile
from broker.tree_folder.staging import staging_name
from broker.workspace.host_folder import HostFolder
from broker.workspace.objects import Objects, in_thread
from broker.workspace.trees import Trees

FILES = 50_000
_ROUNDS = 9
_OLD_S = 2.5
"""After so long what was written is no longer racy."""

_NOTES = {
    "first": "all of it read into the store, once",
    "again": "looked at again, nothing changed",
    "changed": f"looked at again after {CHANGED} files were changed, twice until two looks agree",
    "ready": f"{CHANGED} files made ready beside the others, journal and syncs included",
    "carry_out": "each put in its place, compared before and after, and synced",
    "finish": "what was replaced and the journal removed",
    "apply": "a look, the new state, and the three before",
}


def measure() -> Report:
    """Takes all measures; a minute, most of it to make and read the tree."""
    with tempfile.TemporaryDirectory(prefix="broker-benchmark-") as folder:
        taken = asyncio.run(measured(Path(folder), FILES, _ROUNDS))
    measures = tuple(Measure(f"{step}_ms", value, "ms", note=_NOTES[step]) for step, value in taken.items())
    return Report(title=f"a directory of {FILES:,} files, and {CHANGED} of them changed", measures=measures)


async def measured(place: Path, files: int, rounds: int) -> Mapping[str, float]:
    """The median of each step in milliseconds, in an empty folder."""
    tree = place / "tree"
    await asyncio.to_thread(make_tree, tree, files)
    await asyncio.sleep(_OLD_S)
    world = _World(place, tree, files)
    found: dict[str, list[float]] = {step: [] for step in _NOTES}
    with _timed(found["first"]):
        state = await world.folder.read("")
    for number in range(rounds):
        await asyncio.sleep(_OLD_S)
        state = await world.folder.read(state)
        with _timed(found["again"]):
            state = await world.folder.read(state)
        state = await world.apply(state, f"round {number} ", found)
        with _timed(found["changed"]):
            state = await world.folder.read(state)
    return {step: percentile(values, 50) for step, values in found.items()}


class _World:
    def __init__(self, place: Path, tree: Path, files: int) -> None:
        self._objects = Objects(place / "objects")
        self._trees = Trees(self._objects)
        self._tree = tree
        self._journal = JournalFile(place / "bench.journal")
        self.folder = HostFolder(
            "bench",
            tree,
            place / "bench.memory",
            self._objects,
            self._trees,
            max_files=2 * files,
            max_bytes=1 << 40,
        )

    async def apply(self, state: str, word: str, found: Mapping[str, list[float]]) -> str:
        """Puts a change there, as the broker does; the state after it."""
        effect = await self._effect(state, word)
        with _timed(found["apply"]):
            state = await self.folder.read(state)
            after = await self._trees.apply(state, effect)
            journal = Journal(new_id("call"), str(self._tree), staging_name(), effect)
            with self.folder.opened() as root, FolderEffect(root, self._journal, journal) as placing:
                with _timed(found["ready"]):
                    conflicts = await in_thread(placing.prepare, self._objects.files.pieces, digest)
                with _timed(found["carry_out"]):
                    stopped = await in_thread(placing.carry_out)
                with _timed(found["finish"]):
                    await in_thread(placing.finish, begun=True)
        if conflicts or stopped is not None:
            raise AssertionError(conflicts, stopped)
        await self.folder.applied(after, effect)
        return after

    async def _effect(self, state: str, word: str) -> Effect:
        before = await self._trees.entries(state, changed_paths())
        changes = []
        for path, entry in before.items():
            content, size = await self._objects.put_bytes((word + path).encode())
            changes.append(Change(path, entry, TreeFile(content, size, 0o644)))
        return Effect.of(changes)


@contextmanager
def _timed(into: list[float]) -> Iterator[None]:
    """Adds the milliseconds that a block takes to a list."""
    began = time.perf_counter()
    yield
    into.append((time.perf_counter() - began) * 1000)
