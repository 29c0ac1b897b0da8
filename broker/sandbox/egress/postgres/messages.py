"""PostgreSQL's messages, as the broker writes them and as a server's are read. Pure and incremental."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_BYTES = 64 * 1024
"""Of one message of a server, until its session has begun."""
MAX_TOTAL = 256 * 1024
"""Of all of them together."""

ERROR = b"E"
AUTHENTICATION = b"R"
KEY = b"K"
NOTICE = b"N"
PARAMETER = b"S"
READY = b"Z"

TLS_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)
_VERSION = (3 << 16).to_bytes(4)
_PASSWORD = b"p"
_STATE = re.compile(rb"[0-9A-Z]{5}")


class MessageError(ValueError):
    """What a server sent is no message, or more than is read; the text says which."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a server."""

    kind: bytes
    """One letter."""
    body: bytes

    def encoded(self) -> bytes:
        """As it is sent."""
        return self.kind + (len(self.body) + 4).to_bytes(4) + self.body


class MessageReader:
    """Takes what a server sends, in any pieces."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._total = 0

    @property
    def rest(self) -> bytes:
        """What came behind the last message that was read."""
        return bytes(self._data)

    def feed(self, data: bytes) -> None:
        """More of what the server sent. Read all messages of it before the next."""
        self._data += data

    def read(self) -> Message | None:
        """The next message, if it is complete.

        Raises:
            MessageError: it can't become one any more, or the bounds are passed.
        """
        if len(self._data) < 5:
            return None
        length = int.from_bytes(self._data[1:5])
        if not 4 <= length <= MAX_BYTES:
            raise MessageError(f"a message has an impossible length, or more than {MAX_BYTES} bytes")
        end = 1 + length
        if self._total + end > MAX_TOTAL:
            raise MessageError(f"it has sent {MAX_TOTAL} bytes before its session began")
        if len(self._data) < end:
            return None
        message = Message(bytes(self._data[:1]), bytes(self._data[5:end]))
        del self._data[:end]
        self._total += end
        return message


def startup(parameters: Mapping[bytes, bytes]) -> bytes:
    """The message that begins a session; names and values hold no NUL."""
    body = _VERSION + b"".join(name + b"\x00" + value + b"\x00" for name, value in parameters.items()) + b"\x00"
    return (len(body) + 4).to_bytes(4) + body


def sasl_first(mechanism: str, data: str) -> bytes:
    """The client's first message of a SASL login."""
    said = data.encode("ascii")
    return Message(_PASSWORD, mechanism.encode("ascii") + b"\x00" + len(said).to_bytes(4) + said).encoded()


def sasl_next(data: str) -> bytes:
    """The client's later message of a SASL login."""
    return Message(_PASSWORD, data.encode("ascii")).encoded()


def fatal(state: str, message: str, *, detail: str = "", hint: str = "") -> bytes:
    """An error that ends the session; ``state`` is its SQLSTATE."""
    said = {"S": "FATAL", "V": "FATAL", "C": state, "M": message, "D": detail, "H": hint}
    fields = "".join(f"{kind}{text}\x00" for kind, text in said.items() if text)
    return Message(ERROR, fields.encode() + b"\x00").encoded()


def state_of(error: Message) -> str:
    """The SQLSTATE of a server's error; empty where it has none. The rest is the server's own words."""
    for field in error.body.split(b"\x00"):
        if field[:1] == b"C" and _STATE.fullmatch(field[1:]):
            return field[1:].decode("ascii")
    return ""


def keyless(key: Message) -> Message:
    """A server's ``BackendKeyData`` with zeros for the key: nobody can cancel through the broker."""
    return Message(key.kind, key.body[:4] + bytes(len(key.body[4:])))
