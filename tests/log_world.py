"""Writes into the ledger of a broker that serves, as another process may: entries, and checkpoints of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from broker.domain.canonical import JsonObject
from broker.domain.ports import Transaction
from broker.errors import BrokerError
from broker.ledger.checkpoint_store import DirectoryCheckpoints
from broker.ledger.checkpointer import Checkpointer
from broker.ledger.genesis import read_origin
from broker.ledger.ledger import Ledger
from broker.ledger.signer import FileSigner, read_passphrase
from broker.settings import StatePaths
from broker.store.database import Database
from broker.tlog.note import Note


def _now() -> datetime:
    return datetime.now(UTC)


async def write(state: Path, *entries: tuple[str, str, JsonObject]) -> Sequence[int]:
    """Appends entries (type, agent's id or empty, body) and returns their numbers."""
    async with Database.open(StatePaths(state).database) as store:
        ledger = Ledger(await store.read(read_origin), "boot_elsewhere", _now)

        def work(tx: Transaction) -> list[int]:
            return [ledger.append(tx, kind, body, agent=agent) for kind, agent, body in entries]

        return await store.write(work)


async def publish(state: Path) -> Note:
    """Signs a checkpoint of all that is there, as the broker does."""
    paths = StatePaths(state)

    def unfit(error: BrokerError) -> None:
        raise AssertionError(error)

    async with Database.open(paths.database) as store:
        checkpointer = Checkpointer(
            store=store,
            ledger=Ledger(await store.read(read_origin), "boot_elsewhere", _now),
            signer=FileSigner.load(paths.checkpoint_key, read_passphrase("", paths.checkpoint_passphrase)),
            checkpoints=DirectoryCheckpoints(paths.checkpoints),
            clock=_now,
            interval_s=3600,
            on_unfit=unfit,
        )
        note = await checkpointer.publish_now()
    assert note is not None
    return note
