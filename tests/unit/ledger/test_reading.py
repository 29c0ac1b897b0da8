"""Reading with filters: the same entries whether the index has none, some or all of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from broker.domain.ports import EntryKeys, EntryQuery, Head, Transaction
from broker.ledger.encoding import decode
from broker.ledger.index import keys_of
from broker.ledger.ledger import Ledger
from broker.ledger.reading import Step, heads_at, newest, read_any, read_entry, read_step
from broker.store.database import Database

ENTRIES = 400
AGENTS = ("agt_1", "agt_2", "agt_3")


@pytest.fixture(scope="module", params=[0, 1, 150, ENTRIES], ids=lambda indexed: f"indexed {indexed}")
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    path = tmp_path_factory.mktemp("store") / "broker.db"
    Database.create(path)
    seconds, chance = count(), random.Random(7)  # noqa: S311 - a fixed mix of entries
    ledger = Ledger("o", "boot_1", lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(seconds)))

    def fill(tx: Transaction) -> None:
        ledger.append(tx, "genesis", {})
        for _ in range(ENTRIES - 1):
            kind = chance.choice(("intent", "outcome", "heartbeat", "vote"))
            body = {"workspace": chance.choice(("a", "b")), "tool": {"name": chance.choice(("x", "y"))}}
            call = {"call_id": f"call_{chance.randrange(20)}"} if chance.random() < 0.5 else {}
            ledger.append(tx, kind, {**body, **call}, agent=chance.choice((*AGENTS, "")))
        rows = tx.ledger.entries(0, request.param)
        if rows:
            tx.ledger.index({row.seq: keys_of(decode(row.data)) for row in rows})

    with Database.open_sync(path) as opened:
        opened.write_sync(fill)
        yield opened


def keys(store: Database) -> list[EntryKeys]:
    return [keys_of(decode(row.data)) for row in store.read_sync(lambda tx: tx.ledger.entries(0, ENTRIES))]


def wanted(query: EntryQuery, known: list[EntryKeys]) -> list[int]:
    """The naive answer."""
    found = [
        seq
        for seq, item in enumerate(known)
        if query.first <= seq < (ENTRIES if query.before is None else query.before)
        and (not query.types or item.type in query.types)
        and query.agent in ("", item.agent)
        and query.call_id in ("", item.call_id)
        and query.workspace in ("", item.workspace)
        and query.tool in ("", item.tool)
        and (not query.ts_from or item.ts >= query.ts_from)
        and (not query.ts_before or item.ts < query.ts_before)
    ]
    return found[::-1] if query.newest_first else found


def all_of(store: Database, query: EntryQuery, step: Step) -> list[int]:
    found: list[int] = []
    while True:
        read = store.read_sync(lambda tx, query=query: read_step(tx.ledger, query, lambda _: True, step))
        assert len(read.entries) <= step.entries
        found += [entry.row.seq for entry in read.entries]
        if read.next is None:
            return found
        query = replace(query, before=read.next) if query.newest_first else replace(query, first=read.next)


QUERIES = (
    EntryQuery(),
    EntryQuery(first=140, before=160),
    EntryQuery(before=0),
    EntryQuery(first=10**6),
    EntryQuery(types=frozenset({"intent"})),
    EntryQuery(types=frozenset({"intent", "vote"}), agent="agt_2"),
    EntryQuery(call_id="call_3"),
    EntryQuery(workspace="a", tool="y"),
    EntryQuery(ts_from="2026-01-01T00:02:00", ts_before="2026-01-01T00:03:00"),
    EntryQuery(agent="agt_1", first=100, before=300),
    EntryQuery(agent="nobody"),
)


@pytest.mark.parametrize("newest_first", [False, True], ids=["oldest first", "newest first"])
@pytest.mark.parametrize("query", QUERIES, ids=[f"query {number}" for number in range(len(QUERIES))])
def test_every_entry_that_fits_comes_once_and_in_order(
    store: Database, query: EntryQuery, *, newest_first: bool
) -> None:
    query = replace(query, newest_first=newest_first)
    expected = wanted(query, keys(store))
    for step in (Step(3), Step(1000), Step(1000, looked_at=9), Step(1000, max_bytes=2500)):
        assert all_of(store, query, step) == expected, step


def test_what_is_not_visible_is_left_out_and_counts_as_looked_at(store: Database) -> None:
    def odd(item: EntryKeys) -> bool:
        return item.workspace == "a"

    read = store.read_sync(lambda tx: read_step(tx.ledger, EntryQuery(), odd, Step(1000, looked_at=100)))
    expected = [seq for seq, item in enumerate(keys(store)) if item.workspace == "a" and seq < 100]
    assert ([entry.row.seq for entry in read.entries], read.next) == (expected, 100)


def test_heads_are_those_of_any_moment(store: Database) -> None:
    known, heads = keys(store), dict[str, Head]()
    rows = store.read_sync(lambda tx: tx.ledger.entries(0, ENTRIES))
    for seq in range(ENTRIES):
        if seq % 37 == 0:
            assert store.read_sync(lambda tx, seq=seq: heads_at(tx.ledger, seq)) == heads
        agent = known[seq].agent
        if agent:
            heads[agent] = Head(heads[agent].seq + 1 if agent in heads else 0, rows[seq].leaf)
    assert store.read_sync(lambda tx: heads_at(tx.ledger, ENTRIES)) == heads


def test_single_entries(store: Database) -> None:
    found = store.read_sync(lambda tx: [read_entry(tx.ledger, seq) for seq in (-1, 0, ENTRIES - 1, ENTRIES)])
    assert [item is not None and item.row.seq for item in found] == [False, 0, ENTRIES - 1, False]
    query = EntryQuery(agent="agt_3", before=200)
    last = store.read_sync(lambda tx: newest(tx.ledger, query))
    assert last is not None
    assert last.row.seq == wanted(query, keys(store))[-1]
    assert store.read_sync(lambda tx: newest(tx.ledger, EntryQuery(agent="nobody"))) is None


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("step", [Step(7), Step(500), Step(50, looked_at=13)])
def test_several_queries_give_each_entry_once_and_in_order(store: Database, *, newest_first: bool, step: Step) -> None:
    parts = (
        EntryQuery(agent="agt_1"),
        EntryQuery(agent="agt_1", types=frozenset({"vote"})),
        EntryQuery(types=frozenset({"genesis", "vote"})),
        EntryQuery(call_id="call_3"),
    )
    queries = [replace(query, first=5, before=377, newest_first=newest_first) for query in parts]
    known = keys(store)
    expected = sorted({seq for query in queries for seq in wanted(query, known)}, reverse=newest_first)
    found: list[int] = []
    while True:
        read = store.read_sync(lambda tx, queries=queries: read_any(tx.ledger, queries, lambda _: True, step))
        found += [entry.row.seq for entry in read.entries]
        if read.next is None:
            break
        bound = {"before": read.next} if newest_first else {"first": read.next}
        queries = [replace(query, **bound) for query in queries]
    assert found == expected


def test_no_query_finds_nothing(store: Database) -> None:
    read = store.read_sync(lambda tx: read_any(tx.ledger, (), lambda _: True, Step(1)))
    assert (read.entries, read.next) == ((), None)
