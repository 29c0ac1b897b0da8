"""Which database a broker has, and how it is made and opened: a SQLite file, or one on a PostgreSQL server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from broker.domain.secret import Secret
from broker.errors import FailedPreconditionError
from broker.private_file import read_private
from broker.store.base import SqlStore
from broker.store.database import Database

if TYPE_CHECKING:
    from broker.store.postgres_connection import PostgresAddress

_MOST_PASSWORD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class DatabaseTarget:
    """Where a broker's database is.

    Args:
        path: the SQLite file; used where ``url`` is empty.
        url: ``postgresql://user@host:port/name``; never with a password.
        password: where the password for it comes from, ``env:NAME`` or ``file:/absolute/path``; empty for none.
    """

    path: Path
    url: str = ""
    password: str = ""

    @property
    def is_there(self) -> bool:
        """Is there something to open? A server is asked only when it is opened."""
        return bool(self.url) or self.path.is_file()

    def __str__(self) -> str:
        return self.url or str(self.path)


def open_store(target: DatabaseTarget) -> AbstractAsyncContextManager[SqlStore]:
    """Opens a database that is there, for reading and writing, until the block ends; queued writes are finished.

    Raises:
        BrokerError: as ``Database.open`` and ``PostgresDatabase.open`` raise it.
    """
    return _open_postgres(target) if target.url else Database.open(target.path)


def open_store_sync(target: DatabaseTarget) -> AbstractContextManager[SqlStore]:
    """Like ``open_store``, for programs without an event loop."""
    return _open_postgres_sync(target) if target.url else Database.open_sync(target.path)


def create_store(target: DatabaseTarget, owner: DatabaseTarget | None = None) -> None:
    """Makes a new database, whole or not at all, with the newest schema and nothing in it.

    Args:
        target: where; on PostgreSQL the database itself is there already, without a schema ``broker``.
        owner: the same PostgreSQL database as the role that is to own the tables; ``target`` serves then with fewer
            rights. Where it is left out, one role does both.

    Raises:
        ConflictError: ``STORE_EXISTS``.
        BrokerError: the server can't be used.
    """
    if not target.url:
        Database.create(target.path)
        return
    from broker.store.postgres_making import create  # noqa: PLC0415 - the driver costs a start that needs no PostgreSQL

    create(address_of(target), address_of(owner or target))


def discard_store(target: DatabaseTarget, owner: DatabaseTarget | None = None) -> None:
    """Takes back what ``create_store`` has just made on a server; a SQLite file is left to its folder's owner.

    Raises:
        BrokerError: the server can't be used.
    """
    if not target.url:
        return
    from broker.store.postgres_making import discard  # noqa: PLC0415 - as above

    discard(address_of(owner or target))


def address_of(target: DatabaseTarget) -> PostgresAddress:
    """The address of a PostgreSQL database with its password.

    Raises:
        InvalidArgumentError: ``DATABASE_ADDRESS_INVALID``.
        FailedPreconditionError: the password can't be had, or others can read it.
    """
    from broker.store.postgres_connection import PostgresAddress  # noqa: PLC0415 - as above

    return PostgresAddress(target.url, _password(target.password))


@asynccontextmanager
async def _open_postgres(target: DatabaseTarget) -> AsyncIterator[SqlStore]:
    from broker.store.postgres import PostgresDatabase  # noqa: PLC0415 - as above

    async with PostgresDatabase.open(address_of(target)) as store:
        yield store


@contextmanager
def _open_postgres_sync(target: DatabaseTarget) -> Iterator[SqlStore]:
    from broker.store.postgres import PostgresDatabase  # noqa: PLC0415 - as above

    with PostgresDatabase.open_sync(address_of(target)) as store:
        yield store


def _password(source: str) -> Secret | None:
    kind, _, rest = source.partition(":")
    if not source:
        return None
    if kind == "env":
        value = os.environ.get(rest)
        if not value:
            raise FailedPreconditionError(
                f"the database's password is missing: the environment variable {rest} isn't set",
                reason="PASSWORD_MISSING",
                hint=f"Start with {rest} set, or change the setting database_password.",
            )
        return Secret(value.encode())
    data = read_private(
        Path(rest),
        what="database's password",
        most_bytes=_MOST_PASSWORD_BYTES,
        missing="Write it there with mode 0600, or change the setting database_password.",
        follow_links=True,
    )
    return Secret(data.removesuffix(b"\n").removesuffix(b"\r"))
