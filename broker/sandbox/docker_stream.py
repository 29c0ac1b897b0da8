"""The long-lived connections to a Docker engine, on asyncio: attached containers, and the engine's events.

The SDK does both with blocking reads; here a stalled container or a quiet engine holds no thread, and a cut is at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from urllib.parse import quote, urlencode

from broker.errors import UnavailableError
from broker.sandbox.address import Endpoint
from broker.sandbox.attached import AttachedStream, status_of

_BUFFER_BYTES = 256 * 1024
_CONNECT_S = 10.0
_STATUS_SWITCHED = 101
_STATUS_OK = 200
_MAX_EVENT = 1024 * 1024


class Connection:
    """One HTTP connection to the engine, after its request has been answered with headers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def cut(self) -> None:
        """Drops the connection at once, unsent and unread bytes with it."""
        self.writer.transport.abort()

    async def closed(self) -> None:
        """Returns once the connection is gone."""
        with suppress(OSError):
            await self.writer.wait_closed()


async def ping(endpoint: Endpoint) -> None:
    """Returns if an engine answers.

    The SDK leaves a socket open when it can't connect, so it is asked after this only.

    Raises:
        UnavailableError: nobody answers there.
    """
    connection, _ = await _ask(endpoint, "GET /_ping HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n")
    connection.cut()
    await connection.closed()


async def attach(endpoint: Endpoint, api_version: str, container_id: str) -> AttachedStream:
    """Attaches to standard input, output and error of a container that hasn't been started.

    Raises:
        UnavailableError: the engine doesn't answer or refuses.
    """
    query = urlencode({"stream": 1, "stdin": 1, "stdout": 1, "stderr": 1})
    path = f"/v{api_version}/containers/{quote(container_id, safe='')}/attach?{query}"
    request = (
        f"POST {path} HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
    )
    stream = AttachedStream()
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_CONNECT_S):
            if endpoint.path:
                await loop.create_unix_connection(lambda: stream, endpoint.path)
            else:
                await loop.create_connection(lambda: stream, endpoint.host, endpoint.port)
            status = await stream.ask(request.encode("ascii"))
    except (OSError, EOFError, TimeoutError) as error:
        stream.cut()
        raise _no_answer(endpoint, error) from error
    except BaseException:
        stream.cut()
        raise
    if status != _STATUS_SWITCHED:
        stream.cut()
        raise UnavailableError(f"the engine answered {status} to an attach", reason="ENGINE_FAILED")
    return stream


async def events(
    endpoint: Endpoint, api_version: str, filters: Mapping[str, list[str]], since: str, ready: asyncio.Event
) -> AsyncIterator[Mapping[str, object]]:
    """The engine's events from ``since`` (seconds and nanoseconds since 1970) on, until the connection ends.

    Sets ``ready`` once the engine has answered.

    Raises:
        UnavailableError: the engine doesn't answer, refuses, or breaks off.
    """
    query = urlencode({"filters": json.dumps(filters), "since": since})
    connection, status = await _ask(endpoint, f"GET /v{api_version}/events?{query} HTTP/1.1\r\nHost: engine\r\n\r\n")
    try:
        if status != _STATUS_OK:
            raise UnavailableError(f"the engine answered {status} to a request for events", reason="ENGINE_FAILED")
        ready.set()
        pending = b""
        async for chunk in _chunks(connection.reader):
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    event = json.loads(line)
                    if isinstance(event, dict):
                        yield event
    except (OSError, EOFError, ValueError) as error:
        raise UnavailableError(f"the engine's event stream broke: {error}", reason="ENGINE_FAILED") from error
    finally:
        connection.cut()
        await connection.closed()


async def _ask(endpoint: Endpoint, request: str) -> tuple[Connection, int]:
    try:
        async with asyncio.timeout(_CONNECT_S):
            if endpoint.path:
                opened = await asyncio.open_unix_connection(endpoint.path, limit=_BUFFER_BYTES)
            else:
                opened = await asyncio.open_connection(endpoint.host, endpoint.port, limit=_BUFFER_BYTES)
            connection = Connection(*opened)
            try:
                connection.writer.write(request.encode("ascii"))
                head = await connection.reader.readuntil(b"\r\n\r\n")
            except BaseException:
                connection.cut()
                raise
    except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
        raise _no_answer(endpoint, error) from error
    return connection, status_of(head)


def _no_answer(endpoint: Endpoint, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"the container engine at {endpoint} doesn't answer: {error}",
        reason="ENGINE_FAILED",
        hint="is it running, and may this user reach it? see `broker doctor`",
    )


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The chunks of a response with chunked transfer encoding."""
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if size == 0 or size > _MAX_EVENT:
            return
        yield await reader.readexactly(size)
        await reader.readexactly(2)
