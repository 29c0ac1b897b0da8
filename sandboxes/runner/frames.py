"""Frames on the attached stream: one type byte, the payload's length (unsigned, 32 bit, big endian), the payload.

The broker holds the other end of the table; ``broker.wire`` labels of the images say which version they speak.
"""

from __future__ import annotations

import json
import os
import struct

WIRE_VERSION = "1"

JOB = 0x01
FILE_BEGIN = 0x02
FILE_DATA = 0x03
FILE_END = 0x04
ARGUMENTS = 0x05
END_OF_INPUT = 0x06

STARTED = 0x11
STDOUT = 0x12
STDERR = 0x13
EXIT = 0x14
RESULT = 0x15
OUT_BEGIN = 0x16
OUT_DATA = 0x17
OUT_END = 0x18
WARNING = 0x19
OVER = 0x1A
REFUSED = 0x1B
END = 0x1F

PIECE = 64 * 1024
"""Longest payload of a frame that carries data, in bytes."""

_HEADER = struct.Struct(">BI")
_READ = 256 * 1024


class Refusal(Exception):  # noqa: N818  # it is no error of the runner's: the job can't be run as it came
    """The job can't be run as it came; the text says why."""


class Channel:
    """The two ends of the attached stream, as file descriptors in blocking mode."""

    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self._sink = sink
        self._buffer = bytearray()

    def receive(self) -> tuple[int, bytes]:
        """The next frame.

        Raises:
            EOFError: the broker has gone.
        """
        header = self._take(_HEADER.size)
        kind, length = _HEADER.unpack(header)
        return kind, self._take(length)

    def send(self, kind: int, payload: bytes = b"") -> None:
        """Writes one frame; blocks while the broker doesn't read."""
        view = memoryview(_HEADER.pack(kind, len(payload)) + payload)
        while view:
            view = view[os.write(self._sink, view) :]

    def send_json(self, kind: int, value: dict[str, object]) -> None:
        """Writes one frame with a JSON object."""
        self.send(kind, json.dumps(value).encode())

    @property
    def source(self) -> int:
        """The descriptor that the broker writes to; between a job and its end it says nothing."""
        return self._source

    def check_broker(self) -> None:
        """Drops what came although nothing should.

        Raises:
            EOFError: the broker has gone.
        """
        if not os.read(self._source, _READ):
            raise EOFError

    def wait_for_end(self) -> None:
        """Returns once the broker has closed its side; what still comes is dropped."""
        while os.read(self._source, _READ):
            pass

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            piece = os.read(self._source, _READ)
            if not piece:
                raise EOFError
            self._buffer += piece
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken
