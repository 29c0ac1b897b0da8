"""A service on loopback that keeps every byte it is sent, answers as it is told, and stands for the proxy before itself."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.outside_steps import Effect, Ran, run_step

HOST = "shop.example"
HANG = b"HANG"
"""An answer: nothing, until the test is over."""
DRIP = b"DRIP"
"""An answer: a head whose next byte always comes before anybody gives up on it."""


def answer(status: str = "200 OK", body: bytes = b"fine", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@dataclass
class Service:
    """Answers are used up one by one; without any it says 200."""

    port: int
    answers: list[bytes] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def step(self, step: str, arguments: Mapping[str, Any], effect: Effect | None = None, **more: Any) -> Ran:  # noqa: ANN401 - see run_step
        """One step of ``http.request``, whose way out leads here."""
        environment = {"http_proxy": f"http://127.0.0.1:{self.port}"}
        script = more.pop("script", "http_request.py")
        return run_step(script, step, arguments, effect=effect, environment=environment, **more)

    def plan(self, arguments: Mapping[str, Any]) -> Effect:
        return self.step("plan", arguments).effect

    def serve(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                return
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        length = int(lengths[0].partition(b":")[2]) if lengths else 0
        while len(body) < length and (piece := connection.recv(65536)):
            body += piece
        self.requests.append(head + b"\r\n\r\n" + body)
        said = self.answers.pop(0) if self.answers else answer()
        if said == HANG:
            self.over.wait()
            return
        while said == DRIP and not self.over.wait(0.1):
            connection.sendall(b"x")
        connection.sendall(said)


@contextmanager
def service(answers: Sequence[bytes] = ()) -> Iterator[Service]:
    """A service, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        state = Service(listening.getsockname()[1], list(answers))

        def accept() -> None:
            while True:
                connection, _ = listening.accept()
                with connection, suppress(ConnectionError):
                    if state.over.is_set():
                        return
                    state.serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield state
        finally:
            state.over.set()
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", state.port)).close()
            thread.join()
