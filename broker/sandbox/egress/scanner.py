"""Finds a secret in an answer that comes in pieces, before the tool gets it. Pure."""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Iterable

from broker.domain.secret import Secret

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_JSON = re.compile(rb'\\(?:u00([0-9A-Fa-f]{2})|(["\\/bfnrt]))')
_JSON_PLAIN = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_WIDEST_ESCAPE = 6
"""Bytes of ``\\u0041``."""
_LEAST = 8
"""A shorter part of a secret is too common to be looked for."""
_BASIC = "basic "


class SecretFoundError(Exception):
    """The text holds a secret; nothing of it that wasn't given out yet may be."""


class SecretScanner:
    """Takes a text in pieces and gives it back unchanged, some bytes later.

    It knows a secret as it is, in base64 at each of the three alignments (standard and URL alphabet, with or without
    padding), in hex of either case, in UTF-16; each of these also percent-encoded or JSON-escaped in any mixture; and as
    HTML writes it.

    How much is held back doesn't depend on the text. Otherwise a tool that lets a host echo its guesses could read from
    the delay how far a guess is right.

    It looks once enough has gathered, not at every piece: the other side chooses the pieces, and each look goes over what
    is held back too.

    Args:
        secrets: each with the prefix that stands before it in its header: what ``Basic `` carries is looked for decoded too.
    """

    def __init__(self, secrets: Iterable[tuple[Secret, str]]) -> None:
        shapes: set[bytes] = set()
        folded: set[bytes] = set()
        written: set[bytes] = set()
        for secret, prefix in secrets:
            for value in _parts(secret.reveal(), prefix):
                shapes |= _shapes(value)
                folded.add(value.hex().encode())
                written |= _written(value)
        self._shapes, self._folded, self._written = tuple(shapes), tuple(folded), tuple(written)
        self._hold = max(
            max((len(shape) for shape in shapes | folded), default=0) * _WIDEST_ESCAPE,
            max((len(shape) for shape in written), default=0),
        )
        self._enough = self._hold // 2
        self._held = bytearray()
        self._unseen = 0

    def __repr__(self) -> str:
        return f"SecretScanner({len(self._shapes)} shapes, redacted)"

    @property
    def idle(self) -> bool:
        """Whether it looks for nothing, and so holds nothing back."""
        return self._hold == 0

    def check(self, text: bytes) -> None:
        """Looks through a text that is there as a whole.

        Raises:
            SecretFoundError: it holds a secret.
        """
        views = [text]
        if b"%" in text:
            views.append(_ESCAPE.sub(_unescaped, text))
        if b"\\" in text:
            views.append(_JSON.sub(_json_unescaped, text))
        for view in views:
            if any(shape in view for shape in self._shapes):
                raise SecretFoundError
            lower = view.lower()
            if any(shape in lower for shape in self._folded):
                raise SecretFoundError
        if any(shape in text for shape in self._written):
            raise SecretFoundError

    def feed(self, data: bytes) -> bytes:
        """The bytes that are safe by now.

        Raises:
            SecretFoundError: what came holds a secret; nothing more may be given out.
        """
        if self.idle:
            return data
        self._held += data
        self._unseen += len(data)
        if self._unseen < self._enough:
            return b""
        self._look()
        safe = bytes(self._held[: max(len(self._held) - self._hold + 1, 0)])
        del self._held[: len(safe)]
        return safe

    def finish(self) -> bytes:
        """The bytes that were held back; the text has ended.

        Raises:
            SecretFoundError: they hold a secret.
        """
        self._look()
        held = bytes(self._held)
        self._held.clear()
        return held

    def _look(self) -> None:
        if self._unseen:
            self.check(bytes(self._held))
            self._unseen = 0


def _parts(value: bytes, prefix: str) -> list[bytes]:
    parts = [value]
    if prefix.lower() == _BASIC:
        try:
            login = base64.b64decode(value, validate=True)
        except binascii.Error:
            return parts
        parts += [part for part in (login, login.partition(b":")[2]) if len(part) >= _LEAST]
    return parts


def _shapes(value: bytes) -> set[bytes]:
    text = value.decode("latin-1")
    shapes = {value, value.replace(b" ", b"+"), text.encode("utf-16-le"), text.encode("utf-16-be")}
    for offset in range(3):
        # Only characters that the neighbours of the secret have no part in.
        first = -(-offset * 8 // 6)
        last = (offset + len(value)) * 8 // 6
        padded = bytes(offset) + value + bytes(2)
        shapes.add(base64.b64encode(padded)[first:last])
        shapes.add(base64.urlsafe_b64encode(padded)[first:last])
    return shapes


def _written(value: bytes) -> set[bytes]:
    text = value.decode("latin-1")
    escaped = html.escape(text)
    forms = {
        json.dumps(text)[1:-1],
        html.escape(text, quote=False),
        escaped,
        escaped.replace("&#x27;", "&#39;"),
        escaped.replace("&quot;", "&#34;"),
        escaped.replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),
    }
    return {form.encode("latin-1") for form in forms}


def _unescaped(match: re.Match[bytes]) -> bytes:
    return bytes((int(match[1], 16),))


def _json_unescaped(match: re.Match[bytes]) -> bytes:
    if match[1] is not None:
        return bytes((int(match[1], 16),))
    return _JSON_PLAIN.get(match[2], match[2])
