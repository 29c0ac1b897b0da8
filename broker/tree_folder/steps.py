"""In which order an effect is put into a folder, so that each step can be taken when its turn comes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from broker.domain.tree import Change, Effect


@dataclass(frozen=True, slots=True)
class Numbered:
    """A change, and its number in the effect: the name of its place in the staging folder."""

    number: int
    change: Change

    @property
    def place(self) -> str:
        """Where what it brings waits, and what it takes away goes."""
        return str(self.number)


@dataclass(frozen=True, slots=True)
class Steps:
    """What is done, in this order; folders come before those in them where they are made, and after where they go."""

    removals: tuple[Numbered, ...]
    yielding: tuple[str, ...]
    """Folders in whose place a file or a link comes: nothing may be left in them."""
    making: tuple[str, ...]
    """Folders that what comes lies in, whether they are there or not."""
    exchanges: tuple[Numbered, ...]
    additions: tuple[Numbered, ...]
    emptied: tuple[str, ...]
    """Folders that something went from and nothing comes into: they go where nothing is left in them."""

    @property
    def numbered(self) -> tuple[Numbered, ...]:
        """All changes."""
        return (*self.removals, *self.exchanges, *self.additions)


def steps_of(effect: Effect) -> Steps:
    """The steps of an effect."""
    changes = [Numbered(number, change) for number, change in enumerate(effect.changes)]
    removals = [item for item in changes if item.change.after is None]
    additions = [item for item in changes if item.change.before is None]
    exchanges = [item for item in changes if item.change.before is not None and item.change.after is not None]
    left = _above(item.change.path for item in removals)
    needed = _above(item.change.path for item in additions)
    kept = needed | _above(item.change.path for item in exchanges)
    coming = {item.change.path for item in additions}
    yielding = {folder for folder in left if _within(folder, coming)}
    return Steps(
        removals=tuple(removals),
        yielding=_inner_first(yielding),
        making=tuple(reversed(_inner_first(needed))),
        exchanges=tuple(exchanges),
        additions=tuple(additions),
        emptied=_inner_first(left - kept - yielding),
    )


def above(path: str) -> list[str]:
    """The folders that a path lies in, outermost first."""
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _above(paths: Iterable[str]) -> set[str]:
    return {folder for path in paths for folder in above(path)}


def _within(folder: str, coming: set[str]) -> bool:
    """Does something come in the place of a folder, or of one that it lies in?"""
    return folder in coming or any(outer in coming for outer in above(folder))


def _inner_first(folders: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(folders, key=lambda folder: (-folder.count("/"), folder.encode())))
