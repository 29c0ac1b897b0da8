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
    """Type bytes. Those below 0x10 go in, those from 0x10 come out, those from 0x20 go both ways but OPEN and RESET."""

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
"""Channels from here on are connections of the tool, numbered in the order in which they were opened."""

PIECE = 64 * 1024
"""Longest payload of a frame that carries data, in bytes."""
FRAME_COST = 256
"""What a frame counts against its window besides its payload, so that a flood of tiny frames is bounded too."""
OUTPUT_WINDOW = 512 * 1024
"""Of standard output and of standard error, each, in bytes."""
FILES_WINDOW = 1024 * 1024
CONNECTION_WINDOW = 128 * 1024
"""Each way."""
MAX_CONNECTIONS = 64
"""At once."""
_SHORT = 16 * 1024
_NUMBER_BYTES = 4
_PING_BYTES = 8

MAX_PAYLOAD: Mapping[int, int] = MappingProxyType(
    {
        FrameKind.PONG: _PING_BYTES,
        FrameKind.STARTED: 0,
        FrameKind.TREE_FILE: _SHORT,
        FrameKind.TREE_LINK: PIECE,
        FrameKind.EXIT: _SHORT,
        FrameKind.RESULT: PIECE,
        FrameKind.OUT_BEGIN: _SHORT,
        FrameKind.OUT_DATA: PIECE,
        FrameKind.OUT_END: 0,
        FrameKind.WARNING: PIECE,
        FrameKind.OVER: 0,
        FrameKind.REFUSED: PIECE,
        FrameKind.TREE_REMOVED: _SHORT,
        FrameKind.TREE_MODE: _SHORT,
        FrameKind.TREE_PARTIAL: 0,
        FrameKind.END: 0,
        FrameKind.DATA: PIECE,
        FrameKind.OPEN: _NUMBER_BYTES,
        FrameKind.END_OF_DATA: 0,
        FrameKind.RESET: 0,
        FrameKind.CLOSE: 0,
        FrameKind.CREDIT: _NUMBER_BYTES,
    }
)
"""Type byte of a frame that may come out -> its longest payload in bytes."""

ON_FILES = frozenset(
    {
        FrameKind.RESULT,
        FrameKind.OUT_BEGIN,
        FrameKind.OUT_DATA,
        FrameKind.OUT_END,
        FrameKind.TREE_FILE,
        FrameKind.TREE_LINK,
        FrameKind.TREE_REMOVED,
        FrameKind.TREE_MODE,
    }
)
"""Frames whose channel is that of the files."""
COUNTED = ON_FILES | {FrameKind.DATA}
"""Frames that count against their channel's window; how many of the others may come follows from their order."""
_ON_CONNECTIONS = frozenset({FrameKind.OPEN, FrameKind.END_OF_DATA, FrameKind.RESET, FrameKind.CLOSE, FrameKind.CREDIT})

_FRAME = struct.Struct(">BII")
_NUMBER = struct.Struct(">I")
_MUX = struct.Struct(">B3xI")
STDOUT_CHANNEL = 1
STDERR_CHANNEL = 2
_MUX_CHANNELS = frozenset({STDOUT_CHANNEL, STDERR_CHANNEL})


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame from the runner."""

    kind: FrameKind
    payload: bytes
    channel: int = CONTROL

    @property
    def cost(self) -> int:
        """What it counts against its channel's window, in bytes."""
        return FRAME_COST + len(self.payload)


def encode(kind: FrameKind, payload: bytes = b"", channel: int = CONTROL) -> bytes:
    """A frame as bytes."""
    return _FRAME.pack(kind, channel, len(payload)) + payload


def encode_number(kind: FrameKind, number: int, channel: int) -> bytes:
    """A frame whose payload is a number."""
    return encode(kind, _NUMBER.pack(number), channel)


def read_number(frame: Frame) -> int:
    """The number that is a frame's payload.

    Raises:
        ProtocolViolation: it isn't one.
    """
    if len(frame.payload) != _NUMBER.size:
        raise ProtocolViolation(f"a frame {frame.kind.name} without a number")
    return int(_NUMBER.unpack(frame.payload)[0])


class FrameParser:
    """Cuts a byte stream into frames; holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with ``data``; must be exhausted.

        Raises:
            ProtocolViolation: an unknown type, a payload longer than its type allows, or a channel that isn't its own.
        """
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= _FRAME.size:
                kind, channel, length = _FRAME.unpack_from(self._buffer, at)
                longest = MAX_PAYLOAD.get(kind)
                if longest is None:
                    raise ProtocolViolation(f"unknown frame type {kind:#04x}")
                if length > longest:
                    raise ProtocolViolation(f"a frame of type {kind:#04x} with {length} bytes")
                if not _has_place(kind, channel):
                    raise ProtocolViolation(f"a frame of type {kind:#04x} on channel {channel}")
                end = at + _FRAME.size + length
                if len(self._buffer) < end:
                    break
                payload = bytes(memoryview(self._buffer)[at + _FRAME.size : end])
                at = end
                yield Frame(FrameKind(kind), payload, channel)
        finally:
            del self._buffer[:at]


def _has_place(kind: int, channel: int) -> bool:
    if kind == FrameKind.DATA:
        return channel in {STDOUT, STDERR} or channel >= FIRST_CONNECTION
    if kind in ON_FILES:
        return channel == FILES
    return channel >= FIRST_CONNECTION if kind in _ON_CONNECTIONS else channel == CONTROL


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
