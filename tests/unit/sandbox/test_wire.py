"""The two parsers of what comes from a container: no input may crash, confuse or fill them."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.domain.run import (
    Exited,
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
    CONTROL,
    FILES,
    FIRST_CONNECTION,
    MAX_PAYLOAD,
    ON_FILES,
    PIECE,
    STDERR,
    STDOUT,
    Demultiplexer,
    Frame,
    FrameKind,
    FrameParser,
    ProtocolViolation,
    encode,
)

OUTGOING = sorted(MAX_PAYLOAD)
HEADER = 9
EXIT = {"exit": 0, "signal": None, "detail": "", "cpu_s": 0.1, "full": {}}


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


def channels_of(kind: FrameKind) -> st.SearchStrategy[int]:
    connections = st.integers(FIRST_CONNECTION, 2**32 - 1)
    if kind is FrameKind.DATA:
        return st.sampled_from([STDOUT, STDERR]) | connections
    if kind in ON_FILES:
        return st.just(FILES)
    if kind >= FrameKind.OPEN:
        return connections
    return st.just(CONTROL)


@st.composite
def frame(draw: st.DrawFn) -> Frame:
    kind = FrameKind(draw(st.sampled_from(OUTGOING)))
    return Frame(kind, draw(st.binary(max_size=300))[: MAX_PAYLOAD[kind]], draw(channels_of(kind)))


frames = frame()


@given(st.lists(frames, max_size=20), st.lists(st.integers(0, 50), max_size=20))
def test_frames_survive_any_cutting(sent: list[Frame], sizes: list[int]) -> None:
    parser = FrameParser()
    stream = b"".join(encode(item.kind, item.payload, item.channel) for item in sent)
    assert [item for piece in cut(stream, sizes) for item in parser.feed(piece)] == sent


@given(st.lists(st.binary(max_size=200), max_size=20))
@example([b"\xff"])
@example([b"\x20\0\0\0\1\xff\xff\xff\xff"])
def test_any_bytes_are_frames_or_a_violation(pieces: list[bytes]) -> None:
    parser = FrameParser()
    total = 0
    try:
        for piece in pieces:
            for frame in parser.feed(piece):
                assert len(frame.payload) <= MAX_PAYLOAD[frame.kind]
                total += HEADER + len(frame.payload)
    except ProtocolViolation:
        return
    assert sum(map(len, pieces)) - total <= HEADER + PIECE


@pytest.mark.parametrize("kind", [kind for kind in range(256) if kind not in MAX_PAYLOAD])
def test_an_unknown_type_is_a_violation(kind: int) -> None:
    with pytest.raises(ProtocolViolation):
        list(FrameParser().feed(bytes([kind, *[0] * 8])))


@pytest.mark.parametrize("kind", OUTGOING)
def test_a_payload_over_its_limit_is_a_violation_before_it_comes(kind: int) -> None:
    with pytest.raises(ProtocolViolation):
        list(FrameParser().feed(struct.pack(">BII", kind, _place(kind), MAX_PAYLOAD[kind] + 1)))


def _place(kind: int) -> int:
    """A channel on which a frame may come."""
    return next(number for number in (CONTROL, STDOUT, FILES, FIRST_CONNECTION) if _accepted(kind, number))


def _accepted(kind: int, channel: int) -> bool:
    try:
        list(FrameParser().feed(struct.pack(">BII", kind, channel, 0)))
    except ProtocolViolation:
        return False
    return True


CONTROL_NAMES = ("PONG", "STARTED", "EXIT", "WARNING", "OVER", "REFUSED", "TREE_PARTIAL", "END")
FILES_NAMES = (
    *("RESULT", "OUT_BEGIN", "OUT_DATA", "OUT_END"),
    *("TREE_FILE", "TREE_LINK", "TREE_REMOVED", "TREE_MODE"),
)


def test_each_frame_has_its_channels() -> None:
    numbers = (CONTROL, STDOUT, STDERR, FILES, 4, FIRST_CONNECTION - 1, FIRST_CONNECTION, 2**32 - 1)
    found = {FrameKind(kind).name: [number for number in numbers if _accepted(kind, number)] for kind in OUTGOING}
    connections = [FIRST_CONNECTION, 2**32 - 1]
    expected: dict[str, list[int]] = {}
    expected |= {name: [CONTROL] for name in CONTROL_NAMES}
    expected |= {name: [FILES] for name in FILES_NAMES}
    expected |= dict.fromkeys(("OPEN", "END_OF_DATA", "RESET", "CLOSE", "CREDIT"), connections)
    assert found == expected | {"DATA": [STDOUT, STDERR, *connections]}


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
    run = Transcript(rules, **{"output_limit": 10, "wants_result": True, **values})  # type: ignore[arg-type]  # by name
    run.let_start()
    return run


Said = tuple[FrameKind, bytes | dict[str, object]] | tuple[FrameKind, bytes | dict[str, object], int]


def tell(to: Transcript, *frames: Said) -> list[RunEvent]:
    events: list[RunEvent] = []
    for kind, payload, *channel in frames:
        data = json.dumps(payload).encode() if isinstance(payload, dict) else payload
        usual = FILES if kind in ON_FILES else 0
        events.extend(to.take(Frame(kind, data, *(channel or [usual]))))
    return events


STARTED = (FrameKind.STARTED, b"")
ENDED = (FrameKind.EXIT, EXIT)


@pytest.mark.parametrize(
    "frame",
    [STARTED, ENDED, (FrameKind.DATA, b"x", STDOUT), (FrameKind.END, b"")],
    ids=["start", "exit", "data", "end"],
)
def test_a_job_that_may_not_start_yet_says_nothing(frame: Said) -> None:
    run = Transcript(OutputRules(), output_limit=10, wants_result=False)
    with pytest.raises(ProtocolViolation, match="while held"):
        tell(run, frame)
    assert run.phase is Phase.HELD


def test_a_job_may_be_refused_before_it_may_start_and_never_starts_then() -> None:
    run = Transcript(OutputRules(), output_limit=10, wants_result=False)
    tell(run, (FrameKind.REFUSED, b"no"))
    run.let_start()
    assert (run.phase, run.refusal) == (Phase.REFUSED, "no")
    with pytest.raises(ProtocolViolation):
        tell(run, STARTED)


def test_a_whole_run_becomes_events() -> None:
    run = transcript()
    events = tell(
        run,
        STARTED,
        (FrameKind.DATA, b"12345678", STDOUT),
        (FrameKind.DATA, b"e", STDERR),
        (FrameKind.DATA, b"9", STDOUT),
        ENDED,
        (FrameKind.DATA, b"abc", STDOUT),
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
        Output("stdout", b"9"),
        Exited(),
        Output("stdout", b"a"),
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


@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(FrameKind)), st.binary(max_size=40), st.sampled_from([CONTROL, STDOUT, STDERR, FILES])
        ),
        max_size=30,
    )
)
def test_any_frames_are_events_or_a_violation(sent: list[tuple[FrameKind, bytes, int]]) -> None:
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
        [(FrameKind.DATA, b"early", STDOUT)],
        [STARTED, (FrameKind.DATA, b"", STDOUT)],
        [STARTED, ENDED, (FrameKind.DATA, b"", STDERR)],
        [STARTED, ENDED, (FrameKind.END, b""), (FrameKind.DATA, b"late", STDOUT)],
        [STARTED, ENDED, (FrameKind.OVER, b""), (FrameKind.OVER, b"")],
        [STARTED, ENDED, (FrameKind.RESULT, b"")],
        [STARTED, ENDED, FILE, DATA, FILE_END, (FrameKind.RESULT, b"{}")],
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
def test_what_no_runner_says_is_a_violation(frames: list[Said]) -> None:
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
