"""The first messages of a PostgreSQL client, read as far as they say who wants to log in where. Pure and incremental."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

MAX_BYTES = 8192
"""Of one message. The server takes 10,000, and what the broker sends it is a little longer than what the tool sent."""
_CANCEL = 80877102
_VERSION = 3 << 16
_MAJOR = _VERSION >> 16
_TLS_RECORD = b"\x16\x03"
_EXTENSION = b"_pq_."
_PLAIN_HINT = "Connect to this port with sslmode=disable: the broker itself speaks TLS with the server."


class StartupError(ValueError):
    """This is no beginning of a session that the broker opens; the text says why.

    Args:
        message: for a person.
        hint: what to do next.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Question(enum.IntEnum):
    """What a client may ask before it says who it is; each is answered with one letter."""

    TLS = 80877103
    GSS = 80877104


@dataclass(frozen=True, slots=True)
class Startup:
    """The parameters of a session as the client wrote them; no name twice."""

    parameters: Mapping[bytes, bytes]


class StartupReader:
    """Takes what a client sends, in any pieces."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._asked: set[Question] = set()

    @property
    def asked(self) -> frozenset[Question]:
        """What the client has asked so far."""
        return frozenset(self._asked)

    @property
    def rest(self) -> bytes:
        """What came behind the last message that was read."""
        return bytes(self._data)

    def feed(self, data: bytes) -> None:
        """More of what the client sent. Read all messages of it before the next."""
        self._data += data

    def read(self) -> Question | Startup | None:
        """The next message, if it is complete.

        Raises:
            StartupError: it can't become one any more, or asks for what the broker doesn't open.
        """
        if self._data[:2] == _TLS_RECORD:
            raise StartupError("it begins with TLS, and inside the sandbox it has to be in the clear", _PLAIN_HINT)
        if len(self._data) < 4:
            return None
        length = int.from_bytes(self._data[:4])
        if not 8 <= length <= MAX_BYTES:
            raise StartupError(f"it isn't PostgreSQL's protocol, or its first message is longer than {MAX_BYTES} bytes")
        if len(self._data) < 8:
            return None
        code = int.from_bytes(self._data[4:8])
        question = self._question(code, length)
        if question is None:
            _check_version(code)
        if len(self._data) < length:
            return None
        body = bytes(self._data[8:length])
        del self._data[:length]
        return Startup(_parameters(body)) if question is None else question

    def _question(self, code: int, length: int) -> Question | None:
        if code not in set(Question):
            return None
        question = Question(code)
        if length != 8:
            raise StartupError("its question for encryption is longer than such a question is")
        if question in self._asked:
            raise StartupError("it asks for encryption again, and has been told that there is none", _PLAIN_HINT)
        self._asked.add(question)
        return question


def _check_version(code: int) -> None:
    if code == _CANCEL:
        raise StartupError(
            "it asks to cancel a statement, which can't be done through the broker",
            "Set statement_timeout in the session instead, or close the connection.",
        )
    if code == _VERSION:
        return
    major, minor = code >> 16, code & 0xFFFF
    if major == _MAJOR:
        raise StartupError(
            f"it asks for version 3.{minor} of the protocol, and the broker speaks 3.0",
            "Connect with max_protocol_version=3.0, or its like in another driver.",
        )
    raise StartupError("it isn't PostgreSQL's protocol, or a version that the broker doesn't speak")


def _parameters(body: bytes) -> dict[bytes, bytes]:
    # NAME 00 VALUE 00 ... 00
    if not body.endswith(b"\x00") or (len(body) > 1 and not body.endswith(b"\x00\x00")):
        raise StartupError("its startup message doesn't end as one does")
    parts = body[:-1].split(b"\x00")[:-1]
    if len(parts) % 2:
        raise StartupError("its startup message has a parameter without a value")
    found: dict[bytes, bytes] = {}
    for name, value in zip(parts[::2], parts[1::2], strict=True):
        if not name:
            raise StartupError("its startup message goes on behind its end")
        if name in found:
            raise StartupError("its startup message has a parameter twice")
        if name.startswith(_EXTENSION):
            raise StartupError("it asks for an extension of the protocol, and the broker speaks 3.0 without any")
        found[name] = value
    return found
