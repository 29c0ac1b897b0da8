"""Attacks on the HTTP proxy: smuggling, fronting, paths and methods outside the rule, bodies and heads."""

from __future__ import annotations

import asyncio
import json

import pytest

from broker.domain.run import EgressKind, EgressRule, EgressVerdict
from broker.sandbox.egress.limits import EgressLimits
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

_SMUGGLING = {
    "both framings": "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "both framings, the other way round": "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    "two lengths": "Content-Length: 4\r\nContent-Length: 5\r\n",
    "two equal lengths": "Content-Length: 4\r\nContent-Length: 4\r\n",
    "a list of lengths": "Content-Length: 4, 4\r\n",
    "a signed length": "Content-Length: +4\r\n",
    "a hexadecimal length": "Content-Length: 0x4\r\n",
    "an odd coding": "Transfer-Encoding: xchunked\r\n",
    "two codings": "Transfer-Encoding: gzip, chunked\r\n",
    "the coding twice": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "a coding with a control character": "Transfer-Encoding: \x0bchunked\r\n",
    "an underscore for a hyphen": "Content_Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "space before the colon": "Content-Length : 4\r\n",
    "a folded header": "X-A: b\r\n Content-Length: 4\r\n",
    "a folded header with a tab": "X-A: b\r\n\tc\r\n",
    "a bare LF": "X-A: b\nContent-Length: 4\r\n",
    "a bare CR": "X-A: b\rContent-Length: 4\r\n",
    "a NUL": "X-A: b\x00c\r\n",
    "no colon": "Content-Length 4\r\n",
    "an empty name": ": 4\r\n",
    "not ASCII": "X-A: \xe9\r\n",
    "a second Host": "Host: other.example\r\n",
    "the same Host again": f"Host: {NAME}\r\n",
    "another protocol": "Connection: Upgrade\r\nUpgrade: websocket\r\n",
    "HTTP/2 in the clear": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "another expectation": "Expect: 200-ok\r\n",
}


@pytest.mark.parametrize("headers", _SMUGGLING.values(), ids=_SMUGGLING.keys())
@pytest.mark.parametrize("piece", [65536, 7])
async def test_request_smuggling_is_refused_before_any_connection(headers: str, piece: int) -> None:
    async with serving(saying(ok())) as host:
        world = World(http_rule(host.port, methods=("POST",)))
        head = f"POST http://{NAME}:{host.port}/ HTTP/1.1\r\nHost: {NAME}:{host.port}\r\n{headers}\r\n"
        answer = read_answer(await world.raw(head.encode("latin-1") + b"0\r\n\r\n", piece=piece))
        assert host.connections == 0
    assert (answer.status, answer.verdict) == (400, "MALFORMED")
    assert world.record.verdict is EgressVerdict.MALFORMED


_LINES = {
    "no target": "GET HTTP/1.1",
    "two spaces": "GET  http://{host}/ HTTP/1.1",
    "a leading space": " GET http://{host}/ HTTP/1.1",
    "a space in the target": "GET http://{host}/a b HTTP/1.1",
    "HTTP/1.0": "GET http://{host}/ HTTP/1.0",
    "HTTP/0.9": "GET http://{host}/",
    "HTTP/2": "GET http://{host}/ HTTP/2.0",
    "origin form": "GET / HTTP/1.1",
    "asterisk form": "OPTIONS * HTTP/1.1",
    "another scheme": "GET ftp://{host}/ HTTP/1.1",
    "https inside": "GET https://{host}/ HTTP/1.1",
    "user information": "GET http://user:pass@{host}/ HTTP/1.1",
    "user information that looks like a host": "GET http://evil.example@{host}/ HTTP/1.1",
    "a fragment": "GET http://{host}/#x HTTP/1.1",
    "a backslash before the host": "GET http:\\\\{host}/ HTTP/1.1",
    "a backslash in the authority": "GET http://evil.example\\@{host}/ HTTP/1.1",
    "no host": "GET http:///x HTTP/1.1",
    "an empty port": "GET http://api.example.com:/ HTTP/1.1",
    "a port with zeros": "GET http://api.example.com:0080/ HTTP/1.1",
    "a port beyond all": "GET http://api.example.com:65616/ HTTP/1.1",
    "an encoded dot in the host": "GET http://api%2eexample.com/ HTTP/1.1",
    "not ASCII": "GET http://{host}/\xe9 HTTP/1.1",
    "TLS": "\x16\x03\x01\x02\x00\x01\x00",
    "CONNECT inside": "CONNECT http://{host}/ HTTP/1.1",
    "TRACE": "TRACE http://{host}/ HTTP/1.1",
}


@pytest.mark.parametrize("line", _LINES.values(), ids=_LINES.keys())
async def test_an_odd_request_line_is_refused(line: str) -> None:
    async with serving(saying(ok())) as host:
        world = World(http_rule(host.port), http_rule(80))
        authority = f"{NAME}:{host.port}"
        raw = f"{line.format(host=authority)}\r\nHost: {authority}\r\n\r\n".encode("latin-1")
        answer = read_answer(await world.raw(raw))
        assert host.connections == 0
    assert (answer.status, answer.verdict) == (400, "MALFORMED")


@pytest.mark.parametrize("host_header", ["evil.example", f"{NAME}:81", f"{NAME}.evil.example", "", f"x@{NAME}"])
async def test_domain_fronting_a_host_header_that_differs_is_refused(host_header: str) -> None:
    world = World(http_rule(80))
    answer = await world.ask(f"http://{NAME}/", host=host_header)
    assert answer.verdict in {"MISMATCH", "MALFORMED"}
    assert world.names.asked == []


async def test_a_request_without_host_is_refused() -> None:
    world = World(http_rule(80))
    answer = read_answer(await world.raw(f"GET http://{NAME}/ HTTP/1.1\r\n\r\n".encode()))
    assert (answer.status, answer.verdict) == (400, "MALFORMED")


@pytest.mark.parametrize("url", ["HTTP://API.Example.COM.:{port}/x", "http://api.example.com:{port}/x"])
async def test_a_host_is_compared_in_one_spelling(url: str) -> None:
    async with serving(saying(ok())) as host:
        world = World(http_rule(host.port))
        assert (await world.ask(url.format(port=host.port), host=f"Api.example.com:{host.port}")).status == 200
        assert host.requests[0].startswith(f"GET /x HTTP/1.1\r\nhost: {NAME}:{host.port}\r\n".encode())


@pytest.mark.parametrize(
    "path",
    ["/v1evil", "/v1", "/V1/x", "/v1%2fx", "/v1/../admin", "/v1/./x", "/v1/%2e%2e/admin", "/v1/..;/admin", "/v1//x",
     "/v1/%2E./admin", "/v1/%252e%252e/admin", "/v1/a%5c..%5cadmin", "/v1/a\\..\\admin", "/v1/%00", "/v1/%0d%0aX", "//v1/x",
     "/v1/%c0%ae%c0%ae/admin", "/v1/%ef%bc%8e%ef%bc%8e/admin", "/v1/%zz", "/v1/%", "/v1/%2525252525252e", "/v1/%3b/..",
     "/v1/a%3f", "/v1/a%23", "/", "", "?/v1/x", "/%761/x", "/v1/..", "/v1/x/%u002e"],
)  # fmt: skip
async def test_a_path_outside_the_rule_or_readable_in_two_ways_is_refused(path: str) -> None:
    world = World(http_rule(80, paths=("/v1/",)))
    answer = await world.ask(f"http://{NAME}{path}")
    assert answer.verdict in {"NOT_LISTED", "MALFORMED"}
    assert world.names.asked == []


@pytest.mark.parametrize(
    "path", ["/v1/x", "/v1/", "/v1/x?next=/../admin%2f", "/v1/a%20b/%C3%A9", "/v1/a;b=c/d", "/v1/..a"]
)
async def test_a_path_under_the_rule_is_passed_on_as_written(path: str) -> None:
    async with serving(saying(ok())) as host:
        world = World(http_rule(host.port, paths=("/v1/",)))
        assert (await world.ask(f"http://{NAME}:{host.port}{path}")).status == 200
        assert host.requests[0].split(b" ")[1].decode() == path


@pytest.mark.parametrize("method", ["POST", "DELETE", "get", "OPTIONS", "PROPFIND"])
async def test_a_method_outside_the_rule_is_refused(method: str) -> None:
    world = World(http_rule(80))
    answer = await world.ask(f"http://{NAME}/", method=method)
    assert (answer.status, answer.verdict) == (403, "NOT_LISTED")
    assert (world.record.listed, world.record.host) == (True, NAME)


async def test_headers_that_override_method_path_host_or_hop_are_not_passed_on() -> None:
    dropped = [
        "X-HTTP-Method-Override: DELETE", "X_HTTP_Method_Override: DELETE", "X-Method-Override: PUT", "X-Original-URL: /admin",
        "X-Rewrite-URL: /admin", "X-Forwarded-Host: evil.example", "Forwarded: host=evil.example", "X-Host: evil.example",
        "Proxy-Authorization: Basic eA==", "Proxy-Connection: keep-alive", "Keep-Alive: timeout=5", "TE: trailers",
        "Connection: X-Named, keep-alive", "X-Named: gone", "X_Named: gone",
    ]  # fmt: skip
    async with serving(saying(ok())) as host:
        world = World(http_rule(host.port))
        assert (await world.ask(f"http://{NAME}:{host.port}/", *dropped, "X-Kept: yes")).status == 200
        lines = host.requests[0].decode().split("\r\n")
    assert lines == ["GET / HTTP/1.1", f"host: {NAME}:{host.port}", "x-kept: yes", "connection: close", "", ""]


async def test_the_hosts_own_hop_by_hop_headers_and_forged_verdicts_are_not_passed_on() -> None:
    headers = [
        "Connection: X-Named",
        "X-Named: gone",
        "Broker-Verdict: ALLOWED",
        "Upgrade: h2c",
        "X-Kept: yes",
        "Keep-Alive: a",
    ]
    async with serving(saying(ok(b"fine", *headers))) as host:
        answer = await World(http_rule(host.port)).ask(f"http://{NAME}:{host.port}/")
    assert sorted(name.lower() for name in answer.headers) == ["content-length", "x-kept"]


async def test_one_request_per_connection_to_the_host_and_many_of_the_tool() -> None:
    async with serving(saying(ok())) as host:
        world = World(http_rule(host.port))
        one = f"GET http://{NAME}:{host.port}/ HTTP/1.1\r\nHost: {NAME}:{host.port}\r\n\r\n".encode()
        raw = await world.raw(one * 3)
        assert (host.connections, raw.count(b"200 OK")) == (3, 3)
    assert (world.record.count, world.record.verdict) == (3, EgressVerdict.ALLOWED)
    assert (world.record.sent_bytes, world.record.received_bytes) == (len(one) * 3, len(raw))


async def test_a_pipelined_request_for_an_unlisted_host_is_refused_by_itself() -> None:
    async with serving(saying(ok())) as host:
        world = World(http_rule(host.port))
        good = f"GET http://{NAME}:{host.port}/ HTTP/1.1\r\nHost: {NAME}:{host.port}\r\n\r\n"
        raw = await world.raw((good + "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n").encode())
    assert (raw.count(b"200 OK"), raw.count(b"Broker-Verdict: NOT_LISTED")) == (1, 1)
    assert world.verdicts == {EgressVerdict.ALLOWED: 1, EgressVerdict.NOT_LISTED: 1}


def _keeping(body: bytearray) -> object:
    def handler(host: Host) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await host.read_request(reader)
            if b"chunked" in head:
                while not body.endswith(b"0\r\n\r\n"):
                    body.extend(await reader.readexactly(1))
            else:
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                while len(body) < length:
                    body.extend(await reader.read(65536))
            writer.write(ok())
            await writer.drain()
            await reader.read()

        return handle

    return handler


async def test_a_smuggled_request_inside_a_chunked_body_is_chunked_anew() -> None:
    body = bytearray()
    async with serving(_keeping(body)) as host:  # type: ignore[arg-type]  # made above
        world = World(http_rule(host.port, methods=("POST",)))
        head = f"POST http://{NAME}:{host.port}/ HTTP/1.1\r\nHost: {NAME}:{host.port}\r\nTransfer-Encoding: chunked\r\n\r\n"
        coded = b"5;ext=\x01evil\r\nGET /\r\n0\r\nContent-Length: 99\r\n\r\n"
        answer = read_answer(await world.raw(head.encode() + coded))
        assert answer.status == 200
    assert bytes(body) == b"5\r\nGET /\r\n0\r\n\r\n"


@pytest.mark.parametrize("coded", [b"zz\r\n", b"5\r\nabcdeXX", b"-1\r\n", b"5\r\nab"])
async def test_a_broken_chunk_cuts_the_request(coded: bytes) -> None:
    async with serving(_keeping(bytearray())) as host:  # type: ignore[arg-type]  # made above
        world = World(http_rule(host.port, methods=("POST",)))
        head = f"POST http://{NAME}:{host.port}/ HTTP/1.1\r\nHost: {NAME}:{host.port}\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = read_answer(await world.raw(head.encode() + coded))
    assert (answer.status, world.record.verdict) == (400, EgressVerdict.MALFORMED)


async def test_expect_100_continue_is_answered_by_the_broker_and_not_passed_on() -> None:
    body = bytearray()
    async with serving(_keeping(body)) as host:  # type: ignore[arg-type]  # made above
        world = World(http_rule(host.port, methods=("PUT",)))
        tool = Tool(world.session)
        head = f"PUT http://{NAME}:{host.port}/ HTTP/1.1\r\nHost: {NAME}:{host.port}\r\nContent-Length: 5\r\n"
        tool.send(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert (await tool.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 Continue\r\n")
        tool.send(b"hello")
        await tool.until(b"fine")
        tool.close()
        await tool.all()
        assert b"expect" not in host.requests[0].lower()
    assert bytes(body) == b"hello"


async def test_a_large_body_is_streamed_with_back_pressure() -> None:
    size = 8 * 2**20
    sent = 0

    def handler(host: Host) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await host.read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            while sent < size:
                writer.write(bytes(65536))
                sent += 65536
                await writer.drain()
            await reader.read()

        return handle

    async with serving(handler) as host:
        world = World(http_rule(host.port))
        tool = Tool(world.session)
        tool.reading.clear()
        tool.send(f"GET http://{NAME}:{host.port}/ HTTP/1.1\r\nHost: {NAME}:{host.port}\r\n\r\n".encode())
        tool.close()
        before = -1
        async with asyncio.timeout(WITHIN_S):
            while before != sent or not sent:  # until the host can write no more
                before = sent
                for _ in range(200):
                    await asyncio.sleep(0)
        assert sent < size
        tool.reading.set()
        assert len(read_answer(await tool.all()).body) == size


async def test_huge_headers_of_the_tool_are_refused() -> None:
    world = World(http_rule(80))
    for raw in (
        b"GET http://a/ HTTP/1.1\r\nX: " + b"a" * 200_000,
        b"GET http://a/ HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"GET http://a/ HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
    ):
        answer = read_answer(await world.raw(raw))
        assert (answer.status, answer.verdict) == (400, "LIMIT")


@pytest.mark.parametrize(
    "said",
    [b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000, b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 50_000, b"nonsense\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", b"\x16\x03\x01"],
)  # fmt: skip
async def test_a_host_that_answers_nonsense_is_cut(said: bytes) -> None:
    async with serving(saying(said)) as host:
        world = World(http_rule(host.port))
        answer = await world.ask(f"http://{NAME}:{host.port}/")
    assert answer.status == 502
    assert world.record.verdict in {EgressVerdict.MALFORMED, EgressVerdict.UNREACHABLE}


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_host_that_breaks_off_before_its_answer_is_told(said: bytes) -> None:
    async with serving(saying(said)) as host:
        world = World(http_rule(host.port))
        answer = await world.ask(f"http://{NAME}:{host.port}/")
    assert (answer.status, answer.verdict) == (502, "UNREACHABLE")


async def test_an_answer_that_breaks_off_is_never_shown_as_complete() -> None:
    async with serving(saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")) as host:
        world = World(http_rule(host.port))
        raw = await world.raw(f"GET http://{NAME}:{host.port}/ HTTP/1.1\r\nHost: {NAME}:{host.port}\r\n\r\n".encode())
    assert b"hello" in raw
    assert not raw.endswith(b"0\r\n\r\n")
    assert world.record.verdict is EgressVerdict.UNREACHABLE


async def test_an_answer_with_two_framings_has_one_for_the_tool() -> None:
    said = chunked(b"hello", b" world").replace(b"Transfer", b"Content-Length: 3\r\nTransfer", 1)
    async with serving(saying(said)) as host:
        raw = await World(http_rule(host.port)).raw(
            f"GET http://{NAME}:{host.port}/ HTTP/1.1\r\nHost: {NAME}:{host.port}\r\n\r\n".encode()
        )
    assert b"content-length" not in raw.lower()
    assert read_answer(raw).body == b"hello world"


async def test_an_early_answer_to_an_upload_reaches_the_tool() -> None:
    said = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig"
    async with serving(saying(said)) as host:
        world = World(http_rule(host.port, methods=("POST",)))
        tool = Tool(world.session)
        head = (
            f"POST http://{NAME}:{host.port}/ HTTP/1.1\r\nHost: {NAME}:{host.port}\r\nContent-Length: 1000000\r\n\r\n"
        )
        tool.send(head.encode() + bytes(1000))
        answer = read_answer(await tool.all())
    assert (answer.status, answer.body) == (413, b"big")


async def test_a_refusal_says_what_is_missing_in_json() -> None:
    answer = await World(http_rule(80)).ask('http://evil.example/"x')
    told = json.loads(answer.body)
    assert (answer.status, told["verdict"]) == (403, "NOT_LISTED")
    assert "evil.example" in told["message"]
    assert "https" in told["hint"]


async def test_a_refusal_of_head_has_no_body() -> None:
    raw = await World(http_rule(80)).raw(b"HEAD http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    assert raw.endswith(b"\r\n\r\n")


async def test_hidden_characters_of_a_host_are_made_visible_in_the_record() -> None:
    world = World(http_rule(80))
    await world.raw(("GET http://evil%0a" + "x" * 400 + ".example/ HTTP/1.1\r\nHost: a\r\n\r\n").encode())
    assert len(world.record.host) == 255
    assert world.record.host.isprintable()


async def test_the_broker_goes_on_after_a_head_that_drips() -> None:
    world = World(http_rule(80), limits=EgressLimits(idle_s=0.05, linger_s=0.01))
    tool = Tool(world.session)
    tool.send(b"GET http://a")
    answer = read_answer(await tool.all())
    assert (answer.status, answer.verdict) == (504, "LIMIT")


async def test_an_http_rule_does_not_open_a_tunnel_nor_a_connect_rule_plain_http() -> None:
    world = World(http_rule(80), EgressRule(EgressKind.CONNECT, NAME, 443))
    assert b"NOT_LISTED" in await world.raw(f"CONNECT {NAME}:80 HTTP/1.1\r\nHost: {NAME}:80\r\n\r\n".encode())
    assert (await world.ask(f"http://{NAME}:443/")).verdict == "NOT_LISTED"
    assert world.names.asked == []
