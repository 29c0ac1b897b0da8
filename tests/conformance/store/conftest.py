"""The stores that the suite runs against. A new store is one more entry of ``STORES``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from broker.domain.ports import Store
from broker.store.database import Database


def _sqlite(folder: Path) -> AbstractAsyncContextManager[Store]:
    path = folder / "broker.db"
    Database.create(path)
    return Database.open(path)


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[Store]]] = {"sqlite": _sqlite}


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with STORES[request.param](tmp_path) as opened:
        yield opened
