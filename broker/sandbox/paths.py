"""Paths and patterns below a sandbox's working folder."""

from __future__ import annotations

import fnmatch
import unicodedata

from broker.errors import FieldViolation, InvalidArgumentError

MAX_DEPTH = 32
MAX_NAME = 255
MAX_PATH = 1024
MAX_PATTERNS = 64


def check_path(path: str, field: str) -> list[str]:
    """The components of a relative path.

    Args:
        path: as the caller or the sandbox gave it.
        field: what to name in the refusal.

    Raises:
        InvalidArgumentError: it is absolute, has an empty, ``.`` or ``..`` part, control characters, isn't UTF-8, or is
            too long or too deep.
    """
    parts = path.split("/")
    wrong = ""
    if any(part in {"", ".", ".."} for part in parts):
        wrong = "must be relative, without empty, '.' or '..' parts"
    elif any(unicodedata.category(char) in {"Cc", "Cs"} for char in path):
        wrong = "must be valid UTF-8 without control characters"
    elif (
        len(parts) > MAX_DEPTH or len(path.encode()) >= MAX_PATH or any(len(part.encode()) > MAX_NAME for part in parts)
    ):
        wrong = f"has at most {MAX_DEPTH} parts of {MAX_NAME} bytes, and less than {MAX_PATH} bytes in all"
    if wrong:
        raise InvalidArgumentError(
            f"the path {path[:MAX_PATH]!a} {wrong}",
            reason="PATH_INVALID",
            violations=(FieldViolation(field, wrong),),
        )
    return parts


def matches(parts: list[str], pattern: list[str]) -> bool:
    """Whether a path fits a pattern, both given part by part.

    ``*``, ``?`` and ``[...]`` stay within a part and match leading dots; ``**`` stands for any number of folders, none
    included.
    """
    reached = _through_nothing({0}, pattern)
    for part in parts:
        moved = set()
        for at in reached:
            if at == len(pattern):
                continue
            if pattern[at] == "**":
                moved.add(at)
            elif fnmatch.fnmatchcase(part, pattern[at]):
                moved.add(at + 1)
        reached = _through_nothing(moved, pattern)
    return len(pattern) in reached


def _through_nothing(reached: set[int], pattern: list[str]) -> set[int]:
    closed = set(reached)
    for at in reached:
        step = at
        while step < len(pattern) and pattern[step] == "**":
            step += 1
            closed.add(step)
    return closed
