"""The first message of TLS, read as far as it says whom the client means. Pure and incremental."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BYTES = 64 * 1024
_HANDSHAKE = 22
_CLIENT_HELLO = 1
_MAX_RECORD = 2**14
_SERVER_NAME = 0
_HOST_NAME = 0
_ENCRYPTED = frozenset({0xFE0D, 0xFFCE})
"""``encrypted_client_hello``, and its forerunner."""


class HelloError(ValueError):
    """This is no TLS greeting, or none that can be compared with a rule; the text says why."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a greeting says."""

    server_name: str
    """As written; empty where it names nobody."""
    encrypted: bool
    """Whether it carries a second, encrypted greeting, which may name somebody else."""


class ClientHelloReader:
    """Takes what a client sends, in any pieces; ``sent`` has every byte of it."""

    def __init__(self) -> None:
        self._sent = bytearray()
        self._read = 0
        self._message = bytearray()

    @property
    def sent(self) -> bytes:
        """All bytes so far, as they came."""
        return bytes(self._sent)

    def feed(self, data: bytes) -> ClientHello | None:
        """The greeting once it is complete.

        Raises:
            HelloError: it can't become one any more, or is longer than 64 KiB.
        """
        self._sent += data
        while (hello := self._complete()) is None:
            if not self._next_record():
                if len(self._sent) > MAX_BYTES:
                    raise HelloError("the TLS greeting is longer than 64 KiB")
                return None
        return hello

    def _next_record(self) -> bool:
        head = self._sent[self._read : self._read + 5]
        if (head and head[0] != _HANDSHAKE) or (len(head) > 1 and head[1] != 3):
            raise HelloError("a tunnel carries TLS only")
        if len(head) < 5:
            return False
        length = int.from_bytes(head[3:5])
        if not 0 < length <= _MAX_RECORD:
            raise HelloError("a TLS record has an impossible length")
        end = self._read + 5 + length
        if len(self._sent) < end:
            return False
        self._message += self._sent[self._read + 5 : end]
        self._read = end
        return True

    def _complete(self) -> ClientHello | None:
        if self._message and self._message[0] != _CLIENT_HELLO:
            raise HelloError("TLS doesn't begin with a greeting of the client")
        if len(self._message) < 4:
            return None
        length = int.from_bytes(self._message[1:4])
        if length > MAX_BYTES:
            raise HelloError("the TLS greeting is longer than 64 KiB")
        if len(self._message) < 4 + length:
            return None
        if len(self._message) > 4 + length:
            raise HelloError("something follows the TLS greeting in its record")
        return _parse(bytes(self._message[4:]))


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise HelloError("the TLS greeting is cut short inside")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> _Cursor:
        return _Cursor(self.take(self.number(size)))

    @property
    def more(self) -> bool:
        return self._at < len(self._data)


def _parse(body: bytes) -> ClientHello:
    cursor = _Cursor(body)
    cursor.take(2 + 32)
    cursor.vector(1)
    cursor.vector(2)
    cursor.vector(1)
    extensions = cursor.vector(2) if cursor.more else _Cursor(b"")
    if cursor.more:
        raise HelloError("something follows the extensions of the TLS greeting")
    found: dict[int, _Cursor] = {}
    while extensions.more:
        kind = extensions.number(2)
        if kind in found:
            raise HelloError("an extension of the TLS greeting stands there twice")
        found[kind] = extensions.vector(2)
    name = _server_name(found[_SERVER_NAME]) if _SERVER_NAME in found else ""
    return ClientHello(name, encrypted=not _ENCRYPTED.isdisjoint(found))


def _server_name(extension: _Cursor) -> str:
    names = extension.vector(2)
    if extension.more or names.number(1) != _HOST_NAME:
        raise HelloError("the server name of the TLS greeting isn't one host name")
    text = names.take(names.number(2))
    if names.more:
        raise HelloError("the server name of the TLS greeting isn't one host name")
    if not text or not text.isascii():
        raise HelloError("the server name of the TLS greeting isn't ASCII")
    return text.decode("ascii")
