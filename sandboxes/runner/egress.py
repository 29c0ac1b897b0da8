"""Listeners on the sandbox's loopback; each connection to them becomes a channel to the broker. No byte is looked at.

A channel begins with OPEN and the listener's port. Then bytes go both ways within their windows; END_OF_DATA closes one
direction, RESET says that the tool's side broke. The broker's CLOSE ends the channel, and is answered by a CLOSE.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections import deque

from runner import frames
from runner.frames import Refusal, Wire
from runner.relay import Traffic

_BACKLOG = 64
_PAUSE_MS = 50
_RESERVED_DESCRIPTORS = 24
"""What the runner itself needs of the descriptors that it may open."""
_ABORT = struct.pack("ii", 1, 0)


class _Connection:
    def __init__(self, number: int, end: socket.socket) -> None:
        self.number = number
        self.end = end
        self.mask = 0
        """What the poll waits for; 0: it isn't registered."""
        self.to_tool: deque[memoryview] = deque()
        self.first = 0
        """Length of the frame that ``to_tool`` begins with, the part that was sent included."""
        self.owed = 0
        """Credit that the broker gets back with the next CREDIT."""
        self.said_end = False
        """Nothing more comes from the tool."""
        self.heard_end = False
        """Nothing more comes from the broker."""
        self.is_closed = False
        """The broker is done with it; what is left is to hand the tool its last bytes."""


class Egress(Traffic):
    """The listeners of one job, and what comes of them.

    Raises:
        Refusal: a port can't be had.
    """

    def __init__(self, wire: Wire, ports: list[int]) -> None:
        self._wire = wire
        self._most = max(1, min(frames.MAX_CONNECTIONS, os.sysconf("SC_OPEN_MAX") - _RESERVED_DESCRIPTORS - len(ports)))
        self._next = frames.FIRST_CONNECTION
        self._listeners: dict[int, tuple[socket.socket, int]] = {}
        self._connections: dict[int, _Connection] = {}
        self._numbers: dict[int, _Connection] = {}
        self._poll: select.poll
        self._paused = False
        self._listening = False
        for port in ports:
            listener = socket.socket()
            try:
                listener.bind(("127.0.0.1", port))
                listener.listen(_BACKLOG)
            except OSError as error:
                listener.close()
                self.close()
                raise Refusal(f"port {port} of the loopback can't be had: {error.strerror}") from None
            listener.setblocking(False)  # noqa: FBT003  # it takes no name
            self._listeners[listener.fileno()] = (listener, port)

    def watch(self, poll: select.poll) -> int | None:
        """See ``Traffic``."""
        if not self._listening and not self._paused:
            for descriptor in self._listeners:
                poll.register(descriptor, select.POLLIN)
            self._listening = True
        elif self._listening and self._paused:
            for descriptor in self._listeners:
                poll.unregister(descriptor)
            self._listening = False
        for descriptor, connection in self._connections.items():
            mask = select.POLLOUT if connection.to_tool else 0
            if not connection.said_end and self._wire.room(connection.number):
                mask |= select.POLLIN
            if mask == connection.mask:
                continue
            # Without anything to wait for it must go: a connection that hung up would wake us again and again.
            if mask:
                poll.register(descriptor, mask)
            else:
                poll.unregister(descriptor)
            connection.mask = mask
        self._poll = poll
        paused, self._paused = self._paused, False
        return _PAUSE_MS if paused else None

    def ready(self, descriptor: int, events: int) -> None:
        """See ``Traffic``."""
        if descriptor in self._listeners:
            self._accept(*self._listeners[descriptor])
            return
        connection = self._connections.get(descriptor)
        if connection is None:
            return
        if connection.mask & select.POLLOUT and events & ~select.POLLIN:
            self._flush(connection)
        if connection.mask & select.POLLIN and events & ~select.POLLOUT:
            self._read(connection)

    def hear(self, kind: int, channel: int, payload: bytes) -> None:
        """See ``Traffic``."""
        connection = self._numbers.get(channel)
        if connection is None:
            return
        if kind == frames.CLOSE:
            self._close(connection)
        elif connection.heard_end:
            return  # it broke, and the broker doesn't know that yet
        elif kind == frames.DATA:
            connection.to_tool.append(memoryview(payload))
            if len(connection.to_tool) == 1:
                connection.first = len(payload)
                self._flush(connection)
        elif kind == frames.END_OF_DATA:
            connection.heard_end = True
            self._flush(connection)

    def close(self) -> None:
        """See ``Traffic``."""
        for listener, _ in self._listeners.values():
            listener.close()
        for connection in list(self._connections.values()):
            self._abort(connection)
        self._listeners.clear()
        self._numbers.clear()

    def _accept(self, listener: socket.socket, port: int) -> None:
        while True:
            try:
                end, _ = listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError:
                self._paused = True  # no descriptor or no memory just now
                return
            if max(len(self._connections), len(self._numbers)) >= self._most:
                end.close()
                continue
            end.setblocking(False)  # noqa: FBT003  # it takes no name
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(self._next, end)
            self._next += 1
            self._connections[end.fileno()] = self._numbers[connection.number] = connection
            self._wire.windows[connection.number] = frames.CONNECTION_WINDOW
            self._wire.send_number(frames.OPEN, port, connection.number)

    def _read(self, connection: _Connection) -> None:
        room = self._wire.room(connection.number) if connection.end.fileno() >= 0 and not connection.said_end else 0
        if not room:
            return
        try:
            piece = connection.end.recv(room)
        except BlockingIOError:
            return
        except OSError:
            self._broke(connection)
            return
        if piece:
            self._wire.send_counted(frames.DATA, piece, connection.number)
        else:
            connection.said_end = True
            self._wire.send(frames.END_OF_DATA, channel=connection.number)

    def _flush(self, connection: _Connection) -> None:
        """Hands the tool what waits for it, as far as it takes it."""
        try:
            while connection.to_tool:
                view = connection.to_tool[0]
                sent = connection.end.send(view)
                if sent < len(view):
                    connection.to_tool[0] = view[sent:]
                    continue
                connection.to_tool.popleft()
                connection.owed += connection.first + frames.FRAME_COST
                connection.first = len(connection.to_tool[0]) if connection.to_tool else 0
            if connection.heard_end:
                connection.end.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self._broke(connection)
            return
        if connection.is_closed:
            if not connection.to_tool:
                self._forget(connection)
        elif connection.owed * 4 >= frames.CONNECTION_WINDOW:
            self._wire.send_number(frames.CREDIT, connection.owed, connection.number)
            connection.owed = 0

    def _broke(self, connection: _Connection) -> None:
        if not connection.is_closed:
            self._wire.send(frames.RESET, channel=connection.number)
        self._abort(connection)

    def _close(self, connection: _Connection) -> None:
        """The broker is done with it."""
        self._wire.send(frames.CLOSE, channel=connection.number)
        del self._numbers[connection.number], self._wire.windows[connection.number]
        connection.is_closed = connection.said_end = True
        if connection.end.fileno() < 0:
            return
        if not connection.heard_end:
            self._abort(connection)
        elif not connection.to_tool:
            self._forget(connection)

    def _abort(self, connection: _Connection) -> None:
        """Ends it so that the tool sees that it broke."""
        connection.said_end = connection.heard_end = True
        connection.to_tool.clear()
        if connection.end.fileno() >= 0:
            connection.end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            self._forget(connection)

    def _forget(self, connection: _Connection) -> None:
        descriptor = connection.end.fileno()
        if connection.mask:
            self._poll.unregister(descriptor)
            connection.mask = 0
        del self._connections[descriptor]
        connection.end.close()
