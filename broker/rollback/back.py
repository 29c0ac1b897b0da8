"""What taking back means: which calls have to go together, what that changes, and what stands in its way. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from broker.domain.taken_back import Undoes
from broker.domain.tree import Change, Effect, Entry


@dataclass(frozen=True, slots=True)
class Done:
    """The effect of one call on a workspace, as it was applied."""

    call: str
    seq: int
    """Number of the ledger's entry that says so: effects are in this order."""
    effect: Effect
    undoes: tuple[str, ...] = ()
    """The calls that it took back; empty where it is no undo."""
    undone_by: str = ""
    """The call that took it back; empty while it is in effect."""

    @property
    def in_effect(self) -> bool:
        """Does it stand, as a change of its own? What was taken back doesn't, nor does what took back."""
        return not self.undone_by and not self.undoes


@dataclass(frozen=True, slots=True)
class Difference:
    """A path at which the present state isn't what a call left there, and the calls that changed it since."""

    path: str
    expected: Entry | None
    present: Entry | None
    by: tuple[str, ...]
    """Oldest first; empty where no call did it."""


def dependents(target: Done, others: Iterable[Done]) -> tuple[Done, ...]:
    """The calls that built on what a call changed, oldest first: those after it that changed one of its paths, or a path of
    one of those.

    Args:
        target: the call.
        others: the effects on the same workspace, in any order.
    """
    touched = set(target.effect.paths)
    found = []
    for item in sorted(others, key=lambda item: item.seq):
        if item.seq <= target.seq or item.call == target.call or not item.in_effect:
            continue
        if any(_touches(path, touched) for path in item.effect.paths):
            touched |= item.effect.paths
            found.append(item)
    return tuple(found)


def moved_bases(chain: Sequence[Done], later: Iterable[Done], undoes: Undoes) -> tuple[str, ...]:
    """The takings back because of which something else lies under a change than when it was made, oldest first: an earlier
    change of its paths that was in effect then and isn't now, or the other way round. What the change found there is not
    what has to be there without it, then.

    Args:
        chain: what is to be taken back.
        later: the effects since the oldest of it, in any order.
        undoes: tells what a call took back.
    """
    since = sorted(later, key=lambda item: item.seq)
    order = {item.call: item.seq for item in (*chain, *since)}
    found: dict[str, int] = {}
    for made in chain:
        turned: dict[str, list[Done]] = {}
        for item in since:
            if item.undoes and item.seq > made.seq:
                for root in _roots(item.call, undoes):
                    if order.get(root, -1) < made.seq:
                        turned.setdefault(root, []).append(item)
        touched = set(made.effect.paths)
        for items in turned.values():
            # Each of them turns it off or on again: an even number leaves it as it was.
            if len(items) % 2 and any(_touches(path, touched) for item in items for path in item.effect.paths):
                found[items[-1].call] = items[-1].seq
    return tuple(sorted(found, key=lambda call: found[call]))


def _roots(call: str, undoes: Undoes) -> set[str]:
    """The changes that a taking back is about in the end."""
    roots, waiting = set(), [call]
    while waiting:
        which = waiting.pop()
        others = undoes(which)
        waiting += others
        if not others:
            roots.add(which)
    return roots


def _touches(path: str, touched: set[str]) -> bool:
    """A path is touched by itself, by a file where one of its folders is, and by what lies below it."""
    if path in touched or any(str(parent) in touched for parent in PurePosixPath(path).parents):
        return True
    below = f"{path}/"
    return any(other.startswith(below) for other in touched)


def taking_back(done: Sequence[Done]) -> Effect:
    """What takes several calls back together, in the reverse of their order.

    Args:
        done: the calls, oldest first.
    """
    first: dict[str, Entry | None] = {}
    last: dict[str, Entry | None] = {}
    for item in done:
        for change in item.effect.changes:
            first.setdefault(change.path, change.before)
            last[change.path] = change.after
    changes = (Change(path, last[path], before) for path, before in first.items())
    return Effect.of(change for change in changes if change.before != change.after)


def differences(back: Effect, present: Mapping[str, Entry], later: Sequence[Done]) -> tuple[Difference, ...]:
    """Where the present state isn't the one that a taking back starts from.

    Args:
        back: the taking back.
        present: what is at its paths now.
        later: the effects since the oldest of what is taken back, oldest first.
    """
    found = []
    for change in back.changes:
        there = present.get(change.path)
        if there != change.before:
            by = tuple(item.call for item in later if _touches(change.path, set(item.effect.paths)))
            found.append(Difference(change.path, change.before, there, by))
    return tuple(found)
