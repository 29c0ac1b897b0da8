"""A server that doesn't answer holds up who asked it, not the event loop; and nobody is let in meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from broker.errors import UnavailableError
from broker.identity.directory import LiveDirectory
from broker.ledger.ledger import Ledger
from broker.rpc.ledger_watch import Arrivals
from broker.store.opening import DatabaseTarget, create_store, open_store, open_store_sync
from broker.store.postgres import PostgresDatabase
from broker.store.postgres_version import DEADLINE_S
from tests.postgres_server import PostgresServer

STILL_S = 0.5
"""Far below the deadline of a question: the loop never stands still for one."""
_numbers = count()


@pytest.fixture
async def store(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[PostgresDatabase]:
    target = DatabaseTarget(tmp_path / "none.db", postgres.url(f"stalled_{next(_numbers)}"))
    create_store(target)
    ledger = Ledger("o", "b", lambda: datetime(2026, 3, 1, 12, tzinfo=UTC))
    async with open_store(target) as opened:
        assert isinstance(opened, PostgresDatabase)
        await opened.write(lambda tx: ledger.append(tx, "genesis", {}))
        yield opened


@contextmanager
def _stalled(store: PostgresDatabase) -> Iterator[None]:
    driver = store._versions._driver
    assert driver is not None
    backend = driver.info.backend_pid
    os.kill(backend, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(backend, signal.SIGCONT)


class Pulse:
    """The longest time for which the event loop stood still."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def beat(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            self.worst = max(self.worst, time.monotonic() - before)


async def test_a_registry_that_cannot_be_checked_lets_nobody_in_and_stalls_nobody(store: PostgresDatabase) -> None:
    directory, pulse = LiveDirectory(store), Pulse()
    await directory.current()
    beating = asyncio.create_task(pulse.beat())
    with _stalled(store):
        before = time.monotonic()
        results = await asyncio.gather(*(directory.current() for _ in range(20)), return_exceptions=True)
        took = time.monotonic() - before
        assert await directory.current() is not None  # over another connection, while that one still stands
    beating.cancel()
    assert all(isinstance(result, UnavailableError) for result in results), results
    assert took < DEADLINE_S + 1
    assert pulse.worst < STILL_S


async def test_watching_goes_on_while_the_server_stalls(store: PostgresDatabase) -> None:
    arrivals, pulse = Arrivals(store.data_version), Pulse()
    async with arrivals.watching("anybody"):
        await arrivals.beyond(0)
        with _stalled(store):
            beating = asyncio.create_task(pulse.beat())
            await asyncio.sleep(1)
            beating.cancel()
    assert pulse.worst < STILL_S


async def test_who_asks_after_a_commit_sees_it_however_many_ask(store: PostgresDatabase) -> None:
    ledger = Ledger("o", "b", lambda: datetime(2026, 3, 1, 12, tzinfo=UTC))
    asking = True

    async def ask() -> None:
        while asking:
            await store.ask_data_version()

    others = [asyncio.create_task(ask()) for _ in range(8)]
    for _ in range(50):
        before = await store.ask_data_version()
        await store.write(lambda tx: ledger.append(tx, "heartbeat", {}))
        assert await store.ask_data_version() != before
    asking = False
    await asyncio.gather(*others)


async def test_who_gives_up_asking_takes_no_answer_from_others(store: PostgresDatabase) -> None:
    with _stalled_after_asking(store):
        impatient = asyncio.create_task(store.ask_data_version())
        patient = asyncio.create_task(store.ask_data_version())
        await asyncio.sleep(0.1)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
    assert isinstance(await patient, int)


@contextmanager
def _stalled_after_asking(store: PostgresDatabase) -> Iterator[None]:
    store.data_version()
    with _stalled(store):
        yield


def test_a_closed_store_is_asked_in_vain(postgres: PostgresServer, tmp_path: Path) -> None:
    target = DatabaseTarget(tmp_path / "none.db", postgres.url(f"stalled_{next(_numbers)}"))
    create_store(target)
    with open_store_sync(target) as store:
        store.data_version()
    with pytest.raises(UnavailableError) as closed:
        store.data_version()
    assert closed.value.reason == "STORE_CLOSED"


async def test_every_connection_has_its_limits(store: PostgresDatabase) -> None:
    shown = await asyncio.wrap_future(
        store._writer.submit_alone(lambda c: c.exec_driver_sql("SHOW statement_timeout").scalar())
    )
    assert shown not in {None, "0"}
    store.data_version()
    assert store._versions._driver is not None
    row = store._versions._driver.execute("SHOW statement_timeout").fetchone()
    assert row == (f"{DEADLINE_S:g}s",)
