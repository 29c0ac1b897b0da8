"""A database that is only looked at: nothing is written to its files, not even that somebody uses them.

For programs that have to leave all as it is, beside a broker that may be running. A PostgreSQL server reads in transactions
that can't write.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from broker.domain.ports import Transaction
from broker.errors import FailedPreconditionError, UnavailableError
from broker.store.connection import BUSY_TIMEOUT_S, translate
from broker.store.opening import DatabaseTarget, open_store
from broker.store.prepared import sqlite_driver_of
from broker.store.schema import check_schema
from broker.store.transaction import SqlTransaction

T = TypeVar("T")
_ATTEMPTS = 3


class Looks(Protocol):
    """What is offered: reading."""

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Runs ``work`` on a consistent snapshot."""


@asynccontextmanager
async def look_at(target: DatabaseTarget) -> AsyncIterator[Looks]:
    """Opens a database that is there for looking at it.

    Raises:
        FailedPreconditionError: there is no file (``STORE_MISSING``), or an older broker made it (``STORE_OLD``).
        DataLossError: it isn't one of ours, is damaged, or its triggers were changed.
        UnavailableError: other programs are in the way.
    """
    if target.url:
        async with open_store(target) as store:
            yield store
        return
    if not target.path.is_file():
        raise FailedPreconditionError(
            f"there is no broker database at {target.path}",
            reason="STORE_MISSING",
            hint="Name the right state directory with --state.",
        )
    yield _LookedAt(target.path)


class _LookedAt:
    """A SQLite file; each reading has a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """See ``Looks.read``.

        Raises:
            UnavailableError: ``STORE_BUSY``: a broker kept starting or stopping meanwhile.
            InternalError: ``STORE_READ_ONLY``: ``work`` tried to write.
        """
        return await asyncio.to_thread(self._read, work)

    def _read(self, work: Callable[[Transaction], T]) -> T:
        for _ in range(_ATTEMPTS):
            # Without a log the file alone is the state: "immutable" then keeps SQLite from making files beside it.
            alone = not self._has_log()
            found = self._read_once(work, immutable=alone)
            if not alone or not self._has_log():
                return found
        raise UnavailableError(
            f"a broker began to use {self._path} each time while it was being read",
            reason="STORE_BUSY",
            retry_after_s=1.0,
        )

    def _read_once(self, work: Callable[[Transaction], T], *, immutable: bool) -> T:
        uri = f"{self._path.absolute().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"

        def connect() -> sqlite3.Connection:
            return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S)

        engine = create_engine("sqlite+pysqlite://", creator=connect, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA trusted_schema = OFF")
                connection.exec_driver_sql("PRAGMA query_only = ON")
                driver = sqlite_driver_of(connection)
                driver.execute("BEGIN")
                try:
                    check_schema(connection)
                    transaction = SqlTransaction(connection)
                    transaction.ledger.begin()
                    return work(transaction)
                finally:
                    if driver.in_transaction:
                        driver.execute("ROLLBACK")
        except (DBAPIError, sqlite3.Error) as error:
            raise translate(error) from error
        finally:
            engine.dispose()

    def _has_log(self) -> bool:
        for suffix in ("-wal", "-journal"):
            beside = self._path.with_name(self._path.name + suffix)
            if beside.exists() and beside.stat().st_size:
                return True
        return False
