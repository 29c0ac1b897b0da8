"""Attacks on what is kept of hosts' answers: secrets, floods, lies, and a sealed run that wants out."""

from __future__ import annotations

import asyncio
import base64
import socket
import tracemalloc

import pytest

from broker.domain.run import EgressVerdict, SecretUse
from broker.sandbox.egress.limits import EgressLimits
from broker.sandbox.egress.recorded import RecordedGate
from broker.sandbox.egress.recording import How, Recording, dump_recording, load_recording
from tests.egress_support import (
    NAME,
    SECRET,
    USE,
    WITHIN_S,
    Certificates,
    Handler,
    Host,
    Tool,
    World,
    chunked,
    http_rule,
    https_rule,
    make_certificates,
    ok,
    read_answer,
    saying,
    serving,
)

ROOM = 64 * 1024
_COOKIE = "sid=9f8e7d6c5b4a"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def written(recording: Recording) -> bytes:
    """Its bytes; what is read from them is the same."""
    data = b"".join(dump_recording(recording))
    assert load_recording(data) == recording
    return data


def asking(port: int, target: str = "/", *headers: str, method: str = "GET") -> bytes:
    lines = [f"{method} http://{NAME}:{port}{target} HTTP/1.1", f"Host: {NAME}:{port}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def echoing(host: Host) -> Handler:
    """Answers with the request's head, in the shape that the target names."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await host.read_request(reader)
        if b" /header " in head:
            writer.write(ok(b"fine", f"X-Echo: {SECRET}"))
        elif b" /stream " in head:
            writer.write(chunked(b"harmless " * 3000, head))
        elif b" /base64 " in head:
            writer.write(ok(base64.b64encode(SECRET.encode())))
        else:
            writer.write(ok(head if b" /raw " in head else b"fine"))
        await writer.drain()
        await reader.read()

    return handle


async def test_an_injected_secret_is_in_no_recording(certificates: Certificates) -> None:
    async with serving(echoing, certificates.context()) as host:
        rule = https_rule(host.port, secret=USE, record_bytes=ROOM)
        world = World(rule, ca=certificates.ca)
        for target in ("/fine", "/raw", "/header", "/stream", "/base64"):
            await world.raw(asking(host.port, target))
        assert sum(SECRET.encode() in head for head in host.requests) == 5
        data = written(world.recording)
        for shape in (SECRET.encode(), base64.b64encode(SECRET.encode())[:20], SECRET.encode().hex().encode()):
            assert shape not in data
        assert b"harmless" not in data, "what passed before the scanner cut was kept"
        found = [(item.how, item.answer is not None) for item in world.recording.exchanges]
        assert found == [(How.COMPLETE, True), *[(How.REFUSED, False)] * 2, (How.BROKEN, False), (How.REFUSED, False)]
        refusals = [item.refusal.verdict for item in world.recording.exchanges if item.refusal is not None]
        assert refusals == [EgressVerdict.SECRET_ECHOED] * 4


async def test_what_a_tool_shows_itself_with_is_not_kept(certificates: Certificates) -> None:
    async with serving(echoing, certificates.context()) as host:
        use = SecretUse("key", "x-special", "")
        world = World(https_rule(host.port, secret=use, record_bytes=ROOM), ca=certificates.ca)
        sent = ["Authorization: Bearer mine-1", f"Cookie: {_COOKIE}", "X-Special: mine-2", "X_Api_Key: mine-3"]
        await world.raw(asking(host.port, "/fine", *sent, "X-Amz-Security-Token: mine-4", "Accept: text/plain"))
        data = written(world.recording)
        assert b"mine" not in data
        assert _COOKIE.encode() not in data
        (item,) = world.recording.exchanges
        assert dict(item.request.headers)["accept"] == "text/plain"
        assert set(item.request.withheld) == {
            "authorization", "cookie", "x-special", "x_api_key", "x-amz-security-token",
        }  # fmt: skip


def flooding(host: Host) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await host.read_request(reader)
        if b" /small " in head:
            writer.write(ok(b"small"))
        elif b" /head " in head:
            writer.write(ok(b"body", "X-Long: " + "x" * 20_000))
        else:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            for _ in range(640):
                writer.write(bytes(65536))
                await writer.drain()
        await writer.drain()
        writer.close()

    return handle


async def test_an_endless_answer_reaches_the_tool_and_leaves_room_for_others() -> None:
    async with serving(flooding) as host:
        world = World(http_rule(host.port, record_bytes=ROOM))
        tracemalloc.start()
        try:
            tool = Tool(world.session)
            tool.write = _swallow(tool)  # type: ignore[method-assign]  # the test's own memory isn't measured
            tool.send(asking(host.port, "/flood"))
            tool.close()
            await tool.all()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 8 * 2**20
        await world.raw(asking(host.port, "/small"))
        first, second = world.recording.exchanges
        assert first.answer is not None
        assert (first.how, first.answer.kept, first.answer.body_bytes) == (How.COMPLETE, False, 640 * 65536)
        assert (second.body, world.recording.whole, world.recording.missed) == (b"small", False, 0)
        assert world.record.received_bytes > 640 * 65536, "the tool got less than the host sent"
        assert len(written(world.recording)) < ROOM


def _swallow(tool: Tool):  # type: ignore[no-untyped-def]  # noqa: ANN202 - of the one test
    async def write(data: bytes) -> None:
        tool.got = data[-10:]

    return write


async def test_many_requests_fill_no_more_than_the_room_that_there_is() -> None:
    async with serving(flooding) as host:
        world = World(http_rule(host.port, record_bytes=4096), limits=EgressLimits(linger_s=0.01))
        got = await world.raw(asking(host.port, "/small") * 20)
        assert got.count(b"small") == 20
        kept = len(world.recording.exchanges)
        assert 0 < kept < 8
        assert world.recording.missed == 20 - kept
        assert len(written(world.recording)) < 8192


async def test_a_head_without_room_is_said_to_be_missing() -> None:
    async with serving(flooding) as host:
        world = World(http_rule(host.port, record_bytes=8192))
        assert b"body" in await world.raw(asking(host.port, "/head"))
        (item,) = world.recording.exchanges
        assert (item.answer, item.how, world.recording.whole) == (None, How.COMPLETE, False)


async def test_pipelined_requests_are_kept_one_by_one_with_their_own_bodies() -> None:
    async with serving(echoing) as host:
        world = World(http_rule(host.port, methods=("GET", "POST"), record_bytes=ROOM))
        first = asking(host.port, "/one", "Content-Length: 3", method="POST") + b"abc"
        smuggled = asking(host.port, "/two", "Content-Length: 40", method="POST") + asking(host.port, "/evil")[:40]
        await world.raw(first + smuggled)
        found = [
            (item.request.target, item.request.body_bytes, item.request.body_whole)
            for item in world.recording.exchanges
        ]
        assert found == [("/one", 3, True), ("/two", 40, True)]
        written(world.recording)


async def test_a_tool_that_lies_about_its_length_is_kept_as_refused() -> None:
    async with serving(echoing) as host:
        world = World(http_rule(host.port, methods=("POST",), record_bytes=ROOM))
        await world.raw(asking(host.port, "/", "Transfer-Encoding: chunked", method="POST") + b"zz\r\nnonsense\r\n")
        (item,) = world.recording.exchanges
        assert item.refusal is not None
        assert (item.refusal.verdict, item.request.body_whole) == (EgressVerdict.MALFORMED, False)
        written(world.recording)


async def test_a_run_that_is_cut_keeps_what_its_tool_had_got() -> None:
    def half(host: Host) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await host.read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            await reader.read()

        return handle

    async with serving(half) as host:
        world = World(http_rule(host.port, record_bytes=ROOM))
        tool = Tool(world.session)
        tool.send(asking(host.port))
        await tool.until(b"half")
        tool.serving.cancel()
        await asyncio.gather(tool.serving, return_exceptions=True)
        (item,) = world.recording.exchanges
        assert (item.how, item.body) == (How.BROKEN, b"half")
        written(world.recording)


async def test_what_no_rule_keeps_and_what_nobody_allowed_is_not_kept() -> None:
    async with serving(echoing) as host, serving(echoing) as other:
        world = World(http_rule(host.port), http_rule(other.port, paths=("/ok/",), record_bytes=ROOM))
        await world.raw(asking(host.port))
        await world.raw(asking(other.port, "/evil"))
        assert world.session.recording() is None
        await world.raw(asking(other.port, "/ok/"))
        assert [item.request.target for item in world.recording.exchanges] == ["/ok/"]


async def test_a_sealed_run_gets_the_same_bytes_and_makes_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = b""
    async with serving(saying(chunked(b"a" * 1000, b"b", trailer=b"X-T: 1\r\n"))) as host:
        world = World(http_rule(host.port, record_bytes=ROOM))
        asked = asking(host.port, "/a?b=c")
        then = await world.raw(asked)
        recording, connections = load_recording(written(world.recording)), host.connections

        def never(*_: object, **__: object) -> None:
            raise AssertionError("a sealed run made a socket, or asked for a name")

        for name in ("socket", "create_connection", "getaddrinfo", "socketpair"):
            monkeypatch.setattr(socket, name, never)
        for name in ("open_connection",):
            monkeypatch.setattr(asyncio, name, never)
        sealed = RecordedGate(recording, limits=EgressLimits(linger_s=0.01))
        for data, listener in (
            (asked, 3128),
            (asking(host.port, "/other"), 3128),
            (f"CONNECT {NAME}:{host.port} HTTP/1.1\r\nHost: {NAME}:{host.port}\r\n\r\n".encode(), 3128),
            (b"\x16\x03\x01", 3128),
            (b"\x16\x03\x01", 5432),
        ):
            tool = Tool(sealed, listener)
            tool.send(data)
            tool.close()
            async with asyncio.timeout(WITHIN_S):
                got = await tool.all()
            if data is asked:
                assert got == then
            elif listener == 3128:
                assert read_answer(got).status in {400, 502}
        monkeypatch.undo()
        assert host.connections == connections
        assert [item.number for item in sealed.report.served] == [1]
        assert len(sealed.report.not_recorded) == 3
        assert len(sealed.report.refused) == 1
