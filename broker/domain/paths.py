"""Paths below a working folder or a workspace's tree, and the patterns that they are chosen by. Pure."""

from __future__ import annotations

import fnmatch
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
    place = Place.start(pattern)
    for part in parts:
        place = place.step(part)
    return place.fits


@dataclass(frozen=True, slots=True)
class Place:
    """How far some path has come in a pattern, so that a folder in which nothing can match needn't be looked into."""

    pattern: tuple[str, ...]
    reached: frozenset[int]

    @classmethod
    def start(cls, pattern: Iterable[str]) -> Place:
        """Before the first part."""
        parts = tuple(pattern)
        return cls(parts, _through_nothing({0}, parts))

    def step(self, part: str) -> Place:
        """After one more part."""
        moved = set()
        for at in self.reached:
            if at == len(self.pattern):
                continue
            if self.pattern[at] == "**":
                moved.add(at)
            elif fnmatch.fnmatchcase(part, self.pattern[at]):
                moved.add(at + 1)
        return Place(self.pattern, _through_nothing(moved, self.pattern))

    @property
    def fits(self) -> bool:
        """Does the path that led here fit?"""
        return len(self.pattern) in self.reached

    @property
    def open(self) -> bool:
        """Could a longer path fit?"""
        return any(at < len(self.pattern) for at in self.reached)

    @property
    def names(self) -> frozenset[str] | None:
        """The only names by which it goes on from here; ``None`` where a wildcard leaves that open."""
        found = {self.pattern[at] for at in self.reached if at < len(self.pattern)}
        return None if any(set(name) & set("*?[") for name in found) else frozenset(found)


def _through_nothing(reached: set[int], pattern: Sequence[str]) -> frozenset[int]:
    closed = set(reached)
    for at in reached:
        step = at
        while step < len(pattern) and pattern[step] == "**":
            step += 1
            closed.add(step)
    return frozenset(closed)
