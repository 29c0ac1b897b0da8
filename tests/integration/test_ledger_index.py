"""Entries become findable beside the appends, on both databases, and a broken one is no reason to stop."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.domain.ports import EntryQuery, Store
from broker.ledger.index import PAGE, Indexer
from broker.ledger.ledger import Ledger
from broker.store.opening import DatabaseTarget, create_store, open_store
from tests.postgres_server import PostgresServer

LEDGER = Ledger("brk_index", "boot_index", lambda: datetime.now(UTC))


def add(store: Store, count: int) -> asyncio.Future[int]:
    async def work() -> int:
        return await store.write(
            lambda tx: [
                LEDGER.append(tx, "decision", {"call_id": f"call_{number}", "tool": {"name": "a.b"}}, agent="agt_1")
                for number in range(count)
            ][-1]
        )

    return asyncio.ensure_future(work())


async def all_found(store: Store, size: int) -> None:
    """Asks again and again; each question goes to another thread."""
    while await store.read(lambda tx: tx.ledger.indexed()) < size:
        pass


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_entries_become_findable_while_others_are_appended(
    kind: str, tmp_path: Path, postgres: PostgresServer
) -> None:
    url = postgres.url("findable") if kind == "postgres" else ""
    target = DatabaseTarget(path=tmp_path / "broker.db", url=url)
    create_store(target)
    async with open_store(target) as store:
        await store.write(lambda tx: LEDGER.append(tx, "genesis", {}))
        await add(store, PAGE + 5)
        async with Indexer(store, interval_s=0.05):
            await asyncio.wait_for(all_found(store, PAGE + 6), 30)
            await add(store, 3)
            await asyncio.wait_for(all_found(store, PAGE + 9), 30)
        found = await store.read(lambda tx: tx.ledger.find(EntryQuery(call_id="call_2")))
        assert list(found) == [3, PAGE + 8]
        assert list(await store.read(lambda tx: tx.ledger.find(EntryQuery(tool="other")))) == []
