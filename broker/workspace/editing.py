"""Makes one state of another by an effect, or says at which paths the state isn't what the effect starts from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from broker.domain.tree import Change, Effect, TreeLink, check_change
from broker.errors import ConflictError, FieldViolation
from broker.workspace.nodes import Item, Nodes, Ref

_NAMED = 20
"""Paths that a refusal names one by one; the number of all of them is in it, too."""


@dataclass(slots=True)
class _Branch:
    """The changes at a name and below it."""

    change: Change | None = None
    below: dict[str, _Branch] = field(default_factory=dict)

    def paths(self) -> Iterator[str]:
        if self.change is not None:
            yield self.change.path
        for branch in self.below.values():
            yield from branch.paths()


class Editing:
    """One effect on one state."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self.conflicts: dict[str, str] = {}
        """Path -> why the effect can't be applied there."""

    def apply(self, top: Ref | None, effect: Effect) -> Ref | None:
        """The top of the new state; it stands for nothing where there are ``conflicts``.

        Raises:
            InvalidArgumentError: a change can't be one of a tree (``PATH_INVALID``, ``ENTRY_INVALID``).
            DataLossError: ``TREE_DAMAGED``.
        """
        root = _Branch()
        for change in effect.changes:
            check_change(change, "effect")
            branch = root
            for part in change.path.split("/"):
                branch = branch.below.setdefault(part, _Branch())
            if branch.change is not None:
                self.conflicts[change.path] = "the effect changes it twice"
            branch.change = change
        return self._folder(top, root.below)

    def _folder(self, ref: Ref | None, branches: dict[str, _Branch]) -> Ref | None:
        found = self._nodes.lookup(ref, branches)
        changes = {}
        for name, branch in branches.items():
            item = found.get(name)
            edited = self._item(item, branch)
            if edited != item:
                changes[name] = edited
        return self._nodes.edit(ref, changes)

    def _item(self, item: Item | None, branch: _Branch) -> Item | None:
        change = branch.change
        folder = item if isinstance(item, Ref) else None
        entry = None if isinstance(item, Ref) else item
        if change is None:
            if entry is None:
                return self._folder(folder, branch.below)
            what = "link" if isinstance(entry, TreeLink) else "file"
            self.conflicts.update(dict.fromkeys(branch.paths(), f"a {what} is where its folder would be"))
            return item
        if change.before != entry:
            self.conflicts[change.path] = _why(change, item)
        inner = self._folder(folder, branch.below) if branch.below else folder
        if change.after is not None and inner is not None:
            self.conflicts.setdefault(change.path, "a folder is there")
            return item
        return inner if change.after is None else change.after


def base_moved(conflicts: dict[str, str]) -> ConflictError:
    """The error about a state that isn't what an effect starts from: the first paths, and how many there are."""
    paths = sorted(conflicts, key=str.encode)
    named = ", ".join(f"{path!a}" for path in paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    return ConflictError(
        f"the tree isn't what the change starts from: {named}",
        reason="BASE_MOVED",
        hint="Nothing was changed. Look at what is there now, and ask for the change again.",
        metadata={"conflicts": str(len(paths))},
        violations=tuple(FieldViolation(path, conflicts[path]) for path in paths[:_NAMED]),
    )


def _why(change: Change, item: Item | None) -> str:
    if item is None:
        return "it isn't there any more"
    if isinstance(item, Ref):
        return "a folder is there"
    return "something else is there" if change.before is None else "it has changed"
