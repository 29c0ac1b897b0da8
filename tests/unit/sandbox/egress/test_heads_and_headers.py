"""Heads that two servers could read differently, and what of headers is passed on."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.run import SecretUse
from broker.sandbox.egress.head import END, check_head, check_start, end_of
from broker.sandbox.egress.headers import incoming, only, outgoing
from broker.sandbox.egress.refusal import RefusedError

_FIELD = st.binary(max_size=12) | st.sampled_from(
    [
        b"Host",
        b"Content-Length",
        b"Transfer-Encoding",
        b"chunked",
        b"4",
        b": ",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"\x00",
        b"X: y",
    ]
)


def test_an_ordinary_head_passes() -> None:
    check_head(b"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-Continue\r\nX-Empty:\r\n\r\n")
    check_head(b"CONNECT a:443 HTTP/1.0\r\n\r\n")


@given(st.lists(_FIELD, max_size=12).map(b"".join))
def test_what_passes_has_one_reading(noise: bytes) -> None:
    head = b"POST http://a/ HTTP/1.1\r\nHost: a\r\n" + noise.partition(END)[0] + END
    try:
        check_head(head)
    except RefusedError:
        return
    assert b"\n" not in head.replace(b"\r\n", b"")
    assert b"\r" not in head.replace(b"\r\n", b"")
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(head)
    event = parser.next_event()
    assert isinstance(event, h11.Request)
    lines = head.removesuffix(END).split(b"\r\n")[1:]
    assert [name for name, _ in event.headers] == [line.partition(b":")[0].lower() for line in lines]
    framing = [name for name, _ in event.headers if name in {b"content-length", b"transfer-encoding"}]
    assert len(framing) <= 1


@given(st.binary(max_size=200))
def test_the_start_of_a_good_head_is_never_refused(rest: bytes) -> None:
    head = b"GET http://a/ HTTP/1.1\r\nHost: a\r\nX-Long: value\r\n"
    for cut in range(len(head) + 1):
        check_start(head[:cut])
    with pytest.raises(RefusedError):
        check_start(head + b"\nx" + rest)


def _start_is_refused(data: bytes, since: int = 0) -> bool:
    try:
        check_start(data, since)
    except RefusedError:
        return True
    return False


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"x", b"ab"]), max_size=12))
def test_looking_at_the_new_part_alone_finds_what_looking_at_all_finds(pieces: list[bytes]) -> None:
    data = b"G"
    for piece in pieces:
        since, data = len(data), data + piece
        assert end_of(data, since) == data.find(END)
        assert _start_is_refused(data, since) == _start_is_refused(data)
        if END in data or _start_is_refused(data):
            return


_HEADERS = [
    (b"host", b"a"),
    (b"connection", b"x-one, X-Two ,close"),
    (b"x-one", b"1"),
    (b"x_two", b"2"),
    (b"x-three", b"3"),
    (b"x-three", b"4"),
    (b"content-length", b"5"),
    (b"proxy-authorization", b"x"),
    (b"x-forwarded-host", b"evil"),
    (b"accept-encoding", b"gzip"),
    (b"range", b"bytes=0-1"),
    (b"x-api-key", b"own"),
    (b"X_Api_Key".lower(), b"own"),
]


def test_the_tools_headers_without_a_secret() -> None:
    assert outgoing(_HEADERS, secrets=()) == [
        (b"x-three", b"3"),
        (b"x-three", b"4"),
        (b"accept-encoding", b"gzip"),
        (b"range", b"bytes=0-1"),
        (b"x-api-key", b"own"),
        (b"x_api_key", b"own"),
    ]


def test_the_tools_headers_with_a_secret() -> None:
    assert outgoing(_HEADERS, secrets=[SecretUse("k", "x-api-key")]) == [
        (b"x-three", b"3"),
        (b"x-three", b"4"),
        (b"accept-encoding", b"identity"),
    ]


def test_the_hosts_headers() -> None:
    headers = [
        (b"connection", b"x-one"),
        (b"x-one", b"1"),
        (b"broker-verdict", b"ALLOWED"),
        (b"content-length", b"4"),
        (b"a", b"b"),
    ]
    assert incoming(headers) == [(b"content-length", b"4"), (b"a", b"b")]
    assert incoming([*headers, (b"transfer-encoding", b"chunked")]) == [(b"a", b"b")]


def test_several_headers_of_one_name_are_one_list() -> None:
    assert only([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")], b"a") == b"1, 3"
    assert only([], b"a") is None
