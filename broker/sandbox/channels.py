"""Windows: how much may be on its way on one channel, and what the reader has to give back. Pure."""

from __future__ import annotations

from collections.abc import Callable

from broker.domain.run import RunEvent
from broker.sandbox.wire import (
    FILES,
    FILES_WINDOW,
    FRAME_COST,
    OUTPUT_WINDOW,
    PIECE,
    STDERR,
    STDOUT,
    Frame,
    FrameKind,
    ProtocolViolation,
    encode_number,
)

_BATCH = 4
"""Credit goes back in shares of the window no smaller than one of so many."""


class Window:
    """What the other side may send on one channel.

    Args:
        size: bytes that may be on their way or wait for the reader, counted with what each frame costs.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._back = 0

    def take(self, cost: int) -> None:
        """Something came.

        Raises:
            ProtocolViolation: more than the window allows.
        """
        self._used += cost
        if self._used > self._size:
            raise ProtocolViolation("more bytes than the channel's window allows")

    def give_back(self, cost: int) -> int:
        """What came has been dealt with; returns the credit to send now, often none yet."""
        self._back += cost
        if self._back * _BATCH < self._size:
            return 0
        credit, self._back = self._back, 0
        self._used -= credit
        return credit

    @property
    def scarce(self) -> bool:
        """Whether the other side may have to wait for us."""
        return self._used + PIECE + FRAME_COST > self._size


class ReaderWindows:
    """The windows of the channels that the reader of a run's events empties.

    Args:
        send: sends bytes to the runner.
    """

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._windows = {STDOUT: Window(OUTPUT_WINDOW), STDERR: Window(OUTPUT_WINDOW), FILES: Window(FILES_WINDOW)}
        self._held: dict[int, tuple[RunEvent, int, int]] = {}

    def take(self, frame: Frame) -> None:
        """A frame that counts has come.

        Raises:
            ProtocolViolation: more than its channel's window allows.
        """
        self._windows[frame.channel].take(frame.cost)

    def held(self, event: RunEvent, frame: Frame) -> None:
        """The frame became an event, which the reader has to give back."""
        # The event itself is kept, so that no other can have its identity.
        self._held[id(event)] = (event, frame.channel, frame.cost)

    def dropped(self, frame: Frame) -> None:
        """The frame became nothing that a reader has to take."""
        self._give_back(frame.channel, frame.cost)

    def taken(self, event: RunEvent) -> None:
        """The reader is done with an event; nothing happens for one that holds no bytes, nor for the second time."""
        held = self._held.pop(id(event), None)
        if held is not None:
            self._give_back(held[1], held[2])

    @property
    def scarce(self) -> bool:
        """Whether the runner may have to wait for the reader."""
        return any(window.scarce for window in self._windows.values())

    def _give_back(self, channel: int, cost: int) -> None:
        if credit := self._windows[channel].give_back(cost):
            self._send(encode_number(FrameKind.CREDIT, credit, channel))
