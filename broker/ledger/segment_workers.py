"""Shares a ledger's runs among processes, and gives back what they find in the ledger's order."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import cycle
from pathlib import Path
from typing import IO, Self

import msgspec

from broker.ledger.segment import SEGMENT, Asked, Summary
from broker.ledger.segment_worker import LENGTH_BYTES, Task
from broker.ledger.source import Reopen

_AHEAD = 2
"""Runs that a worker has been given and that nobody has taken yet: one that it checks, and the next."""
_STOP_S = 5.0

_decode = msgspec.json.Decoder(Summary | None).decode


def runs(first: int, count: int) -> Iterator[tuple[int, int]]:
    """First and last number of each run from entry ``first`` to the last of ``count``; all but the first begin aligned."""
    while first < count:
        end = min(count, (first // SEGMENT + 1) * SEGMENT)
        yield first, end - 1
        first = end


class Workers:
    """Processes that check runs; a context manager that ends them.

    Args:
        number: how many.
        source: how they open it.
        asked: what each summary should hold besides.
    """

    def __init__(self, number: int, source: Reopen, asked: Asked) -> None:
        self._number = number
        self._task = msgspec.json.encode(Task(source, asked)) + b"\n"
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        # The very package that runs here, and nothing from the folder that somebody happens to be in.
        package = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH", ""))))
        command = [sys.executable, "-P", "-m", "broker.ledger.segment_worker"]
        for _ in range(self._number):
            try:
                process = subprocess.Popen(  # noqa: S603 - ourselves
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}
                )
            except OSError:
                break  # no more of them can be had; without any, nothing is found here
            self._processes.append(process)
            self._send(process, self._task)
        return self

    def __exit__(self, *_: object) -> None:
        # Without its pipes a worker closes its source and ends.
        for process in self._processes:
            _close(process.stdin)
            _close(process.stdout)
        for process in self._processes:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def summaries(self, wanted: Iterable[tuple[int, int]]) -> Iterator[Summary | None]:
        """What was found of each run, in their order; ``None`` where something is wrong, or a worker was lost."""
        # By turns: the next answer is always that of the one whose turn it is, and nobody gets far ahead.
        given: list[subprocess.Popen[bytes]] = []
        for process, run in zip(cycle(self._processes), wanted, strict=False):
            self._send(process, msgspec.json.encode(run) + b"\n")
            given.append(process)
            if len(given) == len(self._processes) * _AHEAD:
                yield _receive(given.pop(0))
        for process in given:
            yield _receive(process)

    def _send(self, process: subprocess.Popen[bytes], line: bytes) -> None:
        if process.stdin is None:
            return
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except OSError:
            return  # it is gone: its answer will not come, which is seen there


def _receive(process: subprocess.Popen[bytes]) -> Summary | None:
    pipe = process.stdout
    if pipe is None:
        return None
    head = pipe.read(LENGTH_BYTES)
    length = int.from_bytes(head, "big")
    data = pipe.read(length) if len(head) == LENGTH_BYTES else b""
    return _decode(data) if data and len(data) == length else None


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is None:
        return
    try:
        pipe.close()
    except OSError:
        return  # what was not sent yet has nobody to read it
