"""``broker sandbox``: the images that tools run in, and containers that were left behind."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.table import Table

from broker.cli.local import JsonOption, StateOption, open_local
from broker.cli.output import OutputModel, console, emit
from broker.errors import FailedPreconditionError
from broker.sandbox.docker_engine import DockerEngine
from broker.sandbox.engine import OwnedContainer
from broker.sandbox.images import SandboxImage
from broker.sandbox.reaper import orphans
from broker.settings import DEFAULT_STATE, StatePaths, load_settings

app = typer.Typer(no_args_is_help=True, help="List sandbox images; remove containers that a broker left behind.")

EngineOption = Annotated[
    str, typer.Option("--engine", help="Address of the container engine; default: the settings, then DOCKER_HOST.")
]


class ImageOutput(OutputModel):
    """One sandbox image."""

    name: str
    id: str
    inputs: str
    size_bytes: int
    current: bool


class ImagesOutput(OutputModel):
    """What ``broker sandbox images`` prints."""

    items: tuple[ImageOutput, ...]


class ContainerOutput(OutputModel):
    """One container without a lease."""

    id: str
    call: str
    state: str


class GcOutput(OutputModel):
    """What ``broker sandbox gc`` prints; with ``--dry-run`` nothing has been removed."""

    dry_run: bool
    broker_running: bool
    """Whether a broker serves this state: then its own containers are among the items."""
    items: tuple[ContainerOutput, ...]


@app.command()
def images(*, state: StateOption = DEFAULT_STATE, engine: EngineOption = "", as_json: JsonOption = False) -> None:
    """List the sandbox images on the engine; `current` is the one that tool specs mean by the name.

    Example: broker sandbox images --json
    """
    address = engine or load_settings(state).engine
    found = asyncio.run(_images(address))
    items = tuple(
        ImageOutput(name=item.name, id=item.id, inputs=item.inputs, size_bytes=item.size_bytes, current=item.current)
        for item in found
    )
    emit(ImagesOutput(items=items), as_json=as_json, render=_show_images)


@app.command()
def gc(
    *,
    state: StateOption = DEFAULT_STATE,
    engine: EngineOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove the containers that this state's broker left behind; a running broker does so by itself.

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
        found = asyncio.run(_left(instance, address, remove=not dry_run))
    items = tuple(ContainerOutput(id=item.id, call=item.call_id, state=item.state) for item in found)
    emit(GcOutput(dry_run=dry_run, broker_running=not idle, items=items), as_json=as_json, render=_show_left)


async def _images(address: str) -> Sequence[SandboxImage]:
    async with DockerEngine("broker-cli", address=address) as engine:
        return await engine.images()


async def _left(instance: str, address: str, *, remove: bool) -> Sequence[OwnedContainer]:
    async with DockerEngine(instance, address=address) as engine:
        found = await orphans(engine)
        for item in found if remove else ():
            await engine.remove(item.id)
        return found


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


def _show_images(output: ImagesOutput) -> None:
    if not output.items:
        console.print("no sandbox image on this engine; run: make images")
        return
    table = Table("name", "id", "inputs", "MiB", "current")
    for item in output.items:
        size = f"{item.size_bytes / 2**20:.0f}"
        table.add_row(item.name, item.id[:19], item.inputs, size, "yes" if item.current else "")
    console.print(table)


def _show_left(output: GcOutput) -> None:
    word = "would be removed" if output.dry_run else "removed"
    for item in output.items:
        console.print(f"{word}: {item.id[:12]} of {item.call or 'an unknown call'} ({item.state})", markup=False)
    if output.broker_running:
        console.print("a broker serves this state: what it runs now is among them")
    console.print(f"{len(output.items)} {'container' if len(output.items) == 1 else 'containers'} {word}")
