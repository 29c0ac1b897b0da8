"""The ways in which a step ends before it is done, each with the exit code by which the broker knows it."""

from __future__ import annotations

from collections.abc import Iterable

_NAMED = 5


class Ending(Exception):  # noqa: N818  # not all of them are errors
    """A step ends here. The text is one line: ``REASON: what, which, what to do next``."""

    code = 1

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(f"{reason}: {' '.join(text.split())}")
        self.reason = reason


class RefusedError(Ending):
    """What was asked for isn't done; nothing was changed."""

    code = 3


class MovedError(Ending):
    """The present state isn't the one that the change was planned from; nothing was changed."""

    code = 5

    def __init__(self, text: str) -> None:
        super().__init__("STATE_MOVED", text)


class UnknownOutcomeError(Ending):
    """The connection broke while the transaction was being committed, and nobody answers what became of it."""

    code = 6

    def __init__(self, text: str) -> None:
        super().__init__("UNKNOWN", text)


def listed(names: Iterable[str]) -> str:
    """The first few of some names, and how many more there are."""
    every = sorted(names)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more
