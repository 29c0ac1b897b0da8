"""http.request: what is shown is sent, once, and each end of it is told as what it is."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from broker.domain.headers import RESERVED
from broker.sandbox.engine import PROXY_PORT
from tests.egress_support import NAME, World, http_rule, ok, saying, serving
from tests.http_service import DRIP, HANG, HOST, answer, service
from tests.outside_steps import Effect, Ran, program, run_step

CALL: dict[str, Any] = {
    "request": {
        "method": "POST",
        "url": f"http://{HOST}/prices?shop=1",
        "headers": {"Content-Type": "application/json", "X-Note": "two  words"},
        "body": '{"item": "tea",\n "cents": 260, "note": "größe"}',
    },
    "compensate": {"method": "DELETE", "url": f"http://{HOST}:8080/prices/tea"},
}
OBSERVED = CALL | {"observe": {"url": f"http://{HOST}/prices/tea"}}
GONE = answer("404 Not Found", b"no tea\n")
TEXT = f"""POST http://{HOST}/prices?shop=1 HTTP/1.1
Host: {HOST}
Content-Type: application/json
X-Note: two  words
Accept-Encoding: identity
Content-Length: 49
Connection: close

{{"item": "tea",
 "cents": 260, "note": "größe"}}"""
BACK = f"""DELETE http://{HOST}:8080/prices/tea HTTP/1.1
Host: {HOST}:8080
Accept-Encoding: identity
Connection: close

"""


def wire(text: str) -> bytes:
    head, _, body = text.partition("\n\n")
    return (head + "\n\n").replace("\n", "\r\n").encode() + body.encode()


def test_a_request_is_shown_then_sent_and_taken_back() -> None:
    with service([answer("201 Created", b'{"id": 7}')]) as shop:
        effect = shop.plan(CALL)
        assert effect == Effect({}, {"request": TEXT, "compensation": BACK})
        assert shop.requests == []
        done = shop.step("apply", CALL, effect)
        assert (done.code, done.out, done.err) == (0, '201 Created {"id": 7}\n', "")
        assert shop.requests == [wire(TEXT)]
        undone = shop.step("undo", {}, effect.back, origin=CALL)
        assert (undone.code, undone.out) == (0, "200 OK fine\n")
        assert shop.requests == [wire(TEXT), wire(BACK)]


def test_what_is_observed_is_shown_and_has_to_be_so_when_it_is_sent() -> None:
    with service([GONE, GONE, answer("204 No Content", b""), GONE]) as shop:
        effect = shop.plan(OBSERVED)
        digest = hashlib.sha256(b"no tea\n").hexdigest()
        assert (
            effect.after["observed"]
            == f"GET http://{HOST}/prices/tea\nstatus 404\nsha256 {digest}\nbytes 7\n\nno tea\n"
        )
        assert effect.after.keys() == {"request", "compensation", "observed"}
        assert [request.partition(b" ")[0] for request in shop.requests] == [b"GET"]
        assert shop.step("apply", OBSERVED, effect).code == 0
        assert [request.partition(b" ")[0] for request in shop.requests] == [b"GET", b"GET", b"POST"]
        shop.answers = [answer("200 OK", b"tea 260")]
        moved = shop.step("apply", OBSERVED, effect)
        assert moved.code == 5
        assert moved.err.startswith("STATE_MOVED: observed: ")
        assert [request.partition(b" ")[0] for request in shop.requests] == [b"GET", b"GET", b"POST", b"GET"]


def test_a_service_that_is_as_before_can_be_told_and_nothing_else_can() -> None:
    with service([GONE]) as shop:
        effect = shop.plan(OBSERVED)
        for side in (effect, effect.back):
            shop.answers = [GONE, answer("200 OK", b"tea 260"), b""]
            same = shop.step("verify", OBSERVED, side)
            assert (same.code, same.items("now")) == (0, {})
            assert shop.step("verify", OBSERVED, side).code == 4
            assert shop.step("verify", OBSERVED, side).code == 4
        assert shop.step("verify", CALL, shop.plan(CALL)).code == 4


@pytest.mark.parametrize(
    ("expect", "is_so"),
    [
        ({}, True),
        ({"status": 404}, True),
        ({"status": 404, "sha256": hashlib.sha256(b"no tea\n").hexdigest()}, True),
        ({"status": 200}, False),
        ({"sha256": hashlib.sha256(b"tea").hexdigest()}, False),
        ({"status": 40}, False),
    ],
)
def test_a_caller_may_say_what_it_expects(expect: dict[str, Any], is_so: bool) -> None:  # noqa: FBT001 - a parameter
    with service([GONE]) as shop:
        ran = shop.step("plan", CALL | {"observe": {"url": f"http://{HOST}/prices/tea", "expect": expect}})
        assert ran.reason == "NOT_AS_EXPECTED" if not is_so else ran.code == 0
        assert bool(ran.items("after")) is is_so


ENDS = {
    "200": (answer(), 0, ""),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 0, ""),
    "a body without a length": (b"HTTP/1.1 200 OK\r\n\r\nfine", 0, ""),
    "a body in chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n", 0, ""),
    "100 first": (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(), 0, ""),
    "a long body": (answer(body=b"x" * 2 * 2**20), 0, ""),
    "400": (answer("400 Bad Request"), 3, "HTTP_REFUSED"),
    "409": (answer("409 Conflict", b"the tea\x1b[2J is sold\r\n"), 3, "HTTP_REFUSED"),
    "301": (answer("301 Moved Permanently", b"", "Location: http://other.example/"), 6, "OUTCOME_UNKNOWN"),
    "303": (answer("303 See Other", b"", f"Location: http://{HOST}/done"), 6, "OUTCOME_UNKNOWN"),
    "307": (answer("307 Temporary Redirect", b"", "Location: /"), 6, "OUTCOME_UNKNOWN"),
    "500": (answer("500 Internal Server Error"), 6, "OUTCOME_UNKNOWN"),
    "503": (answer("503 Service Unavailable", b"", "Retry-After: 0"), 6, "OUTCOME_UNKNOWN"),
    "102 alone": (b"HTTP/1.1 102 Processing\r\n\r\n", 6, "OUTCOME_UNKNOWN"),
    "no answer": (b"", 6, "OUTCOME_UNKNOWN"),
    "half a status": (b"HTTP/1.", 6, "OUTCOME_UNKNOWN"),
    "half a body": (answer(body=b"x" * 100)[:-1], 6, "OUTCOME_UNKNOWN"),
    "half a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfi", 6, "OUTCOME_UNKNOWN"),
    "no HTTP": (b"tea is sold\r\n\r\n", 6, "OUTCOME_UNKNOWN"),
    "a status that is none": (b"HTTP/1.1 abc OK\r\n\r\n", 6, "OUTCOME_UNKNOWN"),
    "endless headers": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", 6, "OUTCOME_UNKNOWN"),
    "a verdict before it was sent": (answer("403 Forbidden", b"", "Broker-Verdict: NOT_LISTED"), 3, "EGRESS_REFUSED"),
    "a verdict on the request": (answer("400 Bad Request", b"", "Broker-Verdict: MALFORMED"), 3, "EGRESS_REFUSED"),
    "a verdict on the answer": (answer("502 Bad Gateway", b"", "Broker-Verdict: MALFORMED"), 6, "OUTCOME_UNKNOWN"),
    "a verdict on an echo": (answer("502 Bad Gateway", b"", "Broker-Verdict: SECRET_ECHOED"), 6, "OUTCOME_UNKNOWN"),
    "a bound": (answer("403 Forbidden", b"", "Broker-Verdict: LIMIT"), 6, "OUTCOME_UNKNOWN"),
    "a verdict nobody knows": (answer("200 OK", b"", "Broker-Verdict: NEW"), 6, "OUTCOME_UNKNOWN"),
}


@pytest.mark.parametrize(("said", "code", "reason"), ENDS.values(), ids=ENDS.keys())
def test_every_end_is_told_as_what_it_is_and_nothing_is_sent_twice(said: bytes, code: int, reason: str) -> None:
    with service() as shop:
        effect = shop.plan(CALL)
        for step, side in (("apply", effect), ("undo", effect.back)):
            shop.answers, shop.requests = [said], []
            ran = shop.step(step, CALL, side)
            assert (ran.code, ran.err.partition(":")[0]) == (code, reason), ran
            assert len(shop.requests) == 1
            lines = (ran.out + ran.err).splitlines()
            assert len(lines) == 1
            assert lines[0].isprintable()
            assert len(lines[0]) < 5000


@pytest.mark.parametrize("said", [HANG, DRIP])
def test_an_answer_that_takes_too_long(said: bytes, tmp_path: Path) -> None:
    hasty = tmp_path / "http_request.py"
    source = program("http_request.py").read_text("utf-8")
    hasty.write_text(source.replace("EXCHANGE_S = 45\n", "EXCHANGE_S = 1\n"), "utf-8")
    assert hasty.read_text("utf-8") != source
    with service() as shop:
        effect = shop.plan(CALL)
        shop.answers = [said]
        ran = shop.step("apply", CALL, effect, script=hasty)
        assert (ran.code, ran.err.partition(":")[0]) == (6, "OUTCOME_UNKNOWN")
        assert len(shop.requests) == 1


def test_without_a_way_out_nothing_was_sent() -> None:
    with service() as shop:
        effect = shop.plan(CALL)
    assert shop.step("apply", CALL, effect).reason == "PROXY_UNREACHABLE"
    assert run_step("http_request.py", "apply", CALL, effect=effect).reason == "PROXY_UNREACHABLE"


@pytest.mark.parametrize(
    "said",
    [
        *(b"", answer("500 Oops"), answer("302 Found", b"", "Location: /"), answer(body=b"x" * (2**20 + 1))),
        *(answer(body=b"x" * 9)[:-1], answer("403 Forbidden", b"", "Broker-Verdict: NOT_LISTED")),
    ],
)
def test_what_cant_be_observed_is_neither_planned_nor_sent(said: bytes) -> None:
    with service([said, GONE, said]) as shop:
        assert shop.step("plan", OBSERVED).reason == "OBSERVE_FAILED"
        effect = shop.plan(OBSERVED)
        assert shop.step("apply", OBSERVED, effect).reason == "OBSERVE_FAILED"
        assert [request.partition(b" ")[0] for request in shop.requests] == [b"GET"] * 3


@pytest.mark.parametrize("body", [b"\xff\xfe", b"a\x00b", b"\x1b[2J", b"x" * 2**16])
def test_an_observed_body_that_isnt_shown_is_compared_all_the_same(body: bytes) -> None:
    with service([answer(body=body), answer(body=body), answer(), answer(body=body + b"!")]) as shop:
        effect = shop.plan(OBSERVED)
        assert effect.after["observed"].endswith(f"bytes {len(body)}\n\n")
        assert shop.step("apply", OBSERVED, effect).code == 0
        assert shop.step("apply", OBSERVED, effect).code == 5


def test_headers_that_the_broker_drops_are_all_refused() -> None:
    for name in RESERVED:
        with service() as shop:
            wrong = CALL | {"request": CALL["request"] | {"headers": {name.title().replace("-", "_"): "x"}}}
            assert shop.step("plan", wrong).reason == "ARGUMENTS_REFUSED"


async def through_the_broker(world: World, call: dict[str, Any], effect: Effect) -> Ran:
    """Applies with the broker's own proxy as the way out."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        class Stream:
            async def read(self) -> bytes:
                return await reader.read(65536)

            async def write(self, data: bytes) -> None:
                writer.write(data)
                await writer.drain()

            async def end(self) -> None:
                writer.write_eof()

        await world.session.serve(PROXY_PORT, Stream())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        way_out = {"http_proxy": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}
        return await asyncio.to_thread(run_step, "http_request.py", "apply", call, effect=effect, environment=way_out)


def call_to(port: int) -> tuple[dict[str, Any], Effect]:
    one = {"url": f"http://{NAME}:{port}/prices", "headers": {"X-Note": "tea"}, "body": "tea=260"}
    call = {"request": one, "compensate": one}
    with service() as shop:
        return call, shop.plan(call)


async def test_through_the_brokers_own_way_out() -> None:
    async with serving(saying(ok(b"sold"))) as host:
        call, effect = call_to(host.port)
        ran = await through_the_broker(World(http_rule(host.port, methods=("POST",))), call, effect)
        assert (ran.code, ran.out) == (0, "200 OK sold\n")
        assert host.requests[0].startswith(b"POST /prices HTTP/1.1\r\n")
        assert b"\r\nx-note: tea\r\n" in host.requests[0].lower()
        assert (await through_the_broker(World(http_rule(host.port)), call, effect)).reason == "EGRESS_REFUSED"
        hidden = World(http_rule(host.port, methods=("POST",)), networks=())
        assert (await through_the_broker(hidden, call, effect)).reason == "EGRESS_REFUSED"
        assert len(host.requests) == 1
    gone = await through_the_broker(World(http_rule(host.port, methods=("POST",))), call, effect)
    assert gone.code == 6
