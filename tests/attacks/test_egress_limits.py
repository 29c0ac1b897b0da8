"""Attacks on the broker's patience and memory: slow hosts, endless bodies, many connections, floods of records, cancellation."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

import pytest

from broker.domain.run import EgressKind, EgressRule, EgressVerdict
from broker.sandbox.egress import head
from broker.sandbox.egress.limits import EgressLimits
from broker.sandbox.egress.line import Turns
from broker.sandbox.egress.upstream import Upstream
from tests.egress_support import (
    NAME,
    WITHIN_S,
    Handler,
    Host,
    Tool,
    World,
    chunked,
    http_rule,
    ok,
    read_answer,
    saying,
    serving,
)

_IMPATIENT = EgressLimits(idle_s=0.1, linger_s=0.01)


def request(port: int) -> bytes:
    return f"GET http://{NAME}:{port}/ HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode()


def silent(host: Host) -> Handler:
    async def handle(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await host.read_request(reader)
        await reader.read()

    return handle


def dripping(host: Host) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await host.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        loop = asyncio.get_running_loop()
        with suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"a")
                await writer.drain()
                turn = asyncio.Event()
                loop.call_later(0.01, turn.set)
                await turn.wait()

    return handle


def endless(host: Host) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await host.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    return handle


def uploaded(host: Host) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await host.read_request(reader)
        host.requests.append(await reader.readuntil(b"\r\n0\r\n\r\n"))
        writer.write(chunked(*[b"B"] * 5_000))
        await reader.read()

    return handle


@pytest.mark.parametrize("handler", [silent, dripping], ids=["silent", "dripping"])
async def test_slowloris_upstream_a_host_that_never_finishes_its_head_is_cut(handler: object) -> None:
    async with serving(handler) as host:  # type: ignore[arg-type]  # one of the two above
        world = World(http_rule(host.port), limits=_IMPATIENT)
        answer = await world.ask(f"http://{NAME}:{host.port}/")
        assert (answer.status, answer.verdict) == (504, "LIMIT")
        async with asyncio.timeout(WITHIN_S):
            await host.closed.wait()


async def test_a_host_that_stops_in_its_body_is_cut_and_the_answer_stays_incomplete() -> None:
    async with serving(saying(ok(b"x" * 10)[:-5])) as host:
        world = World(http_rule(host.port), limits=_IMPATIENT)
        raw = await world.raw(request(host.port))
    assert raw.endswith(b"xxxxx")
    assert world.record.verdict in {EgressVerdict.UNREACHABLE, EgressVerdict.LIMIT}


async def test_a_tool_that_stops_reading_does_not_hold_the_host_for_ever() -> None:
    async with serving(endless) as host:
        world = World(http_rule(host.port), limits=_IMPATIENT)
        tool = Tool(world.session)
        tool.send(request(host.port))
        await tool.until(b"200 OK")
        tool.reading.clear()
        async with asyncio.timeout(WITHIN_S):
            await host.closed.wait()
        await tool.serving
    assert world.record.verdict is EgressVerdict.LIMIT


async def test_an_endless_body_is_cut_at_the_calls_limit_and_the_call_stays_shut() -> None:
    limits = EgressLimits(total_bytes=300_000, linger_s=0.01)
    async with serving(endless) as host:
        world = World(http_rule(host.port), EgressRule(EgressKind.TCP, NAME, host.port, listen=5432), limits=limits)
        raw = await world.raw(request(host.port))
        assert 300_000 - 70_000 < len(raw) < 300_000 + 70_000
        assert not raw.endswith(b"0\r\n\r\n")
        again = read_answer(await world.raw(request(host.port)))
        assert (again.status, again.verdict) == (403, "LIMIT")
        assert await world.raw(b"hello", listener=5432) == b""
    assert set(world.verdicts) == {EgressVerdict.LIMIT}


async def test_an_endless_upload_is_cut_at_the_calls_limit() -> None:
    async with serving(silent) as host:
        limits = EgressLimits(total_bytes=300_000, linger_s=0.01)
        world = World(http_rule(host.port, methods=("POST",)), limits=limits)
        head = f"POST http://{NAME}:{host.port}/ HTTP/1.1\r\nHost: {NAME}:{host.port}\r\nTransfer-Encoding: chunked\r\n\r\n"
        raw = await world.raw(head.encode() + b"10000\r\n" + bytes(65536) + b"\r\n" + b"ffffff\r\n" + bytes(2**20))
    assert read_answer(raw).verdict == "LIMIT"
    assert world.record.sent_bytes < 400_000


class Counted:
    """A pattern that counts the bytes it is let loose on."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self._pattern = pattern
        self.looked_at = 0

    def search(self, data: bytes | bytearray, start: int = 0, end: int | None = None) -> re.Match[bytes] | None:
        end = len(data) if end is None else end
        self.looked_at += max(end - start, 0)
        return self._pattern.search(data, start, end)


async def test_a_head_byte_by_byte_costs_no_more_than_a_few_looks_at_each_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    bare, end = Counted(head._BARE), Counted(head._END)  # nothing else shows the work
    monkeypatch.setattr(head, "_BARE", bare)
    monkeypatch.setattr(head, "_END", end)
    text = f"GET http://other.example/ HTTP/1.1\r\nHost: other.example\r\nX: {'a' * 20_000}\r\n\r\n".encode()
    answer = read_answer(await World(http_rule(80)).raw(text, piece=1))
    assert answer.verdict == "NOT_LISTED"
    assert 0 < bare.looked_at < 4 * len(text)
    assert 0 < end.looked_at < 5 * len(text)


async def test_tiny_chunks_either_way_are_passed_on_together(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    write = Upstream.write

    async def counting(self: Upstream, data: bytes) -> None:
        writes.append(len(data))
        await write(self, data)

    monkeypatch.setattr(Upstream, "write", counting)
    body = b"1\r\nA\r\n" * 5_000
    async with serving(uploaded) as host:
        world = World(http_rule(host.port, methods=("POST",)))
        top = f"POST http://{NAME}:{host.port}/ HTTP/1.1\r\nHost: {NAME}:{host.port}\r\nTransfer-Encoding: chunked\r\n\r\n"
        raw = await world.raw(top.encode() + body + b"0\r\n\r\n")
        assert b"A" * 5_000 in host.requests[1]
    assert read_answer(raw).body == b"B" * 5_000
    assert raw.count(b"\r\nB") < 50
    assert len(writes) < 10


async def test_work_that_never_waits_lets_others_have_their_turn() -> None:
    had = 0

    async def other() -> None:
        nonlocal had
        while True:
            had += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    turns = Turns()
    for _ in range(6_400):
        await turns.step()
    task.cancel()
    assert had >= 99


async def test_more_connections_than_allowed_are_refused_and_free_ones_are_used_again() -> None:
    async with serving(silent) as host:
        rules = (http_rule(host.port), EgressRule(EgressKind.TCP, NAME, host.port, listen=5432))
        world = World(*rules, limits=EgressLimits(connections=3, linger_s=0.01))
        tools = [Tool(world.session) for _ in range(3)]
        for tool in tools:
            tool.send(request(host.port))
        await host.asked(3)
        assert read_answer(await world.raw(request(host.port))).verdict == "LIMIT"
        assert await world.raw(b"hello", listener=5432) == b""
        assert host.connections == 3
        tools[0].serving.cancel()
        await asyncio.gather(tools[0].serving, return_exceptions=True)
        again = Tool(world.session)
        again.send(request(host.port))
        await host.asked(4)
        for tool in (*tools, again):
            tool.serving.cancel()
        await asyncio.gather(*(tool.serving for tool in (*tools, again)), return_exceptions=True)


@pytest.mark.parametrize("listener", [3128, 5432])
async def test_at_the_runs_end_the_host_is_cut_at_once_and_the_bytes_are_counted(listener: int) -> None:
    async with serving(endless) as host:
        world = World(http_rule(host.port), EgressRule(EgressKind.TCP, NAME, host.port, listen=5432))
        tool = Tool(world.session, listener)
        tool.send(request(host.port))
        await tool.until(bytes(1_000))
        assert world.record.received_bytes == len(tool.got)
        tool.serving.cancel()
        await asyncio.gather(tool.serving, return_exceptions=True)
        async with asyncio.timeout(WITHIN_S):
            await host.closed.wait()
    assert tool.serving.cancelled()
    assert (world.record.verdict, world.record.received_bytes) == (EgressVerdict.ALLOWED, len(tool.got))
    assert world.record.sent_bytes == len(request(host.port))


async def test_a_flood_of_unlisted_hosts_cannot_push_out_what_was_done_with_a_listed_one() -> None:
    world = World(http_rule(80), names={NAME: [("10.0.0.1",)]})
    for number in range(200):
        await world.raw(f"GET http://h{number}.example/ HTTP/1.1\r\nHost: h{number}.example\r\n\r\n".encode())
    await world.ask(f"http://{NAME}/")
    rows = world.session.records()
    assert len(rows) == 64
    assert (rows[0].host, rows[0].verdict, rows[0].listed) == (NAME, EgressVerdict.ADDRESS_REFUSED, True)
    assert sum(row.count for row in rows) == 201
    assert next(row for row in rows if not row.host).count > 100


async def test_a_connection_that_says_nothing_leaves_no_record() -> None:
    world = World(http_rule(80))
    tool = Tool(world.session)
    tool.close()
    assert await tool.all() == b""
    assert world.session.records() == ()


async def test_an_idle_tool_is_let_go() -> None:
    world = World(http_rule(80), limits=_IMPATIENT)
    assert await Tool(world.session).all() == b""
    assert world.session.records() == ()


async def test_a_host_that_takes_no_connection_is_given_up() -> None:
    async with serving(silent) as host:
        port = host.port
    world = World(http_rule(port))
    answer = await world.ask(f"http://{NAME}:{port}/")
    assert (answer.status, answer.verdict) == (502, "UNREACHABLE")


async def test_a_second_address_is_tried_where_the_first_is_dead() -> None:
    async with serving(saying(ok())) as host:
        world = World(http_rule(host.port), names={NAME: [("127.0.0.2", "127.0.0.1")]}, networks=("127.0.0.0/8",))
        assert (await world.ask(f"http://{NAME}:{host.port}/")).status == 200
