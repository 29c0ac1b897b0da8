"""The ``broker`` program as a process of its own, forked from one that has imported it already: importing takes longer than
most commands do.

Each process of tests has one such nursery. For each program it forks a keeper, and the keeper the program; the keeper tells
its number, and its exit code at the end. The program has its own environment, folder, signals and standard streams.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import pkgutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_NUMBER = struct.Struct("<i")
_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


class Forked:
    """A program that was forked; what tests use of ``subprocess.Popen``."""

    def __init__(self, args: Sequence[str], report: socket.socket, stdout: IO[str] | None) -> None:
        self.args = list(args)
        self.stdout = stdout
        self.returncode: int | None = None
        self._report = report
        self._lock = threading.Lock()
        self.pid = self._read(None)

    def _read(self, timeout: float | None) -> int:
        self._report.settimeout(timeout)
        data = self._report.recv(_NUMBER.size, socket.MSG_WAITALL)
        if len(data) < _NUMBER.size:
            message = f"the keeper of {self.args} is gone"
            raise RuntimeError(message)
        return int(_NUMBER.unpack(data)[0])

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; ``None`` while it runs."""
        if not self._lock.acquire(blocking=False):
            return self.returncode  # somebody waits for it
        try:
            return self._end(0.0)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self._lock.release()

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end, and gives its exit code.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        with self._lock:
            return self._end(timeout)

    def _end(self, timeout: float | None) -> int:
        if self.returncode is None:
            try:
                self.returncode = self._read(timeout)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
            self._report.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends it a signal if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that forks programs."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forked", str(theirs.fileno())],
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._control = ours

    def start(self, args: Sequence[str], env: Mapping[str, str], *, stdout: int, stderr: int) -> socket.socket:
        """Has a program forked; gives where its keeper reports."""
        ours, theirs = socket.socketpair()
        order = os.memfd_create("order")
        with theirs, os.fdopen(order, "wb") as file, Path(os.devnull).open("rb") as stdin:
            file.write(json.dumps({"args": list(args), "env": dict(env), "cwd": str(Path.cwd())}).encode())
            file.flush()
            os.lseek(order, 0, os.SEEK_SET)
            socket.send_fds(self._control, [b"!"], [order, theirs.fileno(), stdin.fileno(), stdout, stderr])
        return ours

    def close(self) -> None:
        """Ends it; what it has forked goes on."""
        self._control.close()
        self._process.wait()


_lock = threading.Lock()
_nurseries: dict[int, Nursery] = {}


def _nursery() -> Nursery:
    with _lock:
        if os.getpid() not in _nurseries:
            _nurseries[os.getpid()] = Nursery()
            atexit.register(_nurseries[os.getpid()].close)
        return _nurseries[os.getpid()]


def fork(args: Sequence[str], env: Mapping[str, str], *, stderr: int, stdout: int | None = None) -> Forked:
    """Starts the program with arguments; its output goes to a file's descriptor, or to be read from ``stdout``."""
    if stdout is not None:
        return Forked(args, _nursery().start(args, env, stdout=stdout, stderr=stderr), None)
    reading, writing = os.pipe()
    try:
        report = _nursery().start(args, env, stdout=writing, stderr=stderr)
    finally:
        os.close(writing)
    return Forked(args, report, os.fdopen(reading, encoding="utf-8"))


def _import_all() -> None:
    package = importlib.import_module("broker.cli")
    for module in pkgutil.iter_modules(package.__path__, "broker.cli."):
        importlib.import_module(module.name)


def _keep(fds: Sequence[int]) -> dict[str, object] | None:
    """In the keeper, which never returns; gives the order in the program."""
    order, report, *streams = fds
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if pid := os.fork():
        for descriptor in (order, *streams):
            os.close(descriptor)
        os.write(report, _NUMBER.pack(pid))
        _, status = os.waitpid(pid, 0)
        try:
            os.write(report, _NUMBER.pack(os.waitstatus_to_exitcode(status)))
        finally:
            os._exit(0)
    with os.fdopen(order, "rb") as file:
        asked: dict[str, object] = json.loads(file.read())
    os.close(report)
    for number, ((name, mode), descriptor) in enumerate(zip(_STREAMS, streams, strict=True)):
        os.dup2(descriptor, number)
        os.close(descriptor)
        errors = "backslashreplace" if name == "stderr" else "strict"
        setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors=errors, closefd=False))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return asked


def _serve(control: socket.socket) -> dict[str, object] | None:
    """Forks what is asked for, until nobody asks any more; gives the order in the program."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are waited for by nobody
    while True:
        data, fds, _, _ = socket.recv_fds(control, 1, 5)
        if not data:
            return None
        if not os.fork():
            control.close()
            return _keep(fds)
        for descriptor in fds:
            os.close(descriptor)


def _main() -> None:
    _import_all()
    asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    if asked is None:
        return
    from broker.cli.main import main  # noqa: PLC0415 - in the nursery alone

    args, env = asked["args"], asked["env"]
    assert isinstance(args, list)
    assert isinstance(env, dict)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(str(asked["cwd"]))
    main(args)


if __name__ == "__main__":
    _main()
