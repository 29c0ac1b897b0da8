"""The nodes of a tree: what a folder holds, as RFC 8785 JSON named by its digest. Pure but for loading and saving.

A folder of up to ``MOST`` names is one node. One of more is split into 16 by the first hexadecimal digit of the SHA-256
of each name, a part of more again by the second, and so on, so that a change among very many names rewrites few of them.
The same names and entries always make the same nodes. Whatever refers to a node says how many files and links are below
it, their bytes, and how many names it has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar, cast

import orjson

from broker.domain.canonical import JsonObject, JsonValue, canonical
from broker.domain.tree import Entry, entry_body, read_entry
from broker.errors import DataLossError, InternalError
from broker.workspace.files import damaged

FORMAT = "broker.tree.folder.v1"
"""``format`` of every node; another set of members gets another name."""

MOST = 128
"""Names in a node that isn't split."""

MAX_BYTES = 8 << 20
"""No node is longer, whatever its names and links' targets are, and however many escapes JSON needs for them."""

_WAYS = 16
_KNOWN = 256
"""Nodes that are remembered: a change reads each of the few that it touches more than once."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ref:
    """A node: its digest; files and links below it, their bytes, and the names in its folder or part of a folder."""

    digest: str
    files: int
    bytes: int
    names: int


Item: TypeAlias = Entry | Ref
"""What a name in a folder stands for; a ``Ref`` is a folder."""


class Load(Protocol):
    """Reads nodes."""

    def __call__(self, digest: str) -> bytes:
        """The bytes of a node, verified."""


class Save(Protocol):
    """Writes nodes."""

    def __call__(self, data: bytes) -> str:
        """Keeps the bytes of a node; gives its digest."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A node that holds names; each stands for an item as JSON, which is read only when it is asked for."""

    raw: Mapping[str, JsonValue]

    def item(self, name: str) -> Item | None:
        """What a name stands for.

        Raises:
            DataLossError: ``TREE_DAMAGED``.
        """
        return _item(self.raw[name]) if name in self.raw else None

    def entries(self) -> Iterator[tuple[str, Item]]:
        """All names, and what they stand for.

        Raises:
            DataLossError: ``TREE_DAMAGED``.
        """
        return ((name, _item(value)) for name, value in self.raw.items())


@dataclass(frozen=True, slots=True)
class Split:
    """A node that holds sixteen others, or ``None`` where there are no names."""

    parts: tuple[Ref | None, ...]


class Nodes:
    """Reads and makes the nodes of folders.

    Args:
        load: reads a node.
        save: writes one; ``None`` where nothing is made.
    """

    def __init__(self, load: Load, save: Save | None = None) -> None:
        self._load = load
        self._save = save
        self._known: dict[Ref, Leaf | Split] = {}

    def node(self, ref: Ref) -> Leaf | Split:
        """Reads a node.

        Raises:
            DataLossError: ``TREE_DAMAGED``: it is none, or isn't what the reference says.
        """
        if (known := self._known.get(ref)) is not None:
            return known
        node = read_node(ref.digest, self._load(ref.digest))
        if _ref(ref.digest, node) != ref:
            raise damaged(ref.digest, "it holds more or less than what refers to it says")
        if len(self._known) < _KNOWN:
            self._known[ref] = node
        return node

    def items(self, ref: Ref | None) -> Iterator[tuple[str, Item]]:
        """All names of a folder, in no order that means anything."""
        return ((name, _item(value)) for name, value in self._raw(ref))

    def lookup(self, ref: Ref | None, names: Iterable[str], depth: int = 0) -> dict[str, Item]:
        """What some names stand for; those that aren't there are left out."""
        if ref is None:
            return {}
        match self.node(ref):
            case Leaf() as leaf:
                found = {name: leaf.item(name) for name in names}
                return {name: item for name, item in found.items() if item is not None}
            case Split(parts):
                inner: dict[str, Item] = {}
                for number, some in _by_way(((name, None) for name in names), depth).items():
                    inner.update(self.lookup(parts[number], some, depth + 1))
                return inner

    def edit(self, ref: Ref | None, changes: Mapping[str, Item | None]) -> Ref | None:
        """A folder in which some names stand for something else, or, with ``None``, aren't there."""
        raw = {name: None if item is None else _body(item) for name, item in changes.items()}
        return self._edit(ref, raw, 0)

    def difference(self, before: Ref | None, after: Ref | None) -> Iterator[tuple[str, Item | None, Item | None]]:
        """The names that don't stand for the same; what both share isn't read."""
        if before == after:
            return
        old = None if before is None else self.node(before)
        new = None if after is None else self.node(after)
        if isinstance(old, Split) and isinstance(new, Split):
            for left, right in zip(old.parts, new.parts, strict=True):
                yield from self.difference(left, right)
            return
        first, second = dict(self._raw(before)), dict(self._raw(after))
        for name in {**first, **second}:
            left_raw, right_raw = first.get(name), second.get(name)
            if left_raw != right_raw:
                yield (
                    name,
                    None if left_raw is None else _item(left_raw),
                    None if right_raw is None else _item(right_raw),
                )

    def _raw(self, ref: Ref | None) -> Iterator[tuple[str, JsonValue]]:
        if ref is None:
            return
        match self.node(ref):
            case Leaf(raw):
                yield from raw.items()
            case Split(parts):
                for part in parts:
                    yield from self._raw(part)

    def _edit(self, ref: Ref | None, changes: Mapping[str, JsonValue], depth: int) -> Ref | None:
        if not changes:
            return ref
        match Leaf({}) if ref is None else self.node(ref):
            case Leaf(raw):
                merged = {**raw, **changes}
                return self._build({name: value for name, value in merged.items() if value is not None}, depth)
            case Split(parts):
                edited = list(parts)
                for number, some in _by_way(changes.items(), depth).items():
                    edited[number] = self._edit(parts[number], some, depth + 1)
                if sum(part.names for part in edited if part is not None) > MOST:
                    return self._keep(Split(tuple(edited)))
                return self._build({name: value for part in edited for name, value in self._raw(part)}, depth)

    def _build(self, raw: Mapping[str, JsonValue], depth: int) -> Ref | None:
        """A folder, or a part of one, with these names; ``None`` where there are none: such a folder is no part of a state."""
        if not raw:
            return None
        if len(raw) <= MOST:
            return self._keep(Leaf(raw))
        ways = _by_way(raw.items(), depth)
        return self._keep(Split(tuple(self._build(ways.get(number, {}), depth + 1) for number in range(_WAYS))))

    def _keep(self, node: Leaf | Split) -> Ref:
        if self._save is None:
            raise InternalError("a tree that is only read is to be changed")
        return _ref(self._save(node_bytes(node)), node)


def way(name: str, depth: int) -> int:
    """In which of sixteen parts a name is, at a depth."""
    return int(hashlib.sha256(name.encode()).hexdigest()[depth], _WAYS)


def node_bytes(node: Leaf | Split) -> bytes:
    """A node as it is kept."""
    body: JsonObject = {"format": FORMAT}
    match node:
        case Leaf(raw):
            body["entries"] = dict(raw)
        case Split(parts):
            body["parts"] = [None if part is None else ref_body(part) for part in parts]
    return canonical(body)


def read_node(digest: str, data: bytes) -> Leaf | Split:
    """A node from ``node_bytes``.

    Raises:
        DataLossError: ``TREE_DAMAGED``: it is none.
    """
    try:
        body = orjson.loads(data)
        match body:
            case {"format": str(name), "entries": dict(entries)} if name == FORMAT and len(body) == 2:
                return Leaf(entries)
            case {"format": str(name), "parts": list(parts)} if (
                name == FORMAT and len(body) == 2 and len(parts) == _WAYS
            ):
                return Split(tuple(None if part is None else read_ref(part) for part in parts))
    except (ValueError, DataLossError) as error:
        raise damaged(digest, "it is no node that this version can read") from error
    raise damaged(digest, "it is no node that this version can read")


def ref_body(ref: Ref) -> JsonValue:
    """A reference as JSON."""
    return {"folder": ref.digest, "files": ref.files, "bytes": ref.bytes, "names": ref.names}


def read_ref(value: JsonValue) -> Ref:
    """A reference from ``ref_body``.

    Raises:
        DataLossError: ``TREE_DAMAGED``: it is none.
    """
    match value:
        case {"folder": str(digest), "files": int(files), "bytes": int(size), "names": int(names), **more} if not more:
            return Ref(digest, files, size, names)
    raise damaged("", "what should refer to a folder doesn't")


def _item(value: JsonValue) -> Item:
    if isinstance(value, dict) and "folder" in value:
        return read_ref(value)
    entry = read_entry(value)
    if entry is None:
        raise damaged("", "a name stands for nothing")
    return entry


def _body(item: Item) -> JsonValue:
    return ref_body(item) if isinstance(item, Ref) else entry_body(item)


def _ref(digest: str, node: Leaf | Split) -> Ref:
    files = size = names = 0
    match node:
        case Leaf(raw):
            names = len(raw)
            # Not by patterns: this is done for each name of each node that is read.
            try:
                for value in raw.values():
                    one = cast("dict[str, int]", value)
                    if "file" in one:
                        files, size = files + 1, size + one["size"]
                    elif "folder" in one:
                        files, size = files + one["files"], size + one["bytes"]
                    else:
                        files += 1
            except (TypeError, KeyError) as error:
                raise damaged(digest, "a name in it stands for nothing") from error
        case Split(parts):
            for part in parts:
                if part is not None:
                    files, size, names = files + part.files, size + part.bytes, names + part.names
    return Ref(digest, files, size, names)


def _by_way(changes: Iterable[tuple[str, T]], depth: int) -> dict[int, dict[str, T]]:
    found: dict[int, dict[str, T]] = {}
    for name, item in changes:
        found.setdefault(way(name, depth), {})[name] = item
    return found
