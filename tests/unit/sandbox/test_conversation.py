"""What a runner says, from bytes to events: any bytes, in any pieces, by a machine that knows no runner."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.domain.run import FileData, FileEnd, FileStart, Output, OutputRules, Result, RunEvent, Started
from broker.sandbox.channels import ReaderWindows, Window
from broker.sandbox.connections import Connections
from broker.sandbox.conversation import Conversation
from broker.sandbox.engine import Duplex
from broker.sandbox.transcript import Phase, Transcript
from broker.sandbox.tree_changes import TreeChanges
from broker.sandbox.wire import (
    CONNECTION_WINDOW,
    FRAME_COST,
    MAX_CONNECTIONS,
    OUTPUT_WINDOW,
    PIECE,
    STDERR,
    STDOUT,
    Frame,
    FrameKind,
    ProtocolViolation,
    encode_number,
)
from tests.puppet_runner import EXIT, said
from tests.sandbox_support import in_tree, python, written

PORT = 5000
TREE = python("", files=(in_tree("a", b"x"),), tree=written("*"))
STARTED, ENDED, END = said(FrameKind.STARTED), said(FrameKind.EXIT, dict(EXIT)), said(FrameKind.END)


class Silent:
    """Serves nothing."""

    async def serve(self, listener: int, stream: Duplex) -> None:
        del listener, stream
        await asyncio.Event().wait()


class Told:
    """A conversation that has begun, and all that came of it."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.phases: list[Phase] = []
        self.conversation = Conversation(self.sent.append, self.phases.append)
        rules = OutputRules(("*.out",), max_files=3, max_bytes=1000)
        self.connections = Connections(Silent(), (PORT,), self.sent.append)
        transcript = Transcript(rules, output_limit=100, wants_result=True, tree=TreeChanges.of(TREE))
        transcript.let_start()
        self.conversation.begin(transcript, self.connections)

    def feed(self, pieces: Sequence[bytes]) -> list[RunEvent] | None:
        """The events; ``None`` after a violation."""
        try:
            for piece in pieces:
                self.conversation.feed(piece)
        except ProtocolViolation:
            return None
        return list(self.conversation.queue._waiting)


def muxed(data: bytes, channel: int = 1) -> bytes:
    return struct.pack(">B3xI", channel, len(data)) + data


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


outputs = st.builds(
    lambda data, channel: said(FrameKind.DATA, data, channel),
    st.binary(min_size=1, max_size=60),
    st.sampled_from([STDOUT, STDERR]),
)
traffic = st.sampled_from(
    [
        encode_number(FrameKind.OPEN, PORT, 16),
        encode_number(FrameKind.OPEN, PORT, 17),
        said(FrameKind.DATA, b"abc", 16),
        said(FrameKind.END_OF_DATA, channel=16),
        said(FrameKind.RESET, channel=17),
        said(FrameKind.CLOSE, channel=16),
        encode_number(FrameKind.CREDIT, 1, 16),
    ]
)
late = st.sampled_from(
    [
        said(FrameKind.RESULT, b"{}"),
        said(FrameKind.OUT_BEGIN, {"path": "a.out", "size": 2}),
        said(FrameKind.OUT_DATA, b"xy"),
        said(FrameKind.OUT_END),
        said(FrameKind.WARNING, b"w"),
        said(FrameKind.OVER),
        said(FrameKind.TREE_FILE, {"path": "a", "size": 2, "mode": 0o644}),
        said(FrameKind.TREE_LINK, {"path": "b", "target": "a"}),
        said(FrameKind.TREE_REMOVED, {"path": "a"}),
        said(FrameKind.TREE_MODE, {"path": "a", "mode": 0o600}),
        said(FrameKind.TREE_PARTIAL),
    ]
)
anything = st.one_of(outputs, traffic, late, st.sampled_from([STARTED, ENDED, END]), st.binary(max_size=20))


@st.composite
def valid(draw: st.DrawFn) -> list[bytes]:
    """A run as a runner may tell it."""
    files = []
    for number in range(draw(st.integers(0, 3))):
        content = draw(st.binary(min_size=1, max_size=40))
        files += [
            said(FrameKind.OUT_BEGIN, {"path": f"{number}.out", "size": len(content)}),
            said(FrameKind.OUT_DATA, content),
            said(FrameKind.OUT_END),
        ]
    result = [said(FrameKind.RESULT, b"{}")] if draw(st.booleans()) else []
    tree = [said(FrameKind.TREE_REMOVED, {"path": "a"}), said(FrameKind.TREE_LINK, {"path": "b", "target": "a"})]
    rest = [*result, *files, *(tree if draw(st.booleans()) else [])]
    for item in draw(st.lists(outputs, max_size=4)):
        rest.insert(draw(st.integers(0, len(rest))), item)
    opened = [encode_number(FrameKind.OPEN, PORT, 16), said(FrameKind.DATA, b"abc", 16)]
    running = draw(st.lists(outputs, max_size=6)) + (opened if draw(st.booleans()) else [])
    return [STARTED, *running, ENDED, *rest, END]


@settings(deadline=None)
@given(valid(), st.lists(st.integers(0, 40), max_size=40), st.lists(st.integers(1, 40), max_size=40))
def test_a_valid_run_gives_the_same_events_in_any_pieces(
    frames: list[bytes], sizes: list[int], headers: list[int]
) -> None:
    async def both() -> None:
        whole = Told().feed([muxed(b"".join(frames))])
        stream = b"".join(muxed(piece) for piece in cut(b"".join(frames), headers))
        pieces = Told()
        assert pieces.feed(cut(stream, sizes)) == whole
        assert whole is not None
        assert whole[0] == Started()
        assert pieces.phases == [Phase.RUNNING, Phase.COLLECTING, Phase.DONE]
        kinds = [type(event) for event in whole]
        assert kinds.count(FileStart) == kinds.count(FileEnd) == kinds.count(FileData)
        assert Result not in kinds or kinds[-1] is Result

    asyncio.run(both())


@settings(deadline=None)
@given(st.lists(anything, max_size=30), st.lists(st.integers(0, 40), max_size=40))
def test_any_frames_in_any_pieces_are_the_same_events_or_the_same_violation(
    frames: list[bytes], sizes: list[int]
) -> None:
    async def both() -> None:
        stream = b"".join(map(muxed, frames))
        whole, pieces = Told(), Told()
        assert whole.feed([stream]) == pieces.feed(cut(stream, sizes))
        assert whole.phases == pieces.phases
        assert len(whole.connections._open) <= 2

    asyncio.run(both())


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=10))
def test_any_bytes_are_events_or_a_violation(pieces: list[bytes]) -> None:
    async def feed() -> None:
        events = Told().feed(pieces) or []
        assert sum(len(event.data) for event in events if isinstance(event, Output)) <= 200

    asyncio.run(feed())


def test_what_a_runner_says_beside_its_frames_is_kept_short() -> None:
    told = Told()
    told.feed([muxed(b"x" * 10_000 + b"end", 2)])
    assert told.conversation.runner_words.endswith(b"xend")
    assert len(told.conversation.runner_words) == 4096


@given(st.lists(st.tuples(st.integers(0, 5000), st.booleans()), max_size=60))
def test_a_window_never_lets_more_through_than_its_size(steps: list[tuple[int, bool]]) -> None:
    window, waiting, sent_back, came = Window(10_000), [], 0, 0
    for cost, back in steps:
        if back and waiting:
            sent_back += window.give_back(waiting.pop(0))
            continue
        if came - sent_back + cost > 10_000:
            with pytest.raises(ProtocolViolation):
                window.take(cost)
            return
        window.take(cost)
        waiting.append(cost)
        came += cost
    while waiting:
        sent_back += window.give_back(waiting.pop(0))
    assert 0 <= came - sent_back < 10_000 // 4


def test_credit_is_given_once_for_each_event_and_by_channel() -> None:
    sent: list[bytes] = []
    windows = ReaderWindows(sent.append)
    count = OUTPUT_WINDOW // (PIECE + FRAME_COST)
    events = [Output("stdout", b"x" * PIECE) for _ in range(count)]
    for event in events:
        frame = Frame(FrameKind.DATA, event.data, STDOUT)
        windows.take(frame)
        windows.held(event, frame)
    assert windows.scarce
    for event in events + events:
        windows.taken(event)
        windows.taken(Started())
    assert not windows.scarce
    total = sum(int.from_bytes(item[9:], "big") for item in sent)
    assert {item[:5] for item in sent} == {struct.pack(">BI", FrameKind.CREDIT, STDOUT)}
    assert count * (PIECE + FRAME_COST) - OUTPUT_WINDOW // 4 < total <= count * (PIECE + FRAME_COST)


async def test_a_channel_is_free_again_once_its_close_was_answered() -> None:
    served = asyncio.Semaphore(0)

    class Hangs:
        async def serve(self, listener: int, stream: Duplex) -> None:
            del listener
            assert await stream.read() == b"x"
            served.release()

    sent: list[bytes] = []
    connections = Connections(Hangs(), (PORT,), sent.append)

    def hear(kind: FrameKind, payload: bytes = b"", *, channel: int) -> None:
        connections.hear(Frame(kind, payload, channel))

    for number in range(16, 16 + 3 * MAX_CONNECTIONS):
        hear(FrameKind.OPEN, struct.pack(">I", PORT), channel=number)
        hear(FrameKind.DATA, b"x", channel=number)
        await served.acquire()
        await connections.ended()
        assert sent.pop() == said(FrameKind.CLOSE, channel=number)
        hear(FrameKind.DATA, b"still on its way", channel=number)
        hear(FrameKind.CLOSE, channel=number)
        with pytest.raises(ProtocolViolation):
            hear(FrameKind.DATA, b"x", channel=number)


async def test_a_gate_that_writes_waits_for_credit_and_breaks_with_the_connection() -> None:
    class Writes:
        async def serve(self, listener: int, stream: Duplex) -> None:
            del listener
            await stream.write(b"x" * (10 * CONNECTION_WINDOW))

    sent: list[bytes] = []
    connections = Connections(Writes(), (PORT,), sent.append)
    connections.hear(Frame(FrameKind.OPEN, struct.pack(">I", PORT), 16))
    task = next(iter(connections._tasks))
    for _ in range(3):
        await asyncio.wait({task}, timeout=0.001)
        size = sum(len(item) - 9 + FRAME_COST for item in sent)
        assert CONNECTION_WINDOW - PIECE < size <= CONNECTION_WINDOW
        sent.clear()
        connections.hear(Frame(FrameKind.CREDIT, struct.pack(">I", size), 16))
    connections.hear(Frame(FrameKind.RESET, b"", 16))
    await connections.ended()
    assert sent[-1] == said(FrameKind.CLOSE, channel=16)
