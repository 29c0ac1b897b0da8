"""Sends a text to an address that the operator's settings name. What is answered is hostile until it is verified.

No redirect is followed, no proxy or cookie is used, and the answer's length and the whole time are bounded.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import h11

from broker.domain.urls import Url
from broker.errors import UnavailableError

TIMEOUT_S: Final = 20.0
"""From the first look for the host to the last byte of its answer."""
LONGEST_ANSWER: Final = 64 * 1024
_PIECE = 16 * 1024

Trust = Callable[[], ssl.SSLContext]
"""Makes the context by which hosts are trusted; may read files."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; ``body`` has at most ``LONGEST_ANSWER`` bytes."""

    status: int
    content_type: str
    body: bytes


class Poster:
    """POSTs to one address, on a new connection each time.

    Args:
        url: where to.
        trust: how the host is trusted; made once, at the first connection.
        timeout_s: for all of one request.
    """

    def __init__(self, url: Url, trust: Trust, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url
        self._trust = trust
        self._timeout_s = timeout_s
        self._context: ssl.SSLContext | None = None

    async def post(
        self, body: bytes, content_type: str, target: str = "", headers: Sequence[tuple[str, str]] = ()
    ) -> Answer:
        """Sends a body and reads the answer, whatever its status.

        Args:
            body: all of it.
            content_type: of the body.
            target: path and query in place of those of the address.
            headers: further ones.

        Raises:
            UnavailableError: ``HOLDER_UNREACHABLE``: no answer, or none that is HTTP; the body may have arrived.
        """
        host = self._url.authority
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(
                    body, [("Content-Type", content_type), *headers], target or self._url.target
                )
        except TimeoutError as error:
            raise _unreachable(host, "it didn't answer in time") from error
        except ssl.SSLCertVerificationError as error:
            raise _unreachable(host, f"its certificate isn't accepted: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise _unreachable(host, f"it doesn't agree on TLS: {error.reason}") from error
        except OSError as error:
            raise _unreachable(host, error.strerror or "the connection broke") from error
        except h11.RemoteProtocolError as error:
            raise _unreachable(host, f"its answer is no HTTP: {error}") from error

    async def _exchange(self, body: bytes, own: Sequence[tuple[str, str]], target: str) -> Answer:
        url = self._url
        if url.tls and self._context is None:
            self._context = await asyncio.to_thread(self._trust)
        reader, writer = await asyncio.open_connection(
            url.host, url.port, ssl=self._context if url.tls else None, server_hostname=url.host if url.tls else None
        )
        try:
            connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_PIECE)
            headers = [
                ("Host", url.authority),
                *own,
                ("Content-Length", str(len(body))),
                ("User-Agent", "agent-broker"),
                ("Connection", "close"),
            ]
            request = h11.Request(method="POST", target=target, headers=headers)
            for event in (request, h11.Data(data=body), h11.EndOfMessage()):
                writer.write(connection.send(event) or b"")
            await writer.drain()
            return await _answer(reader, connection)
        finally:
            writer.transport.abort()


async def _answer(reader: asyncio.StreamReader, connection: h11.Connection) -> Answer:
    response: h11.Response | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_PIECE))
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > LONGEST_ANSWER:
                raise h11.RemoteProtocolError(f"it is longer than {LONGEST_ANSWER} bytes")
        elif response is not None:
            break
        elif not isinstance(event, h11.InformationalResponse):
            raise h11.RemoteProtocolError("it ended before it began")
    types = [value.decode("latin-1") for name, value in response.headers if name == b"content-type"]
    return Answer(response.status_code, types[0] if len(types) == 1 else "", bytes(body))


def _unreachable(host: str, why: str) -> UnavailableError:
    return UnavailableError(f"{host} can't be reached: {why}", reason="HOLDER_UNREACHABLE")
