"""What is in effect once calls have been taken back, and what took them back has been taken back itself. Pure.

A call that takes others back is a call like they are: taking it back brings theirs into effect again, and taking that back
takes them back once more, and so on, to any depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

Undoes: TypeAlias = Callable[[str], Sequence[str]]
"""Gives the calls that a call took back; none for one that is no undo."""


def marks(call: str, by: str, undoes: Undoes) -> Iterator[tuple[str, str]]:
    """What a call's being taken back changes: each call with the one that took it back, empty for one in effect again.

    Args:
        call: what is taken back.
        by: what takes it back.
        undoes: tells what a call took back.
    """
    waiting = [(call, by)]
    while waiting:
        which, taken = waiting.pop()
        yield which, taken
        # Whom it had taken back is in effect again where it is taken back, and taken back by it where it is in effect again.
        waiting += [(other, "" if taken else which) for other in undoes(which)]


def taken_back_by(call: str, undoes: Undoes, undone_by: Callable[[str], str]) -> str:
    """The call because of which another is in effect no more; empty where it is in effect.

    One that took others back is in effect while these are taken back by it, and while what these had taken back is in effect.

    Args:
        call: the call.
        undoes: tells what a call took back.
        undone_by: tells by which call a call was taken back; empty where it was not.
    """
    waiting = [call]
    while waiting:
        which = waiting.pop()
        if taken := undone_by(which):
            return taken
        for other in undoes(which):
            if undone_by(other) != which:
                return undone_by(other) or other
            waiting += undoes(other)
    return ""
