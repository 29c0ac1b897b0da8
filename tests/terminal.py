"""The ``broker`` program on a real pseudo-terminal: what a person sees there, and what they type."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

_DEADLINE_S = 60.0


class Terminal:
    """One command on a terminal of its own; use it in ``with``."""

    def __init__(self, *args: str, env: Mapping[str, str], rows: int = 24, columns: int = 120) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("BROKER_", "COLUMNS", "LINES"))
        }
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "broker.cli.main", *args],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env={**clean, "TERM": "xterm", **env},
                start_new_session=True,
            )
        finally:
            os.close(slave)
        self._at = 0
        self.seen = ""
        """All that was shown so far, with the terminal's line ends made those of a file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(_DEADLINE_S)
        os.close(self._master)

    def until(self, text: str) -> str:
        """Waits for a text to be shown, and gives what was shown up to it since the last one that was waited for."""
        start = self._at
        self._read(lambda: text in self.seen[start:], f"{text!r} was never shown")
        self._at = self.seen.index(text, start) + len(text)
        return self.seen[start : self._at]

    def type(self, line: str) -> None:
        """Types a line, and Enter."""
        os.write(self._master, f"{line}\n".encode())

    def end(self) -> int:
        """Waits for the command's end, and gives its exit code."""
        self._read(lambda: False, "")
        return self.process.wait(_DEADLINE_S)

    def _read(self, done: Callable[[], bool], why: str) -> None:
        until = time.monotonic() + _DEADLINE_S
        while not done():
            ready, _, _ = select.select([self._master], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise AssertionError(f"{why or 'the command went on'}; shown:\n{self.seen}")
            try:
                data = os.read(self._master, 65536)
            except OSError:  # how a terminal says that its last user has left
                data = b""
            if not data:
                if why:
                    raise AssertionError(f"{why}; shown:\n{self.seen}")
                break
            self.seen += data.decode("utf-8", "replace").replace("\r\n", "\n")
