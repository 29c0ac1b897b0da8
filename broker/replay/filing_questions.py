"""Numbers of the questions that decisions read: most decisions of a ledger ask what was asked before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from broker.replay.members import plain

Row: TypeAlias = tuple[Any, ...]


class Questions:
    """The numbers of questions.

    Args:
        known: those that are filed: the numbers of its words -> its own.
        word: the number of a word.
        rows: gets the rows of new ones.
    """

    def __init__(self, known: dict[Row, int], word: Callable[[str], int], rows: list[Row]) -> None:
        self._known = known
        self._word = word
        self._rows = rows
        self._said: dict[Row, int] = {}

    def number(self, inputs: Mapping[str, Any]) -> int:
        """The number of what an entry says a decision read."""
        get = inputs.get
        said: Row = (
            get("subject"),
            get("workspace"),
            get("object", get("obj")),
            get("action"),
            get("tier"),
            get("roles"),
        )
        words = said if all(type(item) is str for item in said) else tuple(map(plain, said))
        found = self._said.get(words)
        if found is None:
            values = tuple(map(self._word, words))
            found = self._known.get(values)
            if found is None:
                found = self._known[values] = len(self._known) + 1
                self._rows.append((found, *values))
            self._said[words] = found
        return found
