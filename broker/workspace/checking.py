"""Looks at all of a state: that it is whole, and made as every state is made."""

from __future__ import annotations

from broker.domain.paths import check_path
from broker.domain.tree import TreeFile, TreeLink, bad_target
from broker.errors import DataLossError, InvalidArgumentError
from broker.workspace.files import ObjectFiles
from broker.workspace.nodes import MOST, Item, Leaf, Nodes, Ref, Split, way


def check_tree(files: ObjectFiles, nodes: Nodes, top: Ref | None, *, contents: bool) -> None:
    """Lets a state pass that is whole.

    Args:
        files: where the objects are.
        nodes: reads nodes.
        top: the state.
        contents: read every file's bytes, too.

    Raises:
        DataLossError: ``TREE_DAMAGED``; names the path.
    """
    _Checker(files, nodes, contents=contents).folder(top, "")


def reachable(nodes: Nodes, top: Ref | None, found: set[str]) -> None:
    """Adds the digests of all objects below a node to those that were found; what is found already isn't read again.

    Raises:
        DataLossError: ``TREE_DAMAGED``.
    """
    if top is None or top.digest in found:
        return
    found.add(top.digest)
    match nodes.node(top):
        case Leaf() as leaf:
            for _, item in leaf.entries():
                if isinstance(item, Ref):
                    reachable(nodes, item, found)
                elif isinstance(item, TreeFile):
                    found.add(item.digest)
        case Split(parts):
            for part in parts:
                reachable(nodes, part, found)


class _Checker:
    def __init__(self, files: ObjectFiles, nodes: Nodes, *, contents: bool) -> None:
        self._files = files
        self._nodes = nodes
        self._contents = contents
        self._read: set[str] = set()

    def folder(self, ref: Ref | None, prefix: str, ways: tuple[int, ...] = ()) -> None:
        if ref is None:
            return
        match self._nodes.node(ref):
            case Leaf(raw) as leaf:
                if not 1 <= len(raw) <= MOST:
                    raise _wrong(prefix, f"a node has {len(raw)} names")
                for name, item in leaf.entries():
                    if any(way(name, depth) != taken for depth, taken in enumerate(ways)):
                        raise _wrong(prefix + name, "it is in another part of its folder than its name says")
                    self._item(item, prefix + name)
            case Split(parts):
                if ref.names <= MOST:
                    raise _wrong(prefix, "a node is split that has few names")
                for number, part in enumerate(parts):
                    self.folder(part, prefix, (*ways, number))

    def _item(self, item: Item, path: str) -> None:
        try:
            check_path(path, "path")
        except InvalidArgumentError as error:
            raise _wrong(path, error.message) from error
        match item:
            case Ref():
                self.folder(item, f"{path}/")
            case TreeLink(target):
                if wrong := bad_target(target):
                    raise _wrong(path, wrong)
            case TreeFile(digest, size, _):
                self._file(digest, size, path)

    def _file(self, digest: str, size: int, path: str) -> None:
        found = self._files.size(digest)
        if found != size:
            raise _wrong(path, "its bytes are missing" if found is None else f"it has {found} bytes instead of {size}")
        if self._contents and digest not in self._read:
            self._read.add(digest)
            try:
                for _ in self._files.pieces(digest):
                    pass
            except DataLossError as error:
                raise _wrong(path, error.message) from error


def _wrong(path: str, why: str) -> DataLossError:
    return DataLossError(
        f"a workspace's tree is damaged at {path or 'its top'!a}: {why}",
        reason="TREE_DAMAGED",
        hint="Keep the state directory for an investigation, and restore its trees from a backup.",
        metadata={"path": path},
    )
