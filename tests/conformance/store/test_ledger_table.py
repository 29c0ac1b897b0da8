"""What each store promises of ledger entries."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime

import pytest

from broker.domain.ports import EntryKeys, EntryQuery, Head, Store, StoredEntry, Transaction
from broker.errors import ConflictError, InternalError


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
        await store.write(lambda tx, head=head: tx.ledger.set_agent_head("agt_1", head, 5 + head.seq))
        assert await store.read(lambda tx: tx.ledger.agent_head("agt_1")) == head
    assert await store.read(lambda tx: tx.ledger.agent_head("agt_2")) is None
    with pytest.raises(InternalError):
        await store.write(lambda tx: tx.ledger.set_agent_head("agt_2", Head(7, b"x" * 32), 9))


async def test_agents_are_found_by_their_last_entry(store: Store) -> None:
    def work(tx: Transaction) -> None:
        for place, (agent, number) in enumerate((("a", 0), ("b", 0), ("a", 1), ("c", 0), ("b", 1))):
            tx.ledger.set_agent_head(agent, Head(number, bytes([place]) * 32), place)

    await store.write(work)
    heads = {place: Head(number, bytes([place]) * 32) for place, number in ((2, 1), (3, 0), (4, 1))}
    assert list(await store.read(lambda tx: tx.ledger.agent_heads())) == [
        ("a", heads[2]),
        ("c", heads[3]),
        ("b", heads[4]),
    ]
    assert list(await store.read(lambda tx: tx.ledger.agent_heads(4))) == [("b", heads[4])]
    assert list(await store.read(lambda tx: tx.ledger.agent_heads(5))) == []


async def test_leaves_come_in_order(store: Store) -> None:
    written = [await store.write(lambda tx: next_entry(tx, "e")) for _ in range(5)]
    assert list(await store.read(lambda tx: tx.ledger.leaves(0, 10))) == [entry.leaf for entry in written]
    assert list(await store.read(lambda tx: tx.ledger.leaves(2, 2))) == [entry.leaf for entry in written[2:4]]
    assert list(await store.read(lambda tx: tx.ledger.leaves(5, 2))) == []


async def test_a_tile_is_replaced_by_a_longer_one(store: Store) -> None:
    assert await store.read(lambda tx: tx.ledger.tile(0, 0)) is None
    full = bytes(range(256)) * 32
    for hashes in (full[:32], full[:64], full, full):
        await store.write(lambda tx, hashes=hashes: tx.ledger.put_tile(1, 2**33, hashes))
        assert await store.read(lambda tx: tx.ledger.tile(1, 2**33)) == hashes
    assert await store.read(lambda tx: tx.ledger.tile(2, 2**33)) is None
    for wrong in (b"", full[:31], full + full[:32]):
        with pytest.raises(InternalError) as refused:
            await store.write(lambda tx, wrong=wrong: tx.ledger.put_tile(0, 1, wrong))
        assert refused.value.reason == "LEDGER_REFUSED"
    assert await store.read(lambda tx: tx.ledger.tile(0, 1)) is None


KEYS = {
    0: EntryKeys("genesis", "2026-01-01T00:00:00.000000Z"),
    1: EntryKeys("decision", "2026-01-01T00:00:01.000000Z", "agt_1", "call_1", "demo", "python.run"),
    2: EntryKeys("decision", "2026-01-01T00:00:02.000000Z", "agt_2", "call_2", "demo", "shell.run"),
    3: EntryKeys("intent", "2026-01-01T00:00:03.000000Z", "agt_1", "call_1", "demo", "python.run"),
    4: EntryKeys("outcome", "2026-01-01T00:00:04.000000Z", "agt_1", "call_1", "Demo", "python.run"),
}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (EntryQuery(), [0, 1, 2, 3, 4]),
        (EntryQuery(newest_first=True, limit=2), [4, 3]),
        (EntryQuery(first=1, before=4), [1, 2, 3]),
        (EntryQuery(first=1, limit=1), [1]),
        (EntryQuery(types=frozenset({"decision", "intent"})), [1, 2, 3]),
        (EntryQuery(agent="agt_1", newest_first=True), [4, 3, 1]),
        (EntryQuery(agent="agt_"), []),
        (EntryQuery(call_id="call_2"), [2]),
        (EntryQuery(workspace="demo"), [1, 2, 3]),
        (EntryQuery(tool="python.run", types=frozenset({"outcome"})), [4]),
        (EntryQuery(ts_from="2026-01-01T00:00:02.000000Z", ts_before="2026-01-01T00:00:04.000000Z"), [2, 3]),
        (EntryQuery(before=0), []),
    ],
)
async def test_entries_are_found_by_what_they_are_about(store: Store, query: EntryQuery, found: list[int]) -> None:
    assert await store.read(lambda tx: tx.ledger.indexed()) == 0
    await store.write(lambda tx: tx.ledger.index({seq: KEYS[seq] for seq in range(3)}))
    assert await store.read(lambda tx: tx.ledger.indexed()) == 3
    await store.write(lambda tx: tx.ledger.index({seq: KEYS[seq] for seq in range(3, 5)}))
    assert list(await store.read(lambda tx: tx.ledger.find(query))) == found


async def test_numbers_beyond_32_bits_are_kept(store: Store) -> None:
    await store.write(lambda tx: tx.ledger.index({2**40: KEYS[1]}))
    assert list(await store.read(lambda tx: tx.ledger.find(EntryQuery(first=2**39)))) == [2**40]
    await store.write(lambda tx: tx.ledger.set_agent_head("agt_1", Head(0, b"x" * 32), 2**40))
    assert [agent for agent, _ in await store.read(lambda tx: tx.ledger.agent_heads(2**40))] == ["agt_1"]


async def test_a_workspaces_key_is_there_until_it_is_destroyed(store: Store) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert await store.read(lambda tx: tx.workspace_keys.get("demo")) is None
    await store.write(lambda tx: tx.workspace_keys.insert("demo", b"wrapped", now))
    with pytest.raises(ConflictError):
        await store.write(lambda tx: tx.workspace_keys.insert("demo", b"another", now))
    assert await store.read(lambda tx: tx.workspace_keys.get("demo")) == b"wrapped"
    await store.write(lambda tx: tx.workspace_keys.delete("demo"))
    await store.write(lambda tx: tx.workspace_keys.delete("demo"))
    assert await store.read(lambda tx: tx.workspace_keys.get("demo")) is None
