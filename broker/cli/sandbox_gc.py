"""``broker sandbox gc``: what a broker left behind on the engine, from the engine's own list."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Literal

import typer

from broker.cli.call_view import short_time
from broker.cli.local import JsonOption, StateOption, open_local
from broker.cli.output import OutputModel, console, emit, printable
from broker.cli.sandbox_options import EngineOption
from broker.errors import FailedPreconditionError
from broker.sandbox.docker_leftovers import find_leftovers
from broker.settings import DEFAULT_STATE, StatePaths, load_settings


class LeftoverOutput(OutputModel):
    """One thing on the engine that carries this broker's label."""

    kind: Literal["container", "volume", "network"]
    id: str
    state: str
    """Of a container, in the engine's word; empty for the others."""
    created: datetime | None


class GcOutput(OutputModel):
    """What ``broker sandbox gc`` prints; with ``--dry-run`` nothing has been removed."""

    dry_run: bool
    broker_running: bool
    """Whether a broker serves this state: then its own containers are among the items."""
    items: tuple[LeftoverOutput, ...]


def gc(
    *,
    state: StateOption = DEFAULT_STATE,
    engine: EngineOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove containers, volumes and networks that this state's broker left behind; a running broker does so by itself.

    Example: broker sandbox gc --dry-run
    """
    address = engine or load_settings(state).engine
    with open_local(state) as local:
        instance = local.origin
    with _lock(StatePaths(state)) as idle:
        if not idle and not dry_run:
            raise FailedPreconditionError(
                "a broker serves this state; it removes what is left behind by itself",
                reason="ALREADY_SERVING",
                hint="see what there is with --dry-run, or stop the broker first",
            )
        found = asyncio.run(find_leftovers(instance, address=address, remove=not dry_run))
    items = tuple(
        LeftoverOutput(kind=item.kind.value, id=item.id, state=item.state, created=item.created) for item in found
    )
    emit(GcOutput(dry_run=dry_run, broker_running=not idle, items=items), as_json=as_json, render=_render)


@contextmanager
def _lock(paths: StatePaths) -> Iterator[bool]:
    """Takes the lock that a broker holds while it serves, so that nothing which is removed can be in use.

    Yields:
        Whether the lock was free.
    """
    handle = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            idle = True
        except BlockingIOError:
            idle = False
        yield idle
    finally:
        os.close(handle)


def _render(output: GcOutput) -> None:
    word = "would be removed" if output.dry_run else "removed"
    for item in output.items:
        state = f" {item.state}" if item.state else ""
        since = f", made {short_time(item.created)}" if item.created else ""
        console.print(printable(f"{word}: {item.kind} {item.id[:12]}{state}{since}"), markup=False)
    if output.broker_running:
        console.print("a broker serves this state: what it uses now is among them; see `broker sandbox status`")
    kinds = Counter(item.kind for item in output.items)
    counts = [f"{kinds[kind]} {kind}{'' if kinds[kind] == 1 else 's'}" for kind in ("container", "volume", "network")]
    console.print(f"{', '.join(counts)} {word}")
