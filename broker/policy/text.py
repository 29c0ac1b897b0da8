"""The policy file as text: what may stand in it at all, and how a line falls into fields. No rule is known here.

The file is read by one strict reader. Whatever another reader could take otherwise is refused rather than guessed:
a byte-order mark, a bare carriage return, any other control or invisible character, a quote inside a field, a last line
without its newline (the file may have been cut).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_BYTES = 64 * 2**20
"""Longest policy file, in bytes of UTF-8."""

MAX_LINE = 2048
"""Longest line, in characters."""

_MAX_CHARACTER_FINDINGS = 20
_SUSPECT = re.compile(r"[^\x20-\x7e\n]")
# Letters by their category, yet shown as nothing: Unicode's default-ignorable characters that isprintable lets through.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_QUOTED = re.compile(r' *"((?:[^"]|"")*)" *(?=,|$)')
_PLAIN = re.compile(r'[^,"]*(?=,|$)')


class Severity(enum.StrEnum):
    """An error keeps a policy from going live; a warning doesn't."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something wrong or odd in a policy file; ``line`` and ``column`` count from 1, columns in characters."""

    line: int
    column: int
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a line: its text without quotes and outer spaces, and the column where it starts."""

    text: str
    column: int
    quoted: bool


class BadLineError(Exception):
    """A line that doesn't fall into fields; ``column`` says where."""

    def __init__(self, column: int, message: str) -> None:
        super().__init__(message)
        self.column = column
        self.message = message


def show(text: str) -> str:
    """A value in a message: quoted, pure ASCII (so that a look-alike letter shows itself), at most 60 characters."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")


def check_text(text: str) -> list[Finding]:
    """What is wrong with the text as a whole; a text with findings isn't read any further."""
    if text.startswith("\ufeff"):
        return [_error(1, 1, "the file starts with a byte-order mark; save it as UTF-8 without one")]
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return [_error(1, 1, f"the file is longer than {MAX_BYTES} bytes")]
    findings = []
    for match in _SUSPECT.finditer(text):
        char, at = match.group(), match.start()
        if char == "\r" and text[at + 1 : at + 2] == "\n":
            continue
        if char.isprintable() and not _INVISIBLE.match(char):
            continue
        start = text.rfind("\n", 0, at) + 1
        line = text.count("\n", 0, at) + 1
        message = (
            f"character U+{ord(char):04X} is refused: control, invisible and text-direction characters hide things"
        )
        findings.append(_error(line, at - start + 1, message))
        if len(findings) == _MAX_CHARACTER_FINDINGS:
            break
    if text and not text.endswith("\n"):
        last = text.rfind("\n") + 1
        message = "the last line has no newline at its end; the file may have been cut"
        findings.append(_error(text.count("\n") + 1, len(text) - last + 1, message))
    return findings


def lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is neither blank nor a comment. Only a line feed ends a line."""
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.removesuffix("\r")
        content = line.lstrip(" ")
        if content and not content.startswith("#"):
            yield number, line


def split(line: str) -> list[str]:
    """The values of a line's fields.

    Raises:
        BadLineError: a quote stands where none may.
    """
    if '"' in line:
        return [field.text for field in fields(line)]
    return [value.strip(" ") for value in line.split(",")]


def fields(line: str) -> list[Field]:
    """The fields of a line with their columns; the same values as ``split``.

    Raises:
        BadLineError: a quote stands where none may.
    """
    result = []
    position = 0
    while True:
        if match := _QUOTED.match(line, position):
            text = match.group(1).replace('""', '"')
            result.append(Field(text, match.start(1), quoted=True))
        elif match := _PLAIN.match(line, position):
            text = match.group().strip(" ")
            lead = len(match.group()) - len(match.group().lstrip(" "))
            result.append(Field(text, position + lead + 1, quoted=False))
        else:
            column = line.index('"', position) + 1
            raise BadLineError(column, "a quote may only enclose a whole field; write it twice inside one")
        position = match.end() + 1
        if match.end() == len(line):
            return result


def _error(line: int, column: int, message: str) -> Finding:
    return Finding(line, column, Severity.ERROR, message)
