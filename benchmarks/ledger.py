"""Appends beside bare commits, verification of a million entries, and proofs in them.

Floors are commits of one row of 700 bytes by the database's own driver, in the same folder and as durable.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from benchmarks.entries import calls
from benchmarks.report import Measure, Report, percentile
from broker.domain.ports import Store, Transaction
from broker.errors import InternalError
from broker.ledger.genesis import genesis_body
from broker.ledger.ledger import Ledger
from broker.ledger.tree import Tree
from broker.store.opening import DatabaseTarget, create_store, open_store, open_store_sync
from tests.postgres_server import PostgresServer, postgres_server

_ROW = 700
_MANY = 64
_SECONDS = 1.0
"""Of one turn."""
_TURNS = 4
_SMALL = 10_000
_MILLION = 1_000_000
_PER_TRANSACTION = 2_000
_PROOFS = 500
_LOOK_S = 0.02


def measure() -> Report:
    """Takes all measures; about two minutes, and three GiB in the folder for temporary files."""
    with tempfile.TemporaryDirectory(prefix="broker-benchmark-") as folder, postgres_server() as postgres:
        measures = [
            *_sqlite(Path(folder)),
            *_postgres(postgres, Path(folder)),
            *asyncio.run(_million(Path(folder) / "million.db")),
        ]
    return Report(title="the ledger beside its databases' bare commits", measures=tuple(measures))


def _sqlite(folder: Path) -> Iterator[Measure]:
    target = DatabaseTarget(path=folder / "small.db")
    _make(target)
    with _sqlite_floor(folder / "floor.db") as commit:
        floor, one, many = _in_turns(
            lambda: _slice(commit), lambda: _one(target), lambda: asyncio.run(_appends(target))
        )
    yield Measure("sqlite_commit_floor_per_s", floor, "1/s", note=f"one row of {_ROW} bytes, WAL and FULL")
    yield Measure("append_1_per_s", one, "1/s", at_least=0.6 * floor, note="one appender, each durable before the next")
    yield Measure("append_64_per_s", many, "1/s", at_least=3 * floor, note="64 appenders at once, acknowledged durable")


def _postgres(server: PostgresServer, folder: Path) -> Iterator[Measure]:
    target = DatabaseTarget(path=folder / "none.db", url=server.url("ledger"))
    _make(target)
    with _postgres_floor(server.url("floor")) as commit:
        floor, one, many = _in_turns(
            lambda: _slice(commit), lambda: _one(target), lambda: asyncio.run(_appends(target))
        )
    yield Measure("postgres_commit_floor_per_s", floor, "1/s", note=f"one row of {_ROW} bytes on one connection")
    yield Measure("postgres_append_1_per_s", one, "1/s")
    yield Measure("postgres_append_64_per_s", many, "1/s", note="64 appenders at once, acknowledged durable")


def _in_turns(*slices: Callable[[], float]) -> list[float]:
    """Rates of several kinds of work, in short turns: a disk that gets faster or slower meanwhile does so for all.

    The first turn of each warms up and isn't counted.
    """
    for run in slices:
        run()
    taken = [[run() for run in slices] for _ in range(_TURNS)]
    return [sum(rates) / _TURNS for rates in zip(*taken, strict=True)]


def _slice(commit: Callable[[], object]) -> float:
    """Commits per second of one that does nothing else."""
    done, began = 0, time.monotonic()
    while time.monotonic() - began < _SECONDS:
        commit()
        done += 1
    return done / (time.monotonic() - began)


async def _million(path: Path) -> list[Measure]:
    target = DatabaseTarget(path=path)
    await asyncio.to_thread(_make, target)
    async with open_store(target) as store:
        await _fill(store, _LEDGER, _SMALL)
        few = await _rate(store, _LEDGER, _MANY)
        await _fill(store, _LEDGER, _MILLION)
        many = await _rate(store, _LEDGER, _MANY)
        prove = await store.read(_proofs)
    entries, seconds, mib = await asyncio.to_thread(_verify, path)
    return [
        Measure("append_64_at_10k_per_s", few, "1/s", note="with 10,000 entries before"),
        Measure("append_64_at_1m_per_s", many, "1/s", note="with a million entries before"),
        Measure(
            "verify_entries_per_s", entries / seconds, "1/s", at_least=150_000, note=f"the command, {entries:,} entries"
        ),
        Measure("verify_rss_mib", mib, "MiB", at_most=200, note="all its processes together at their highest"),
        Measure("prove_p50_us", percentile(prove, 50), "us", at_most=2000, note="inclusion proof at a million"),
    ]


_LEDGER = Ledger("brk_benchmark", "boot_benchmark", lambda: datetime.now(UTC))


def _one(target: DatabaseTarget) -> float:
    """Entries per second of one appender without an event loop, after those that are there."""
    entries = calls(0)
    entry = next(entries)
    with open_store_sync(target) as store:
        done, began = 0, time.monotonic()
        while time.monotonic() - began < _SECONDS:
            seq = store.write_sync(lambda tx: _LEDGER.append(tx, entry.type, entry.body, agent=entry.agent))  # noqa: B023 - runs before the next turn
            entry = entries.send(seq)
            done += 1
        return done / (time.monotonic() - began)


async def _appends(target: DatabaseTarget) -> float:
    """Entries per second of 64 appenders, after those that are there."""
    async with open_store(target) as store:
        return await _rate(store, _LEDGER, _MANY)


def _make(target: DatabaseTarget) -> None:
    create_store(target)
    genesis = genesis_body(trust_domain="benchmark.example", software="benchmark")
    with open_store_sync(target) as store:
        store.write_sync(lambda tx: _LEDGER.append(tx, "genesis", genesis))


async def _rate(store: Store, ledger: Ledger, appenders: int) -> float:
    done = 0
    began = time.monotonic()

    async def appender(number: int) -> None:
        nonlocal done
        entries = calls(number)
        entry = next(entries)
        while time.monotonic() - began < _SECONDS:
            entry_type, body, agent = entry
            seq = await store.write(lambda tx: ledger.append(tx, entry_type, body, agent=agent))  # noqa: B023 - runs before the next turn
            done += 1
            entry = entries.send(seq)

    await asyncio.gather(*(appender(number) for number in range(appenders)))
    return done / (time.monotonic() - began)


async def _fill(store: Store, ledger: Ledger, size: int) -> None:
    """Appends until there are so many entries, many in one transaction."""
    entries = calls(_MANY)
    entry = next(entries)

    def work(tx: Transaction) -> int:
        nonlocal entry
        seq = -1
        for _ in range(_PER_TRANSACTION):
            seq = ledger.append(tx, entry.type, entry.body, agent=entry.agent)
            if seq + 1 >= size:
                return seq
            entry = entries.send(seq)
        return seq

    while await store.write(work) + 1 < size:
        pass


def _proofs(tx: Transaction) -> list[float]:
    head = tx.ledger.head()
    if head is None:
        raise InternalError("the ledger is empty", reason="LEDGER_EMPTY")
    chosen = random.Random(1)  # noqa: S311 - the same entries each time
    taken = []
    for _ in range(_PROOFS):
        index = chosen.randrange(head.seq + 1)
        began = time.perf_counter()
        Tree(tx.ledger, head.seq + 1).inclusion_proof(index)
        taken.append((time.perf_counter() - began) * 1e6)
    return taken


def _verify(path: Path) -> tuple[int, float, float]:
    """Entries, seconds and MiB of ``broker ledger verify --no-votes`` on a file."""
    began = time.monotonic()
    # Votes are checked apart: these entries have the shape of real ones, and nobody signed them.
    command = [sys.executable, "-m", "broker.cli.main", "ledger", "verify", str(path), "--no-votes", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    peak = 0.0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(_LOOK_S):
            peak = max(peak, sum(map(_resident_mib, _family(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.monotonic() - began
    ended.set()
    watcher.join()
    report = json.loads(output)
    if report["verdict"] != "ok":
        raise InternalError(f"the ledger doesn't verify: {report['verdict']}", reason="UNEXPECTED_OUTPUT")
    return report["entries"], seconds, peak


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    except OSError:
        return
    for child in children:
        yield from _family(int(child))


def _resident_mib(pid: int) -> float:
    """Resident memory, of shared pages their part."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


@contextmanager
def _sqlite_floor(path: Path) -> Iterator[Callable[[], object]]:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "CREATE TABLE t (data BLOB)"):
        connection.execute(statement)
    row = os.urandom(_ROW)
    yield lambda: connection.execute("INSERT INTO t VALUES (?)", (row,))
    connection.close()


@contextmanager
def _postgres_floor(url: str) -> Iterator[Callable[[], object]]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (data BYTEA)")
        row = os.urandom(_ROW)
        yield lambda: connection.execute("INSERT INTO t VALUES (%s)", (row,))
