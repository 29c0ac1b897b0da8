"""Rows as items: a path by the table's name and the primary key, a content of one line a column."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from urllib.parse import quote

from broker_rows.endings import RefusedError
from broker_rows.server import Row, Value

_MAX_BYTES = 180
"""Longer parts of a path are told by their digest."""


class OtherColumnsError(Exception):
    """An item's columns aren't those that the table has."""


def table_part(schema: str, name: str) -> str:
    """The part of a path that says the table; a dot within a name is encoded, so that the other one divides them."""
    return _bounded(".".join(quote(each, safe="").replace("~", "%7E").replace(".", "%2E") for each in (schema, name)))


def key_part(key: Sequence[Value]) -> str:
    """The part of a path that says the row, from the values of its primary key."""
    text = ",".join(quote(value or "", safe="").replace("~", "%7E") for value in key)
    return _bounded(text.replace(".", "%2E") if text in {".", ".."} else text)


def _bounded(text: str) -> str:
    if 0 < len(text) <= _MAX_BYTES:
        return text
    return f"sha256-{hashlib.sha256(text.encode()).hexdigest()}"


def content(columns: Sequence[tuple[str, str]], row: Row) -> str:
    """A row as text.

    Args:
        columns: name and type of each.
    """
    return "".join(f"{_start(*column)}{_text(value)}\n" for column, value in zip(columns, row, strict=True))


def parse(text: str, columns: Sequence[tuple[str, str]], path: str) -> Row:
    """The row that a content says.

    Args:
        columns: name and type of each, as the table has them.
        path: for the message.

    Raises:
        OtherColumnsError: the content is one of other columns.
        RefusedError: ``ITEM_UNREADABLE``: a value isn't written as ``content`` writes it.
    """
    lines = text.split("\n")
    if lines.pop() or len(lines) != len(columns):
        raise OtherColumnsError
    row = []
    for line, column in zip(lines, columns, strict=True):
        start = _start(*column)
        if not line.startswith(start):
            raise OtherColumnsError
        row.append(_value(line.removeprefix(start), f"{path}: column {json.dumps(column[0], ensure_ascii=False)}"))
    return tuple(row)


def _start(name: str, kind: str) -> str:
    return f"{json.dumps(name, ensure_ascii=False)} {kind} = "


def _text(value: Value) -> str:
    return json.dumps(value, ensure_ascii=False)


def _value(text: str, where: str) -> Value:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = 0
    if not (value is None or isinstance(value, str)) or _text(value) != text:
        raise RefusedError("ITEM_UNREADABLE", f"{where} has no value that is written as it has to be; call again")
    if value is not None and re.search("[\x00\ud800-\udfff]", value):
        raise RefusedError("ITEM_UNREADABLE", f"{where} has a value that PostgreSQL can't hold; call again")
    return value
