"""Appends to a ledger and tells each entry that is acknowledged; for the tests of power loss, under ``strace``.

Usage: power_appender.py DATABASE APPENDERS ENTRIES SYNCHRONOUS
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from broker.ledger.ledger import Ledger
from broker.store import connection
from broker.store.database import Database


async def main(path: Path, appenders: int, entries: int) -> None:
    """Each appender waits for one entry before the next."""
    ledger = Ledger("brk_power", "boot_power", lambda: datetime.now(UTC))
    async with Database.open(path) as store:
        await store.serve_alone()  # as a broker does: its log has room then

        async def append(number: int) -> None:
            for count in range(entries):
                body = {"text": f"{number}.{count} " + "x" * 700}
                seq = await store.write(lambda tx: ledger.append(tx, "decision", body, agent=f"agent_{number}"))  # noqa: B023
                os.write(1, f"{seq}\n".encode())

        await asyncio.gather(*(append(number) for number in range(appenders)))


if __name__ == "__main__":
    if sys.argv[4] != "FULL":
        # What must not be set: the broker itself has no such setting.
        connection._DURABLE = {**connection._DURABLE, "synchronous": (sys.argv[4], 1)}
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
