"""The checkpoint stores that the suite runs against. A new store is one more entry of ``STORES``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from broker.ledger.checkpoint_store import CheckpointStore, DirectoryCheckpoints

STORES: dict[str, Callable[[Path], CheckpointStore]] = {
    "directory": lambda folder: DirectoryCheckpoints(folder / "checkpoints")
}


@pytest.fixture(params=STORES)
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], CheckpointStore]:
    """Opens the same store each time, as several processes would."""
    return lambda: STORES[request.param](tmp_path)


@pytest.fixture
def checkpoints(make_store: Callable[[], CheckpointStore]) -> CheckpointStore:
    return make_store()
