"""A way to a PostgreSQL server that breaks at the moment when the first connection commits."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_EXECUTE = b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00"
"""The message that carries out a statement that was given before."""


@dataclass
class Cutting:
    """A listener on loopback, and what goes through it.

    Args:
        arrives: the server still gets to know of the commit; its answer is lost.
        ends: nobody can be asked afterwards.
    """

    server_port: int
    arrives: bool
    ends: bool
    port: int = 0
    commits: int = 0
    _listener: socket.socket = field(default_factory=socket.socket)
    _open: list[socket.socket] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begins to listen."""
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port = self._listener.getsockname()[1]
        self._begin(self._accept)

    def stop(self) -> None:
        """Ends every connection."""
        _end(self._listener)
        self._threads[0].join()
        for each in self._open:
            _end(each)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._open):
            each.close()

    def _begin(self, work: Callable[..., None], *values: object) -> None:
        thread = threading.Thread(target=work, args=values)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        first = True
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.server_port))
            self._open += [client, server]
            self._begin(self._to_server, client, server, first)
            self._begin(_to_client, server, client)
            first = False

    def _to_server(self, client: socket.socket, server: socket.socket, cuts: bool) -> None:  # noqa: FBT001  # a thread's
        commits = False
        while data := _read(client):
            commits = commits or (cuts and b"COMMIT" in data)
            if commits and _EXECUTE in data:
                self._cut(client, server, data)
                break
            with suppress(OSError):
                server.sendall(data)
        with suppress(OSError):  # the server hears the end only behind what arrived
            server.shutdown(socket.SHUT_WR)

    def _cut(self, client: socket.socket, server: socket.socket, data: bytes) -> None:
        self.commits += 1
        if self.ends:
            _end(self._listener)
        _end(client)
        if self.arrives:
            server.sendall(data)


def _to_client(server: socket.socket, client: socket.socket) -> None:
    while data := _read(server):
        with suppress(OSError):
            client.sendall(data)
    _end(client)


def _end(each: socket.socket) -> None:
    """Ends a connection at once, also where somebody waits for it."""
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)


def _read(each: socket.socket) -> bytes:
    try:
        return each.recv(65536)
    except OSError:
        return b""


@contextmanager
def cutting(server_port: int, *, arrives: bool, ends: bool) -> Iterator[Cutting]:
    """Such a way, for as long as it is used."""
    way = Cutting(server_port, arrives, ends)
    way.start()
    try:
        yield way
    finally:
        way.stop()
