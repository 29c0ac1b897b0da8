"""Collects what a tool left in its working folder: hostile until proved to be a plain file of fair size.

Pattern rules: a pattern is relative to the working folder and matched part by part; ``*``, ``?`` and ``[...]`` stay
within one part (and match names with a leading dot); a part that is exactly ``**`` stands for any number of folders,
none included. Nothing that a pattern names is left out in silence: each such thing leaves a warning.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import stat
from collections.abc import Iterator

from runner import frames
from runner.frames import Refusal
from runner.inputs import MAX_DEPTH, split_path
from runner.light import as_json

Frame = tuple[int, int, bytes]
"""Type, channel, payload."""

MAX_ENTRIES = 100_000
"""Directory entries that are looked at; a folder that holds more is not searched to its end."""
MAX_WARNINGS = 32

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
    stat.S_IFDIR: "a folder",
}
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def matches(parts: list[str], pattern: list[str]) -> bool:
    """Whether a path fits a pattern, both given part by part."""
    return len(pattern) in reach(parts, pattern)


def reach(parts: list[str], pattern: list[str]) -> set[int]:
    """How many parts of a pattern may stand for the parts of a path; empty where nothing below the path can fit."""
    reached = {0}
    for part in parts:
        reached = _close(reached, pattern)
        moved = set()
        for at in reached:
            if at < len(pattern) and pattern[at] == "**":
                moved.add(at)
            elif at < len(pattern) and fnmatch.fnmatchcase(part, pattern[at]):
                moved.add(at + 1)
        reached = moved
    return _close(reached, pattern)


def _close(reached: set[int], pattern: list[str]) -> set[int]:
    """Adds the places that are reached when ``**`` stands for no folder at all."""
    closed = set(reached)
    for at in sorted(reached):
        step = at
        while step < len(pattern) and pattern[step] == "**":
            step += 1
            closed.add(step)
    return closed


def _expected(work: str, pattern: list[str]) -> bool:
    """Is it worth a word when nothing matches? Not where the folder that a wildcard looks into was never made."""
    plain = list(itertools.takewhile(lambda part: not set(part) & set("*?["), pattern))
    return plain == pattern or (bool(plain) and os.path.lexists("/".join([work, *plain])))


class Collector:
    """Gives the frames of what matches, within the limits, and of what it says about the rest.

    Everything comes from generators, so that who sends the frames decides when to go on.
    """

    def __init__(self, *, patterns: list[str], max_files: int, max_bytes: int) -> None:
        self._patterns = [(text, text.split("/")) for text in patterns]
        self._files = max_files
        self._bytes = max_bytes
        self._warnings = 0
        self._over = False
        self._looked_at = 0

    def collect(self, work: str) -> Iterator[Frame]:
        """All that matches below ``work``."""
        if not self._patterns:
            return
        unmatched = dict.fromkeys(text for text, pattern in self._patterns if _expected(work, pattern))
        for parts, is_dir in self._walk(work):
            if is_dir is None:
                yield from self.warn(parts[0])
                continue
            texts = [text for text, pattern in self._patterns if matches(parts, pattern)]
            for text in texts:
                unmatched.pop(text, None)
            if texts and not is_dir:
                yield from self._fetch(work, parts)
        for text in unmatched:
            yield from self.warn(f"nothing matched the pattern {text!r}")

    def result(self, path: str, limit: int) -> Iterator[Frame]:
        """The structured result."""
        folder, name = os.path.split(path)
        try:
            handle = open_below(folder, [name])
        except OSError as error:
            yield from self.warn(f"the tool left no result: {error.strerror}")
            return
        try:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode):
                yield from self.warn("the result was not fetched: it is no plain file")
            elif facts.st_size > limit:
                yield from self.over(f"the result was not fetched: its {facts.st_size} bytes exceed {limit}")
            else:
                for piece in pieces(handle, facts.st_size):
                    yield frames.RESULT, frames.FILES, piece
        finally:
            os.close(handle)

    def warn(self, text: str) -> Iterator[Frame]:
        """What was left behind; after the first few only their number is told."""
        self._warnings += 1
        if self._warnings <= MAX_WARNINGS:
            yield frames.WARNING, frames.CONTROL, frames.as_text(text)

    def over(self, text: str) -> Iterator[Frame]:
        """A limit on results struck."""
        self._over = True
        return self.warn(text)

    def finish(self) -> Iterator[Frame]:
        """How many warnings were not sent, and whether a limit struck."""
        if self._warnings > MAX_WARNINGS:
            more = self._warnings - MAX_WARNINGS
            yield frames.WARNING, frames.CONTROL, frames.as_text(f"{more} more things were not fetched")
        if self._over:
            yield frames.OVER, frames.CONTROL, b""

    def _walk(self, work: str) -> Iterator[tuple[list[str], bool | None]]:
        """Every entry in order of name, folders before what is in them: its parts, and whether it is a folder; or a
        sentence on what wasn't searched, and ``None``.
        """
        deepest = max(MAX_DEPTH if "**" in pattern else len(pattern) for _, pattern in self._patterns)
        waiting: list[list[str]] = [[]]
        while waiting:
            folder = waiting.pop()
            try:
                handle = open_below(work, folder, os.O_DIRECTORY)
            except OSError as error:
                yield [f"folder {'/'.join(folder)!r} was not searched: {error.strerror}"], None
                continue
            entries: list[tuple[str, bool]] = []
            try:
                with os.scandir(handle) as found:
                    for entry in found:
                        self._looked_at += 1
                        if self._looked_at > MAX_ENTRIES:
                            self._over = True
                            yield [f"the search for result files stopped after {MAX_ENTRIES} entries"], None
                            return
                        entries.append((entry.name, entry.is_dir(follow_symlinks=False)))
            finally:
                os.close(handle)
            inner = []
            for name, is_dir in sorted(entries):
                parts = [*folder, name]
                yield parts, is_dir
                if is_dir and len(parts) < deepest:
                    inner.append(parts)
                elif is_dir and len(parts) >= MAX_DEPTH:
                    yield [f"folder {'/'.join(parts)!r} was not searched: it lies too deep"], None
            waiting.extend(reversed(inner))

    def _fetch(self, work: str, parts: list[str]) -> Iterator[Frame]:
        name = "/".join(parts)
        try:
            split_path(name)
        except Refusal as refusal:
            yield from self.warn(f"{name!r} was not fetched: {refusal}")
            return
        try:
            handle = open_below(work, parts)
        except OSError as error:
            yield from self.warn(f"{name!r} was not fetched: {_why(work, parts) or error.strerror}")
            return
        try:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode):
                what = _KINDS.get(stat.S_IFMT(facts.st_mode), "no plain file")
                yield from self.warn(f"{name!r} was not fetched: it is {what}")
            elif self._files == 0:
                yield from self.over(f"{name!r} was not fetched: the limit on the number of result files is reached")
            elif facts.st_size > self._bytes:
                sizes = f"its {facts.st_size} bytes exceed the {self._bytes} that are left"
                yield from self.over(f"{name!r} was not fetched: {sizes}")
            else:
                self._files -= 1
                self._bytes -= facts.st_size
                yield frames.OUT_BEGIN, frames.FILES, as_json({"path": name, "size": facts.st_size})
                for piece in pieces(handle, facts.st_size):
                    yield frames.OUT_DATA, frames.FILES, piece
                yield frames.OUT_END, frames.FILES, b""
        finally:
            os.close(handle)


def pieces(handle: int, size: int) -> Iterator[bytes]:
    """The first bytes of a file, up to a size."""
    while size and (piece := os.read(handle, min(size, frames.PIECE))):
        yield piece
        size -= len(piece)


def open_below(root: str, parts: list[str], flags: int = 0) -> int:
    """Opens something below ``root`` to read, following no link at any step.

    Raises:
        OSError: it can't be opened, or a link is on the way.
    """
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for number, part in enumerate(parts, 1):
        try:
            inner = os.open(part, _OPEN | (flags if number == len(parts) else os.O_DIRECTORY), dir_fd=handle)
        finally:
            os.close(handle)
        handle = inner
    return handle


def _why(work: str, parts: list[str]) -> str:
    """What a thing is that couldn't be opened as a file; empty when that isn't the reason."""
    try:
        folder = open_below(work, parts[:-1], os.O_DIRECTORY)
    except OSError:
        return "a folder on its way can't be opened"
    try:
        kind = stat.S_IFMT(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return ""
    finally:
        os.close(folder)
    return f"it is {_KINDS[kind]}" if kind in _KINDS else ""
