"""``GET /metrics`` for Prometheus, over plain HTTP on loopback.

A small server on the broker's own event loop, with h11 for the protocol. prometheus_client brings servers too: the one
for threads starts a thread per connection and waits for slow readers without end; those for WSGI and ASGI want a server
around them. Here each connection is one short task, everything that a client can hold up has a bound, and the numbers are
read on the loop that writes them.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import h11
import structlog

from broker.errors import FailedPreconditionError, InvalidArgumentError
from broker.metrics.prometheus import PrometheusMeter

_PATH = b"/metrics"
_OPENMETRICS = b"application/openmetrics-text"
_TEXT = "text/plain; charset=utf-8"
_READ_BYTES = 4096
_BACKLOG = 32

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EndpointBounds:
    """What clients of the endpoint may take up, all of them together. Times in seconds."""

    connections: int = 16
    """Open at one time; one more is cut at once."""
    request_s: float = 5.0
    """From the connection to the end of the request's headers."""
    response_s: float = 10.0
    """Until the client has taken the whole answer."""
    header_bytes: int = 8192
    page_age_s: float = 1.0
    """How long a page is shown again before it is made anew: many requests cost as much as one a second."""


class MetricsEndpoint:
    """The endpoint, as ``async with``: entering listens, leaving cuts every connection.

    Args:
        address: ``127.0.0.1:9464`` or ``[::1]:9464``; port 0 takes a free one.
        meter: whose numbers are shown.
        bounds: what clients may take up.

    Raises:
        InvalidArgumentError: the address isn't one of a loopback address and a port.
    """

    def __init__(self, address: str, meter: PrometheusMeter, bounds: EndpointBounds | None = None) -> None:
        self._host, self._port = _loopback(address)
        self._meter = meter
        self._bounds = bounds or EndpointBounds()
        self._open: set[asyncio.Task[None]] = set()
        self._pages: dict[bool, tuple[float, bytes, str]] = {}
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """Where it listens, with the real port."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    async def __aenter__(self) -> Self:
        """Listens.

        Raises:
            FailedPreconditionError: the port is taken.
        """
        try:
            self._server = await asyncio.start_server(
                self._connected, self._host, self._port, limit=self._bounds.header_bytes, backlog=_BACKLOG
            )
        except OSError as error:
            raise FailedPreconditionError(
                f"can't listen on {self.address} for metrics: {error.strerror}",
                reason="ADDRESS_IN_USE",
                hint="Stop what listens there, or choose another with `metrics_listen` in settings.yaml.",
                metadata={"address": self.address},
            ) from error
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops listening."""
        if self._server is None:
            return
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._open) >= self._bounds.connections:
            writer.transport.abort()
            return
        self._open.add(task)
        try:
            # Nothing may lie in the buffer when `drain` returns: a client that takes no answer must not keep the socket.
            writer.transport.set_write_buffer_limits(high=0)
            await self._answer(reader, writer)
        except OSError:
            pass  # the client has left, or is too slow (TimeoutError is one): nothing of ours to mend
        except Exception:  # noqa: BLE001 - metrics must never be what brings the broker down
            _log.exception("metrics.failed")
        finally:
            writer.transport.abort()
            self._open.discard(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Reads one request, answers it, and no other."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=self._bounds.header_bytes)
        async with asyncio.timeout(self._bounds.request_s):
            try:
                request = await _request(connection, reader)
            except h11.RemoteProtocolError as error:
                status, headers, body = (
                    error.error_status_hint,
                    [("Content-Type", _TEXT)],
                    b"the request can't be read\n",
                )
            else:
                if request is None:
                    return
                status, headers, body = self._respond(request)
        head = h11.Response(
            status_code=status,
            headers=[
                *headers,
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
                ("Connection", "close"),
            ],
        )
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")
        async with asyncio.timeout(self._bounds.response_s):
            await writer.drain()

    def _respond(self, request: h11.Request) -> tuple[int, list[tuple[str, str]], bytes]:
        if request.method != b"GET":
            # An answer to HEAD has no body.
            body = b"" if request.method == b"HEAD" else b"GET only\n"
            return 405, [("Content-Type", _TEXT), ("Allow", "GET")], body
        if request.target.partition(b"?")[0] != _PATH:
            return 404, [("Content-Type", _TEXT)], b"there is /metrics, and nothing else\n"
        body, content_type = self._page(openmetrics=_wants_openmetrics(request.headers))
        return 200, [("Content-Type", content_type)], body

    def _page(self, *, openmetrics: bool) -> tuple[bytes, str]:
        now = asyncio.get_running_loop().time()
        made, body, content_type = self._pages.get(openmetrics, (0.0, b"", ""))
        if not body or now - made >= self._bounds.page_age_s:
            body, content_type = self._meter.page(openmetrics=openmetrics)
            self._pages[openmetrics] = (now, body, content_type)
        return body, content_type


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Request):
            return event
        else:
            return None  # the client has left without a request


def _wants_openmetrics(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    accepted = (item for name, value in headers if name == b"accept" for item in value.split(b","))
    return any(item.partition(b";")[0].strip().lower() == _OPENMETRICS for item in accepted)


def _loopback(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    try:
        found = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        number = int(port)
    except ValueError:
        found, number = None, -1
    if found is None or not found.is_loopback or not 0 <= number < 65536:
        raise InvalidArgumentError(
            f"metrics_listen {address!r} is not a loopback address and a port, such as 127.0.0.1:9464",
            reason="UNSAFE_LISTENER",
            hint="The endpoint has neither TLS nor authentication. For readers elsewhere, put a reverse proxy with both "
            "before it.",
        )
    return str(found), number
