"""Housekeeping goes on whatever goes wrong once: what has expired is removed all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from broker.domain.ports import Transaction
from broker.ledger.agreement import LedgerAgreement
from broker.ledger.genesis import genesis_body
from broker.ledger.ledger import Ledger
from broker.pipeline import pipeline as pipeline_module
from broker.pipeline.bell import Bell
from broker.pipeline.folders import Folders
from broker.pipeline.parts import Bounds
from broker.pipeline.pipeline import Pipeline
from broker.store.database import Database
from broker.vault.keyfile import make_key_file, read_key_file
from broker.vault.vault import SealedVault
from broker.workspace.objects import Objects
from broker.workspace.trees import Trees

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLD = "blob_old"
ENDS_WITHIN_S = 20
BOUNDS = Bounds(
    max_running=1,
    max_queued=1,
    max_active_per_agent=1,
    storage_quota_bytes=2**20,
    blob_max_bytes=2**20,
    blob_ttl_s=60,
    refusal_window_s=60,
)


class Faulty:
    """A store whose nth piece of housekeeping fails once, with an error that nobody thought of."""

    def __init__(self, store: Database, fails: str) -> None:
        self._store = store
        self._fails = fails
        self.done: list[str] = []
        self.changed = asyncio.Event()

    async def read(self, work: Callable[[Transaction], Any]) -> Any:  # noqa: ANN401 - as the store
        return await self._store.read(work)

    async def write(self, work: Callable[[Transaction], Any]) -> Any:  # noqa: ANN401 - as the store
        self._step("sweep" if work.__name__ == "_sweep" else "flush")
        return await self._store.write(work)

    @property
    def scrub_due(self) -> bool:
        return self._store.scrub_due

    async def scrub(self) -> None:
        self._step("scrub")
        await self._store.scrub()
        self.done.append("scrubbed")
        self.changed.set()

    def _step(self, name: str) -> None:
        if name == self._fails:
            self._fails = ""
            raise RuntimeError("planted")
        self.done.append(name)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Database]:
    Database.create(tmp_path / "broker.db")
    async with Database.open(tmp_path / "broker.db") as opened:
        yield opened


@pytest.mark.parametrize("fails", ["flush", "sweep", "scrub"])
async def test_what_has_expired_is_removed_after_a_failure(
    store: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    monkeypatch.setattr(pipeline_module, "_HOUSEKEEPING_S", 0.01)
    make_key_file(tmp_path / "vault.key")
    vault = SealedVault(read_key_file(tmp_path / "vault.key"))

    def keep(tx: Transaction) -> None:
        sealed = vault.create(
            tx, object_id=OLD, owner="agt_1", kind="blob", now=NOW, expires=NOW - timedelta(seconds=1)
        )
        sealed.put(tx, {0: b"old"})

    ledger = Ledger("brk_1", "boot_1", lambda: NOW)
    await store.write(lambda tx: ledger.append(tx, "genesis", genesis_body(trust_domain="t", software="s")))
    await store.write(keep)
    faulty = Faulty(store, fails)
    desk = SimpleNamespace(agreement=LedgerAgreement())
    trees = Trees(Objects(tmp_path / "objects"))
    folders = Folders(
        store=faulty,  # type: ignore[arg-type]  # what it uses
        ledger=ledger,
        trees=trees,
        clock=lambda: NOW,
        hosts=(),
        journals=tmp_path,
    )
    parts = SimpleNamespace(
        store=faulty,
        vault=vault,
        bounds=BOUNDS,
        clock=lambda: NOW,
        ledger=ledger,
        desk=desk,
        bell=Bell(),
        folders=folders,
    )
    with capture_logs() as logs:
        async with Pipeline(parts, drain_s=0), asyncio.timeout(ENDS_WITHIN_S):  # type: ignore[arg-type]  # what it uses
            while "scrubbed" not in faulty.done:
                await faulty.changed.wait()
    assert await store.read(lambda tx: tx.vault.get(OLD)) is None
    assert [item["event"] for item in logs].count("housekeeping.failed") == 1
