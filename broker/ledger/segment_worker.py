"""A process that checks runs of a ledger for another: ``python -m broker.ledger.segment_worker``.

It reads JSON lines: first how to open the source and what is asked, then ``[first, last]`` of one run after the other. For
each it writes a length (4 bytes, big-endian) and that many bytes of JSON: the run's summary, or ``null`` where something is
wrong with it. It ends with its input.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

import msgspec

from broker.ledger.segment import BATCH, Asked, Run, Summary
from broker.ledger.source import Reopen, Source, UnreadableError
from broker.ledger.source_kinds import open_source

LENGTH_BYTES = 4
"""Of the number before each answer."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is told first."""

    source: Reopen
    asked: Asked


def check_run(source: Source, first: int, last: int, asked: Asked) -> Summary | None:
    """Checks the entries from number ``first`` to number ``last``, both included; ``None`` where anything is wrong."""
    run = Run(first, asked)
    try:
        rows = source.rows(first, last)
        while batch := list(islice(rows, BATCH)):
            if not run.add(batch):
                return None
    except UnreadableError:
        return None
    summary = run.summary()
    return summary if summary is not None and summary.count == last + 1 - first else None


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers requests until they end."""
    task = msgspec.json.decode(requests.readline(), type=Task)
    with open_source(task.source) as source:
        for first, last in _runs(requests):
            data = msgspec.json.encode(check_run(source, first, last, task.asked))
            answers.write(len(data).to_bytes(LENGTH_BYTES, "big") + data)
            answers.flush()


def _runs(requests: BinaryIO) -> Iterator[tuple[int, int]]:
    for line in requests:
        yield msgspec.json.decode(line, type=tuple[int, int])


def main() -> None:
    """Runs on standard input and output."""
    # Who asked ends this process; a key pressed in the terminal is for them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        sys.stderr.close()  # nobody is there any more


if __name__ == "__main__":
    main()
