"""``broker sandbox gc``: what a broker left behind on the engine, from the engine's own list, and what killed replays left."""

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
from broker.cli.replay_opening import instance_of
from broker.cli.sandbox_options import EngineOption
from broker.errors import FailedPreconditionError
from broker.replay.scratch import Room
from broker.sandbox.docker_leftovers import Leftover, find_leftovers
from broker.settings import DEFAULT_STATE, StatePaths, load_settings


class LeftoverOutput(OutputModel):
    """One thing on the engine that carries this broker's label, or that of its replays; or a scratch folder of a replay."""

    kind: Literal["container", "volume", "network", "scratch"]
    id: str
    state: str
    """Of a container, in the engine's word; empty for the others."""
    created: datetime | None
    replay: bool
    """Whether a replay left it, and not the broker."""


class GcOutput(OutputModel):
    """What ``broker sandbox gc`` prints; with ``--dry-run`` nothing has been removed."""

    dry_run: bool
    broker_running: bool
    """Whether a broker serves this state: then its own containers are among the items, unless only replays were looked at."""
    replay_running: bool
    """Whether a replay is at work on this state: then what it uses is among the items, and nothing of replays is removed."""
    items: tuple[LeftoverOutput, ...]


def gc(
    *,
    state: StateOption = DEFAULT_STATE,
    engine: EngineOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    replays: Annotated[
        bool, typer.Option("--replays", help="Only what killed replays left behind; beside a running broker, too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove containers, volumes and networks that this state's broker left behind; a running broker does so by itself.

    So are containers and scratch folders of replays that were killed, where no other replay is at work; the next replay
    does that by itself as well. Example: broker sandbox gc --dry-run
    """
    address = engine or load_settings(state).engine
    with open_local(state) as local:
        instance = local.origin
    paths = StatePaths(state)
    with _lock(paths) as idle:
        if not idle and not dry_run and not replays:
            raise FailedPreconditionError(
                "a broker serves this state; it removes what is left behind by itself",
                reason="ALREADY_SERVING",
                hint="see what there is with --dry-run, remove what replays left with --replays, or stop the broker first",
            )
        mine = [] if replays else asyncio.run(find_leftovers(instance, address=address, remove=not dry_run))
    alone, theirs = _of_replays(paths, instance, address, remove=not dry_run)
    items = (*(_output(item, replay=False) for item in mine), *theirs)
    output = GcOutput(dry_run=dry_run, broker_running=not idle, replay_running=not alone, items=items)
    emit(output, as_json=as_json, render=_render)


def _of_replays(
    paths: StatePaths, instance: str, address: str, *, remove: bool
) -> tuple[bool, tuple[LeftoverOutput, ...]]:
    """What replays left, and whether none is at work."""
    if not paths.replays.is_dir():
        return True, ()
    room = Room(paths.replays)
    try:
        alone = room.alone()
        remove = remove and alone
        found = asyncio.run(find_leftovers(instance_of(instance), address=address, remove=remove))
        folders = room.sweep() if remove else room.leftovers()
    finally:
        room.leave()
    scratch = (LeftoverOutput(kind="scratch", id=item.name, state="", created=None, replay=True) for item in folders)
    return alone, (*(_output(item, replay=True) for item in found), *scratch)


def _output(item: Leftover, *, replay: bool) -> LeftoverOutput:
    return LeftoverOutput(kind=item.kind.value, id=item.id, state=item.state, created=item.created, replay=replay)


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
    removed = Counter[str]()
    for item in output.items:
        word = "would be removed" if output.dry_run else "removed"
        if item.replay and output.replay_running:
            word = "left alone"
        else:
            removed[item.kind] += 1
        state = f" {item.state}" if item.state else ""
        since = f", made {short_time(item.created)}" if item.created else ""
        whose = " of a replay" if item.replay else ""
        console.print(printable(f"{word}: {item.kind} {item.id[:12]}{whose}{state}{since}"), markup=False)
    if output.broker_running and any(not item.replay for item in output.items):
        console.print("a broker serves this state: what it uses now is among them; see `broker sandbox status`")
    if output.replay_running:
        console.print("a replay is at work: what replays have is left alone")
    kinds = ("container", "volume", "network", *(["scratch folder"] if removed["scratch"] else []))
    numbers = [(kind, removed[kind.partition(" ")[0]]) for kind in kinds]
    counts = [f"{number} {kind}{'' if number == 1 else 's'}" for kind, number in numbers]
    console.print(f"{', '.join(counts)} {'would be removed' if output.dry_run else 'removed'}")
