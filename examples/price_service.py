"""A small service of a shop, outside of every sandbox: it keeps prices, and a log of what it was asked to change."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class PriceService:
    """What the service knows."""

    prices: dict[str, int] = field(default_factory=lambda: {"pear": 300, "plum": 400})
    log: list[str] = field(default_factory=list)
    """One line for each request, in the order of their arrival."""
    port: int = 0

    def change(self, line: str, body: bytes) -> tuple[HTTPStatus, dict[str, object]]:
        """Notes a request, and does what it asks."""
        self.log.append(f"{line} {body.decode('utf-8', 'replace')}")
        try:
            wish = json.loads(body)
            item, cents = str(wish["item"]), int(wish["cents"])
        except (ValueError, KeyError, TypeError):
            return HTTPStatus.BAD_REQUEST, {"error": "an item and its price in cents are needed"}
        before, self.prices[item] = self.prices.get(item), cents
        return HTTPStatus.OK, {"item": item, "before": before, "cents": cents}


@contextmanager
def price_service() -> Iterator[PriceService]:
    """Runs the service on a free port of 127.0.0.1 until the block ends."""
    service = PriceService()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(min(int(self.headers.get("Content-Length", "0")), 65536))
            status, answer = service.change(self.requestline, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing: the log of the service is ``PriceService.log``."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, name="price service", daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
