"""What each store promises of transactions: atomic, alone, durable for the caller, visible to readers."""

from __future__ import annotations

import asyncio
import threading

import pytest

from broker.domain.ports import Head, Store, Transaction
from broker.errors import BrokerError
from broker.store.base import SqlStore


class OwnError(Exception):
    """Raised by the tests' functions."""


def _set(tx: Transaction, agent: str) -> str:
    tx.ledger.set_agent_head(agent, Head(0, b"x" * 32), 0)
    return agent


async def _has(store: Store, agent: str) -> bool:
    return await store.read(lambda tx: tx.ledger.agent_head(agent)) is not None


async def test_a_function_that_raises_leaves_nothing_and_hurts_nobody(store: Store) -> None:
    def fail(tx: Transaction, agent: str) -> str:
        _set(tx, agent)
        raise OwnError(agent)

    works = [
        store.write(lambda tx, n=n: fail(tx, f"agt_{n}") if n % 3 == 0 else _set(tx, f"agt_{n}")) for n in range(90)
    ]
    results = await asyncio.gather(*works, return_exceptions=True)
    for n, result in enumerate(results):
        assert isinstance(result, OwnError) if n % 3 == 0 else result == f"agt_{n}"
        assert await _has(store, f"agt_{n}") is (n % 3 != 0)


async def test_a_refused_statement_inside_a_function_undoes_all_of_it(store: Store) -> None:
    def twice(tx: Transaction) -> None:
        _set(tx, "agt_1")
        tx.ledger.set_agent_head("agt_2", Head(5, b"x" * 32), 0)

    with pytest.raises(BrokerError):
        await store.write(twice)
    assert not await _has(store, "agt_1")


async def test_a_reader_may_not_write(store: Store) -> None:
    with pytest.raises(BrokerError) as refused:
        await store.read(lambda tx: _set(tx, "agt_1"))
    assert refused.value.reason == "STORE_READ_ONLY"
    assert not await _has(store, "agt_1")
    await store.write(lambda tx: _set(tx, "agt_1"))
    assert await _has(store, "agt_1")


async def test_nothing_begins_with_a_reader(store: Store) -> None:
    with pytest.raises(BrokerError) as refused:
        await store.read(lambda tx: tx.meanwhile(lambda: None))
    assert refused.value.reason == "STORE_READ_ONLY"


async def test_a_reader_sees_one_state_only(store: Store) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def look_twice(tx: Transaction) -> tuple[bool, bool]:
        first = tx.ledger.agent_head("agt_1") is not None
        entered.set()
        go_on.wait()
        return first, tx.ledger.agent_head("agt_1") is not None

    reading = asyncio.create_task(store.read(look_twice))
    await asyncio.to_thread(entered.wait)
    await store.write(lambda tx: _set(tx, "agt_1"))
    go_on.set()
    assert await reading == (False, False)
    assert await _has(store, "agt_1")


async def test_the_data_version_changes_with_each_commit(store: Store) -> None:
    seen = [store.data_version()]
    for n in range(5):
        await store.write(lambda tx, n=n: _set(tx, f"agt_{n}"))
        seen.append(store.data_version())
    assert len(set(seen)) == len(seen)


async def test_a_cancelled_caller_breaks_nobody_elses_write(store: Store) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hold(tx: Transaction) -> str:
        entered.set()
        go_on.wait()
        return _set(tx, "agt_running")

    running = asyncio.create_task(store.write(hold))
    await asyncio.to_thread(entered.wait)
    waiting = [asyncio.create_task(store.write(lambda tx, n=n: _set(tx, f"agt_{n}"))) for n in range(10)]
    queued = asyncio.create_task(store.write(lambda tx: _set(tx, "agt_queued")))
    await store.read(lambda tx: tx.ledger.head())  # meanwhile the tasks above start, and queue their work
    queued.cancel()
    running.cancel()
    done, _ = await asyncio.wait({queued, running})
    assert all(task.cancelled() for task in done)
    go_on.set()
    assert await asyncio.gather(*waiting) == [f"agt_{n}" for n in range(10)]
    assert not await _has(store, "agt_queued")
    assert await _has(store, "agt_running")


async def test_what_may_begin_meanwhile_begins_after_the_last_write_and_before_it_is_durable(store: SqlStore) -> None:
    told: list[object] = []

    def work(tx: Transaction) -> None:
        tx.meanwhile(lambda: told.append(store.read_sync(lambda seen: seen.ledger.agent_head("agt_1"))))
        _set(tx, "agt_1")
        told.append("written")

    await store.write(work)
    assert told == ["written", None]
    assert await _has(store, "agt_1")


async def test_what_may_begin_meanwhile_never_does_for_a_function_that_raises(store: SqlStore) -> None:
    begun: list[str] = []

    def work(tx: Transaction, agent: str, *, fails: bool) -> None:
        tx.meanwhile(lambda: begun.append(agent))
        _set(tx, agent)
        if fails:
            raise OwnError(agent)

    with pytest.raises(OwnError):
        await store.write(lambda tx: work(tx, "agt_alone", fails=True))
    await store.write(lambda tx: _set(tx, "agt_next"))
    assert begun == []
    works = [store.write(lambda tx, n=n: work(tx, f"agt_{n}", fails=n % 3 == 0)) for n in range(90)]
    await asyncio.gather(*works, return_exceptions=True)
    assert begun == [f"agt_{n}" for n in range(90) if n % 3]


async def test_where_nothing_can_begin_meanwhile_nothing_is_written(store: SqlStore) -> None:
    def fail() -> None:
        raise OwnError

    def work(tx: Transaction) -> None:
        _set(tx, "agt_1")
        tx.meanwhile(fail)

    with pytest.raises(OwnError):
        await store.write(work)
    assert not await _has(store, "agt_1")
    await store.write(lambda tx: _set(tx, "agt_2"))
    assert await _has(store, "agt_2")
