"""What taking back means: which calls have to go together, what that changes, and what stands in its way. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

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


class History(Protocol):
    """What is known of the effects on a workspace."""

    def undoes(self, call: str) -> Sequence[str]:
        """The calls that a call took back."""

    def effect(self, call: str) -> Done | None:
        """An effect; ``None`` where what is kept of it has been erased."""


def moved_bases(chain: Sequence[Done], turns: Sequence[Done], history: History) -> tuple[Done, ...]:
    """The earlier changes of the same paths that were in effect when a call was made and aren't now, or the other way
    round, oldest first: what the call found there isn't what has to be there without it, then. An erased one isn't seen.

    Args:
        chain: what is to be taken back.
        turns: what took others back since the oldest of the chain, and did so for sure, oldest first.
        history: all effects on the workspace.
    """
    roots: dict[str, frozenset[str]] = {}
    for item in turns:
        roots[item.call] = _roots(item.call, history.undoes, roots)
    found: dict[str, Done] = {}
    for made in chain:
        turned: frozenset[str] = frozenset()
        for item in turns:
            if item.seq > made.seq:
                turned ^= roots[item.call]  # it turns each of them off or on again
        if not turned:
            continue
        # What cancels out in the effect of a taking back is in no path of it, but in those of what it took back.
        about = (history.effect(root) for root in _roots(made.call, history.undoes, roots))
        touched = set(made.effect.paths).union(*(item.effect.paths for item in about if item is not None))
        for root in turned:
            below = history.effect(root)
            if below is not None and below.seq < made.seq and any(_touches(one, touched) for one in below.effect.paths):
                found[root] = below
    return tuple(sorted(found.values(), key=lambda item: item.seq))


def _roots(call: str, undoes: Undoes, known: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The changes that a call is about in the end: what it took back, or itself."""
    roots: set[str] = set()
    waiting = [call]
    while waiting:
        which = waiting.pop()
        if which in known:
            roots |= known[which]
        elif others := undoes(which):
            waiting += others
        else:
            roots.add(which)
    return frozenset(roots)


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
