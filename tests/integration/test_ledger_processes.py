"""Eight processes append a thousand entries each to one ledger and are killed at random moments, on each database.

No fork and no gap comes of it, and nothing that was acknowledged is lost. ``BROKER_TEST_APPENDS`` is the number of entries
of each process, 1000 unless it says otherwise.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.ledger.ledger import Ledger
from broker.ledger.startup import verify_store
from broker.store.opening import DatabaseTarget, create_store, open_store
from tests.postgres_server import OWNER, PostgresServer

PROCESSES = 8
APPENDS = int(os.environ.get("BROKER_TEST_APPENDS", "1000"))
KILLS = 3
"""How often each process is killed."""

WORKER = """
import asyncio, os, sys
from datetime import UTC, datetime
from pathlib import Path
from broker.ledger.ledger import Ledger
from broker.store.opening import DatabaseTarget, open_store

path, url, name, count = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
ledger = Ledger("origin", f"boot_{os.getpid()}", lambda: datetime.now(UTC))

async def main():
    async with open_store(DatabaseTarget(path, url)) as store:
        async def append(number):
            body = {"text": "x" * 400, "number": number}
            seq = await store.write(lambda tx: ledger.append(tx, "heartbeat", body, agent=name))
            os.write(1, b"%d\\n" % seq)

        async def work(numbers):
            for number in numbers:
                await append(number)

        todo = iter(range(count))
        await asyncio.gather(*(work(todo) for _ in range(16)))

asyncio.run(main())
"""


class Worker(threading.Thread):
    """Keeps one process appending until enough is acknowledged; kills it a few times on the way."""

    def __init__(self, target: DatabaseTarget, name: str, seed: int) -> None:
        super().__init__()
        self._target = target
        self.agent = name
        self._random = random.Random(seed)  # noqa: S311 - moments of death need no secrecy
        self.acknowledged: list[int] = []
        self.kills = 0
        self.endings: list[int] = []

    def run(self) -> None:
        while len(self.acknowledged) < APPENDS:
            left = APPENDS - len(self.acknowledged)
            die_after = self._random.randint(0, APPENDS // (KILLS + 1)) if self.kills < KILLS else left + 1
            where = [str(self._target.path), self._target.url]
            command = [sys.executable, "-c", WORKER, *where, self.agent, str(left)]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                for heard, line in enumerate(process.stdout, start=1):
                    self.acknowledged.append(int(line))
                    if heard >= die_after and process.poll() is None:
                        process.kill()
                        self.kills += 1
                        die_after = 10**9
            self.endings.append(process.returncode)


def _target(kind: str, folder: Path, server: PostgresServer) -> tuple[DatabaseTarget, DatabaseTarget | None]:
    if kind == "sqlite":
        return DatabaseTarget(folder / "broker.db"), None
    path = folder / "none.db"
    owner = DatabaseTarget(path, server.url("processes", OWNER, owner=OWNER))
    return DatabaseTarget(path, server.url("processes", owner=OWNER)), owner


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_no_acknowledged_entry_is_lost(kind: str, tmp_path: Path, postgres: PostgresServer) -> None:
    target, owner = _target(kind, tmp_path, postgres)
    create_store(target, owner)
    ledger = Ledger("origin", "boot_0", lambda: datetime.now(UTC))
    async with open_store(target) as store:
        await store.write(lambda tx: ledger.append(tx, "genesis", {}))
    workers = [Worker(target, f"agt_{number}", seed=number) for number in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(set(worker.endings) <= {0, -signal.SIGKILL} for worker in workers), [w.endings for w in workers]
    assert sum(worker.kills for worker in workers) >= PROCESSES

    acknowledged = [seq for worker in workers for seq in worker.acknowledged]
    assert len(acknowledged) == len(set(acknowledged)) >= PROCESSES * APPENDS
    async with open_store(target) as store:
        report = await verify_store(store)  # chain, numbers, hashes, agents' own chains
        assert report.entries > max(acknowledged)
        entries = await store.read(lambda tx: tx.ledger.entries(0, report.entries))
        for worker in workers:
            mark = f'"id":"{worker.agent}"'.encode()
            assert all(mark in entries[seq].data for seq in worker.acknowledged)
        # After all that the ledger goes on.
        assert await store.write(lambda tx: ledger.append(tx, "heartbeat", {})) == report.entries
