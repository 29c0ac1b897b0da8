"""A runner that says what a test wants, behind a real socket that speaks as an engine's attach does; no container."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from broker.domain.container_facts import ContainerFacts
from broker.domain.run import Limits, Profile
from broker.sandbox.address import Endpoint
from broker.sandbox.docker_events import ContainerWatch
from broker.sandbox.docker_lease import DockerLease
from broker.sandbox.docker_stream import attach
from broker.sandbox.wire import FILES, ON_FILES, FrameKind, encode

EXIT = {"exit": 0, "signal": None, "detail": "", "cpu_s": 0.1, "full": {}}
_HEADER = struct.Struct(">BII")


def said(kind: FrameKind, payload: bytes | dict[str, object] = b"", channel: int | None = None) -> bytes:
    """A frame on its usual channel."""
    data = json.dumps(payload).encode() if isinstance(payload, dict) else payload
    return encode(kind, data, channel if channel is not None else FILES if kind in ON_FILES else 0)


class Puppet:
    """The runner's side of one attached stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def say(self, *frames: bytes) -> None:
        """Writes bytes as a container's standard output."""
        for data in frames:
            self.write(struct.pack(">B3xI", 1, len(data)) + data)

    def write(self, data: bytes) -> None:
        """Writes bytes as the engine would."""
        self._writer.write(data)

    async def drain(self) -> None:
        """Waits while the broker doesn't read."""
        await self._writer.drain()

    async def hear(self) -> tuple[FrameKind, int, bytes]:
        """The broker's next frame."""
        kind, channel, length = _HEADER.unpack(await self._reader.readexactly(_HEADER.size))
        return FrameKind(kind), channel, await self._reader.readexactly(length)

    async def take_job(self) -> None:
        """Hears the broker out to the end of its input."""
        while (await self.hear())[0] is not FrameKind.END_OF_INPUT:
            pass

    async def rest(self) -> bytes:
        """All that the broker still writes until it hangs up."""
        data = b""
        with suppress(OSError):
            while more := await self._reader.read(65536):
                data += more
        return data

    async def gone(self) -> None:
        """Returns once the broker has hung up."""
        await self.rest()


Script = Callable[[Puppet], Awaitable[None]]


class Hands:
    """The engine of one puppet: its removal is the end of it."""

    def __init__(self) -> None:
        self.watch = ContainerWatch()
        self.tasks: set[asyncio.Task[None]] = set()
        self.writer: asyncio.StreamWriter | None = None
        self.removals = 0
        self.stuck: asyncio.Event | None = None
        """Where it is set, no removal ends before it does."""

    async def remove(self, container_id: str) -> None:
        del container_id
        self.removals += 1
        if self.stuck:
            await self.stuck.wait()
        if self.writer:
            self.writer.close()

    async def observe(self, container_id: str) -> ContainerFacts:
        del container_id
        return ContainerFacts("sha256:00")

    async def state(self, container_id: str) -> tuple[int, bool]:
        del container_id
        return 0, False

    def background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        return task

    def gone(self, container_id: str) -> None:
        del container_id


@asynccontextmanager
async def puppet(
    folder: Path, script: Script, limits: Limits | None = None, *, isolated: bool = True
) -> AsyncIterator[tuple[DockerLease, Hands]]:
    """A lease whose runner follows a script, and hangs up at its end."""
    hands = Hands()

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hands.writer = writer
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n")
        with suppress(OSError, EOFError):
            await script(Puppet(reader, writer))
            await writer.drain()
        hands.watch.died.set()
        writer.close()

    path = folder / "engine.sock"
    server = await asyncio.start_unix_server(engine, path)
    try:
        stream = await attach(Endpoint(path=str(path)), "1.41", "c1")
        profile = Profile("sha256:00", limits or Limits())
        lease = DockerLease(
            hands, container_id="c1", profile=profile, stream=stream, watch=hands.watch, isolated=isolated
        )
        try:
            yield lease, hands
        finally:
            await lease.destroy()
            await asyncio.gather(*hands.tasks)
    finally:
        server.close()
