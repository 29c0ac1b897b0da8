"""A call on record, and artifacts of it, for tests of what is sealed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from broker.domain.call import CallState
from broker.domain.canonical import JsonObject
from broker.domain.ports import CallRow, Store, Transaction, VaultRow
from broker.errors import ResourceExhaustedError
from broker.ledger.encoding import decode
from broker.ledger.genesis import genesis_body
from broker.ledger.ledger import Ledger
from broker.vault.artifacts import CHUNK, ArtifactRef, Artifacts
from broker.vault.vault import SealedVault

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
KEY = bytes(range(32))
ROW = CallRow(
    "call_1", "agt_1", "hum_1", "data.query", "1", "shop", "", CallState.RUNNING, 3, "", "sha256:00", NOW - DAY
)


@dataclass
class World:
    """A store with a ledger and the calls ``call_1`` and ``call_2`` of workspace shop, and ``call_3`` of lab."""

    store: Store
    vault: SealedVault
    ledger: Ledger
    artifacts: Artifacts
    now: datetime = NOW
    quota: int = 1 << 40

    def clock(self) -> datetime:
        return self.now

    async def entries(self, entry_type: str = "") -> list[JsonObject]:
        found = await self.store.read(lambda tx: [decode(item.data) for item in tx.ledger.entries(0, 10_000)])
        return [item for item in found if not entry_type or item["type"] == entry_type]

    async def put(
        self, content: bytes, call: str = "call_1", workspace: str = "shop", kind: str = "before"
    ) -> ArtifactRef:
        return await self.artifacts.put(
            pieces(content), workspace=workspace, call=call, kind=kind, retention=timedelta(days=90)
        )

    async def get(self, digest: str) -> bytes:
        return b"".join([piece async for piece in self.artifacts.open(digest)])

    async def end(self, *calls: str) -> None:
        """Ends calls."""

        def work(tx: Transaction) -> None:
            for call_id in calls:
                row = tx.calls.get(call_id)
                assert row is not None
                tx.calls.replace(replace(row, state=CallState.SUCCEEDED, ended=self.now))

        await self.store.write(work)

    async def row(self, digest: str) -> VaultRow:
        def work(tx: Transaction) -> VaultRow:
            address = tx.vault.get(digest)
            assert address is not None
            row = tx.vault.get(address.wrapped.decode())
            assert row is not None
            return row

        return await self.store.read(work)


async def pieces(content: bytes, size: int = 300_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]
        await asyncio.sleep(0)


async def make_world(store: Store, *, fresh: bool = True) -> World:
    """A world on an open store; one that isn't fresh has been made before."""
    vault = SealedVault(KEY)
    world: World

    def clock() -> datetime:
        return world.now

    def check(tx: Transaction, owner: str, more: int) -> None:
        if tx.vault.usage(owner) + more > world.quota:
            raise ResourceExhaustedError("too much is kept", reason="STORAGE_QUOTA")

    ledger = Ledger("brk_1", "boot_1", clock)
    world = World(store, vault, ledger, Artifacts(store, vault, ledger, clock, check))

    def work(tx: Transaction) -> None:
        ledger.append(tx, "genesis", genesis_body(trust_domain="t", software="s"))
        for call_id, workspace in (("call_1", "shop"), ("call_2", "shop"), ("call_3", "lab")):
            values = {**{name: getattr(ROW, name) for name in CallRow.__slots__}, "id": call_id, "workspace": workspace}
            tx.calls.insert(CallRow(**values))

    if fresh:
        await store.write(work)
    return world


def content(chunks: int, rest: int = 7) -> bytes:
    """So many whole chunks and a few bytes, none like another."""
    return b"".join(bytes([number + 1]) * CHUNK for number in range(chunks)) + b"z" * rest


def file_bytes(folder: Path) -> bytes:
    """All bytes of the files of a database."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("broker.db*")))
