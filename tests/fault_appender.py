"""Appends to a ledger while one step of one append goes wrong; tells each entry that is acknowledged.

Usage: fault_appender.py TARGET STEP WHEN HOW, where TARGET is a SQLite file or a PostgreSQL URL, STEP one of ``STEPS``,
WHEN ``before`` (the step isn't done) or ``after`` (it is done, and reported as failed), HOW ``raise`` or ``kill``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import broker.store.database
import broker.store.postgres
from broker.domain.ports import Store, Transaction
from broker.errors import BrokerError
from broker.ledger.ledger import Ledger
from broker.store.opening import DatabaseTarget, open_store

STEPS = ("begin", "save", "insert", "set_agent_head", "keep", "flush", "commit", "undo")
"""What an append consists of: those of the session, and those of the ledger's table. An undo follows a refusal."""
REFUSED = frozenset({"0.4", "1.5", "2.6", "3.7"})
"""Entries that are refused after they were written, while others of their batch are not."""

_AT = {"undo": 1}
"""Which time a step goes wrong; others at the fifth time."""
_APPENDERS, _ENTRIES = 4, 10


class _Fault:
    """Wraps a step so that it goes wrong once."""

    def __init__(self, step: str, when: str, how: str) -> None:
        self._when, self._how = when, how
        self._left = _AT.get(step, 5)

    def around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - as the step has it
            self._left -= 1
            if self._left == 0 and self._when == "before":
                self._happen()
            result = step(*arguments, **named)
            if self._left == 0 and self._when == "after":
                self._happen()
            return result

        return wrapped

    def _happen(self) -> None:
        os.write(1, b"fault\n")
        if self._how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise sqlite3.OperationalError("disk I/O error")


def _faulty(made: Callable[..., Any], step: str, fault: _Fault) -> Callable[..., Any]:
    def make(*arguments: Any) -> Any:  # noqa: ANN401 - a session
        session = made(*arguments)
        holder = session if hasattr(session, step) else session.transaction.ledger
        setattr(holder, step, fault.around(getattr(holder, step)))
        return session

    return make


async def append(store: Store, ledger: Ledger, number: int) -> None:
    """Appends one entry after the other; one that is refused is not tried again, for nobody knows whether it is there."""
    for count in range(_ENTRIES):
        body = {"text": f"{number}.{count}"}
        refused = body["text"] in REFUSED

        def work(tx: Transaction) -> int:
            seq = ledger.append(tx, "decision", body, agent=f"agent_{number}")  # noqa: B023 - runs before the next turn
            if refused:  # noqa: B023
                raise BrokerError("a call that is refused after its entry was written", reason="REFUSED")
            return seq

        try:
            seq = await (_together(store, work) if refused else store.write(work))
        except (BrokerError, sqlite3.Error):
            continue
        os.write(1, f"{seq} {body['text']}\n".encode())


async def _together(store: Any, work: Callable[[Transaction], int]) -> int:  # noqa: ANN401 - reaches for its writer
    """Writes in one batch with others: only then is what is refused undone by itself."""
    queued = threading.Event()
    store._writer.submit_alone(lambda _: queued.wait(30))
    writes = [store.write(work), store.write(lambda tx: tx.ledger.head())]
    tasks = [asyncio.ensure_future(write) for write in writes]
    await asyncio.sleep(0)  # both are in the queue now
    queued.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(results[0], BaseException):
        raise results[0]
    return int(results[0])


def opened(target: str) -> AbstractAsyncContextManager[Store]:
    """Opens a SQLite file or a PostgreSQL URL."""
    if "://" in target:
        return open_store(DatabaseTarget(path=Path("unused"), url=target))
    return open_store(DatabaseTarget(path=Path(target)))


async def main(target: str) -> None:
    """Appends from several tasks at once."""
    ledger = Ledger("brk_fault", "boot_fault", lambda: datetime.now(UTC))
    async with opened(target) as store:
        await asyncio.gather(*(append(store, ledger, number) for number in range(_APPENDERS)))


if __name__ == "__main__":
    _fault = _Fault(*sys.argv[2:5])
    for _module, _name in ((broker.store.database, "SqliteSession"), (broker.store.postgres, "PostgresSession")):
        setattr(_module, _name, _faulty(getattr(_module, _name), sys.argv[2], _fault))
    asyncio.run(main(sys.argv[1]))
