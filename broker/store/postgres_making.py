"""Makes the broker's schema in a PostgreSQL database, or takes back one that was just made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from broker.store.postgres_connection import PostgresAddress, engine_for, postgres_driver_of, prepare, translate
from broker.store.postgres_schema import create_schema, drop_schema, role_of


def create(address: PostgresAddress, owner: PostgresAddress) -> None:
    """Makes the schema as its owner, in one transaction, and lets the other role use it.

    Raises:
        ConflictError: ``STORE_EXISTS``.
        BrokerError: the server can't be used, or doesn't let one of the two in.
    """
    with connected(address) as connection:
        role = role_of(connection)
    with connected(owner) as connection, one_transaction(connection):
        create_schema(connection, role)


def discard(owner: PostgresAddress) -> None:
    """Drops the schema with all that is in it.

    Raises:
        BrokerError: the server can't be used.
    """
    with connected(owner) as connection:
        drop_schema(connection)


@contextmanager
def connected(address: PostgresAddress) -> Iterator[Connection]:
    """A connection, ready for work that may take long; errors of the database leave the block as ours.

    Raises:
        BrokerError: the server can't be used, or refused a statement.
    """
    engine = engine_for(address)
    try:
        with engine.connect() as connection:
            prepare(connection, limited=False)
            yield connection
    except (DBAPIError, psycopg.Error) as error:
        raise translate(error) from error
    finally:
        engine.dispose()


@contextmanager
def one_transaction(connection: Connection) -> Iterator[None]:
    """Commits at the end of the block what it did, or nothing."""
    driver = postgres_driver_of(connection)
    driver.execute("BEGIN")
    try:
        yield
    except BaseException:
        driver.execute("ROLLBACK")
        raise
    driver.execute("COMMIT")
