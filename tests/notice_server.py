"""A receiver of notices on loopback: it checks each signature by itself, and can be told to fail or to hang."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "a secret of the webhook"  # noqa: S105 - of a server that a test makes
WAIT_S = 30.0


@dataclass
class Receiver:
    """What came, and what is answered."""

    port: int = 0
    taken: list[dict[str, Any]] = field(default_factory=list)
    """Bodies that were answered with 200, in the order of their coming."""
    attempts: int = 0
    wrong: list[str] = field(default_factory=list)
    """Why a request was refused."""
    faults: list[int] = field(default_factory=list)
    """Statuses that the next requests are answered with; 0 never answers."""
    changed: threading.Condition = field(default_factory=threading.Condition)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?token=1"

    def events(self, approval: str = "") -> list[str]:
        """Events so far, of one approval or of all."""
        return [str(item["event"]) for item in self.taken if approval in {"", item["approval"]}]

    def until(self, count: int) -> None:
        """Waits until so many have been taken."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.taken) >= count, WAIT_S), self.events()

    def receive(self, path: str, header: str, body: bytes) -> int:
        """The status for a request; 0 for none."""
        with self.changed:
            self.attempts += 1
            fault = self.faults.pop(0) if self.faults else 200
            if fault == 200:
                why = problem(path, header, body)
                if why:
                    self.wrong.append(why)
                    fault = 401
                else:
                    self.taken.append(json.loads(body))
            self.changed.notify_all()
        return fault


def problem(path: str, header: str, body: bytes) -> str:
    """Why a request isn't the broker's; empty where it is."""
    stamp, _, mac = header.removeprefix("t=").partition(",v1=")
    wanted = hmac.new(SECRET.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    if path != "/hook?token=1":
        return f"path {path}"
    if not hmac.compare_digest(wanted, mac):
        return f"signature {header}"
    if abs(time.time() - int(stamp)) > 60:
        return f"time {stamp}"
    return ""


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Runs on a free port until the block ends."""
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = state.receive(self.path, self.headers.get("Broker-Signature", ""), body)
            if status == 0:
                state.over.wait(WAIT_S)
                return
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
