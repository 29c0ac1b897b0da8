"""What a replay works with: the state directory, looked at; an engine with a label of its own; and scratch objects."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog
import typer

from broker.app.place import workspaces_folder
from broker.cli.following import interrupts
from broker.errors import InvalidArgumentError
from broker.identity.names import genesis
from broker.replay.rebuilding import Sources
from broker.replay.scratch import BorrowedObjects, Room
from broker.sandbox.docker_engine import DockerEngine
from broker.sandbox.reaper import orphans
from broker.settings import StatePaths, load_settings
from broker.store.looking import look_at
from broker.store.opening import DatabaseTarget
from broker.vault.keyfile import read_key_file
from broker.vault.vault import SealedVault

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay works with."""

    sources: Sources
    engine: DockerEngine
    origin: str


def instance_of(origin: str) -> str:
    """The label's value of the containers of replays: that of no broker."""
    return f"{origin}/replay"


def run_replay(state: Path, engine: str, work: Callable[[Replay], Awaitable[T]]) -> T:
    """Does something with a replay's parts, and takes them apart whatever happens; a signal ends it with its exit code.

    Args:
        state: the state directory.
        engine: address of the container engine; empty asks the settings.
        work: what to do.

    Raises:
        BrokerError: whatever opening or ``work`` raise.
    """
    # What parts of the sandbox have to say goes to standard error: standard output has one answer.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

    async def whole() -> tuple[T | None, int]:
        with interrupts() as caught:
            try:
                async with opened(state, engine) as replay:
                    return await work(replay), 0
            except asyncio.CancelledError:
                if not caught.number:
                    raise
        return None, caught.exit_code

    found, code = asyncio.run(whole())
    if found is None:
        raise typer.Exit(code)
    return found


@asynccontextmanager
async def opened(state: Path, engine: str) -> AsyncIterator[Replay]:
    """A replay's parts. What an earlier one left behind when it was killed is removed first, where no other is at work.

    Raises:
        InvalidArgumentError: there is no state directory (``STATE_MISSING``).
        BrokerError: a part of it is damaged or away; says which.
    """
    paths, settings = StatePaths(state), load_settings(state)
    target = DatabaseTarget(paths.database, settings.database, settings.database_password)
    if not target.is_there or not paths.root.is_dir():
        raise InvalidArgumentError(
            f"{state} is not a state directory: it has no {paths.database.name}",
            reason="STATE_MISSING",
            hint="Make one with `broker init`, or name the right one with --state.",
        )
    vault = SealedVault(read_key_file(paths.vault_key))
    async with look_at(target) as store:
        origin = (await store.read(genesis))["origin"]
        room = Room(paths.replays)
        try:
            async with DockerEngine(instance_of(origin), address=engine or settings.engine) as docker:
                if room.alone():
                    room.sweep()
                    for item in await orphans(docker):
                        await docker.remove(item.id)
                room.share()
                with room.folder() as scratch:
                    objects = BorrowedObjects(scratch, workspaces_folder(paths, settings))
                    yield Replay(Sources(store, vault, objects), docker, origin)
        finally:
            room.leave()
