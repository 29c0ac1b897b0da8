"""Several processes append to one ledger and are killed at random moments: no fork, no gap, nothing acknowledged lost."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.ledger.ledger import Ledger
from broker.ledger.reader import open_ledger, verify_file
from broker.ledger.verdict import Verdict
from broker.store.database import Database

PROCESSES = 4
APPENDS = 250

WORKER = """
import asyncio, os, sys
from datetime import UTC, datetime
from pathlib import Path
from broker.ledger.ledger import Ledger
from broker.store.database import Database

path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ledger = Ledger("origin", f"boot_{os.getpid()}", lambda: datetime.now(UTC))

async def main():
    async with Database.open(path) as database:
        async def append(number):
            body = {"text": "x" * 400, "number": number}
            seq = await database.write(lambda tx: ledger.append(tx, "heartbeat", body, agent=name))
            os.write(1, b"%d\\n" % seq)

        async def work(numbers):
            for number in numbers:
                await append(number)

        todo = iter(range(count))
        await asyncio.gather(*(work(todo) for _ in range(5)))

asyncio.run(main())
"""


class Worker(threading.Thread):
    """Keeps one process appending until enough is acknowledged; kills it a few times on the way."""

    def __init__(self, path: Path, name: str, seed: int) -> None:
        super().__init__()
        self._path = path
        self._agent = name
        self._random = random.Random(seed)  # noqa: S311 - moments of death need no secrecy
        self.acknowledged: list[int] = []
        self.kills = 0
        self.endings: list[int] = []

    def run(self) -> None:
        while len(self.acknowledged) < APPENDS:
            left = APPENDS - len(self.acknowledged)
            die_after = self._random.randint(0, 100) if self.kills < 4 else left + 1
            command = [sys.executable, "-c", WORKER, str(self._path), self._agent, str(left)]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                for heard, line in enumerate(process.stdout, start=1):
                    self.acknowledged.append(int(line))
                    if heard >= die_after and process.poll() is None:
                        process.kill()
                        self.kills += 1
                        die_after = 10**9
            self.endings.append(process.returncode)


@pytest.mark.timeout(240)
def test_no_acknowledged_entry_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    Database.create(path)
    ledger = Ledger("origin", "boot_0", lambda: datetime.now(UTC))
    with Database.open_sync(path) as database:
        database.write_sync(lambda tx: ledger.append(tx, "genesis", {}))
    workers = [Worker(path, f"agt_{number}", seed=number) for number in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(set(worker.endings) <= {0, -signal.SIGKILL} for worker in workers), [w.endings for w in workers]
    assert sum(worker.kills for worker in workers) >= PROCESSES

    report = verify_file(path)
    assert report.verdict is Verdict.OK, report.place
    acknowledged = [seq for worker in workers for seq in worker.acknowledged]
    assert len(acknowledged) == len(set(acknowledged)) >= PROCESSES * APPENDS
    with open_ledger(path) as file:
        agents = {row.seq: row.data for row in file.rows()}
    for worker in workers:
        for seq in worker.acknowledged:
            data = agents[seq]
            assert isinstance(data, bytes)
            assert f'"id":"{worker._agent}"'.encode() in data
    # After all that the ledger goes on.
    with Database.open_sync(path) as database:
        assert database.write_sync(lambda tx: ledger.append(tx, "heartbeat", {})) == report.entries
