"""The two parsers of what comes from a container: no input may crash, confuse or fill them."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.domain.run import (
    FileData,
    FileEnd,
    FileStart,
    Output,
    OutputRules,
    Result,
    RunEvent,
    Started,
)
from broker.sandbox.transcript import MAX_RESULT_BYTES, MAX_WARNINGS, Phase, Transcript, visible
from broker.sandbox.wire import (
    MAX_PAYLOAD,
    PIECE,
    Demultiplexer,
    Frame,
    FrameKind,
    FrameParser,
    ProtocolViolation,
    encode,
)

OUTGOING = sorted(MAX_PAYLOAD)
EXIT = {"exit": 0, "signal": None, "detail": "", "cpu_s": 0.1, "full": {}}


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


frames = st.builds(
    lambda kind, payload: (FrameKind(kind), payload[: MAX_PAYLOAD[kind]]),
    st.sampled_from(OUTGOING),
    st.binary(max_size=300),
)


@given(st.lists(frames, max_size=20), st.lists(st.integers(0, 50), max_size=20))
def test_frames_survive_any_cutting(sent: list[tuple[FrameKind, bytes]], sizes: list[int]) -> None:
    parser = FrameParser()
    stream = b"".join(encode(kind, payload) for kind, payload in sent)
    got = [frame for piece in cut(stream, sizes) for frame in parser.feed(piece)]
    assert got == [Frame(kind, payload) for kind, payload in sent]


@given(st.lists(st.binary(max_size=200), max_size=20))
@example([b"\xff"])
@example([b"\x12\xff\xff\xff\xff"])
def test_any_bytes_are_frames_or_a_violation(pieces: list[bytes]) -> None:
    parser = FrameParser()
    total = 0
    try:
        for piece in pieces:
            for frame in parser.feed(piece):
                assert len(frame.payload) <= MAX_PAYLOAD[frame.kind]
                total += 5 + len(frame.payload)
    except ProtocolViolation:
        return
    assert sum(map(len, pieces)) - total <= 5 + PIECE


@pytest.mark.parametrize("kind", [kind for kind in range(256) if kind not in MAX_PAYLOAD])
def test_an_unknown_type_is_a_violation(kind: int) -> None:
    with pytest.raises(ProtocolViolation):
        list(FrameParser().feed(bytes([kind, 0, 0, 0, 0])))


@pytest.mark.parametrize("kind", OUTGOING)
def test_a_payload_over_its_limit_is_a_violation_before_it_comes(kind: int) -> None:
    with pytest.raises(ProtocolViolation):
        list(FrameParser().feed(struct.pack(">BI", kind, MAX_PAYLOAD[kind] + 1)))


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=20),
    st.lists(st.integers(0, 50), max_size=20),
)
def test_channels_survive_any_cutting(sent: list[tuple[int, bytes]], sizes: list[int]) -> None:
    stream = b"".join(struct.pack(">B3xI", channel, len(data)) + data for channel, data in sent)
    outer = Demultiplexer()
    got = {1: b"", 2: b""}
    for piece in cut(stream, sizes):
        for channel, data in outer.feed(piece):
            got[channel] += data
    assert got == {number: b"".join(data for channel, data in sent if channel == number) for number in (1, 2)}


@given(st.binary(max_size=500))
def test_any_bytes_are_channels_or_a_violation(data: bytes) -> None:
    try:
        for channel, _ in Demultiplexer().feed(data):
            assert channel in {1, 2}
    except ProtocolViolation:
        return


def transcript(**values: object) -> Transcript:
    rules = OutputRules(("*.out", "d/**"), max_files=2, max_bytes=100)
    return Transcript(rules, **{"output_limit": 10, "wants_result": True, **values})  # type: ignore[arg-type]  # by name


def tell(to: Transcript, *frames: tuple[FrameKind, bytes | dict[str, object]]) -> list[RunEvent]:
    events: list[RunEvent] = []
    for kind, payload in frames:
        data = json.dumps(payload).encode() if isinstance(payload, dict) else payload
        events.extend(to.take(Frame(kind, data)))
    return events


STARTED = (FrameKind.STARTED, b"")
ENDED = (FrameKind.EXIT, EXIT)


def test_a_whole_run_becomes_events() -> None:
    run = transcript()
    events = tell(
        run,
        STARTED,
        (FrameKind.STDOUT, b"12345678"),
        (FrameKind.STDERR, b"e"),
        (FrameKind.STDOUT, b"9abc"),
        ENDED,
        (FrameKind.RESULT, b"{"),
        (FrameKind.RESULT, b"}"),
        (FrameKind.OUT_BEGIN, {"path": "a.out", "size": 3}),
        (FrameKind.OUT_DATA, b"xy"),
        (FrameKind.OUT_DATA, b"z"),
        (FrameKind.OUT_END, b""),
        (FrameKind.WARNING, b"left \x1b[31mbehind"),
        (FrameKind.OVER, b""),
        (FrameKind.END, b""),
    )
    assert events == [
        Started(),
        Output("stdout", b"12345678"),
        Output("stderr", b"e"),
        Output("stdout", b"9a"),
        FileStart("a.out", 3),
        FileData(b"xy"),
        FileData(b"z"),
        FileEnd(),
        Result(b"{}"),
    ]
    assert (run.stdout().total_bytes, run.stdout().kept_bytes, run.stdout().truncated) == (12, 10, True)
    assert run.phase is Phase.DONE
    assert run.over
    assert run.warnings == ["left \\x1b[31mbehind"]


@given(st.lists(st.tuples(st.sampled_from(list(FrameKind)), st.binary(max_size=40)), max_size=30))
def test_any_frames_are_events_or_a_violation(sent: list[tuple[FrameKind, bytes]]) -> None:
    run = transcript()
    try:
        events = tell(run, STARTED, *sent)
    except ProtocolViolation:
        return
    assert sum(len(item.data) for item in events if isinstance(item, Output)) <= 20


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries(dict.fromkeys(("exit", "signal", "detail", "cpu_s", "full"), json_values)))
@example({"exit": 0, "signal": None, "detail": "", "cpu_s": 10**400, "full": {}})
@example({"exit": True, "signal": None, "detail": "", "cpu_s": 0, "full": {}})
def test_any_exit_header_is_a_report_or_a_violation(header: dict[str, object]) -> None:
    run = transcript()
    try:
        tell(run, STARTED, (FrameKind.EXIT, header))
    except ProtocolViolation:
        return
    assert run.exit is not None
    assert (run.exit.exit_code is None) != (run.exit.signal is None)


FILE = (FrameKind.OUT_BEGIN, {"path": "a.out", "size": 2})
DATA = (FrameKind.OUT_DATA, b"xy")
FILE_END = (FrameKind.OUT_END, b"")


@pytest.mark.parametrize(
    "frames",
    [
        [ENDED],
        [STARTED, STARTED],
        [STARTED, (FrameKind.REFUSED, b"no")],
        [STARTED, (FrameKind.END, b"")],
        [STARTED, ENDED, ENDED],
        [STARTED, ENDED, (FrameKind.STDOUT, b"late")],
        [STARTED, (FrameKind.OUT_BEGIN, {"path": "a.out", "size": 1})],
        [STARTED, ENDED, DATA],
        [STARTED, ENDED, FILE_END],
        [STARTED, ENDED, FILE, FILE],
        [STARTED, ENDED, FILE, FILE_END],
        [STARTED, ENDED, FILE, (FrameKind.OUT_DATA, b"xyz")],
        [STARTED, ENDED, FILE, (FrameKind.OUT_DATA, b"")],
        [STARTED, ENDED, FILE, (FrameKind.END, b"")],
        [STARTED, ENDED, FILE, DATA, FILE_END, FILE],
        [STARTED, ENDED, (FrameKind.OUT_BEGIN, {"path": "other.txt", "size": 1})],
        [STARTED, ENDED, (FrameKind.OUT_BEGIN, {"path": "../a.out", "size": 1})],
        [STARTED, ENDED, (FrameKind.OUT_BEGIN, {"path": "/a.out", "size": 1})],
        [STARTED, ENDED, (FrameKind.OUT_BEGIN, {"path": "d/a\0b", "size": 1})],
        [STARTED, ENDED, (FrameKind.OUT_BEGIN, {"path": "a.out", "size": 101})],
        [STARTED, ENDED, (FrameKind.OUT_BEGIN, {"path": "a.out", "size": -1})],
        [STARTED, ENDED, (FrameKind.OUT_BEGIN, {"path": "a.out", "size": True})],
        [STARTED, ENDED, (FrameKind.OUT_BEGIN, {"path": ["a.out"], "size": 1})],
        [STARTED, ENDED, (FrameKind.OUT_BEGIN, b"[" * 10000)],
        [STARTED, ENDED, (FrameKind.OUT_BEGIN, b"7")],
        [STARTED, ENDED, *[(FrameKind.WARNING, b"w")] * (MAX_WARNINGS + 1)],
        [STARTED, ENDED, *[(FrameKind.RESULT, b"x" * PIECE)] * (MAX_RESULT_BYTES // PIECE + 1)],
        [STARTED, ENDED, (FrameKind.END, b""), (FrameKind.END, b"")],
        [
            STARTED,
            ENDED,
            *[
                (FrameKind.OUT_BEGIN, {"path": f"{n}.out", "size": 0}) if step else FILE_END
                for n in range(3)
                for step in (1, 0)
            ],
        ],
    ],
)
def test_what_no_runner_says_is_a_violation(frames: list[tuple[FrameKind, bytes | dict[str, object]]]) -> None:
    with pytest.raises(ProtocolViolation):
        tell(transcript(), *frames)


def test_a_result_that_nobody_asked_for_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation):
        tell(transcript(wants_result=False), STARTED, ENDED, (FrameKind.RESULT, b"{}"))


@given(st.binary(max_size=2000))
def test_text_from_a_container_is_printable_and_short(data: bytes) -> None:
    text = visible(data)
    assert all(char.isprintable() or char.isspace() for char in text)
    assert "\n" not in text
    assert "\x1b" not in text
