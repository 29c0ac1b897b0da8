"""Parts of Slack's Block Kit, and its limits. Pure.

A text that isn't ours stands in ``text`` elements of ``rich_text`` alone. Slack reads no markup in those: neither a link nor
a mention nor an emoji is made of what they hold. Our own, constant words stand in ``plain_text``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

Block: TypeAlias = dict[str, Any]
"""A piece of Block Kit, as JSON has it."""

MAX_TEXT = 3000
"""Characters of one text, in UTF-16 units and with ``&``, ``<`` and ``>`` as Slack stores them."""
MAX_BLOCKS = 100
"""Blocks of a modal."""
MAX_VIEW_BYTES = 250_000
"""Bytes of a modal's JSON."""
MAX_MESSAGE_BLOCKS = 50
"""Blocks of a message."""
MAX_METADATA = 3000
"""Characters of a modal's ``private_metadata``."""

_ENTITY = re.compile(r"&(?=[A-Za-z0-9#]{1,32};)")


def escape(text: str) -> str:
    """A text for a field in which Slack reads markup: its three control characters as entities."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def size(text: str) -> int:
    """Length of a text as Slack may count it: in UTF-16 units, escaped."""
    return len(escape(text).encode("utf-16-le")) // 2


def words(text: str) -> Block:
    """Words of our own, where no markup and no emoji is read."""
    return {"type": "plain_text", "text": text, "emoji": False}


def literal(text: str, *, bold: bool = False) -> list[Block]:
    """A text that isn't ours, as elements of ``rich_text``: shown letter by letter.

    It is divided after each ``&`` that would begin an entity: whether Slack decodes entities there or not, the same
    letters are shown.
    """
    style: Block = {"style": {"bold": True}} if bold else {}
    start, elements = 0, []
    for end in (*(found.end() for found in _ENTITY.finditer(text)), len(text)):
        if end > start:
            elements.append({"type": "text", "text": text[start:end], **style})
        start = end
    return elements


def moment(time: datetime) -> Block:
    """A time, which each reader sees in their own time zone."""
    fallback = time.strftime("%Y-%m-%d %H:%M UTC")
    return {
        "type": "date",
        "timestamp": int(time.timestamp()),
        "format": "{date_num} {time_secs}",
        "fallback": fallback,
    }


def line(*parts: Sequence[Block], block_id: str = "") -> Block:
    """A line of elements."""
    section = {"type": "rich_text_section", "elements": [element for part in parts for element in part]}
    return _named({"type": "rich_text", "elements": [section]}, block_id)


def box(text: str, block_id: str = "") -> Block:
    """A text in a box of its own, in letters of one width and with its spaces kept."""
    inside = {"type": "rich_text_preformatted", "elements": literal(text or " ")}
    return _named({"type": "rich_text", "elements": [inside]}, block_id)


def note(text: str) -> Block:
    """A small line in our own words."""
    return {"type": "context", "elements": [words(text)]}


def head(text: str) -> Block:
    """A headline in our own words."""
    return {"type": "header", "text": words(text)}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text that is divided among boxes."""

    text: str
    goes_on: bool
    """Does its last line go on in the next box? Else that begins a line."""


def pieces(text: str, most: int = MAX_TEXT) -> list[Piece]:
    """Divides a text into pieces of at most ``most`` characters by ``size``: between lines where that can be."""
    result: list[Piece] = []
    held: list[str] = []
    room = most
    for whole in text.split("\n"):
        parts = _cut(whole, most)
        for index, part in enumerate(parts):
            needed = size(part) + (1 if held else 0)
            if held and (index > 0 or needed > room):
                result.append(Piece("\n".join(held), goes_on=index > 0))
                held, room, needed = [], most, size(part)
            held.append(part)
            room -= needed
    result.append(Piece("\n".join(held), goes_on=False))
    return result


def joined(parts: Sequence[Piece]) -> str:
    """The text that was divided: what somebody reads who knows that a box ends a line unless it says otherwise."""
    return "".join(part.text + ("" if part.goes_on else "\n") for part in parts)[:-1]


def view_bytes(view: Mapping[str, Any]) -> int:
    """Bytes of a modal as it is sent, its texts as Slack stores them."""
    text = json.dumps(view)
    return len(text) + sum(len(escape(char)) - 1 for char in text if char in "&<>")


def _cut(text: str, most: int) -> list[str]:
    if size(text) <= most:
        return [text]
    parts: list[str] = []
    start, used = 0, 0
    for index, char in enumerate(text):
        needed = size(char)
        if used + needed > most:
            parts.append(text[start:index])
            start, used = index, 0
        used += needed
    return [*parts, text[start:]]


def _named(block: Block, block_id: str) -> Block:
    return {**block, "block_id": block_id} if block_id else block
