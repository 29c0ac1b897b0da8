"""A PostgreSQL server that lies: the steps of a login, each of which a test may replace."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence

from scramp import ScramMechanism
from scramp.core import ScramServer

from tests.egress_support import Handler, Host

TLS_REQUEST = bytes.fromhex("0000000804d2162f")
BOUND = "SCRAM-SHA-256-PLUS"
PLAIN = "SCRAM-SHA-256"
OK = (0).to_bytes(4)
AUTHENTICATED = b"R" + (8).to_bytes(4) + OK
READY = b"Z" + (5).to_bytes(4) + b"I"
KEY = b"\x01\x02\x03\x04"


def packet(kind: bytes, body: bytes) -> bytes:
    """One message."""
    return kind + (len(body) + 4).to_bytes(4) + body


def startup(*parameters: str, version: int = 3 << 16) -> bytes:
    """A tool's startup message; names and values by turns."""
    body = version.to_bytes(4) + b"".join(text.encode() + b"\x00" for text in parameters) + b"\x00"
    return (len(body) + 4).to_bytes(4) + body


def error_fields(answer: bytes) -> dict[str, str]:
    """The fields of the one error that an answer consists of."""
    assert answer[:1] == b"E"
    assert int.from_bytes(answer[1:5]) == len(answer) - 1
    assert answer.endswith(b"\x00\x00")
    return {field[:1].decode(): field[1:].decode() for field in answer[5:-2].split(b"\x00")}


class Login:
    """One connection, from the server's side."""

    def __init__(self, host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.host = host
        self.reader = reader
        self.writer = writer

    async def asked_for_tls(self) -> None:
        """The question that comes first."""
        assert await self.reader.readexactly(8) == TLS_REQUEST

    async def start_tls(self, tls: ssl.SSLContext, before: bytes = b"") -> None:
        """Consents, says something more in the clear, and starts TLS."""
        await self.asked_for_tls()
        self.writer.write(b"S" + before)
        await self.writer.start_tls(tls)

    async def startup(self) -> dict[str, str]:
        """The parameters of the session."""
        length = int.from_bytes(await self.reader.readexactly(4))
        body = await self.reader.readexactly(length - 4)
        self.host.requests.append(body)
        assert body[:4] == (3 << 16).to_bytes(4)
        texts = [text.decode() for text in body[4:].split(b"\x00")[:-2]]
        return dict(zip(texts[::2], texts[1::2], strict=True))

    async def read(self) -> bytes:
        """The body of the client's next message, which has to do with the login."""
        kind = await self.reader.readexactly(1)
        length = int.from_bytes(await self.reader.readexactly(4))
        body = await self.reader.readexactly(length - 4)
        self.host.requests.append(kind + body)
        assert kind == b"p"
        return body

    async def say(self, kind: bytes, body: bytes) -> None:
        """A message to the client."""
        await self.send(packet(kind, body))

    async def send(self, data: bytes) -> None:
        """Bytes to the client."""
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, how: int, more: bytes = b"") -> None:
        """Asks for a login of one kind."""
        await self.say(b"R", how.to_bytes(4) + more)

    async def scram(self, password: str, certificate: str, offered: Sequence[str] = (BOUND, PLAIN)) -> ScramServer:
        """SCRAM up to the client's proof, which must be right; what is left is the server's own."""
        await self.ask(10, b"".join(name.encode() + b"\x00" for name in offered) + b"\x00")
        name, _, rest = (await self.read()).partition(b"\x00")
        mechanism = ScramMechanism(name.decode())
        binding = ("tls-server-end-point", certificate) if BOUND in offered else None
        server = mechanism.make_server(lambda _: mechanism.make_auth_info(password), binding)
        assert int.from_bytes(rest[:4]) == len(rest) - 4
        server.set_client_first(rest[4:].decode())
        await self.ask(11, server.get_server_first().encode())
        server.set_client_final((await self.read()).decode())
        return server

    async def prove(self, server: ScramServer) -> None:
        """The server's own proof, and its consent."""
        await self.ask(12, server.get_server_final().encode())
        await self.say(b"R", OK)

    async def begin(self) -> None:
        """What stands before the first statement."""
        await self.say(b"S", b"server_version\x0015.0\x00")
        await self.say(b"K", (77).to_bytes(4) + KEY)
        await self.send(READY)


def lying(script: Callable[[Login], Awaitable[None]]) -> Callable[[Host], Handler]:
    """A handler that plays a script, and then waits for the client's end."""

    def handler(host: Host) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await script(Login(host, reader, writer))
            while await reader.read(2**16):
                pass

        return handle

    return handler
