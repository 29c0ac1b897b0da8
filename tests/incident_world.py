"""A state directory with a lot of history, all of it under a signed checkpoint: what bundles of incidents are made from."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from broker.domain.ids import new_id
from broker.ledger.checkpoint_store import DirectoryCheckpoints
from broker.ledger.checkpointer import Checkpointer
from broker.ledger.genesis import read_origin
from broker.ledger.ledger import Ledger
from broker.ledger.signer import FileSigner, read_passphrase
from broker.settings import StatePaths
from broker.store.database import Database
from tests.rebuild_world import Rebuildable, make_rebuildable


def make_incident(folder: Path) -> Rebuildable:
    """Makes the state, and publishes a checkpoint of it."""
    made = make_rebuildable(folder)
    asyncio.run(publish(made.state))
    return made


async def publish(state: Path) -> None:
    """Commits the agents' heads and keeps a checkpoint, as a serving broker does."""
    paths = StatePaths(state)
    async with Database.open(paths.database) as store:
        ledger = Ledger(await store.read(read_origin), new_id("boot"), now)
        checkpointer = Checkpointer(
            store=store,
            ledger=ledger,
            signer=FileSigner.load(paths.checkpoint_key, read_passphrase("", paths.checkpoint_passphrase)),
            checkpoints=DirectoryCheckpoints(paths.checkpoints),
            clock=now,
            interval_s=3600,
            on_unfit=lambda _: None,
        )
        async with checkpointer:
            await checkpointer.publish_now()


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)
