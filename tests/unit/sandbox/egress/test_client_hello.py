"""The TLS greeting is read in any pieces, and nothing hostile confuses the reader."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.sandbox.egress.client_hello import MAX_BYTES, ClientHello, ClientHelloReader, HelloError

NAME = "api.example.com"


def _real(name: str | None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    going = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), going, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return going.read()


HELLO = _real(NAME)


def _vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size) + data


def _sni(*names: tuple[int, bytes]) -> bytes:
    return _vector(2, b"".join(bytes((kind,)) + _vector(2, name) for kind, name in names))


def _hello(extensions: bytes | None, tail: bytes = b"") -> bytes:
    body = b"\x03\x03" + bytes(32) + _vector(1, b"") + _vector(2, b"\x13\x01") + _vector(1, b"\x00")
    body += b"" if extensions is None else _vector(2, extensions)
    message = b"\x01" + _vector(3, body + tail)
    return b"\x16\x03\x01" + _vector(2, message)


def _extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2) + _vector(2, data)


def _read(data: bytes) -> ClientHello | None:
    return ClientHelloReader().feed(data)


def test_a_real_greeting_says_whom_it_means() -> None:
    assert _read(HELLO) == ClientHello(NAME, encrypted=False)
    assert _read(_real(None)) == ClientHello("", encrypted=False)
    assert _read(_hello(None)) == ClientHello("", encrypted=False)
    assert _read(_hello(b"")) == ClientHello("", encrypted=False)


@given(
    st.lists(st.integers(1, 600), min_size=1, max_size=30),
    st.lists(st.integers(1, 300), max_size=30),
    st.binary(max_size=20),
)
def test_records_and_segments_may_be_cut_anywhere(records: list[int], segments: list[int], more: bytes) -> None:
    message, stream = HELLO[5:], b""
    for size in [*records, len(message)]:
        if message:
            stream += HELLO[:3] + _vector(2, message[:size])
            message = message[size:]
    whole = stream + more
    reader, found, rest = ClientHelloReader(), None, whole
    for size in [*segments, len(whole) or 1]:
        if found is None:
            assert not rest or len(whole) - len(rest) < len(stream)
            found = reader.feed(rest[:size])
            rest = rest[size:]
    assert found == ClientHello(NAME, encrypted=False)
    assert reader.sent == whole[: len(whole) - len(rest)]


@given(st.binary(max_size=400), st.integers(0, 400))
def test_hostile_bytes_give_an_answer_or_an_error_and_nothing_else(data: bytes, place: int) -> None:
    place = min(place, len(HELLO))
    for hostile in (data, HELLO[:place] + data, HELLO[:place] + data + HELLO[place + len(data) :]):
        try:
            found = _read(hostile)
        except HelloError:
            continue
        assert found is None or isinstance(found, ClientHello)


@given(st.integers(0, len(HELLO) - 1))
def test_a_part_of_a_greeting_is_no_greeting(length: int) -> None:
    assert _read(HELLO[:length]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\x16\x02",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x03\x01\x00\x01\x02",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        HELLO[:5] + b"\x02" + HELLO[6:],
        _hello(b"", tail=b"x"),
        _hello(_extension(0, _sni((0, b"a"))) + _extension(0, _sni((0, b"b")))),
        _hello(_extension(0, _sni((0, b"a"), (0, b"b")))),
        _hello(_extension(0, _sni((1, b"a")))),
        _hello(_extension(0, _sni((0, b"")))),
        _hello(_extension(0, _sni((0, b"\xff")))),
        _hello(_extension(0, _sni())),
        _hello(_extension(0, b"")),
        _hello(_extension(0, _sni((0, b"a")) + b"x")),
        _hello(b"\x00"),
        _hello(b"\x00\x00\x00\x09a"),
        b"\x16\x03\x01" + _vector(2, _hello(None)[5:] + b"\x00"),
        b"\x16\x03\x01" + _vector(2, _hello(None)[5:] + b"\x00\x00"),
    ],
)
def test_what_is_no_plain_greeting_is_refused(data: bytes) -> None:
    with pytest.raises(HelloError):
        _read(data)


@pytest.mark.parametrize("kind", [0xFE0D, 0xFFCE])
def test_an_encrypted_greeting_is_seen(kind: int) -> None:
    found = _read(_hello(_extension(0, _sni((0, b"a.example"))) + _extension(kind, b"anything")))
    assert found == ClientHello("a.example", encrypted=True)


def test_a_greeting_has_a_longest_size() -> None:
    reader = ClientHelloReader()
    piece = b"\x16\x03\x01\x00\x01"
    with pytest.raises(HelloError):
        reader.feed(b"\x16\x03\x01\x00\x04\x01\x00\xff\xff" + (piece + b"\x00") * (MAX_BYTES // 4))
