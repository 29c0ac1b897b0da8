"""A database behind the gate, for tests of the kind ``postgres``: a port where a real driver plays the tool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from broker.domain.run import EgressKind, EgressRule, SecretUse
from broker.sandbox.egress.gate import EgressSession
from tests.egress_support import NAME

LISTEN = 5432
DATABASE = "shop"
USER = "broker"
USE = SecretUse("key")


def postgres_rule(port: int, **more: object) -> EgressRule:
    """Leads to a server on loopback under ``NAME``."""
    fields = {"listen": LISTEN, "secret": USE, "database": DATABASE, "user": USER, **more}
    return EgressRule(EgressKind.POSTGRES, NAME, port, **fields)  # type: ignore[arg-type]  # by name


class _Stream:
    """A real connection as the ``Duplex`` that the gate sees; ``got`` is what the tool is sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, got: bytearray) -> None:
        self._reader = reader
        self._writer = writer
        self._got = got

    async def read(self) -> bytes:
        return await self._reader.read(2**16)

    async def write(self, data: bytes) -> None:
        self._got += data
        self._writer.write(data)
        await self._writer.drain()

    async def end(self) -> None:
        try:
            self._writer.write_eof()
        except OSError as error:
            raise ConnectionResetError from error


class Port:
    """The sandbox's loopback port, as a driver finds it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.got = bytearray()
        """All that the gate has sent to tools there."""

    def address(self, **more: str) -> str:
        """How libpq connects."""
        said: Mapping[str, str] = {
            "host": "127.0.0.1",
            "port": str(self.number),
            "user": USER,
            "dbname": DATABASE,
            "sslmode": "disable",
            "connect_timeout": "30",
            **more,
        }
        return " ".join(f"{key}='{value}'" for key, value in said.items())


@asynccontextmanager
async def loopback(session: EgressSession, listen: int = LISTEN) -> AsyncIterator[Port]:
    """The port ``listen`` of a sandbox, served by a session on a port of this machine."""
    serving: set[asyncio.Task[None]] = set()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await session.serve(listen, _Stream(reader, writer, port.got))
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            serving.discard(task)
            writer.close()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    port = Port(server.sockets[0].getsockname()[1])
    try:
        yield port
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await server.wait_closed()
