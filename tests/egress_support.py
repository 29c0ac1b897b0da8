"""A tool, hosts and a session for tests of the way out: real sockets and real TLS on loopback, no container."""

from __future__ import annotations

import asyncio
import http.client
import io
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.x509.oid import NameOID

from broker.domain.meter import NoMeter
from broker.domain.run import EgressKind, EgressRecord, EgressRule, EgressVerdict, SecretUse
from broker.domain.secret import Secret
from broker.errors import NotFoundError
from broker.sandbox.egress.gate import Egress
from broker.sandbox.egress.limits import EgressLimits
from broker.sandbox.egress.recording import Recording
from broker.sandbox.egress.resolving import UnresolvedError
from broker.sandbox.egress.upstream import trust_from
from broker.sandbox.engine import PROXY_PORT, EgressGate

WITHIN_S = 30
NAME = "api.example.com"
SECRET = 's3cr3t/Value+for "tests" & <more>'  # noqa: S105  # of the tests
USE = SecretUse("key", "x-api-key", "")
_PIECE = 64 * 1024
_SHA256 = hashes.SHA256()


@dataclass
class Names:
    """A resolver whose answers are written down; each answer is used up but the last."""

    answers: Mapping[str, list[tuple[str, ...]]]
    asked: list[str] = field(default_factory=list)

    async def resolve(self, host: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]:
        self.asked.append(host)
        left = self.answers.get(host)
        if not left:
            raise UnresolvedError("the name has no address")
        answer = left.pop(0) if len(left) > 1 else left[0]
        return tuple(ipaddress.ip_address(text) for text in answer)


@dataclass
class Store:
    """A store of secrets; nothing is bound."""

    values: Mapping[str, str]

    def give(self, name: str, host: str, port: int) -> Secret:
        if name not in self.values:
            raise NotFoundError(f"no {name} for {host}:{port}", reason="SECRET_MISSING")
        return Secret(self.values[name].encode())


class Tool:
    """The tool's end of a connection, and the ``Duplex`` that the gate sees."""

    def __init__(self, session: EgressGate, listener: int = PROXY_PORT) -> None:
        self._coming: asyncio.Queue[bytes] = asyncio.Queue()
        self._closed = False
        self._news = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        self.got = b""
        self.ended = False
        self.serving = asyncio.create_task(session.serve(listener, self))

    async def read(self) -> bytes:
        if self._closed and self._coming.empty():
            return b""
        data = await self._coming.get()
        self._closed = self._closed or not data
        return data

    async def write(self, data: bytes) -> None:
        await self.reading.wait()
        self.got += data
        self._news.set()

    async def end(self) -> None:
        assert not self.ended, "closed twice"
        self.ended = True
        self._news.set()

    def send(self, data: bytes, piece: int = _PIECE) -> None:
        for start in range(0, len(data), piece):
            self._coming.put_nowait(data[start : start + piece])

    def close(self) -> None:
        self._coming.put_nowait(b"")

    async def until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(WITHIN_S):
            while mark not in self.got:
                assert not self.ended, self.got
                self._news.clear()
                await self._news.wait()
        return self.got

    async def more(self, than: int) -> bytes:
        """What came behind so many bytes, once there is something, or at the end."""
        async with asyncio.timeout(WITHIN_S):
            while len(self.got) <= than and not self.ended:
                self._news.clear()
                await self._news.wait()
        return self.got[than:]

    async def all(self) -> bytes:
        """Everything that came, once the gate is done."""
        async with asyncio.timeout(WITHIN_S):
            await self.serving
        assert self.ended
        return self.got


@dataclass
class Answer:
    """An HTTP answer as a tool's library reads it."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def verdict(self) -> str:
        return self.headers.get("Broker-Verdict", "")


class _Bytes(io.BytesIO):
    def makefile(self, *_: object) -> io.BytesIO:
        return self


def read_answer(raw: bytes, method: str = "GET") -> Answer:
    response = http.client.HTTPResponse(_Bytes(raw), method=method)  # type: ignore[arg-type]  # a socket by duck
    response.begin()
    try:
        body = response.read()
    except http.client.IncompleteRead as error:
        body = error.partial
    return Answer(response.status, response.headers, body)


class World:
    """One session, its resolver and its store."""

    def __init__(
        self,
        *rules: EgressRule,
        names: Mapping[str, list[tuple[str, ...]]] | None = None,
        secrets: Mapping[str, str] | None = None,
        networks: Sequence[str] = ("127.0.0.1/32",),
        limits: EgressLimits | None = None,
        ca: Path | None = None,
    ) -> None:
        self.names = Names(names if names is not None else {NAME: [("127.0.0.1",)]})
        self.egress = Egress(
            resolver=self.names,
            networks=tuple(ipaddress.ip_network(text) for text in networks),
            secrets=Store({"key": SECRET} if secrets is None else secrets),
            trust=lambda: trust_from(ca),
            meter=NoMeter(),
            limits=limits or EgressLimits(linger_s=0.01),
        )
        self.session = self.egress.session("call-1", rules)

    async def raw(self, request: bytes, listener: int = PROXY_PORT, piece: int = _PIECE) -> bytes:
        tool = Tool(self.session, listener)
        tool.send(request, piece)
        tool.close()
        return await tool.all()

    @property
    def recording(self) -> Recording:
        """What was kept so far."""
        found = self.session.recording()
        assert found is not None
        return found

    async def ask(
        self, url: str, *headers: str, method: str = "GET", body: bytes = b"", host: str | None = None
    ) -> Answer:
        named = url.partition("://")[2].partition("/")[0].partition("?")[0] if host is None else host
        lines = [f"{method} {url} HTTP/1.1", f"Host: {named}", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        request = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
        return read_answer(await self.raw(request), method)

    @property
    def record(self) -> EgressRecord:
        (record,) = self.session.records()
        return record

    @property
    def verdicts(self) -> dict[EgressVerdict, int]:
        return {record.verdict: record.count for record in self.session.records()}


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Host:
    """A server on loopback that keeps what it was sent."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed = asyncio.Event()
        self._news = asyncio.Event()

    async def asked(self, count: int) -> None:
        """Returns once so many requests have come."""
        async with asyncio.timeout(WITHIN_S):
            while len(self.requests) < count:
                self._news.clear()
                await self._news.wait()

    async def read_request(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head)
        self._news.set()
        return head


@asynccontextmanager
async def serving(handler: Callable[[Host], Handler], tls: ssl.SSLContext | None = None) -> AsyncIterator[Host]:
    """A host whose connections are handled by ``handler(host)``."""
    host = Host()
    handle = handler(host)
    running: set[asyncio.Task[None]] = set()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        host.connections += 1
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            running.discard(task)
            writer.transport.abort()
            host.closed.set()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0, ssl=tls)
    host.port = server.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()


def saying(answer: bytes, *more: bytes) -> Callable[[Host], Handler]:
    """Answers each request with bytes; further pieces are written one by one."""

    def handler(host: Host) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await host.read_request(reader)
            for piece in (answer, *more):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if writer.can_write_eof():
                writer.write_eof()
                await reader.read()
            else:
                writer.close()
                await writer.wait_closed()

        return handle

    return handler


def ok(body: bytes = b"fine", *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chunked(*pieces: bytes, trailer: bytes = b"") -> bytes:
    coded = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n" + trailer + b"\r\n"


def http_rule(port: int, **more: object) -> EgressRule:
    return EgressRule(EgressKind.HTTP, NAME, port, **more)  # type: ignore[arg-type]  # by name


def https_rule(port: int, **more: object) -> EgressRule:
    return EgressRule(EgressKind.HTTPS, NAME, port, **more)  # type: ignore[arg-type]  # by name


@dataclass(frozen=True)
class Certificates:
    """A CA made for the tests, and a certificate for ``NAME`` and 127.0.0.1."""

    ca: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def make_certificates(
    folder: Path,
    name: str = NAME,
    *,
    ca_key: ec.EllipticCurvePrivateKey | ed448.Ed448PrivateKey | None = None,
    algorithm: hashes.SHA256 | hashes.SHA384 | None = _SHA256,
) -> Certificates:
    ca_key = ca_key or ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.now(UTC) - timedelta(days=1)
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])

    def builder(who: x509.Name, public: ec.EllipticCurvePublicKey | ed448.Ed448PublicKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(who).issuer_name(issuer).public_key(public)
        return (
            made.serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=30))
        )

    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    authority = (
        builder(issuer, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, algorithm)
    )
    leaf = (
        builder(subject, key.public_key())
        .add_extension(names, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, algorithm)
    )
    made = Certificates(folder / "ca.pem", folder / "leaf.pem", folder / "leaf.key")
    made.ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    made.certificate.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made
