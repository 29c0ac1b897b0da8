"""Attacks on tunnels and forwards: other ports, no TLS, another server name, encrypted greetings, TLS between broker and host."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from broker.domain.run import EgressKind, EgressRule, EgressVerdict
from broker.sandbox.egress.limits import EgressLimits
from tests.egress_support import (
    NAME,
    Certificates,
    Handler,
    Host,
    Tool,
    World,
    https_rule,
    make_certificates,
    ok,
    saying,
    serving,
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def connect_rule(port: int, host: str = NAME) -> EgressRule:
    return EgressRule(EgressKind.CONNECT, host, port)


def greeting(server_name: str | None) -> bytes:
    """A real TLS greeting."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(coming, going, server_hostname=server_name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return going.read()


def with_extension(hello: bytes, kind: int, data: bytes = b"") -> bytes:
    """The greeting with one more extension; all its lengths are put right."""
    body = hello[9:]
    at = 2 + 32
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2])
    at += 1 + body[at]
    extensions = body[at + 2 :] + kind.to_bytes(2) + len(data).to_bytes(2) + data
    body = body[:at] + len(extensions).to_bytes(2) + extensions
    message = b"\x01" + len(body).to_bytes(3) + body
    return hello[:3] + len(message).to_bytes(2) + message


def in_records(hello: bytes, size: int) -> bytes:
    """The same greeting over many records."""
    message = hello[5:]
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    return b"".join(hello[:3] + len(piece).to_bytes(2) + piece for piece in pieces)


def echoing(host: Host) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            host.requests.append(data)
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    return handle


async def opened(world: World, port: int, host: str = NAME) -> Tool:
    tool = Tool(world.session)
    tool.send(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    assert (await tool.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    tool.got = b""
    return tool


async def test_connect_to_another_port_is_refused_and_never_resolved() -> None:
    world = World(connect_rule(443))
    for port in (22, 25, 80, 444, 8443):
        raw = await world.raw(f"CONNECT {NAME}:{port} HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode())
        assert b"Broker-Verdict: NOT_LISTED" in raw
    assert world.names.asked == []


@pytest.mark.parametrize("line", [f"CONNECT {NAME} HTTP/1.1", f"CONNECT {NAME}: HTTP/1.1", f"CONNECT http://{NAME}:443 HTTP/1.1",
                                  f"CONNECT u@{NAME}:443 HTTP/1.1", f"CONNECT {NAME}:443/ HTTP/1.1", "CONNECT :443 HTTP/1.1"])  # fmt: skip
async def test_an_odd_connect_target_is_refused(line: str) -> None:
    world = World(connect_rule(443))
    assert b"400 Bad Request" in await world.raw(f"{line}\r\nHost: {NAME}\r\n\r\n".encode())


async def test_a_connect_whose_host_header_differs_is_refused() -> None:
    world = World(connect_rule(443))
    raw = await world.raw(f"CONNECT {NAME}:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n".encode())
    assert b"Broker-Verdict: MISMATCH" in raw


async def test_a_connect_with_a_body_is_refused() -> None:
    world = World(connect_rule(443))
    raw = await world.raw(f"CONNECT {NAME}:443 HTTP/1.1\r\nHost: {NAME}:443\r\nContent-Length: 5\r\n\r\nhello".encode())
    assert b"Broker-Verdict: MALFORMED" in raw


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b"\x80\x2e\x01\x00\x02", b"\x17\x03\x03\x00\x05hello",
     b"\x16\x02\x00\x00\x05hello", b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\xff\xff", b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", b"\x00"],
)  # fmt: skip
async def test_connect_then_anything_but_tls_is_cut_and_nothing_is_passed_on(said: bytes) -> None:
    async with serving(echoing) as host:
        world = World(connect_rule(host.port))
        tool = await opened(world, host.port)
        tool.send(said)
        assert await tool.all() == b""
        await host.closed.wait()
        assert host.requests == []
    assert world.record.verdict is EgressVerdict.MALFORMED


@pytest.mark.parametrize("name", ["evil.example", f"x.{NAME}", f"{NAME}.evil.example", None])
async def test_a_server_name_that_differs_or_is_missing_is_cut(name: str | None) -> None:
    async with serving(echoing) as host:
        world = World(connect_rule(host.port))
        tool = await opened(world, host.port)
        tool.send(greeting(name))
        assert await tool.all() == b""
        await host.closed.wait()
        assert host.requests == []
    assert world.record.verdict is EgressVerdict.MISMATCH


@pytest.mark.parametrize("kind", [0xFE0D, 0xFFCE])
async def test_an_encrypted_greeting_is_cut(kind: int) -> None:
    async with serving(echoing) as host:
        world = World(connect_rule(host.port))
        tool = await opened(world, host.port)
        tool.send(with_extension(greeting(NAME), kind, bytes(64)))
        assert await tool.all() == b""
        await host.closed.wait()
        assert host.requests == []
    assert world.record.verdict is EgressVerdict.MISMATCH


async def test_two_server_names_are_cut() -> None:
    name = b"evil.example"
    entry = b"\x00" + len(name).to_bytes(2) + name
    async with serving(echoing) as host:
        world = World(connect_rule(host.port))
        tool = await opened(world, host.port)
        tool.send(with_extension(greeting(NAME), 0, len(entry).to_bytes(2) + entry))
        assert await tool.all() == b""
        await host.closed.wait()
        assert host.requests == []
    assert world.record.verdict is EgressVerdict.MALFORMED


@pytest.mark.parametrize(("record", "piece"), [(65536, 65536), (1, 1), (7, 3), (100, 65536)])
async def test_a_greeting_in_pieces_is_passed_on_byte_by_byte_the_same(record: int, piece: int) -> None:
    hello = in_records(greeting(NAME.upper()), record)
    async with serving(echoing) as host:
        world = World(connect_rule(host.port))
        tool = await opened(world, host.port)
        tool.send(hello, piece)
        tool.send(b"and more")
        tool.close()
        assert await tool.all() == hello + b"and more"
    assert world.record.verdict is EgressVerdict.ALLOWED


async def test_a_tunnel_to_an_address_has_no_server_name() -> None:
    async with serving(echoing) as host:
        world = World(connect_rule(host.port, "127.0.0.1"))
        tool = await opened(world, host.port, "127.0.0.1")
        tool.send(greeting(None))
        tool.close()
        assert await tool.all() == greeting(None)[:0] + b"".join(host.requests)
        named = await opened(world, host.port, "127.0.0.1")
        named.send(greeting(NAME))
        assert await named.all() == b""
    assert world.verdicts == {EgressVerdict.ALLOWED: 1, EgressVerdict.MISMATCH: 1}


async def test_a_greeting_that_never_ends_is_cut() -> None:
    async with serving(echoing) as host:
        world = World(connect_rule(host.port))
        tool = await opened(world, host.port)
        record = b"\x16\x03\x01\x40\x00" + b"\x01\x00\xff\xff" + bytes(0x4000 - 4)
        tool.send(record + b"\x16\x03\x01\x40\x00" + bytes(0x4000) + b"\x16\x03\x01\x40\x00" + bytes(0x4000))
        tool.send(b"\x16\x03\x01\x40\x00" + bytes(0x3000) + b"\x16" + bytes(70000))
        assert await tool.all() == b""
        assert host.requests == []
    assert world.record.verdict is EgressVerdict.MALFORMED


async def test_a_greeting_that_stalls_is_cut() -> None:
    async with serving(echoing) as host:
        world = World(connect_rule(host.port), limits=EgressLimits(hello_s=0.05, linger_s=0.01))
        tool = await opened(world, host.port)
        tool.send(greeting(NAME)[:20])
        assert await tool.all() == b""
        assert host.requests == []
    assert world.record.verdict is EgressVerdict.LIMIT


async def test_the_old_connect_of_http_1_0_works() -> None:
    async with serving(echoing) as host:
        world = World(connect_rule(host.port))
        hello = greeting(NAME)
        raw = await world.raw(f"CONNECT {NAME}:{host.port} HTTP/1.0\r\n\r\n".encode() + hello)
    assert raw == b"HTTP/1.1 200 Connection established\r\n\r\n" + hello


async def test_real_tls_through_a_tunnel(certificates: Certificates) -> None:
    async with serving(saying(ok(b"through")), certificates.context()) as host:
        world = World(connect_rule(host.port))
        tool = await opened(world, host.port)
        context = ssl.create_default_context(cafile=certificates.ca)
        coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(coming, going, server_hostname=NAME)

        async def step(mark: int) -> None:
            tool.send(going.read())
            coming.write(await tool.more(mark))

        while True:
            mark = len(tool.got)
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                await step(mark)
        client.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while b"through" not in answer:
            mark = len(tool.got)
            try:
                answer += client.read()
            except ssl.SSLWantReadError:
                await step(mark)
        tool.close()
        await tool.all()
    assert world.record.verdict is EgressVerdict.ALLOWED


async def test_the_broker_speaks_tls_to_the_host(certificates: Certificates) -> None:
    async with serving(saying(ok(b"sealed")), certificates.context()) as host:
        world = World(https_rule(host.port), ca=certificates.ca)
        plain = await world.ask(f"http://{NAME}/x")
        by_port = await world.ask(f"http://{NAME}:{host.port}/x")
        assert host.requests[0].startswith(f"GET /x HTTP/1.1\r\nhost: {NAME}:{host.port}\r\n".encode())
    assert plain.body == by_port.body == b"sealed"
    assert (world.record.kind, world.record.port, world.record.count) == (EgressKind.HTTPS, host.port, 2)


async def test_a_host_with_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    other = make_certificates(tmp_path, "other.example")
    async with serving(saying(ok()), other.context()) as host:
        answer = await World(https_rule(host.port), ca=other.ca).ask(f"http://{NAME}/")
        assert host.requests == []
    assert (answer.status, answer.verdict) == (502, "UNREACHABLE")
    assert b"certificate" in answer.body


async def test_a_host_with_a_certificate_of_a_stranger_is_refused(certificates: Certificates) -> None:
    async with serving(saying(ok()), certificates.context()) as host:
        answer = await World(https_rule(host.port)).ask(f"http://{NAME}/")
        assert host.requests == []
    assert answer.verdict == "UNREACHABLE"


async def test_an_old_tls_is_refused(certificates: Certificates) -> None:
    context = certificates.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving(saying(ok()), context) as host:
        answer = await World(https_rule(host.port), ca=certificates.ca).ask(f"http://{NAME}/")
    assert answer.verdict == "UNREACHABLE"


async def test_a_host_that_speaks_no_tls_gets_no_request() -> None:
    async with serving(saying(ok())) as host:
        tool = asyncio.create_task(
            World(https_rule(host.port), limits=EgressLimits(connect_s=0.2)).ask(f"http://{NAME}/")
        )
        assert (await tool).verdict == "UNREACHABLE"
        assert host.requests == []


async def test_a_forward_carries_bytes_both_ways_and_each_end_closes_by_itself() -> None:
    async with serving(echoing) as host:
        world = World(EgressRule(EgressKind.TCP, NAME, host.port, listen=5432))
        assert await world.raw(b"hello" * 50_000, listener=5432) == b"hello" * 50_000
    assert (world.record.sent_bytes, world.record.received_bytes) == (250_000, 250_000)
    assert (world.record.kind, world.record.listed) == (EgressKind.TCP, True)


async def test_a_forward_is_no_proxy() -> None:
    async with serving(echoing) as host:
        world = World(EgressRule(EgressKind.TCP, NAME, host.port, listen=5432))
        request = b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n"
        assert await world.raw(request, listener=5432) == request
    assert world.names.asked == [NAME]


async def test_a_forward_to_a_closed_port_ends_at_once() -> None:
    async with serving(echoing) as host:
        port = host.port
    world = World(EgressRule(EgressKind.TCP, NAME, port, listen=5432))
    assert await world.raw(b"hello", listener=5432) == b""
    assert world.record.verdict is EgressVerdict.UNREACHABLE
