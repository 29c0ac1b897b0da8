"""The difference of two texts, line by line, found in a bounded number of steps. Pure.

The usual search takes hours on texts that are made for it, and who makes the texts isn't trusted. Where the steps are used up
the difference is a coarse one: all lines before, then all lines after. It is as true, and as whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import Match, SequenceMatcher

CONTEXT = 3
"""Lines that are shown around a change."""

BUDGET = 2_000_000
"""Steps that one effect's differences may take together: about two seconds."""


class Steps:
    """What is left of a number of steps."""

    def __init__(self, budget: int = BUDGET) -> None:
        self.left = budget


class _UsedUpError(Exception):
    """No steps are left."""


class _Matcher(SequenceMatcher[str]):
    b2j: dict[str, list[int]]
    """Line -> where it stands in ``after``, but for lines that stand there all too often."""

    def __init__(self, before: Sequence[str], after: Sequence[str], steps: Steps) -> None:
        super().__init__(None, before, after)
        self._steps = steps
        self._cost = [0]
        there = Counter(after)
        for line in before:
            self._cost.append(self._cost[-1] + 1 + there[line])

    def find_longest_match(self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None) -> Match:
        end = len(self._cost) - 1 if ahi is None else ahi
        self._steps.left -= self._cost[end] - self._cost[alo]
        if self._steps.left < 0:
            raise _UsedUpError
        return super().find_longest_match(alo, ahi, blo, bhi)


def unified(before: Sequence[str], after: Sequence[str], steps: Steps) -> Iterator[str]:
    """The lines of a unified difference; none where the two are equal.

    Args:
        before: lines with their ends.
        after: the same.
        steps: is used up.
    """
    if list(before) == list(after):
        return
    try:
        groups = list(_Matcher(before, after, steps).get_grouped_opcodes(CONTEXT))
    except _UsedUpError:
        groups = [[("replace", 0, len(before), 0, len(after))]]
    yield "--- before\n"
    yield "+++ after\n"
    for group in groups:
        first, last = group[0], group[-1]
        yield f"@@ -{_range(first[1], last[2])} +{_range(first[3], last[4])} @@\n"
        for tag, start, end, new, new_end in group:
            if tag == "equal":
                yield from (f" {line}" for line in before[start:end])
                continue
            yield from (f"-{line}" for line in before[start:end])
            yield from (f"+{line}" for line in after[new:new_end])


def _range(start: int, end: int) -> str:
    length = end - start
    if length == 1:
        return str(start + 1)
    return f"{start + 1 if length else start},{length}"
