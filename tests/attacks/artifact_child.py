"""Writes or erases an artifact up to a step, says ``here`` and waits there to be killed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path.cwd()))

from broker.store.database import Database
from broker.vault import artifacts, destruction
from broker.vault.artifacts import CHUNK
from tests.artifact_world import content, make_world


async def _here() -> NoReturn:
    sys.stdout.write("here\n")
    sys.stdout.flush()
    await asyncio.Event().wait()
    raise AssertionError


async def _stream(step: str) -> AsyncIterator[bytes]:
    if step == "begun":
        await _here()
    yield content(3)
    if step == "chunk":
        await _here()


class _Stopping:
    """A store that stops after so many writes."""

    def __init__(self, store: Database, after: int) -> None:
        self._store = store
        self._left = after

    async def write(self, work: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - as the store
        if self._left == 0:
            await _here()
        self._left -= 1
        return await self._store.write(work)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as the store
        return getattr(self._store, name)


async def main(folder: Path, what: str, step: str, digest: str = "") -> None:
    """Does what is asked for."""
    async with Database.open(folder / "broker.db") as store:
        world = await make_world(store, fresh=False)
        # begin, two chunks, and the rest of three with the last: that is where `sealed` stops
        stops = {"sealed": 3, "destroyed": 1, "dropping": 2}
        stopping: Any = _Stopping(store, stops.get(step, 1000))
        kept = artifacts.Artifacts(stopping, world.vault, world.ledger, world.clock, lambda *_: None)
        if what == "upload":
            await kept.put(_stream(step), workspace="shop", call="call_1", kind="a", retention=timedelta(days=1))
        else:
            destruction.STEP_BYTES = CHUNK
            await kept.erase(digest, by="hum_1", reason="undone")


asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
