"""The one form of a recording: what was written is read, and nothing else is."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.run import EgressVerdict
from broker.errors import DataLossError
from broker.sandbox.egress import recording as module
from broker.sandbox.egress.recording import (
    How,
    RecordedAnswer,
    RecordedExchange,
    RecordedRefusal,
    RecordedRequest,
    Recording,
    dump_recording,
    load_recording,
)


def named(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


_NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).filter(
    lambda name: name not in {"content-length", "transfer-encoding"}
)
_VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)
_HEADERS = st.lists(st.tuples(_NAMES, _VALUES), max_size=4).map(tuple)
_REQUESTS = st.builds(
    RecordedRequest,
    method=st.sampled_from(["GET", "POST", "M-SEARCH"]),
    host=st.sampled_from(["api.example.com", "127.0.0.1", "::1"]),
    port=st.integers(1, 65535),
    target=_VALUES.map(lambda text: "/" + text),
    headers=_HEADERS,
    withheld=st.lists(_NAMES, max_size=2).map(tuple),
    body_bytes=st.integers(0, 2**40),
    body_digest=st.binary(max_size=4).map(named),
    body_whole=st.booleans(),
)
_REFUSALS = st.builds(
    RecordedRefusal,
    verdict=st.sampled_from(EgressVerdict),
    message=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    status=st.sampled_from([400, 403, 502, 504]),
    hint=_VALUES,
)


@st.composite
def _exchanges(draw: st.DrawFn) -> RecordedExchange:
    request, how = draw(_REQUESTS), draw(st.sampled_from(How))
    begun = how is How.COMPLETE or (how is How.BROKEN and draw(st.booleans()))
    refusal = draw(_REFUSALS) if how is How.REFUSED or (how is How.BROKEN and begun and draw(st.booleans())) else None
    answer, body = None, b""
    if begun and draw(st.booleans()):
        kept, data = draw(st.booleans()), draw(st.binary(max_size=300))
        answer = RecordedAnswer(
            draw(st.integers(200, 599)), draw(_VALUES), draw(_HEADERS), len(data), named(data), kept
        )
        body = data if kept else b""
    return RecordedExchange(request, how, begun, answer, refusal, body)


_RECORDINGS = st.builds(
    Recording,
    call=st.just("call_1"),
    exchanges=st.lists(_exchanges(), max_size=5).map(tuple),
    missed=st.integers(0, 2**31),
)


def dumped(value: Recording) -> bytes:
    return b"".join(dump_recording(value))


def one(body: bytes = b"fine", how: How = How.COMPLETE) -> Recording:
    request = RecordedRequest("GET", "h.example", 80, "/a?b", (("accept", "*/*"),), (), 0, named(b""), body_whole=True)
    answer = RecordedAnswer(200, "OK", (("content-length", str(len(body))),), len(body), named(body), kept=True)
    return Recording("call_1", (RecordedExchange(request, how, begun=True, answer=answer, body=body),))


@given(_RECORDINGS)
def test_what_was_written_is_read(recording: Recording) -> None:
    assert load_recording(dumped(recording)) == recording


@given(_RECORDINGS, st.data())
def test_a_changed_recording_is_another_one_or_refused(recording: Recording, data: st.DataObject) -> None:
    good = dumped(recording)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    try:
        found = load_recording(bytes(bad))
    except DataLossError:
        return
    assert found != recording
    assert dumped(found) == bytes(bad)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    for attempt in (data, b"broker-egress-recording-v1\n" + data):
        with pytest.raises(DataLossError, match="can't be read"):
            load_recording(attempt)


def test_a_recording_cut_anywhere_or_longer_is_refused() -> None:
    good = dumped(one())
    for end in range(len(good)):
        with pytest.raises(DataLossError):
            load_recording(good[:end])
    with pytest.raises(DataLossError, match="something follows"):
        load_recording(good + b"x")


def _framed(head: bytes) -> bytes:
    return b"broker-egress-recording-v1\n" + len(head).to_bytes(4) + head


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"broker-egress-recording-v2\n" + dumped(one())[27:], "this version"),
        (_framed(b'{"call":"c","exchanges":0,"missed":0,"more":1}'), "another way"),
        (_framed(b'{"call":"c","call":"d","exchanges":0,"missed":0}'), "another way"),
        (_framed(b'{"call":"c", "exchanges":0,"missed":0}'), "another way"),
        (_framed(b'{"call":"c","exchanges":0}'), "missing required field"),
        (_framed(b'{"call":"c","exchanges":0.0,"missed":0}'), "can't be read|another way"),
        (_framed(b'{"call":"c","exchanges":-1,"missed":0}'), "impossible number"),
        (_framed(b'{"call":"c","exchanges":65537,"missed":0}'), "impossible number"),
        (_framed(b'{"call":"c","exchanges":1000000,"missed":0}'), "impossible number"),
        (b"broker-egress-recording-v1\n" + b"\xff\xff\xff\xff", "longer than"),
        (_framed(b"[" * 2000), "can't be read"),
    ],
)
def test_another_spelling_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(DataLossError, match=why):
        load_recording(data)


def test_a_recording_longer_than_any_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    with pytest.raises(DataLossError, match="longer than 100 bytes"):
        load_recording(dumped(one()))


def _doctored() -> list[Recording]:
    (item,) = one().exchanges
    answer, request = item.answer, item.request
    assert answer is not None
    refusal = RecordedRefusal(EgressVerdict.LIMIT, "m", 504)
    changed = [
        replace(item, body=b"evil"),
        replace(item, answer=replace(answer, body_digest="sha256:00")),
        replace(item, answer=replace(answer, body_bytes=-1, kept=False), body=b""),
        replace(item, answer=replace(answer, status=99)),
        replace(item, answer=replace(answer, status=1000)),
        replace(item, answer=replace(answer, reason="OK\r\nX: y")),
        replace(item, answer=replace(answer, headers=(("x", "a\r\nb: c"),))),
        replace(item, answer=replace(answer, headers=(("x y", "a"),))),
        replace(item, answer=replace(answer, headers=(("x", "\u20ac"),))),
        replace(item, refusal=refusal),
        replace(item, how=How.REFUSED),
        replace(item, how=How.REFUSED, begun=False, answer=None, body=b"", refusal=replace(refusal, status=200)),
        replace(item, how=How.REFUSED, begun=False, answer=None, body=b"", refusal=replace(refusal, status=499)),
        replace(item, how=How.REFUSED, answer=None, body=b"", refusal=refusal),
        replace(item, begun=False),
        replace(item, begun=False, answer=None, body=b""),
        replace(item, how=How.BROKEN, begun=False, answer=None, body=b"", refusal=refusal),
        replace(item, request=replace(request, method="GET /x")),
        replace(item, request=replace(request, target="//\r\n")),
        replace(item, request=replace(request, target="x")),
        replace(item, request=replace(request, port=0)),
        replace(item, request=replace(request, port=65536)),
        replace(item, request=replace(request, body_bytes=-1)),
        replace(item, request=replace(request, body_digest="")),
    ]
    return [Recording("call_1", (exchange,)) for exchange in changed]


@pytest.mark.parametrize("recording", _doctored())
def test_what_no_call_could_have_seen_is_refused(recording: Recording) -> None:
    with pytest.raises(DataLossError):
        load_recording(dumped(recording))


def test_a_recording_says_whether_it_is_whole() -> None:
    (item,) = one().exchanges
    assert one().whole
    assert item.answer is not None
    no_body = replace(item, answer=replace(item.answer, kept=False), body=b"")
    assert not replace(one(), exchanges=(no_body,)).whole
    assert not replace(one(), exchanges=(replace(item, answer=None, body=b""),)).whole
    assert not replace(one(), missed=1).whole
