"""Between the tool and the broker: forwards what the tool writes and opens, as far as the windows allow."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal itself imports enum
import os
import select

from runner import frames
from runner.frames import Wire
from runner.light import suppress
from runner.waiting import Tool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_AT_ONCE = 8
"""Frames of the files that are sent before the pipes are looked at again."""


class Ending:
    """What is known of the tool's main process once it has been reaped."""

    def __init__(self, status: int, cpu_s: float, max_rss: int) -> None:
        self.status = status
        self.cpu_s = cpu_s
        self.max_rss = max_rss


class Traffic:
    """The connections of a tool, as the relay sees them: what a tool without any has."""

    def watch(self, poll: select.poll) -> int | None:
        """Registers what there is to wait for; how many milliseconds to wait at most, if not for ever."""

    def ready(self, descriptor: int, events: int) -> None:
        """Something happened to one of its descriptors."""

    def hear(self, kind: int, channel: int, payload: bytes) -> None:
        """The broker said something of a connection."""

    def close(self) -> None:
        """Ends them all."""


class Relay:
    """Forwards for one tool."""

    def __init__(self, wire: Wire, running: Tool, wake: int, traffic: Traffic) -> None:
        self._wire = wire
        self._main = running.pid
        self._wake = wake
        self._traffic = traffic
        self._pipes = {running.stdout: frames.STDOUT, running.stderr: frames.STDERR}
        self._watched: set[int] = set()
        self._poll = select.poll()
        self._poll.register(wake, select.POLLIN)
        self._poll.register(wire.source, select.POLLIN)
        for end in self._pipes:
            os.set_blocking(end, False)

    def until_exit(self) -> Ending:
        """Forwards until the main process has ended; by then all other processes and all connections have too.

        Raises:
            EOFError: the broker has gone while the tool ran: the tool ends with us, nobody keeps its limits any more.
        """
        while (ending := self.turn()) is None:
            pass
        _end_all()
        self._traffic.close()
        self._traffic = Traffic()
        return ending

    def turn(self) -> Ending | None:
        """Waits until something happens, and forwards it; how the main process has ended, once it has.

        Raises:
            EOFError: as ``until_exit``.
        """
        self._watch_pipes()
        patience = self._traffic.watch(self._poll)
        self._wire.flush()
        ending = None
        for descriptor, events in self._poll.poll(patience):
            if descriptor == self._wake:
                _drop(self._wake)
                ending = self._reap()
            elif descriptor == self._wire.source:
                self._hear()
            elif descriptor in self._pipes:
                self._forward(descriptor)
            else:
                self._traffic.ready(descriptor, events)
        return ending

    def rest(self, files: Iterator[tuple[int, int, bytes]]) -> None:
        """Forwards what is left in the pipes, and the files, until all of it has been sent.

        Raises:
            EOFError: the broker has gone.
        """
        frame = next(files, None)
        while self._pipes or frame is not None:
            moved = False
            for end in list(self._pipes):
                moved = self._forward(end, last=True) or moved
            for _ in range(_AT_ONCE):
                if frame is None or not self._send(*frame):
                    break
                moved, frame = True, next(files, None)
            if not moved:
                self._wire.flush()
                self._hear()

    def _send(self, kind: int, channel: int, payload: bytes) -> bool:
        if channel == frames.CONTROL:
            self._wire.send(kind, payload)
        elif self._wire.fits(payload, channel):
            self._wire.send_counted(kind, payload, channel)
        else:
            return False
        return True

    def _watch_pipes(self) -> None:
        for end, channel in self._pipes.items():
            if bool(self._wire.room(channel)) is (end in self._watched):
                continue
            if end in self._watched:
                self._poll.unregister(end)
                self._watched.remove(end)
            else:
                self._poll.register(end, select.POLLIN)
                self._watched.add(end)

    def _forward(self, end: int, *, last: bool = False) -> bool:
        """Sends what a pipe holds, up to one piece; false when nothing could be sent.

        Args:
            end: the pipe's.
            last: nobody writes to the pipe any more: where it is empty, it is at its end.
        """
        channel = self._pipes[end]
        room = self._wire.room(channel)
        if not room:
            return False
        try:
            piece = os.read(end, room)
        except BlockingIOError:
            if not last:
                return False
            piece = b""
        if piece:
            self._wire.send_counted(frames.DATA, piece, channel)
        else:
            self._close(end)
        return True

    def _close(self, end: int) -> None:
        if end in self._watched:
            self._poll.unregister(end)
            self._watched.remove(end)
        del self._pipes[end]
        os.close(end)

    def _hear(self) -> None:
        for kind, channel, payload in self._wire.received():
            if kind == frames.CREDIT:
                self._wire.credit(channel, payload)
            else:
                self._traffic.hear(kind, channel, payload)

    def _reap(self) -> Ending | None:
        """Reaps every process that has ended; tells how the main one did, if it is among them."""
        ending = None
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return ending
            if pid == 0:
                return ending
            if pid == self._main and not os.WIFSTOPPED(status):  # one that has itself traced is only seen to stop
                ending = Ending(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _end_all() -> None:
    """Kills and reaps every other process of the sandbox."""
    while True:
        with suppress(ProcessLookupError):  # nobody is left to be killed; the dead may still wait to be reaped
            os.kill(-1, signal.SIGKILL)
        try:
            os.wait4(-1, 0)
        except ChildProcessError:
            return


def _drop(wake: int) -> None:
    try:
        os.read(wake, frames.PIECE)
    except BlockingIOError:
        return
