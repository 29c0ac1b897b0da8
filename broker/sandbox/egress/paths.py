"""Paths that every server reads alike, and prefixes of them. Pure."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote_to_bytes

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LEVELS = 4


def ambiguity(path: str) -> str:
    """Why servers may read a path in different ways; empty where they can't.

    Looked at as written and after each round of percent-decoding, since some servers decode twice.

    Args:
        path: begins with ``/``, ASCII, without the query.
    """
    if _BROKEN_ESCAPE.search(path):
        return "it holds a percent sign that begins no escape"
    text = path
    for level in range(_LEVELS):
        why = _unclear(text, decoded=level > 0, slashes=path.count("/"))
        if why:
            return why
        if not _more(text):
            return ""
        try:
            text = unquote_to_bytes(text).decode("utf-8")
        except UnicodeDecodeError:
            return "it holds escapes that are no UTF-8"
    return "it is percent-encoded several times over"


def covers(prefix: str, path: str) -> bool:
    """Whether a rule's prefix covers a path that isn't ambiguous.

    ``/v1/`` covers ``/v1/x``; ``/v1`` covers ``/v1`` and ``/v1/x``, but not ``/v1evil``.
    """
    if prefix.endswith("/"):
        return path.startswith(prefix)
    return path == prefix or path.startswith(prefix + "/")


def _more(text: str) -> bool:
    return re.search(r"%[0-9A-Fa-f]{2}", text) is not None


def _unclear(text: str, *, decoded: bool, slashes: int) -> str:
    plain = unicodedata.normalize("NFKC", text)
    # Some servers cut a parameter off a segment before they look at its dots.
    segments = [segment.partition(";")[0].strip() for segment in plain.split("/")]
    found = {
        "it holds a control character": any(ord(char) < 0x20 or ord(char) == 0x7F for char in plain),
        "it holds a backslash": "\\" in plain,
        "it holds an encoded slash": plain.count("/") != slashes,
        "it holds an empty segment": "//" in plain,
        "it holds an encoded question mark or number sign": decoded and ("?" in plain or "#" in plain),
        "it holds a dot segment": "." in segments or ".." in segments,
    }
    return next((why for why, holds in found.items() if holds), "")
