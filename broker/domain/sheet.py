"""A sheet of plain text whose structure no content can imitate.

Five kinds of lines, told apart by what stands at fixed columns:

    HEADING                       stands in the first column
      Label                  | text    content: the bar stands in column 26
      Label                  - text    our own words about it: there is a dash instead
      | text                        content, a line of its own
      : text                        the rest of the content line above, where that was longer than the sheet is wide

Content comes behind a bar or a colon only, and holds no line feed, so that none of it can begin a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from broker.domain.canonical import JsonValue, canonical
from broker.domain.visible import ESCAPE, Visible, width, written_out

COLUMNS = 100
_LABEL = 23
_LINE = "  | "
_REST = "  : "
_INDENT = 2
_LONGEST = len(r"\u{10FFFF}")


class Sheet:
    """Collects lines. ``visible`` is what makes the content visible."""

    def __init__(self, visible: Visible) -> None:
        self.visible = visible
        self._lines: list[str] = []

    def text(self) -> str:
        """All lines, each with its line feed."""
        return "".join(f"{line}\n" for line in self._lines)

    def heading(self, title: str) -> None:
        """A heading, in our own words; an empty line before all but the first."""
        if self._lines:
            self._lines.append("")
        self._lines.append(title)

    def words(self, label: str, words: str) -> None:
        """Our own words."""
        self._lines.append(f"  {label:<{_LABEL}}- {words}")

    def field(self, label: str, content: str) -> None:
        """Content of one line; line feeds in it are written out."""
        self._content(f"  {label:<{_LABEL}}| ", self.visible.line(content))

    def value(self, label: str, value: JsonValue) -> None:
        """A JSON value in one line."""
        self._content(f"  {label:<{_LABEL}}| ", "".join(_compact(value, self.visible)))

    def block(self, label: str, content: str) -> None:
        """Content of any number of lines, under its label."""
        self.words(label, "as follows")
        for line in self.visible.lines(content):
            self._content(_LINE, line)

    def tree(self, label: str, value: JsonValue) -> None:
        """A JSON value, one member or item a line, under its label."""
        self.words(label, "as follows")
        for line in _pretty(value, self.visible):
            self._content(_LINE, line)

    def _content(self, prefix: str, content: str) -> None:
        for part in self._wrapped(content, COLUMNS - len(prefix)):
            self._lines.append((prefix + part).rstrip(" "))
            prefix = _REST

    def _wrapped(self, line: str, room: int) -> Iterator[str]:
        # No part ends in a space, where nobody would see it: the break is made before it.
        start = 0
        while (end := _fits(line, start, room)) < len(line):
            end = _before_written_out(line, start, end)
            kept = line[start:end].rstrip(" ")
            if kept:
                yield kept
                start += len(kept)
            else:
                # Nothing but spaces: the last of those that leave room for it is written out.
                end -= len(written_out(" "))
                yield line[start:end] + self.visible.write_out(" ")
                start = end + 1
            room = COLUMNS - len(_REST)
        yield line[start:]


def _before_written_out(line: str, start: int, end: int) -> int:
    # No written-out character is parted.
    for match in ESCAPE.finditer(line, max(start, end - _LONGEST), end + _LONGEST):
        if start < match.start() < end < match.end():
            return match.start()
    return end


def _fits(line: str, start: int, room: int) -> int:
    end = min(len(line), start + room)
    if line[start:end].isascii():
        # A mark takes no column, and stays with its letter, which is no ASCII in NFC.
        return end
    used = 0
    for index in range(start, len(line)):
        used += width(line[index])
        if used > room:
            return index
    return len(line)


def _pretty(value: JsonValue, visible: Visible, depth: int = 0, before: str = "", after: str = "") -> Iterator[str]:
    space = " " * _INDENT * depth
    if isinstance(value, dict) and value:
        yield f"{space}{before}{{"
        items: Iterable[tuple[str, JsonValue]] = [
            (f"{visible.quoted(key)}: ", value[key]) for key in sorted(value, key=_utf_16)
        ]
        close = "}"
    elif isinstance(value, list) and value:
        yield f"{space}{before}["
        items = [("", item) for item in value]
        close = "]"
    else:
        yield f"{space}{before}{''.join(_compact(value, visible))}{after}"
        return
    last = len(value) - 1
    for index, (key, item) in enumerate(items):
        yield from _pretty(item, visible, depth + 1, key, "," if index < last else "")
    yield f"{space}{close}{after}"


def _compact(value: JsonValue, visible: Visible) -> Iterator[str]:
    if isinstance(value, str):
        yield visible.quoted(value)
    elif isinstance(value, dict):
        yield "{"
        for index, key in enumerate(sorted(value, key=_utf_16)):
            yield f"{', ' if index else ''}{visible.quoted(key)}: "
            yield from _compact(value[key], visible)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for index, item in enumerate(value):
            yield ", " if index else ""
            yield from _compact(item, visible)
        yield "]"
    else:
        yield canonical(value).decode("ascii")


def _utf_16(key: str) -> bytes:
    # The order of RFC 8785.
    return key.encode("utf-16-be")
