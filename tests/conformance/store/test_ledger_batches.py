"""What each store promises of ledger entries that are written together: one that is undone takes nothing with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

import pytest
from sqlalchemy import create_engine

from broker.domain.ports import Head, Store, StoredEntry, Transaction
from broker.errors import InternalError
from broker.ledger.encoding import decode
from broker.ledger.ledger import Ledger
from broker.ledger.startup import verify_store
from broker.store.base import SqlStore
from broker.store.opening import DatabaseTarget, open_store
from broker.store.savepoint import Savepoint
from broker.store.transaction import SqlTransaction

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEDGER = Ledger("brk_batches", "boot_1", lambda: NOW)
_NO_TABLE = frozenset({"deletions", "ledger"})
"""Members of a transaction that write nothing, or that make the point by themselves."""


class OwnError(Exception):
    """Raised by the tests' functions."""


def _append(tx: Transaction, text: str) -> int:
    return LEDGER.append(tx, "decision", {"text": text}, agent=f"agt_{text[0]}")


def _only_append(tx: Transaction, text: str) -> None:
    _append(tx, text)


def _append_and_write(tx: Transaction, text: str) -> None:
    _append(tx, text)
    tx.refusals.bump("agt_1", text, NOW, b"body")
    _append(tx, text + "+")


def _append_and_read(tx: Transaction, text: str) -> None:
    seq = _append(tx, text)
    assert decode(tx.ledger.entries(seq, 1)[0].data)["text"] == text
    assert dict(tx.ledger.agent_heads(seq))[f"agt_{text[0]}"].leaf == tx.ledger.leaves(seq, 1)[0]
    _append(tx, text + "+")


def _append_much(tx: Transaction, text: str) -> None:
    for number in range(300):
        _append(tx, f"{text}.{number}")


Work = Callable[[Transaction, str], None]
WORKS: tuple[Work, ...] = (_only_append, _append_and_write, _append_and_read, _append_much)


def _failing(work: Work) -> Work:
    def fail(tx: Transaction, text: str) -> None:
        work(tx, text)
        raise OwnError(text)

    return fail


_COUNTS: dict[Work, int] = {_only_append: 1, _append_much: 300}


def _run(work: Work, text: str, tx: Transaction) -> None:
    work(tx, text)


async def _together(store: SqlStore, works: list[Callable[[Transaction], None]]) -> list[object]:
    """Runs functions in one batch."""
    queued = threading.Event()
    holding = store._writer.submit_alone(lambda _: queued.wait(30))
    tasks = [asyncio.ensure_future(store.write(work)) for work in works]
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # all are in the queue now
    queued.set()
    await asyncio.wrap_future(holding)
    return list(await asyncio.gather(*tasks, return_exceptions=True))


async def _texts(store: Store) -> list[str]:
    rows = await store.read(lambda tx: tx.ledger.entries(1, 10_000))
    return [str(decode(row.data)["text"]) for row in rows]


async def _begin(store: SqlStore) -> None:
    await store.write(lambda tx: LEDGER.append(tx, "genesis", {}))
    await store.write(lambda tx: _append(tx, "b first"))


@pytest.mark.parametrize("before", WORKS)
@pytest.mark.parametrize("undone", WORKS)
async def test_what_is_undone_leaves_the_others_of_its_batch(store: SqlStore, before: Work, undone: Work) -> None:
    await _begin(store)
    works: list[tuple[Work, str]] = [
        (before, "a before"),
        (_failing(undone), "a undone"),
        (_failing(undone), "b undone"),
        (_failing(undone), "c undone"),
        (_only_append, "a after"),
        (_append_and_read, "b after"),
        (_only_append, "c after"),
    ]
    results = await _together(store, [partial(_run, work, text) for work, text in works])
    assert [isinstance(result, OwnError) for result in results] == ["undone" in text for _, text in works]
    texts = await _texts(store)
    assert not [text for text in texts if "undone" in text]
    assert [text for text in texts if "after" in text] == ["a after", "b after", "b after+", "c after"]
    assert len(texts) == 1 + _COUNTS.get(before, 2) + 4
    await _check_agents(store)
    await verify_store(store)


async def _check_agents(store: Store) -> None:
    def work(tx: Transaction) -> None:
        expected: dict[str, Head] = {}
        for row in tx.ledger.entries(1, 10_000):
            agent = decode(row.data)["agent"]
            assert isinstance(agent, dict)
            name = str(agent["id"])
            assert agent["seq"] == (expected[name].seq + 1 if name in expected else 0)
            assert agent["prev"] == (expected[name].leaf.hex() if name in expected else "0" * 64)
            expected[name] = Head(int(str(agent["seq"])), row.leaf)
        assert dict(tx.ledger.agent_heads()) == expected

    await store.read(work)


async def test_an_entry_that_is_refused_and_hidden_stays_away(store: SqlStore) -> None:
    await _begin(store)

    def hide(tx: Transaction) -> None:
        head = tx.ledger.head()
        assert head is not None
        with suppress(InternalError):
            tx.ledger.insert(StoredEntry(head.seq + 1, "1" * 64, b"x" * 32, b"{}"))
        with suppress(InternalError):
            tx.ledger.set_agent_head("agt_b", Head(7, b"x" * 32), 3)
        _append(tx, "b next")

    assert await _together(store, [hide, lambda tx: _only_append(tx, "b last")]) == [None, None]
    assert await _texts(store) == ["b first", "b next", "b last"]
    await _check_agents(store)
    await verify_store(store)


async def test_two_that_write_by_turns_make_one_chain(store: SqlStore, target: DatabaseTarget) -> None:
    await _begin(store)
    async with open_store(target) as other:
        for number in range(6):
            await store.write(partial(_run, _only_append, f"b one {number}"))
            if number % 2:
                await other.write(partial(_run, _only_append, f"b other {number}"))
            with pytest.raises(OwnError):
                await store.write(partial(_run, _failing(_append_and_write), f"b undone {number}"))
    assert len(await _texts(store)) == 1 + 6 + 3
    await _check_agents(store)
    await verify_store(store)


def test_whatever_writes_is_undone_by_itself() -> None:
    """Each table's gateway makes the point to go back to; one that didn't would let half of a failed function stay."""
    made: list[str] = []
    gateways = [
        name for name, member in vars(SqlTransaction).items() if isinstance(member, property) and name not in _NO_TABLE
    ]
    for name in gateways:
        savepoint = Savepoint(lambda name=name: made.append(name))  # type: ignore[misc]  # bound now
        savepoint.want()
        with create_engine("sqlite://").connect() as connection:
            getattr(SqlTransaction(connection, savepoint), name)
    assert made == gateways
