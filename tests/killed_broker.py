"""Serves as a broker that is killed, or in which somebody changes a file, at one step of an effect on a directory.

Usage: killed_broker.py POINT HOW, where POINT is one of ``POINTS``, and HOW is ``kill``, ``refuse`` (the step is refused),
``fail`` (the database is away), or the path of a file that somebody writes to then.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from broker.cli.main import main
from broker.errors import PermissionDeniedError, UnavailableError
from broker.pipeline import folder_applying
from broker.pipeline.applying import Applying
from broker.tree_folder.applying import FolderEffect
from broker.tree_folder.journal import JournalFile
from broker.tree_folder.placing import Placing
from broker.tree_folder.staging import Staging
from tests.forked import Forked
from tests.served import DEADLINE_S, Served

POINTS: Mapping[str, tuple[Any, str, int, str]] = {
    "before the journal": (JournalFile, "write", 0, "before"),
    "after the journal": (JournalFile, "write", 0, "after"),
    "while it is made ready": (Staging, "_put", 1, "after"),
    "before it is said to be ready": (JournalFile, "write", 1, "before"),
    "before the intent": (Applying, "write_intent", 0, "before"),
    "before the intent is durable": (Applying, "write_intent", 0, "after"),
    "after the intent": (FolderEffect, "carry_out", 0, "before"),
    "after the first step": (Placing, "_remove", 0, "after"),
    "in the middle": (Placing, "_exchange", 0, "after"),
    "after the last step": (FolderEffect, "carry_out", 0, "after"),
    "before the outcome is durable": (folder_applying, "write_applied", 0, "after"),
    "after the outcome": (FolderEffect, "finish", 0, "before"),
    "before the journal goes": (JournalFile, "remove", 0, "before"),
    "after the journal has gone": (JournalFile, "remove", 0, "after"),
}
"""Name -> what is wrapped, which time it counts, and whether before or after it."""

BEGUN = (
    "after the intent",
    "after the first step",
    "in the middle",
    "after the last step",
    "before the outcome is durable",
)
"""Points at which the intent is durable, and the outcome isn't."""


def happen(how: str) -> None:
    """Kills this process, fails, or writes to a file."""
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "refuse":
        raise PermissionDeniedError("it may not be any more", reason="REFUSED_NOW")
    if how == "fail":
        raise UnavailableError("the database is away", reason="STORE_AWAY")
    Path(how).write_bytes(b"somebody else's\n")


def wrapped(real: Callable[..., Any], number: int, when: str, how: str) -> Callable[..., Any]:
    """A function around which something happens once."""
    left = number

    def around(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - as the function has it
        nonlocal left
        mine, left = left == 0, left - 1
        if mine and when == "before":
            happen(how)
        found = real(*arguments, **named)
        if mine and when == "after":
            happen(how)
        return found

    return around


@contextmanager
def doomed(state: Path, point: str, how: str = "kill") -> Iterator[tuple[Served, subprocess.Popen[bytes]]]:
    """A broker to which something happens at a point, and its process; it may die of it at its start already."""
    log = state.parent / f"{state.name}.log"
    with log.open("a", encoding="utf-8") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.killed_broker", point, how],
            env={**os.environ, "BROKER_STATE": str(state)},
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield Served(state, cast("Forked", process), json.loads(line) if line else {}, log), process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(DEADLINE_S)
        if process.stdout is not None:
            process.stdout.close()


if __name__ == "__main__":
    _owner, _name, _number, _when = POINTS[sys.argv[1]]
    setattr(_owner, _name, wrapped(getattr(_owner, _name), _number, _when, sys.argv[2]))
    sys.argv[1:] = ["serve", "--json"]
    main()
