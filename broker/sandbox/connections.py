"""The connections that a tool opened on its sandbox's loopback, on the broker's side of the attached stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection

import structlog

from broker.sandbox.channels import Window
from broker.sandbox.engine import EgressGate
from broker.sandbox.wire import (
    CONNECTION_WINDOW,
    FIRST_CONNECTION,
    FRAME_COST,
    MAX_CONNECTIONS,
    PIECE,
    Frame,
    FrameKind,
    ProtocolViolation,
    encode,
    encode_number,
    read_number,
)

_LEAST = 4096
"""Data isn't sent in smaller pieces only because the window is nearly used up."""

log = structlog.get_logger(__name__)


class Connection:
    """One connection; the ``Duplex`` that a gate serves."""

    def __init__(self, channel: int, send: Callable[[bytes], None]) -> None:
        self._channel = channel
        self._send = send
        self._window = Window(CONNECTION_WINDOW)
        self._came: deque[Frame] = deque()
        self._credit = CONNECTION_WINDOW
        self._changed = asyncio.Event()
        self._heard_end = False
        self._said_end = False
        self._broken = False
        self.is_done = False
        """Nobody serves it any more; what still comes is dropped."""

    async def read(self) -> bytes:
        """See ``broker.sandbox.engine.Duplex.read``."""
        while not self._came:
            self._check()
            if self._heard_end:
                return b""
            await self._wait()
        self._check()
        frame = self._came.popleft()
        if credit := self._window.give_back(frame.cost):
            self._send(encode_number(FrameKind.CREDIT, credit, self._channel))
        return frame.payload

    async def write(self, data: bytes) -> None:
        """See ``broker.sandbox.engine.Duplex.write``."""
        view = memoryview(data)
        while view:
            self._check()
            if self._said_end:
                raise ConnectionAbortedError("our side of the connection has been closed")
            length = min(len(view), PIECE, self._credit - FRAME_COST)
            if length < min(len(view), _LEAST):
                await self._wait()
                continue
            self._credit -= FRAME_COST + length
            self._send(encode(FrameKind.DATA, bytes(view[:length]), self._channel))
            view = view[length:]

    async def end(self) -> None:
        """See ``broker.sandbox.engine.Duplex.end``."""
        self._check()
        if not self._said_end:
            self._said_end = True
            self._send(encode(FrameKind.END_OF_DATA, channel=self._channel))

    def hear(self, frame: Frame) -> None:
        """Takes a frame of this connection.

        Raises:
            ProtocolViolation: no runner sends this frame here.
        """
        if frame.kind is FrameKind.CREDIT:
            credit = read_number(frame)
            self._credit += credit
            if not credit or self._credit > CONNECTION_WINDOW:
                raise ProtocolViolation("no credit, or more than the channel's window")
        elif self._broken and not self.is_done:
            raise ProtocolViolation(f"a frame {frame.kind.name} on a connection that broke")
        elif frame.kind is FrameKind.DATA:
            if self._heard_end or not frame.payload:
                raise ProtocolViolation("data without bytes, or after its end")
            self._window.take(frame.cost)
            if not self.is_done:
                self._came.append(frame)
        elif frame.kind is FrameKind.END_OF_DATA:
            if self._heard_end:
                raise ProtocolViolation("data that ends twice")
            self._heard_end = True
        else:
            self._broken = True
        self._changed.set()

    def cut(self) -> None:
        """Ends it at once for whoever serves it."""
        self._broken = self.is_done = True
        self._came.clear()
        self._changed.set()

    def _check(self) -> None:
        if self._broken:
            raise ConnectionResetError("the tool's side of the connection broke")

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class Connections:
    """All connections of one run, each served by a task of its own.

    Args:
        gate: who serves them.
        ports: where the runner listens.
        send: sends bytes to the runner.
    """

    def __init__(self, gate: EgressGate, ports: Collection[int], send: Callable[[bytes], None]) -> None:
        self._gate = gate
        self._ports = frozenset(ports)
        self._send = send
        self._next = FIRST_CONNECTION
        self._open: dict[int, Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def hear(self, frame: Frame) -> None:
        """Takes a frame of a connection.

        Raises:
            ProtocolViolation: no runner sends this frame here.
        """
        if frame.kind is FrameKind.OPEN:
            self._begin(frame)
            return
        connection = self._open.get(frame.channel)
        if connection is None:
            raise ProtocolViolation(f"a frame {frame.kind.name} on a connection that isn't open")
        if frame.kind is not FrameKind.CLOSE:
            connection.hear(frame)
        elif connection.is_done:
            del self._open[frame.channel]
        else:
            raise ProtocolViolation("a connection closed that is still served")

    def cut(self) -> None:
        """Ends them all at once; nothing more is served."""
        for connection in self._open.values():
            connection.cut()
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        """Returns once nobody serves any of them."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, frame: Frame) -> None:
        port = read_number(frame)
        if frame.channel != self._next or port not in self._ports:
            raise ProtocolViolation("a connection out of turn, or to a port that nobody asked for")
        if len(self._open) >= MAX_CONNECTIONS:
            raise ProtocolViolation(f"more than {MAX_CONNECTIONS} connections at once")
        self._next += 1
        connection = self._open[frame.channel] = Connection(frame.channel, self._send)
        task = asyncio.create_task(self._serve(port, frame.channel, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, port: int, channel: int, connection: Connection) -> None:
        try:
            await self._gate.serve(port, connection)
        except ConnectionError:
            pass  # the tool hung up: its own affair
        except Exception as error:  # whatever it is, it ends this connection, and the tool sees it break
            log.exception("sandbox.egress_failed", error=str(error))
        finally:
            # The runner's CLOSE answers this one, and then the channel's number is free.
            connection.cut()
            self._send(encode(FrameKind.CLOSE, channel=channel))
