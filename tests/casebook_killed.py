"""Brings a casebook up to date, and is killed when half of it is on the disk: ``python -m tests.casebook_killed FOLDER CASEBOOK``."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from pathlib import Path

from broker.replay import making
from broker.replay.casebook import Mark
from tests.casebook_world import casebook


def die_in_the_middle(connection: sqlite3.Connection, mark: Mark) -> None:
    """Stands for ``write_mark``: what has been filed is written as far as the cache is too small for it."""
    del mark
    connection.execute("PRAGMA cache_size = 2")
    connection.execute("SELECT count(*), sum(length(leaf)) FROM entry JOIN call JOIN word").fetchone()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    making.write_mark = die_in_the_middle
    with casebook(Path(sys.argv[1]), None, Path(sys.argv[2])):
        pass
