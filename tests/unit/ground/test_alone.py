"""A test that is alone runs beside no other, and isn't kept from running by those that come after it."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.alone import locked, turn

DEADLINE_S = 60
TESTS = """
import fcntl, os, pytest

def both_locks_are_ours():
    # Whoever else held either of them, even shared, would be in the way of neither being had.
    for name in ("gate.lock", "room.lock"):
        descriptor = os.open(os.path.join(os.environ["RUN"], name), os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
        return False
    return True

@pytest.mark.alone
@pytest.mark.parametrize("number", range(3))
def test_alone(number):
    assert both_locks_are_ours()

@pytest.mark.parametrize("number", range(3))
def test_beside(number):
    assert not both_locks_are_ours()
"""


def is_held(path: Path, how: int) -> bool:
    try:
        with locked(path, how | fcntl.LOCK_NB):
            return False
    except BlockingIOError:
        return True


def test_others_run_side_by_side(tmp_path: Path) -> None:
    with turn(tmp_path, alone=False), turn(tmp_path, alone=False):
        assert is_held(tmp_path / "room.lock", fcntl.LOCK_EX)
        assert not is_held(tmp_path / "gate.lock", fcntl.LOCK_EX)
    assert not is_held(tmp_path / "room.lock", fcntl.LOCK_EX)


def test_it_waits_for_those_that_run_and_nobody_overtakes_it(tmp_path: Path) -> None:
    begun, end = threading.Event(), threading.Event()

    def alone() -> None:
        with turn(tmp_path, alone=True):
            begun.set()
            end.wait(DEADLINE_S)

    waiting = threading.Thread(target=alone)
    with turn(tmp_path, alone=False):
        waiting.start()
        while not is_held(tmp_path / "gate.lock", fcntl.LOCK_SH):
            assert waiting.is_alive()
        assert not begun.is_set()
    assert begun.wait(DEADLINE_S)
    assert is_held(tmp_path / "gate.lock", fcntl.LOCK_SH)
    assert is_held(tmp_path / "room.lock", fcntl.LOCK_SH)
    end.set()
    waiting.join(DEADLINE_S)
    assert not is_held(tmp_path / "gate.lock", fcntl.LOCK_EX)


@pytest.mark.parametrize("processes", ["0", "2"])
def test_marked_tests_come_last_and_hold_the_locks(repository: Path, tmp_path: Path, processes: str) -> None:
    (tmp_path / "test_some.py").write_text(TESTS, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = alone\n", "utf-8")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "tests.alone", "-n", processes, f"--basetemp={tmp_path / 'run'}"],
        cwd=tmp_path,
        env=own | {"PYTHONPATH": str(repository), "RUN": str(tmp_path / "run")},
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    if processes == "0":  # nobody is beside: no lock is needed, nor made
        order = re.findall(r"test_some\.py::test_(\w+)\[", done.stdout)
        assert order[:6] == ["beside"] * 3 + ["alone"] * 3, done.stdout
    else:
        assert "6 passed" in done.stdout, done.stdout
