"""Where a state directory's ledger and checkpoints are, and the bar that is shown while a ledger is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import Progress, TaskID

from broker.cli.output import errors
from broker.ledger.source import Reopen
from broker.ledger.source_kinds import how_to_open
from broker.settings import StatePaths, load_settings


def ledger_of(state: Path) -> Reopen:
    """How the ledger of a state directory is opened for reading."""
    paths, settings = StatePaths(state), load_settings(state)
    if not settings.database:
        return how_to_open(str(paths.database))
    from broker.store.opening import DatabaseTarget, address_of  # noqa: PLC0415 - a file needs no database driver

    password = address_of(DatabaseTarget(paths.database, settings.database, settings.database_password)).password
    return how_to_open(settings.database, "" if password is None else password.reveal().decode())


def checkpoints_of(state: Path) -> Path:
    """The folder of its checkpoints."""
    settings = load_settings(state)
    return Path(settings.checkpoint_dir) if settings.checkpoint_dir else StatePaths(state).checkpoints


@contextmanager
def reading_progress(what: str, *, as_json: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar for what takes over a second, where somebody looks; it is told how many entries are done, and of how many."""
    if as_json or not errors.is_terminal:
        yield None
        return
    started = time.monotonic()
    with Progress(console=errors, transient=True, disable=False, auto_refresh=False) as bar:
        task: list[TaskID] = []

        def step(done: int, total: int) -> None:
            if time.monotonic() - started < 1.0:
                return
            if not task:
                task.append(bar.add_task(what, total=total))
            bar.update(task[0], completed=done, refresh=True)

        yield step
