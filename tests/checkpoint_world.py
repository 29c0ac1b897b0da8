"""A ledger with its signer and its checkpoints, for tests: real files, real signatures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.domain.ports import Store
from broker.errors import BrokerError
from broker.ledger.checkpoint_store import CheckpointStore, DirectoryCheckpoints
from broker.ledger.checkpointer import Checkpointer
from broker.ledger.ledger import Ledger
from broker.ledger.publish import Publisher
from broker.ledger.signer import FileSigner, Signer
from broker.ledger.witness import Witness
from broker.store.opening import DatabaseTarget, create_store, open_store, open_store_sync
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.note import ED25519, Note, VerifierKey, sign

ORIGIN = "origin-1"
NEVER_S = 3600.0


def now() -> datetime:
    return datetime.now(UTC)


def make_signer(name: str = ORIGIN) -> FileSigner:
    private = Ed25519PrivateKey.generate()
    return FileSigner(VerifierKey(name, ED25519, private.public_key().public_bytes_raw()), private)


def make_note(size: int, root: bytes, signer: Signer) -> Note:
    text = Checkpoint(signer.key.name, size, root).text()
    return Note(text, (sign(text, signer.key, signer.sign),))


@dataclass
class World:
    """One ledger. ``unfit`` has what was told to the broker's gate."""

    folder: Path
    signer: FileSigner
    store: Store
    ledger: Ledger
    checkpoints: DirectoryCheckpoints
    target: DatabaseTarget
    unfit: list[BrokerError] = field(default_factory=list)

    async def append(self, count: int, agents: int = 3) -> None:
        for number in range(count):
            await self.store.write(
                lambda tx, n=number: self.ledger.append(tx, "heartbeat", {}, agent=f"agt_{n % agents}")
            )

    def checkpointer(
        self,
        *,
        store: Store | None = None,
        signer: Signer | None = None,
        checkpoints: CheckpointStore | None = None,
        publishers: tuple[Publisher, ...] = (),
        witnesses: tuple[Witness, ...] = (),
        interval_s: float = NEVER_S,
        clock: Callable[[], datetime] = now,
    ) -> Checkpointer:
        return Checkpointer(
            store=store or self.store,
            ledger=self.ledger,
            signer=signer or self.signer,
            checkpoints=checkpoints or self.checkpoints,
            publishers=publishers,
            witnesses=witnesses,
            clock=clock,
            interval_s=interval_s,
            on_unfit=self.unfit.append,
            first_wait_s=0.01,
        )


def target_in(folder: Path) -> DatabaseTarget:
    return DatabaseTarget(folder / "broker.db")


def make_ledger(target: DatabaseTarget, signer: Signer) -> None:
    """Makes a database with a genesis."""
    create_store(target)
    ledger = Ledger(signer.key.name, "boot_0", now)
    with open_store_sync(target) as database:
        database.write_sync(lambda tx: ledger.append(tx, "genesis", {"checkpoint_key": str(signer.key)}))


@asynccontextmanager
async def opened(folder: Path, signer: FileSigner, target: DatabaseTarget | None = None) -> AsyncIterator[World]:
    """Opens what ``make_ledger`` made."""
    target = target or target_in(folder)
    async with open_store(target) as store:
        ledger = Ledger(signer.key.name, "boot_1", now)
        yield World(folder, signer, store, ledger, DirectoryCheckpoints(folder / "checkpoints"), target)


@asynccontextmanager
async def world(folder: Path, target: DatabaseTarget | None = None) -> AsyncIterator[World]:
    """A new ledger."""
    signer = make_signer()
    make_ledger(target or target_in(folder), signer)
    async with opened(folder, signer, target) as made:
        yield made
