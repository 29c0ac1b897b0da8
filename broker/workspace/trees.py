"""Trees: states, each named by the digest of its root object, and what is asked of them and done to them.

A root object says which node is the top, and holds 32 random bytes, made once for a tree and carried on from state to
state: the digest of a state tells nothing to who doesn't have the tree. Costs follow what is asked or changed, not the
size of the tree.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from broker.domain.canonical import canonical
from broker.domain.canonical import digest as content_digest
from broker.domain.tree import Change, Effect, Entry, TreeFile
from broker.errors import DataLossError
from broker.workspace import walking
from broker.workspace.checking import check_tree, reachable
from broker.workspace.editing import Editing, base_moved
from broker.workspace.files import Batch, ObjectFiles, Swept, damaged
from broker.workspace.nodes import MAX_BYTES, Nodes, Ref, read_ref, ref_body
from broker.workspace.objects import Objects, in_thread

FORMAT = "broker.tree.v1"
"""``format`` of every root object."""

_SALT = re.compile("[0-9a-f]{64}")
_ROOT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class TreeSize:
    """How large a state is: files and links, and bytes of the files; the same bytes under two paths count twice."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Root:
    salt: str
    top: Ref | None


class Trees:
    """The states of all trees, in the same objects as the files in them."""

    def __init__(self, objects: Objects) -> None:
        self._files = objects.files

    async def empty(self) -> str:
        """A new tree's first state, in which there is nothing; durable."""
        return await in_thread(self._make, {})

    async def of(self, entries: Mapping[str, Entry]) -> str:
        """A new tree's first state, with these paths; durable. Their bytes must have been put.

        Raises:
            InvalidArgumentError, DataLossError, ConflictError: as ``apply``.
        """
        return await in_thread(self._make, entries)

    async def get(self, root: str, path: str) -> Entry | None:
        """What is at a path.

        Raises:
            DataLossError: ``TREE_DAMAGED``: there is no such state, or it can't be read.
        """
        return (await self.entries(root, (path,))).get(path)

    async def entries(self, root: str, paths: Iterable[str]) -> dict[str, Entry]:
        """What is at some paths; those at which there is no file or link are left out.

        Raises:
            DataLossError: as ``get``.
        """
        return await in_thread(lambda: walking.entries(self._nodes, self._root(root).top, paths))

    async def select(self, root: str, patterns: Iterable[str]) -> dict[str, Entry]:
        """The files and links that fit one of the patterns, sorted by path; see ``broker.domain.paths.matches``.

        Raises:
            DataLossError: as ``get``.
        """
        return await in_thread(lambda: walking.select(self._nodes, self._root(root).top, patterns))

    async def apply(self, root: str, effect: Effect) -> str:
        """The state that an effect makes of one; durable. Where it changes nothing, the same state.

        Raises:
            ConflictError: ``BASE_MOVED``: the state isn't what the effect starts from. ``violations`` names the first
                paths, ``metadata`` has the number of all in ``conflicts``; ``conflicts()`` gives all of them.
            InvalidArgumentError: a change can't be one of a tree (``PATH_INVALID``, ``ENTRY_INVALID``).
            DataLossError: ``TREE_DAMAGED``: as ``get``, or the bytes of a file that shall be there aren't.
        """
        return await in_thread(self._apply, root, effect)

    async def conflicts(self, root: str, effect: Effect) -> dict[str, str]:
        """The paths at which a state isn't what an effect starts from, each with why, sorted; empty where it fits.

        Raises:
            InvalidArgumentError: as ``apply``.
            DataLossError: as ``get``.
        """
        return await in_thread(self._conflicts, root, effect)

    async def diff(self, before: str, after: str) -> Effect:
        """What makes one state of another.

        Raises:
            DataLossError: as ``get``.
        """
        return await in_thread(self._diff, before, after)

    async def size(self, root: str) -> TreeSize:
        """How large a state is.

        Raises:
            DataLossError: as ``get``.
        """
        return await in_thread(self._size, root)

    async def check(self, root: str, *, contents: bool = True) -> TreeSize:
        """Looks at all of a state.

        Args:
            root: the state.
            contents: read every file's bytes, too; otherwise only whether they are there, with their size.

        Raises:
            DataLossError: ``TREE_DAMAGED``; names the first path at which something is wrong.
        """
        return await in_thread(self._check, root, contents=contents)

    async def sweep(self, roots: Iterable[str], also: Iterable[str] = (), now: float | None = None) -> Swept:
        """Removes the objects that none of some states hold, if they were put more than an hour ago.

        Args:
            roots: the states that count.
            also: digests of further objects to keep.
            now: the time, in Unix seconds; ``None`` for that of the clock.

        Raises:
            DataLossError: ``TREE_DAMAGED``: one of the states can't be read; nothing was removed.
        """
        return await in_thread(self._sweep, tuple(roots), tuple(also), now)

    @property
    def _nodes(self) -> Nodes:
        return Nodes(self._load)

    def _load(self, digest: str) -> bytes:
        return self._files.load(digest, MAX_BYTES)

    def _root(self, digest: str) -> _Root:
        try:
            match body := orjson.loads(self._files.load(digest, _ROOT_BYTES)):
                case {"format": str(name), "salt": str(salt), "top": top} if (
                    name == FORMAT and _SALT.fullmatch(salt) and len(body) == 3
                ):
                    return _Root(salt, None if top is None else read_ref(top))
        except ValueError:
            pass
        raise damaged(digest, "it is no root of a tree that this version can read")

    def _make(self, entries: Mapping[str, Entry]) -> str:
        return self._edit(_Root(secrets.token_hex(32), None), Effect.between({}, entries))

    def _apply(self, root: str, effect: Effect) -> str:
        return self._edit(self._root(root), effect)

    def _edit(self, root: _Root, effect: Effect) -> str:
        work = _Work(self._files)
        editing = Editing(work.nodes)
        top = editing.apply(root.top, effect)
        if editing.conflicts:
            raise base_moved(editing.conflicts)
        with Batch(self._files) as batch:
            for change in effect.changes:
                _need(batch, change)
            for data in work.made.values():
                batch.put_bytes(data)
            body = {"format": FORMAT, "salt": root.salt, "top": None if top is None else ref_body(top)}
            return batch.put_bytes(canonical(body))

    def _conflicts(self, root: str, effect: Effect) -> dict[str, str]:
        editing = Editing(_Work(self._files).nodes)
        editing.apply(self._root(root).top, effect)
        return dict(sorted(editing.conflicts.items(), key=lambda item: item[0].encode()))

    def _diff(self, before: str, after: str) -> Effect:
        return Effect.of(walking.changes(self._nodes, self._root(before).top, self._root(after).top))

    def _size(self, root: str) -> TreeSize:
        top = self._root(root).top
        return TreeSize(0, 0) if top is None else TreeSize(top.files, top.bytes)

    def _check(self, root: str, *, contents: bool) -> TreeSize:
        check_tree(self._files, self._nodes, self._root(root).top, contents=contents)
        return self._size(root)

    def _sweep(self, roots: Iterable[str], also: Iterable[str], now: float | None) -> Swept:
        named = {*roots, *also}
        for root in roots:
            reachable(self._nodes, self._root(root).top, named)
        return self._files.sweep(named, now)


class _Work:
    """Nodes that are being made: in memory, until they are put together with the root."""

    def __init__(self, files: ObjectFiles) -> None:
        self._files = files
        self.made: dict[str, bytes] = {}
        self.nodes = Nodes(self._load, self._save)

    def _load(self, digest: str) -> bytes:
        return self.made.get(digest) or self._files.load(digest, MAX_BYTES)

    def _save(self, data: bytes) -> str:
        digest = content_digest(data)
        self.made[digest] = data
        return digest


def _need(batch: Batch, change: Change) -> None:
    after = change.after
    if isinstance(after, TreeFile) and not batch.keep(after.digest, after.size):
        raise DataLossError(
            f"the bytes of {change.path!a} are not there, or not as many as they should be",
            reason="TREE_DAMAGED",
            hint="They must be put before a state can hold them.",
            metadata={"path": change.path, "digest": after.digest},
        )
