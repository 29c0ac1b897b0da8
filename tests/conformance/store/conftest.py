"""The stores that the suite runs against. A new store is one more entry of ``TARGETS``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path

import pytest

from broker.domain.ports import Store
from broker.store.opening import DatabaseTarget, create_store, open_store
from tests.postgres_server import OWNER, PostgresServer

_numbers = count()


def _sqlite(folder: Path, _: PostgresServer) -> tuple[DatabaseTarget, DatabaseTarget | None]:
    return DatabaseTarget(folder / "broker.db"), None


def _postgres(folder: Path, server: PostgresServer) -> tuple[DatabaseTarget, DatabaseTarget | None]:
    name, path = f"store_{next(_numbers)}", folder / "none.db"
    owner = DatabaseTarget(path, server.url(name, OWNER, owner=OWNER))
    return DatabaseTarget(path, server.url(name, owner=OWNER)), owner


TARGETS: dict[str, Callable[[Path, PostgresServer], tuple[DatabaseTarget, DatabaseTarget | None]]] = {
    "sqlite": _sqlite,
    "postgres": _postgres,
}


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, tmp_path: Path, postgres: PostgresServer) -> DatabaseTarget:
    """A new database, made and closed."""
    target, owner = TARGETS[request.param](tmp_path, postgres)
    create_store(target, owner)
    return target


@pytest.fixture
async def store(target: DatabaseTarget) -> AsyncIterator[Store]:
    async with open_store(target) as opened:
        yield opened
