"""An engine that talks nonsense once doesn't take the evidence away from all later runs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from broker.sandbox.address import Endpoint
from broker.sandbox.docker_events import EventFollower

_WITHIN_S = 30
_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def test_the_follower_of_events_survives_what_it_cannot_read(tmp_path: Path) -> None:
    too_deep = b"[" * 200_000 + b"\n"  # json raises RecursionError
    too_long = b"f" * 300_000  # a chunk's head without an end overruns the reader's limit
    oom = json.dumps({"Action": "oom", "Actor": {"ID": "c1"}, "timeNano": 1}).encode() + b"\n"
    answers = [_chunk(too_deep), too_long, _chunk(oom)]

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_HEAD + (answers.pop(0) if answers else b""))
        await writer.drain()
        await reader.read()
        writer.close()

    path = tmp_path / "engine.sock"
    server = await asyncio.start_unix_server(engine, path)
    follower = EventFollower(Endpoint(path=str(path)), "1.41", "instance")
    watch = follower.watch("c1")
    await follower.start()
    try:
        async with asyncio.timeout(_WITHIN_S):
            await watch.oom.wait()
    finally:
        await follower.stop()
        server.close()
    assert not answers
