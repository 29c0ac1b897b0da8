"""Slack's documented limits of messages, modals and their parts; what breaks one is refused by Slack's own word."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]

TEXT, HEADER, TITLE, OPTION = 3000, 150, 24, 75


class Refused(Exception):  # noqa: N818 - an answer of Slack's
    """An error code, and why."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code


def check_message(body: Json) -> None:
    """A message of ``chat.postMessage`` or ``chat.update``."""
    if len(body.get("text", "")) > 40_000:
        raise Refused("msg_too_long", "text")
    if len(body["blocks"]) > 50:
        raise Refused("invalid_blocks", "more than 50 blocks")
    _blocks(body["blocks"], {"header", "section", "context", "divider", "actions", "rich_text"})


def check_view(view: Json) -> None:
    """A modal."""
    allowed = {
        "type",
        "title",
        "close",
        "submit",
        "blocks",
        "callback_id",
        "private_metadata",
        "clear_on_close",
        "notify_on_close",
    }
    if view.get("type") != "modal" or set(view) - allowed:
        raise Refused("invalid_arguments", f"members {sorted(set(view) - allowed)}")
    if len(json.dumps(view, ensure_ascii=False).encode()) > 250_000:
        raise Refused("view_too_large", "more than 250 kB")
    for name in ("title", "close", "submit"):
        if name in view:
            _plain(view[name], TITLE)
    if len(view.get("private_metadata", "")) > 3000 or len(view.get("callback_id", "")) > 255:
        raise Refused("invalid_arguments", "private_metadata or callback_id is too long")
    if not view["blocks"] or len(view["blocks"]) > 100:
        raise Refused("invalid_arguments", f"{len(view['blocks'])} blocks")
    _blocks(view["blocks"], {"header", "section", "context", "divider", "actions", "rich_text", "input"})
    if any(block["type"] == "input" for block in view["blocks"]) and "submit" not in view:
        raise Refused("invalid_arguments", "an input without a submit button")


def shown(content: Json | list[Json], *, decoding: bool) -> list[str]:
    """The texts of ``rich_text`` boxes as a reader sees them, if Slack decodes entities in each element, or if it doesn't."""
    blocks = content["blocks"] if isinstance(content, dict) else content
    boxes = [part for block in blocks if block["type"] == "rich_text" for part in block["elements"] if _is_box(part)]
    return ["".join(_seen(element["text"], decoding=decoding) for element in part["elements"]) for part in boxes]


def _is_box(part: Json) -> bool:
    return part["type"] == "rich_text_preformatted"


def _seen(text: str, *, decoding: bool) -> str:
    if not decoding:
        return text
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _blocks(blocks: list[Json], allowed: set[str]) -> None:
    names = [block["block_id"] for block in blocks if "block_id" in block]
    if len(set(names)) < len(names) or any(len(name) > 255 for name in names):
        raise Refused("invalid_blocks", "block_id")
    for block in blocks:
        if block["type"] not in allowed:
            raise Refused("invalid_blocks", f"type {block['type']}")
        _CHECKS[block["type"]](block)


def _plain(text: Json, most: int) -> None:
    if text["type"] != "plain_text" or set(text) - {"type", "text", "emoji"}:
        raise Refused("invalid_blocks", "no plain_text")
    if not 0 < _length(text["text"]) <= most:
        raise Refused("invalid_blocks", f"a text of {len(text['text'])} characters")


def _length(text: str) -> int:
    return len(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").encode("utf-16-le")) // 2


def _header(block: Json) -> None:
    _plain(block["text"], HEADER)


def _section(block: Json) -> None:
    _plain(block["text"], TEXT)


def _context(block: Json) -> None:
    if not 0 < len(block["elements"]) <= 10:
        raise Refused("invalid_blocks", "elements of context")
    for element in block["elements"]:
        _plain(element, TEXT)


def _divider(_: Json) -> None:
    return


def _actions(block: Json) -> None:
    if not 0 < len(block["elements"]) <= 25:
        raise Refused("invalid_blocks", "elements of actions")
    for element in block["elements"]:
        if element["type"] != "button" or len(element["action_id"]) > 255 or len(element["value"]) > 2000:
            raise Refused("invalid_blocks", "button")
        _plain(element["text"], OPTION)


def _rich_text(block: Json) -> None:
    if not block["elements"]:
        raise Refused("invalid_blocks", "an empty rich_text")
    for part in block["elements"]:
        if part["type"] not in {"rich_text_section", "rich_text_preformatted"} or not part["elements"]:
            raise Refused("invalid_blocks", f"rich_text of {part['type']}")
        texts = [element for element in part["elements"] if element["type"] == "text"]
        dates = [element for element in part["elements"] if element["type"] == "date"]
        if len(texts) + len(dates) < len(part["elements"]):
            raise Refused("invalid_blocks", "an element that is neither text nor date")
        for element in texts:
            if not element["text"] or set(element) - {"type", "text", "style"}:
                raise Refused("invalid_blocks", "a text without letters")
        for element in dates:
            if not isinstance(element["timestamp"], int) or not element["format"]:
                raise Refused("invalid_blocks", "a date")
        if sum(_length(element["text"]) for element in texts) > TEXT:
            raise Refused("invalid_blocks", "a text that is too long")


def _input(block: Json) -> None:
    _plain(block["label"], 2000)
    element = block["element"]
    if element["type"] == "radio_buttons":
        if not 0 < len(element["options"]) <= 10:
            raise Refused("invalid_blocks", "options")
        for option in element["options"]:
            _plain(option["text"], OPTION)
    elif element["type"] != "plain_text_input" or not 0 < element["max_length"] <= 3000:
        raise Refused("invalid_blocks", f"input of {element['type']}")


_CHECKS = {
    "header": _header,
    "section": _section,
    "context": _context,
    "divider": _divider,
    "actions": _actions,
    "rich_text": _rich_text,
    "input": _input,
}
