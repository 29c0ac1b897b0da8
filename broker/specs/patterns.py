"""How long a regular expression may take, before it is let near what an agent sent.

Python's matcher tries again on failure, so a pattern such as ``(a+)+$`` takes exponential time on a short text, and it
can't be interrupted. The bound here is conservative: it multiplies the number of ways in which each part can match.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

MAX_STEPS = 10_000_000
"""Most ways of matching that a pattern may have on the longest text that its schema lets through."""

# The parse tree of ``re`` has no public name in Python 3.11 to 3.14; the old public one warns.
_parser: Any = importlib.import_module("re._parser")

_REPEATS = frozenset({"MAX_REPEAT", "MIN_REPEAT"})
_LOOKS = frozenset({"ASSERT", "ASSERT_NOT"})
_SIMPLE = frozenset({"LITERAL", "NOT_LITERAL", "IN", "ANY", "RANGE", "CATEGORY", "AT"})


def refusal(pattern: str, max_length: int) -> str:
    """Why a pattern may not be used on texts of up to ``max_length`` characters; empty where it may."""
    if len(pattern) > 1000:
        return "is longer than 1000 characters"
    try:
        multiline = bool(re.compile(pattern).flags & re.MULTILINE)
        tree = _parser.parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"is not a regular expression: {error}"
    # ``re.search`` begins anew at each character, unless the pattern is tied to the start.
    starts = 1 if _anchored(tree) and not multiline else max_length + 1
    try:
        steps = starts * _ways(tree, max_length)
    except _UnsupportedError as error:
        return str(error)
    if steps > MAX_STEPS:
        return (
            "may take too long on a text made for it: repeats inside repeats, or too many repeats in a row, for texts "
            f"of up to {max_length} characters; begin it with ^, lower maxLength, or make repeats possessive (a++)"
        )
    return ""


class _UnsupportedError(ValueError):
    """The pattern uses a part whose time isn't bounded here."""


def _anchored(tree: Sequence[tuple[Any, Any]]) -> bool:
    return bool(tree) and str(tree[0][0]) == "AT" and str(tree[0][1]) in {"AT_BEGINNING", "AT_BEGINNING_STRING"}


def _ways(tree: Sequence[tuple[Any, Any]], length: int) -> int:
    ways = 1
    for operator, argument in tree:
        ways = min(ways * _part(str(operator), argument, length), MAX_STEPS + 1)
    return ways


def _part(operator: str, argument: Any, length: int) -> int:  # noqa: ANN401 - the parse tree is untyped
    if operator in _SIMPLE:
        return 1
    if operator in _REPEATS:
        low, high, body = argument
        high, inner = min(int(high), length), _ways(body, length)
        choices = max(high - min(int(low), high) + 1, 1)
        # The inner ways multiply once per turn.
        return choices if inner == 1 else min(choices * inner ** min(high, 64), MAX_STEPS + 1)
    if operator == "POSSESSIVE_REPEAT":
        return min(max(_ways(argument[2], length), 1) * length, MAX_STEPS + 1)
    if operator in {"ATOMIC_GROUP", "SUBPATTERN"}:
        return _ways(argument if operator == "ATOMIC_GROUP" else argument[3], length)
    if operator == "BRANCH":
        return sum(_ways(branch, length) for branch in argument[1])
    if operator in _LOOKS:
        return 1 + _ways(argument[1], length)
    raise _UnsupportedError("uses a back-reference or a condition, whose time can't be bounded")
