"""Frames on the attached stream: type (one byte), channel and payload length (unsigned, 32 bit, big endian), payload.

Channel 0 is for control. Standard output, standard error, the files and each connection of the tool have a channel with
a window: who sends on one may have only so many bytes on their way, each frame with ``FRAME_COST`` more than its
payload, until the other side gives credit back. So an unread channel holds up itself alone.

The broker holds the other end of the table; ``broker.wire`` labels of the images say which version they speak.
"""

from __future__ import annotations

import os
import struct

WIRE_VERSION = "3"

JOB = 0x01
FILE_BEGIN = 0x02
FILE_DATA = 0x03
FILE_END = 0x04
ARGUMENTS = 0x05
END_OF_INPUT = 0x06
PING = 0x07
LINK = 0x08

PONG = 0x10
STARTED = 0x11
TREE_FILE = 0x12
TREE_LINK = 0x13
EXIT = 0x14
RESULT = 0x15
OUT_BEGIN = 0x16
OUT_DATA = 0x17
OUT_END = 0x18
WARNING = 0x19
OVER = 0x1A
REFUSED = 0x1B
TREE_REMOVED = 0x1C
TREE_MODE = 0x1D
TREE_PARTIAL = 0x1E
END = 0x1F

DATA = 0x20
OPEN = 0x21
END_OF_DATA = 0x22
RESET = 0x23
CLOSE = 0x24
CREDIT = 0x25

CONTROL = 0
STDOUT = 1
STDERR = 2
FILES = 3
FIRST_CONNECTION = 16

PIECE = 64 * 1024
"""Longest payload of a frame that carries data, in bytes."""
FRAME_COST = 256
"""What a frame counts against its window besides its payload."""
OUTPUT_WINDOW = 512 * 1024
FILES_WINDOW = 1024 * 1024
CONNECTION_WINDOW = 128 * 1024
"""Each way."""
MAX_CONNECTIONS = 64
"""At once."""

_HEADER = struct.Struct(">BII")
_NUMBER = struct.Struct(">I")
_READ = 256 * 1024
_LEAST = FRAME_COST + 4096
"""Data isn't sent in smaller pieces than this allows only because a window is nearly used up."""


class Refusal(Exception):  # noqa: N818  # it is no error of the runner's: the job can't be run as it came
    """The job can't be run as it came; the text says why."""


class Wire:
    """The two ends of the attached stream, as file descriptors in blocking mode.

    The broker reads at all times, so that writing may block; what is sent waits for ``flush``.
    """

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self._sink = sink
        self._came = bytearray()
        self._going = bytearray()
        self.windows = {STDOUT: OUTPUT_WINDOW, STDERR: OUTPUT_WINDOW, FILES: FILES_WINDOW}
        """Channel -> what may still be sent on it."""

    def receive(self) -> tuple[int, int, bytes]:
        """The next frame as type, channel and payload; waits for it.

        Raises:
            EOFError: the broker has gone.
        """
        while (frame := self._next()) is None:
            self._read()
        return frame

    def received(self) -> list[tuple[int, int, bytes]]:
        """Reads once, and gives the frames that are complete.

        Raises:
            EOFError: the broker has gone.
        """
        self._read()
        return list(iter(self._next, None))

    def send(self, kind: int, payload: bytes = b"", channel: int = CONTROL) -> None:
        """Puts a frame on its way."""
        self._going += _HEADER.pack(kind, channel, len(payload))
        self._going += payload
        if len(self._going) >= _READ:
            self.flush()

    def send_number(self, kind: int, number: int, channel: int) -> None:
        """Puts a frame on its way whose payload is a number."""
        self.send(kind, _NUMBER.pack(number), channel)

    def send_counted(self, kind: int, payload: bytes, channel: int) -> None:
        """Puts a frame on its way that counts against its channel's window."""
        self.windows[channel] -= FRAME_COST + len(payload)
        self.send(kind, payload, channel)

    def flush(self) -> None:
        """Writes what waits; blocks while it doesn't go."""
        going, self._going = self._going, bytearray()
        view = memoryview(going)
        while view:
            view = view[os.write(self._sink, view) :]

    def room(self, channel: int) -> int:
        """How long a piece of data may be now; 0 while the window is all but used up."""
        left = self.windows[channel]
        return min(PIECE, left - FRAME_COST) if left >= _LEAST else 0

    def fits(self, payload: bytes, channel: int) -> bool:
        """Whether a counted frame may be sent now."""
        return FRAME_COST + len(payload) <= self.windows[channel]

    def credit(self, channel: int, payload: bytes) -> None:
        """The broker gave credit back."""
        if channel in self.windows:
            self.windows[channel] += _NUMBER.unpack(payload)[0]

    def _read(self) -> None:
        piece = os.read(self.source, PIECE)
        if not piece:
            raise EOFError
        self._came += piece

    def _next(self) -> tuple[int, int, bytes] | None:
        if len(self._came) < _HEADER.size:
            return None
        kind, channel, length = _HEADER.unpack_from(self._came)
        end = _HEADER.size + length
        if len(self._came) < end:
            return None
        payload = bytes(memoryview(self._came)[_HEADER.size : end])
        del self._came[:end]
        return kind, channel, payload


def as_text(text: str) -> bytes:
    """A sentence as a payload."""
    return text.encode(errors="backslashreplace")[:PIECE]
