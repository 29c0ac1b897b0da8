"""Attacks on http.request: by the arguments, by the items of a plan, and by the service."""

from __future__ import annotations

from typing import Any

import pytest

from tests.http_service import HOST, answer, service
from tests.outside_steps import Effect, run_step

ONE = {"method": "POST", "url": f"http://{HOST}/prices", "headers": {"X-Note": "tea"}, "body": "tea=260"}
CALL: dict[str, Any] = {"request": ONE, "compensate": {"method": "DELETE", "url": f"http://{HOST}/prices/tea"}}
OBSERVED = CALL | {"observe": {"url": f"http://{HOST}/prices/tea"}}

URLS = {
    "TLS inside the sandbox": f"https://{HOST}/",
    "another scheme": "file:///etc/passwd",
    "a scheme in capitals": f"HTTP://{HOST}/",
    "no scheme": f"//{HOST}/",
    "no host": "http:///x",
    "nothing": "",
    "a user": f"http://user@{HOST}/",
    "a user and a password": f"http://user:pass@{HOST}/",
    "an empty user": f"http://@{HOST}/",
    "a fragment": f"http://{HOST}/#x",
    "an empty fragment": f"http://{HOST}/#",
    "a space": f"http://{HOST}/a b",
    "a request of its own": f"http://{HOST}/ HTTP/1.1\r\nHost: other.example\r\n\r\n",
    "a line feed": f"http://{HOST}/\nX: y",
    "a line feed at its end": f"http://{HOST}/\n",
    "a tab": f"http://{HOST}/\t",
    "a backslash": f"http://{HOST}\\@other.example/",
    "a NUL": f"http://{HOST}/\x00",
    "half an escape": f"http://{HOST}/%2",
    "an escape that is none": f"http://{HOST}/%zz",
    "letters beyond ASCII": f"http://{HOST}/größe",
    "a host beyond ASCII": "http://shöp.example/",
    "a host with an escape": "http://shop%2eexample/",
    "a host in capitals": "http://SHOP.example/",
    "a port of nothing": f"http://{HOST}:/",
    "a port of nought": f"http://{HOST}:0/",
    "a port with a nought before it": f"http://{HOST}:080/",
    "a port that is too large": f"http://{HOST}:65536/",
    "a port that is none": f"http://{HOST}:80x/",
    "two ports": f"http://{HOST}:80:81/",
    "a quote": f'http://{HOST}/"',
    "too long": f"http://{HOST}/" + "x" * 2048,
    "a direction": f"http://{HOST}/\u202e",
}


@pytest.mark.parametrize("field", ["request", "compensate", "observe"])
@pytest.mark.parametrize("url", URLS.values(), ids=URLS.keys())
def test_an_address_that_could_be_read_in_two_ways(url: str, field: str) -> None:
    call = OBSERVED | {field: OBSERVED[field] | {"url": url}}
    ran = run_step("http_request.py", "plan", call)
    assert ran.reason == "ARGUMENTS_REFUSED"
    assert f"`{field}.url`" in ran.err
    assert not ran.left


HEADERS = {
    "a line of its own": {"X-A": "b\r\nX-C: d"},
    "a line feed": {"X-A": "b\nX-C: d"},
    "a carriage return": {"X-A": "b\rX-C: d"},
    "a line feed at its end": {"X-A": "b\n"},
    "a folded line": {"X-A": "b\r\n c"},
    "a NUL": {"X-A": "b\x00"},
    "letters beyond ASCII": {"X-A": "größe"},
    "a line separator": {"X-A": "a\u2028b"},
    "a value that begins with space": {"X-A": " b"},
    "a value that ends in space": {"X-A": "b "},
    "no value": {"X-A": ""},
    "a value that is no text": {"X-A": 5},
    "no name": {"": "b"},
    "a name with a colon": {"X-A:": "b"},
    "a name with a space": {"X-A ": "b"},
    "a name of two lines": {"X-A\r\nX-C": "b"},
    "a name beyond ASCII": {"X-\u00c4": "b"},
    "a Kelvin sign for a K": {"\u212aeep-alive": "b"},
    "a name twice": {"X-A": "b", "x-a": "c"},
    "a name twice, by its dash": {"X-A": "b", "X_A": "c"},
    "Host": {"Host": "other.example"},
    "Host in small letters": {"host": "other.example"},
    "Content-Length": {"Content-Length": "0"},
    "Content_Length": {"Content_Length": "0"},
    "Transfer-Encoding": {"Transfer-Encoding": "chunked"},
    "Connection": {"Connection": "keep-alive"},
    "Proxy-Authorization": {"Proxy-Authorization": "x"},
    "Proxy-Whatever": {"Proxy-Whatever": "x"},
    "Upgrade": {"Upgrade": "h2c"},
    "Expect": {"Expect": "100-continue"},
    "another method": {"X-HTTP-Method-Override": "DELETE"},
    "another host": {"X-Forwarded-Host": "other.example"},
    "the broker's own": {"Broker-Verdict": "ALLOWED"},
    "credentials": {"Authorization": "Basic x"},
    "a cookie": {"Cookie": "a=b"},
    "too long a name": {"X" * 65: "b"},
    "too long a value": {"X-A": "b" * 4097},
    "too many": {f"X-{number}": "b" for number in range(33)},
    "a list": [["X-A", "b"]],
}


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS.keys())
def test_a_header_that_frames_routes_or_splits_a_request(headers: object) -> None:
    for field in ("request", "compensate"):
        ran = run_step("http_request.py", "plan", CALL | {field: CALL[field] | {"headers": headers}})
        assert ran.reason == "ARGUMENTS_REFUSED"
        assert f"`{field}.headers`" in ran.err


@pytest.mark.parametrize(
    "body",
    ["a\x00b", "\x1b[2J", "\x7f", "\ud800", "x" * (256 * 2**10 + 1), "ß" * (128 * 2**10 + 1), 5, {"a": 1}, ["x"]],
)
def test_a_body_that_is_no_text_or_too_much(body: object) -> None:
    assert run_step("http_request.py", "plan", CALL | {"request": ONE | {"body": body}}).reason == "ARGUMENTS_REFUSED"


@pytest.mark.parametrize(
    "method", ["GET", "CONNECT", "TRACE", "post", "POST ", "POST / HTTP/1.1\r\nX: y\r\n\r\nPOST", "", None, 5]
)
def test_a_method_that_isnt_one_of_four(method: object) -> None:
    assert (
        run_step("http_request.py", "plan", CALL | {"request": ONE | {"method": method}}).reason == "ARGUMENTS_REFUSED"
    )


@pytest.mark.parametrize(
    "call", [{}, {"request": ONE}, {"compensate": ONE}, {"request": [], "compensate": ONE}, OBSERVED | {"observe": "x"}]
)
def test_a_call_without_its_parts(call: dict[str, Any]) -> None:
    assert run_step("http_request.py", "plan", call).reason == "ARGUMENTS_REFUSED"


def test_a_body_that_looks_like_a_second_request() -> None:
    body = "0\r\n\r\nDELETE http://other.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n"
    call = CALL | {"request": ONE | {"body": body}}
    with service() as shop:
        effect = shop.plan(call)
        assert effect.after["request"].endswith(f"\nContent-Length: {len(body)}\nConnection: close\n\n{body}")
        assert shop.step("apply", call, effect).code == 0
        (sent,) = shop.requests
        assert sent.partition(b"\r\n\r\n")[2] == body.encode()


def with_item(effect: Effect, name: str, text: str) -> Effect:
    return Effect(effect.before, effect.after | {name: text})


def test_items_that_people_did_not_see() -> None:
    with service([answer("404 Not Found", b"")] * 50) as shop:
        good, seen = shop.plan(CALL), shop.plan(OBSERVED)
        shop.requests.clear()
        request = good.after["request"]
        wrong = {
            "nothing": (CALL, Effect()),
            "another request": (CALL, with_item(good, "request", request.replace("260", "999"))),
            "another host": (CALL, with_item(good, "request", request.replace(HOST, "other.example"))),
            "other line ends": (CALL, with_item(good, "request", request.replace("\n", "\r\n"))),
            "a byte more": (CALL, with_item(good, "request", request + "\n")),
            "another way back": (CALL, with_item(good, "compensation", request)),
            "no way back": (CALL, Effect({}, {"request": request})),
            "an item more": (CALL, with_item(good, "more", request)),
            "an item in a folder": (CALL, with_item(good, "more/request", request)),
            "something before it": (CALL, Effect({"request": request}, good.after)),
            "the other side": (CALL, good.back),
            "other arguments": (CALL | {"request": ONE | {"body": "tea=999"}}, good),
            "an observation nobody asked for": (CALL, with_item(good, "observed", seen.after["observed"])),
            "no observation": (OBSERVED, good),
            "an empty observation": (OBSERVED, with_item(good, "observed", "")),
        }
        for name, (call, effect) in wrong.items():
            assert shop.step("apply", call, effect).reason == "ITEMS_INVALID", name
            assert shop.step("undo", call, effect.back).reason == "ITEMS_INVALID", name
            assert name == "the other side" or shop.step("verify", call, effect).code == 4, name
        assert shop.requests == []
        forged = with_item(seen, "observed", seen.after["observed"].replace("404", "200"))
        assert shop.step("apply", OBSERVED, forged).code == 5
        assert {request.partition(b" ")[0] for request in shop.requests} == {b"GET"}


def test_bytes_that_are_no_text_among_the_items() -> None:
    with service() as shop:
        effect = shop.plan(CALL)
        for name in ("before/x", "after/observed"):
            assert shop.step("apply", CALL, effect, files={name: b"\xff"}).reason == "ITEMS_INVALID"
        half = Effect({}, {"compensation": effect.after["compensation"]})
        assert shop.step("apply", CALL, half, files={"after/request": b"\xff"}).reason == "ITEMS_INVALID"
        assert shop.requests == []


@pytest.mark.parametrize("step", ["rehearse", "", "../plan", "main"])
def test_a_step_that_there_is_not(step: str) -> None:
    with service() as shop:
        effect = shop.plan(CALL)
        assert shop.step(step, CALL, effect).reason == "STEP_REFUSED"
        assert shop.requests == []


def test_a_service_that_writes_to_the_terminal() -> None:
    with service() as shop:
        effect = shop.plan(CALL)
        for status in ("200 OK\x1b[2J", "409 No\x07"):
            shop.answers = [answer(status, "\x1b]0;x\x07\r\nOUTCOME_UNKNOWN: \u202e".encode())]
            ran = shop.step("apply", CALL, effect)
            (line,) = (ran.out + ran.err).splitlines()
            assert line.isprintable()


def test_a_redirect_to_elsewhere_isnt_followed() -> None:
    with service() as other, service() as shop:
        effect = shop.plan(CALL)
        to = f"Location: http://127.0.0.1:{other.port}/"
        shop.answers = [answer("307 Temporary Redirect", b"", to), answer("302 Found", b"", to)]
        assert shop.step("apply", CALL, effect).code == 6
        assert shop.step("plan", OBSERVED).reason == "OBSERVE_FAILED"
        assert (len(shop.requests), other.requests) == (2, [])
