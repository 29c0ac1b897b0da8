"""What is in a state, and what differs between two; reads only what is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from broker.domain.paths import Place
from broker.domain.tree import Change, Entry
from broker.workspace.nodes import Item, Nodes, Ref


def entries(nodes: Nodes, top: Ref | None, paths: Iterable[str]) -> dict[str, Entry]:
    """What is at some paths; those at which there is no file or link are left out.

    Raises:
        DataLossError: ``TREE_DAMAGED``.
    """
    return dict(_entries(nodes, top, [(path.split("/"), path) for path in paths]))


def _entries(nodes: Nodes, top: Ref | None, wanted: list[tuple[list[str], str]]) -> Iterator[tuple[str, Entry]]:
    if top is None or not wanted:
        return
    by_name: dict[str, list[tuple[list[str], str]]] = {}
    for parts, path in wanted:
        by_name.setdefault(parts[0], []).append((parts[1:], path))
    for name, item in nodes.lookup(top, by_name).items():
        if isinstance(item, Ref):
            yield from _entries(nodes, item, [(parts, path) for parts, path in by_name[name] if parts])
        else:
            yield from ((path, item) for parts, path in by_name[name] if not parts)


def select(nodes: Nodes, top: Ref | None, patterns: Iterable[str]) -> dict[str, Entry]:
    """The files and links that fit one of the patterns (see ``broker.domain.paths.matches``), sorted by path.

    Raises:
        DataLossError: ``TREE_DAMAGED``.
    """
    places = [Place.start(pattern.split("/")) for pattern in patterns]
    return dict(sorted(_select(nodes, top, places, "")))


def _select(nodes: Nodes, top: Ref | None, places: Sequence[Place], prefix: str) -> Iterator[tuple[str, Entry]]:
    if top is None or not places:
        return
    names: set[str] = set()
    anything = False
    for place in places:
        some = place.names
        anything = anything or some is None
        names |= some or set()
    items = nodes.items(top) if anything else nodes.lookup(top, names).items()
    for name, item in items:
        steps = [place.step(name) for place in places]
        if isinstance(item, Ref):
            yield from _select(nodes, item, [step for step in steps if step.open], f"{prefix}{name}/")
        elif any(step.fits for step in steps):
            yield prefix + name, item


def everything(nodes: Nodes, top: Ref | None, prefix: str = "") -> Iterator[tuple[str, Entry]]:
    """Every path and what is there, in no order that means anything.

    Raises:
        DataLossError: ``TREE_DAMAGED``.
    """
    for name, item in nodes.items(top):
        if isinstance(item, Ref):
            yield from everything(nodes, item, f"{prefix}{name}/")
        else:
            yield prefix + name, item


def changes(nodes: Nodes, before: Ref | None, after: Ref | None, prefix: str = "") -> Iterator[Change]:
    """What differs between two states; what they share isn't read.

    Raises:
        DataLossError: ``TREE_DAMAGED``.
    """
    for name, old, new in nodes.difference(before, after):
        if _entry(old) != _entry(new):
            yield Change(prefix + name, _entry(old), _entry(new))
        yield from changes(nodes, _folder(old), _folder(new), f"{prefix}{name}/")


def _entry(item: Item | None) -> Entry | None:
    return None if isinstance(item, Ref) else item


def _folder(item: Item | None) -> Ref | None:
    return item if isinstance(item, Ref) else None
