"""Tests marked ``alone`` have the machine to themselves, although several processes run the others side by side.

Each test holds a lock on one file that all processes of a run share; a test that is alone holds it exclusively. A second
lock, taken first, lets nobody else begin while such a test waits for the others to end. Waiting counts for no test's
time limit.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest


@contextmanager
def locked(path: Path, how: int) -> Iterator[None]:
    """Holds a file's lock; it ends with the block, and with the process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Holds the machine for one test; ``folder`` is one and the same for all processes of a run."""
    with ExitStack() as held:
        with ExitStack() as gate:
            gate.enter_context(locked(folder / "gate.lock", fcntl.LOCK_EX))
            held.enter_context(locked(folder / "room.lock", fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
            if alone:
                held.push(gate.pop_all())
        yield


def is_alone(item: pytest.Item) -> bool:
    """Whether a test is marked so."""
    return item.get_closest_marker("alone") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They come last, when the other processes run out of tests anyway."""
    items.sort(key=is_alone)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Waits for the test's turn. One process alone needs none: its tests follow each other."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    # Each process has a temporary folder of its own in the run's.
    with turn(Path(item.config.getoption("basetemp")).parent, alone=is_alone(item)):
        return (yield)
