"""The stream of one attached container: an HTTP connection to the engine that has become bytes both ways.

What comes is handed on at once and never waits for anybody: the windows of the channels bound how much it can be.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

_MAX_HEAD = 64 * 1024
_HIGH_WATER = 512 * 1024
"""Bytes on their way into the container from which on ``drain`` waits."""


class Receiver(Protocol):
    """Who listens to a container. Neither may raise."""

    def on_bytes(self, data: bytes) -> None:
        """The container has said something."""

    def on_lost(self) -> None:
        """The stream has ended or broken; called once."""


class AttachedStream(asyncio.Protocol):
    """One attached container; made by ``docker_stream.attach``."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._head = bytearray()
        self._status: asyncio.Future[int] | None = None
        self._upgraded = False
        self._early = bytearray()
        self._receiver: Receiver | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._lost = False

    async def ask(self, request: bytes) -> int:
        """Sends the request that the stream begins with.

        Returns:
            The answer's status; 0 where it makes no sense.

        Raises:
            EOFError: the engine hung up instead.
        """
        self._status = asyncio.get_running_loop().create_future()
        self.write(request)
        return await self._status

    def listen(self, receiver: Receiver) -> None:
        """Hands on what has come and what comes; call it once."""
        self._receiver = receiver
        early, self._early = bytes(self._early), bytearray()
        if early:
            receiver.on_bytes(early)
        if self._lost:
            receiver.on_lost()

    def write(self, data: bytes) -> None:
        """Sends bytes; dropped where the stream is gone."""
        if self._transport and not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        """Waits while too much is on its way.

        Raises:
            ConnectionResetError: the stream is gone.
        """
        if not self._room.is_set():
            await self._room.wait()
        if self._lost or self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the container's stream is gone")

    def hush(self) -> None:
        """Hears no more. Unlike ``cut`` it makes no work for the engine, which may wait."""
        if self._transport and not self._transport.is_closing():
            self._transport.pause_reading()

    def cut(self) -> None:
        """Drops the stream at once, unsent bytes with it."""
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        if self._upgraded:
            if self._receiver:
                self._receiver.on_bytes(data)
            else:
                self._keep(data)
            return
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if end:
            self._upgraded = True
            self._head.clear()
            self._keep(rest)
            self._answer(status_of(bytes(head)))
        elif len(self._head) > _MAX_HEAD:
            self._answer(0)
            self.cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        del exc
        self._lost = True
        self._room.set()
        if self._status and not self._status.done():
            self._status.set_exception(EOFError("the engine hung up"))
        if self._receiver:
            self._receiver.on_lost()

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._room.clear()

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._room.set()

    def _keep(self, data: bytes | bytearray) -> None:
        """Keeps what comes before anybody listens: next to nothing, since the container hasn't been started."""
        self._early += data
        if len(self._early) > _MAX_HEAD:
            self.cut()

    def _answer(self, status: int) -> None:
        if self._status and not self._status.done():
            self._status.set_result(status)


def status_of(head: bytes) -> int:
    """The status in the head of an HTTP response; 0 where there is none."""
    words = head.split(b"\r\n", 1)[0].split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
