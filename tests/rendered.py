"""Reads the approvers' text back: what a person could do with pen and paper."""

from __future__ import annotations

import json
import re

from broker.domain.canonical import JsonValue
from broker.domain.visible import restore

BAR = 25
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(?:u\{([0-9A-F]+)\}|(.))")
_PLAIN = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}


def lines_of(text: str) -> list[str]:
    """Its lines, those that were too long joined again."""
    lines: list[str] = []
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("  : "):
            lines[-1] += line[4:]
        else:
            lines.append(line)
    return lines


def is_structure(line: str) -> bool:
    """Is a line our own words, with nothing of the envelope's content in it?"""
    return not line.startswith(("  |", "  : ")) and line[BAR : BAR + 1] != "|"


def field(text: str, label: str) -> str:
    """The content beside a label, the first of that name."""
    start = f"  {label:<23}|"
    found = next(line for line in lines_of(text) if line.startswith(start))
    return restore(found[len(start) + 1 :])


def shown_block(text: str, label: str, number: int = 0) -> list[str]:
    """The visible lines under a label, the ``number``-th of that name."""
    lines = lines_of(text)
    starts = [index for index, line in enumerate(lines) if line == f"  {label:<23}- as follows"]
    block = []
    for line in lines[starts[number] + 1 :]:
        if not line.startswith("  |"):
            break
        block.append(line[4:])
    return block


def block(text: str, label: str, number: int = 0) -> str:
    """The content under a label."""
    return "\n".join(map(restore, shown_block(text, label, number)))


def tree(text: str, label: str) -> JsonValue:
    """The JSON value under a label."""
    shown = "\n".join(shown_block(text, label))
    quoted = _STRING.sub(lambda match: json.dumps(_unquoted(match[1])), shown)
    value: JsonValue = json.loads(quoted, parse_int=lambda digits: int(digits) if len(digits) < 16 else float(digits))
    return value


def _unquoted(inside: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)) if match[1] else _PLAIN[match[2]], inside)
