"""What each store promises of ledger entries."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from broker.domain.ports import Head, Store, StoredEntry, Transaction
from broker.errors import InternalError


def next_entry(tx: Transaction, text: str) -> StoredEntry:
    head = tx.ledger.head()
    seq, prev = (0, "0" * 64) if head is None else (head.seq + 1, head.leaf.hex())
    data = f"{text} {seq}".encode()
    entry = StoredEntry(seq, prev, hashlib.sha256(data).digest(), data)
    tx.ledger.insert(entry)
    return entry


async def test_an_empty_ledger_has_no_head(store: Store) -> None:
    assert await store.read(lambda tx: tx.ledger.head()) is None
    assert list(await store.read(lambda tx: tx.ledger.entries(0, 10))) == []


async def test_entries_come_back_verbatim_and_in_order(store: Store) -> None:
    written = [await store.write(lambda tx: next_entry(tx, "e")) for _ in range(5)]
    assert list(await store.read(lambda tx: tx.ledger.entries(0, 10))) == written
    assert list(await store.read(lambda tx: tx.ledger.entries(3, 1))) == [written[3]]
    assert await store.read(lambda tx: tx.ledger.head()) == Head(4, written[4].leaf)


async def test_only_the_next_entry_is_taken(store: Store) -> None:
    first = await store.write(lambda tx: next_entry(tx, "e"))
    second = await store.write(lambda tx: next_entry(tx, "e"))
    leaf = hashlib.sha256(b"x").digest()
    for wrong in (
        StoredEntry(0, "0" * 64, leaf, b"x"),
        StoredEntry(1, first.leaf.hex(), leaf, b"x"),
        StoredEntry(2, first.leaf.hex(), leaf, b"x"),
        StoredEntry(3, second.leaf.hex(), leaf, b"x"),
        StoredEntry(-1, second.leaf.hex(), leaf, b"x"),
        StoredEntry(2, second.leaf.hex().upper() + "A", leaf, b"x"),
        StoredEntry(2, second.leaf.hex(), leaf[:31], b"x"),
        StoredEntry(2, second.leaf.hex(), leaf, b"x" * 65536),
    ):
        with pytest.raises(InternalError) as refused:
            await store.write(lambda tx, wrong=wrong: tx.ledger.insert(wrong))
        assert refused.value.reason == "LEDGER_REFUSED"
    assert len(await store.read(lambda tx: tx.ledger.entries(0, 10))) == 2


async def test_many_writers_at_once_make_one_chain(store: Store) -> None:
    await asyncio.gather(*(store.write(lambda tx, n=n: next_entry(tx, f"writer {n}")) for n in range(300)))
    entries = await store.read(lambda tx: tx.ledger.entries(0, 1000))
    assert [entry.seq for entry in entries] == list(range(300))
    prev = "0" * 64
    for entry in entries:
        assert entry.prev == prev
        prev = entry.leaf.hex()


async def test_an_agents_own_chain_moves_on(store: Store) -> None:
    assert await store.read(lambda tx: tx.ledger.agent_head("agt_1")) is None
    for number in range(3):
        head = Head(number, bytes([number]) * 32)
        await store.write(lambda tx, head=head: tx.ledger.set_agent_head("agt_1", head))
        assert await store.read(lambda tx: tx.ledger.agent_head("agt_1")) == head
    assert await store.read(lambda tx: tx.ledger.agent_head("agt_2")) is None
    with pytest.raises(InternalError):
        await store.write(lambda tx: tx.ledger.set_agent_head("agt_2", Head(7, b"x" * 32)))
