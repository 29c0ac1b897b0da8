"""What each store promises of calls and refusals."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest

from broker.domain.call import CallState
from broker.domain.ports import CallQuery, CallRow, Refusal, Store
from broker.errors import ConflictError, NotFoundError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROW = CallRow("call_1", "agt_1", "hum_1", "data.query", "1", "shop", "", CallState.QUEUED, 3, "", "sha256:00", NOW)
FULL = CallRow(
    id="call_1",
    agent="agt_1",
    owner="hum_1",
    tool="python.run",
    tool_version="2",
    workspace="w",
    workflow="f",
    state=CallState.SUCCEEDED,
    tier=4,
    request_id="r",
    request_digest="sha256:11",
    created=NOW + timedelta(seconds=1),
    started=NOW + timedelta(seconds=2),
    ended=NOW + timedelta(seconds=3),
    expires=NOW + timedelta(seconds=4),
    decision_seq=5,
    intent_seq=6,
    outcome_seq=2**40,
    last_event=8,
    envelope_digest="sha256:22",
)


async def test_a_call_is_stored_and_replaced_in_every_field(store: Store) -> None:
    await store.write(lambda tx: tx.calls.insert(ROW))
    assert await store.read(lambda tx: tx.calls.get("call_1")) == ROW
    changed = {field.name for field in fields(CallRow) if getattr(ROW, field.name) != getattr(FULL, field.name)}
    assert changed == {field.name for field in fields(CallRow)} - {"id", "agent", "owner"}
    await store.write(lambda tx: tx.calls.replace(FULL))
    assert await store.read(lambda tx: tx.calls.get("call_1")) == FULL
    with pytest.raises(NotFoundError):
        await store.write(lambda tx: tx.calls.replace(replace(FULL, id="call_9")))


async def test_a_request_id_is_unique_for_its_agent(store: Store) -> None:
    await store.write(lambda tx: tx.calls.insert(replace(ROW, request_id="r1")))
    await store.write(lambda tx: tx.calls.insert(replace(ROW, id="call_2", agent="agt_2", request_id="r1")))
    with pytest.raises(ConflictError):
        await store.write(lambda tx: tx.calls.insert(replace(ROW, id="call_3", request_id="r1")))
    await store.write(lambda tx: tx.calls.insert(replace(ROW, id="call_4")))
    await store.write(lambda tx: tx.calls.insert(replace(ROW, id="call_5")))
    found = await store.read(lambda tx: tx.calls.by_request("agt_2", "r1"))
    assert found is not None
    assert found.id == "call_2"
    assert await store.read(lambda tx: tx.calls.by_request("agt_1", "")) is None
    assert await store.read(lambda tx: tx.calls.by_request("agt_3", "r1")) is None


async def test_calls_are_listed_newest_first_and_filtered(store: Store) -> None:
    states = [CallState.QUEUED, CallState.RUNNING, CallState.SUCCEEDED]
    for n in range(6):
        row = replace(
            ROW,
            id=f"call_{n}",
            agent=f"agt_{n % 2}",
            state=states[n % 3],
            tool=f"t{n % 3}",
            workspace=f"w{n % 2}",
            workflow=f"f{n}",
            created=NOW + timedelta(seconds=n),
        )
        await store.write(lambda tx, row=row: tx.calls.insert(row))

    async def ids(query: CallQuery) -> str:
        return "".join(row.id[-1] for row in await store.read(lambda tx: tx.calls.list(query)))

    assert await ids(CallQuery()) == "543210"
    assert await ids(CallQuery(limit=2, before="call_4")) == "32"
    assert await ids(CallQuery(agents=frozenset({"agt_1"}))) == "531"
    assert await ids(CallQuery(agents=frozenset({"agt_1", "agt_0"}), tool="t2")) == "52"
    assert await ids(CallQuery(states=frozenset({CallState.QUEUED, CallState.RUNNING}))) == "4310"
    assert await ids(CallQuery(workspace="w1", workflow="f3")) == "3"
    moments = CallQuery(created_from=NOW + timedelta(seconds=2), created_before=NOW + timedelta(seconds=4))
    assert await ids(moments) == "32"


async def test_calls_are_counted_by_agent_and_state(store: Store) -> None:
    for n in range(3):
        await store.write(lambda tx, n=n: tx.calls.insert(replace(ROW, id=f"call_{n}", agent=f"agt_{n % 2}")))
    queued = frozenset({CallState.QUEUED})
    assert await store.read(lambda tx: tx.calls.count("agt_0", queued)) == 2
    assert await store.read(lambda tx: tx.calls.count("", queued)) == 3
    assert await store.read(lambda tx: tx.calls.count("", frozenset({CallState.RUNNING}))) == 0
    assert await store.read(lambda tx: tx.calls.count("", frozenset())) == 0


async def test_repeated_refusals_are_counted(store: Store) -> None:
    later = NOW + timedelta(seconds=5)
    assert await store.write(lambda tx: tx.refusals.bump("agt_1", "k", NOW, b"first")) == 1
    assert await store.write(lambda tx: tx.refusals.bump("agt_1", "k", later, b"second")) == 2
    assert await store.write(lambda tx: tx.refusals.bump("agt_1", "other", later, b"other")) == 1
    assert await store.write(lambda tx: tx.refusals.bump("agt_2", "k", later, b"else")) == 1
    assert await store.read(lambda tx: tx.refusals.keys("agt_1")) == {"k", "other"}
    assert await store.read(lambda tx: tx.refusals.keys("agt_3")) == frozenset()
    assert list(await store.read(lambda tx: tx.refusals.due(NOW))) == []
    assert list(await store.read(lambda tx: tx.refusals.due(later))) == [Refusal("agt_1", "k", NOW, later, 2, b"first")]
    await store.write(lambda tx: tx.refusals.remove("agt_1", "k"))
    assert list(await store.read(lambda tx: tx.refusals.due(later))) == []
    assert await store.write(lambda tx: tx.refusals.bump("agt_1", "k", later, b"third")) == 1
