"""The gate of a rerun: it answers, and reaches nobody."""

from __future__ import annotations

import asyncio

from broker.replay.gates import RefusingGate
from broker.sandbox.engine import PROXY_PORT


class Line:
    """A tool's connection."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [*pieces, b""]
        self.got = b""
        self.ended = False

    async def read(self) -> bytes:
        return self._pieces.pop(0)

    async def write(self, data: bytes) -> None:
        self.got += data

    async def end(self) -> None:
        self.ended = True


async def served(gate: RefusingGate, port: int, *pieces: bytes) -> Line:
    line = Line(*pieces)
    async with asyncio.timeout(10):
        await gate.serve(port, line)
    return line


async def test_http_is_answered_with_502_and_a_sentence() -> None:
    gate = RefusingGate()
    line = await served(gate, PROXY_PORT, b"GET http://host/a?key=secret HTTP/1.1\r\nAuth", b"orization: x\r\n\r\n")
    assert line.got.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"this is a rerun" in line.got
    assert line.ended
    assert gate.asked() == ("GET http://host/a",)


async def test_a_tunnel_and_a_forward_lead_nowhere() -> None:
    gate = RefusingGate()
    assert (await served(gate, PROXY_PORT, b"CONNECT host:443 HTTP/1.1\r\n\r\n")).got.startswith(b"HTTP/1.1 502")
    forward = await served(gate, 5432, b"hello")
    assert (forward.got, forward.ended) == (b"", True)
    assert gate.asked() == ("CONNECT host:443", "a connection to port 5432")


async def test_nonsense_is_cut_and_made_visible() -> None:
    gate = RefusingGate()
    await served(gate, PROXY_PORT, b"\x1b[2J\xff " + b"x" * 100_000)
    await served(gate, PROXY_PORT)
    (first, second) = gate.asked()
    assert len(first) == 200
    assert first.isprintable()
    assert second == " "
    for _ in range(100):
        await served(gate, 1)
    assert len(gate.asked()) == 64
