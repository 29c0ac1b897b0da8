"""Emptying the log never makes anybody wait, and is owed until it has been done."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime

import pytest

from broker.domain.ports import Store, Transaction, VaultRow
from broker.errors import UnavailableError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROW = VaultRow("blob_1", "agt_1", "blob", b"wrapped", NOW, NOW)
AT_ONCE_S = 10
"""Far below the time that the store waits for others where it has to."""


async def test_a_reader_in_the_way_stalls_no_write_and_the_scrub_stays_due(store: Store) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def look(tx: Transaction) -> None:
        tx.vault.get("blob_1")
        entered.set()
        go_on.wait()

    await store.write(lambda tx: tx.vault.insert(ROW))
    reading = asyncio.create_task(store.read(look))
    await asyncio.to_thread(entered.wait)
    try:
        await store.write(lambda tx: tx.vault.delete("blob_1"))
        async with asyncio.timeout(AT_ONCE_S):
            with pytest.raises(UnavailableError) as busy:
                await store.scrub()
            await store.write(lambda tx: tx.vault.insert(ROW))
    finally:
        go_on.set()
        await reading
    assert busy.value.reason == "STORE_BUSY"
    assert store.scrub_due
    await store.scrub()
    assert not store.scrub_due


async def test_a_scrub_is_due_after_opening_and_after_each_deletion(store: Store) -> None:
    assert store.scrub_due
    await store.scrub()
    await store.write(lambda tx: tx.vault.insert(ROW))
    assert not store.scrub_due
    await store.write(lambda tx: tx.vault.delete("blob_1"))
    assert store.scrub_due
    await store.scrub()
    assert not store.scrub_due
    assert not store.failed
