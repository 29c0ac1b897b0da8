"""A recording is durable before its call's outcome, or a warning in it; it never takes anything from the outcome."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from broker.domain.events import Outcome
from broker.domain.ports import Transaction
from broker.domain.run import EndCause, EvidenceSource
from broker.errors import DataLossError
from broker.pipeline.recordings import KIND, with_recording
from broker.sandbox.egress.recording import Recording, load_recording
from broker.store.database import Database
from tests.artifact_world import ROW, World, make_world
from tests.unit.sandbox.egress.test_recording import one

OUTCOME = Outcome(EndCause.TOOL, EvidenceSource.ENGINE, "it ended", warnings=("before",))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    Database.create(tmp_path / "broker.db")
    async with Database.open(tmp_path / "broker.db") as store:
        yield await make_world(store)


async def kept(artifacts: object, recording: Recording | None) -> Outcome:
    """What becomes of an outcome whose call has such a recording."""
    parts: Any = SimpleNamespace(artifacts=artifacts)
    active: Any = SimpleNamespace(
        row=ROW,
        tool=SimpleNamespace(spec=SimpleNamespace(retention=3600.0)),
        egress=SimpleNamespace(recording=lambda: recording),
    )
    return await with_recording(parts, active, OUTCOME)


async def test_a_recording_becomes_an_artifact_that_the_outcome_names(world: World) -> None:
    outcome = await kept(world.artifacts, one())
    found = outcome.recording
    assert found is not None
    assert (found.exchanges, found.missed, found.whole, outcome.warnings) == (1, 0, True, ("before",))
    data = await world.get(found.artifact)
    assert (load_recording(data), len(data)) == (one(), found.size)
    (entry,) = await world.entries("artifact")
    assert (entry["kind"], entry["digest"], entry["call_id"]) == (KIND, found.artifact, ROW.id)


async def test_where_nothing_was_asked_nothing_is_kept(world: World) -> None:
    assert await kept(world.artifacts, None) is OUTCOME
    assert not await world.entries("artifact")


async def test_a_full_quota_is_a_warning(world: World) -> None:
    world.quota = 0
    outcome = await kept(world.artifacts, one())
    assert outcome.recording is None
    assert outcome.warnings == ("before", "what hosts answered was not kept: STORAGE_QUOTA: too much is kept")
    assert not await world.entries("artifact")


async def test_any_failure_of_ours_is_a_warning() -> None:
    class Broken:
        async def put(self, *_: object, **__: object) -> None:
            raise RuntimeError("with the text of an answer in it")

    outcome = await kept(Broken(), one())
    assert outcome.warnings == ("before", "what hosts answered was not kept: the broker failed")
    assert (outcome.detail, outcome.recording) == (OUTCOME.detail, None)


async def test_a_doctored_recording_is_not_given_out(world: World) -> None:
    found = (await kept(world.artifacts, one())).recording
    assert found is not None
    row = await world.row(found.artifact)

    def work(tx: Transaction) -> None:
        ((index, sealed),) = tx.vault.chunks(row.id, 0, 10)
        tx.vault.delete(row.id)
        tx.vault.insert(row)
        tx.vault.insert_chunks(row.id, {index: sealed[:-20] + bytes([sealed[-20] ^ 1]) + sealed[-19:]})

    await world.store.write(work)
    with pytest.raises(DataLossError):
        await world.get(found.artifact)
