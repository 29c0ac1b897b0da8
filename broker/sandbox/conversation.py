"""What is said on a container's attached stream: pings before the job, then one run. No I/O: bytes in, bytes out.

Nothing here waits. What a reader has not taken waits in the queue, and the windows bound how much that can be.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from broker.sandbox.channels import ReaderWindows
from broker.sandbox.connections import Connections
from broker.sandbox.events import EventQueue
from broker.sandbox.transcript import Phase, Transcript
from broker.sandbox.wire import (
    COUNTED,
    FIRST_CONNECTION,
    STDERR_CHANNEL,
    Demultiplexer,
    Frame,
    FrameKind,
    FrameParser,
    ProtocolViolation,
    encode,
)

_RUNNER_WORDS = 4096
_PING_BYTES = 8


class Conversation:
    """With one runner.

    Args:
        send: sends bytes to the runner; never fails, never waits.
        moved: is told of each phase that the run comes to, at the very frame that begins it.
    """

    def __init__(self, send: Callable[[bytes], None], moved: Callable[[Phase], None]) -> None:
        self.queue = EventQueue()
        self.windows = ReaderWindows(send)
        self.runner_words = b""
        """The last that the runner wrote outside of the frames: its own crash, if any."""
        self._send = send
        self._moved = moved
        self._outer = Demultiplexer()
        self._inner = FrameParser()
        self._transcript: Transcript | None = None
        self._connections: Connections | None = None
        self._pings: dict[bytes, asyncio.Future[bool]] = {}
        self._numbers = itertools.count(1)

    def begin(self, transcript: Transcript, connections: Connections | None) -> None:
        """From now on the runner's frames are those of a run."""
        self._transcript = transcript
        self._connections = connections

    def ping(self, ahead: bytes = b"") -> asyncio.Future[bool]:
        """Asks a waiting runner for a sign of life; the result is true once it came, false once it can't come.

        ``ahead`` are frames that follow in the same write.
        """
        number = next(self._numbers).to_bytes(_PING_BYTES, "big")
        answer = self._pings[number] = asyncio.get_running_loop().create_future()
        self._send(encode(FrameKind.PING, number) + ahead)
        return answer

    def over(self) -> None:
        """Nothing more will be heard."""
        for answer in self._pings.values():
            if not answer.done():
                answer.set_result(False)
        self._pings.clear()

    def feed(self, data: bytes) -> None:
        """Takes what came; what a finished or refused run says after its last frame is dropped.

        Raises:
            ProtocolViolation: no runner says this now.
        """
        for channel, piece in self._outer.feed(data):
            if channel == STDERR_CHANNEL:
                self.runner_words = (self.runner_words + piece)[-_RUNNER_WORDS:]
                continue
            for frame in self._inner.feed(piece):
                if self._transcript and self._transcript.phase in {Phase.DONE, Phase.REFUSED}:
                    return
                self._hear(frame)

    def _hear(self, frame: Frame) -> None:
        transcript = self._transcript
        if frame.kind is FrameKind.PONG:
            self._pong(frame)
        elif transcript is None:
            raise ProtocolViolation(f"a frame {frame.kind.name} before there was a job")
        elif frame.channel >= FIRST_CONNECTION:
            if self._connections is None or transcript.phase is not Phase.RUNNING:
                raise ProtocolViolation("a connection that nobody asked for")
            self._connections.hear(frame)
        else:
            self._tell(frame, transcript)

    def _pong(self, frame: Frame) -> None:
        answer = self._pings.pop(frame.payload, None)
        if answer is None:
            raise ProtocolViolation("an answer that nobody asked for")
        if not answer.done():
            answer.set_result(True)

    def _tell(self, frame: Frame, transcript: Transcript) -> None:
        if frame.kind in COUNTED:
            self.windows.take(frame)
        before, said = transcript.phase, False
        for event in transcript.take(frame):
            said = True
            if frame.kind in COUNTED:
                self.windows.held(event, frame)
            self.queue.put(event)
        if not said and frame.kind in COUNTED:
            self.windows.dropped(frame)
        if transcript.phase is not before:
            self._moved(transcript.phase)
