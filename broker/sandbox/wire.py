"""Bytes to frames: the engine's multiplexed stream, and inside it the runner's frames.

Pure and incremental. What comes from a container is hostile: any deviation is a ``ProtocolViolation``.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType


class ProtocolViolation(Exception):  # noqa: N818  # a verdict on the other side, not an error of ours
    """The container said something that a runner never says."""


class FrameKind(enum.IntEnum):
    """Type bytes; those below 0x10 go in, the others come out."""

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
_SHORT = 16 * 1024

MAX_PAYLOAD: Mapping[int, int] = MappingProxyType(
    {
        FrameKind.STARTED: 0,
        FrameKind.STDOUT: PIECE,
        FrameKind.STDERR: PIECE,
        FrameKind.EXIT: _SHORT,
        FrameKind.RESULT: PIECE,
        FrameKind.OUT_BEGIN: _SHORT,
        FrameKind.OUT_DATA: PIECE,
        FrameKind.OUT_END: 0,
        FrameKind.WARNING: PIECE,
        FrameKind.OVER: 0,
        FrameKind.REFUSED: PIECE,
        FrameKind.END: 0,
    }
)
"""Type byte of a frame that may come out -> its longest payload in bytes."""

_FRAME = struct.Struct(">BI")
_MUX = struct.Struct(">B3xI")
STDOUT_CHANNEL = 1
STDERR_CHANNEL = 2
_MUX_CHANNELS = frozenset({STDOUT_CHANNEL, STDERR_CHANNEL})


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame from the runner."""

    kind: FrameKind
    payload: bytes


def encode(kind: FrameKind, payload: bytes = b"") -> bytes:
    """A frame as bytes."""
    return _FRAME.pack(kind, len(payload)) + payload


class FrameParser:
    """Cuts a byte stream into frames; holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with ``data``; must be exhausted.

        Raises:
            ProtocolViolation: an unknown type, or a payload longer than its type allows.
        """
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= _FRAME.size:
                kind, length = _FRAME.unpack_from(self._buffer, at)
                longest = MAX_PAYLOAD.get(kind)
                if longest is None:
                    raise ProtocolViolation(f"unknown frame type {kind:#04x}")
                if length > longest:
                    raise ProtocolViolation(f"a frame of type {kind:#04x} with {length} bytes")
                end = at + _FRAME.size + length
                if len(self._buffer) < end:
                    break
                payload = bytes(memoryview(self._buffer)[at + _FRAME.size : end])
                at = end
                yield Frame(FrameKind(kind), payload)
        finally:
            del self._buffer[:at]


class Demultiplexer:
    """Undoes the engine's multiplexing of standard output and error (8-byte headers)."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._channel = STDOUT_CHANNEL
        self._left = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Pairs of channel and bytes, as far as they go; must be exhausted.

        Raises:
            ProtocolViolation: a header that the engine never writes.
        """
        at = 0
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                yield self._channel, piece
                continue
            missing = _MUX.size - len(self._header)
            self._header += data[at : at + missing]
            at += missing
            if len(self._header) == _MUX.size:
                self._channel, self._left = _MUX.unpack(self._header)
                self._header.clear()
                if self._channel not in _MUX_CHANNELS:
                    raise ProtocolViolation(f"unknown channel {self._channel} in the engine's stream")
