"""A page of calls with long arguments and results costs what the page shows, not what the calls hold."""

from __future__ import annotations

import tracemalloc
from datetime import timedelta
from pathlib import Path

import pytest

from broker.app import now, running
from broker.domain.call import CallContext, CallState, Decision, Lineage
from broker.domain.events import (
    OUTCOME_TEXTS,
    REQUEST,
    REQUEST_TEXTS,
    CallEvent,
    Finished,
    Outcome,
    StoredRequest,
    encode_event,
    encode_outcome_texts,
    encode_request,
)
from broker.domain.identity import Caller, Identity, IdentityKind
from broker.domain.ports import CallQuery, CallRow, Transaction
from broker.domain.run import EndCause, EvidenceSource
from broker.pipeline.parts import Parts
from broker.settings import load_settings
from tests.served import AGENT, make_state

pytestmark = pytest.mark.docker

_CALLS = 40
_LONG = 900 * 1024
_PEAK = 8 << 20


def _put(tx: Transaction, parts: Parts, agent: Identity, number: int) -> str:
    moment = now()
    call_id = f"call_{number:026d}"
    request = StoredRequest(
        tool="python.run",
        tool_version="sha256:00",
        arguments_json="a" * _LONG,
        files=(),
        file_digests={},
        context=CallContext(workspace="demo"),
        request_id="",
        fingerprint="00",
        agent_name=agent.name,
        lineage=Lineage(agent.id, agent.owner, agent.owner),
        decision=Decision(allowed=True, rule="r", reason="", policy_digest="sha256:00", inputs={}),
        data_classes=(),
        expires=moment + timedelta(days=1),
        envelope="e" * _LONG,
    )
    outcome = Outcome(EndCause.TOOL, EvidenceSource.ENGINE, "", result_json="r" * _LONG)
    sealed = parts.vault.create(tx, object_id=call_id, owner=agent.id, kind="call", now=moment, expires=request.expires)
    brief, texts = encode_request(request)
    sealed.put(tx, {REQUEST: brief})
    sealed.put(tx, {REQUEST_TEXTS: texts})
    sealed.put(tx, {1: encode_event(CallEvent(1, moment, Finished(CallState.SUCCEEDED, outcome)))})
    sealed.put(tx, {OUTCOME_TEXTS: encode_outcome_texts(outcome)})
    row = CallRow(
        id=call_id,
        agent=agent.id,
        owner=agent.owner,
        tool="python.run",
        tool_version="sha256:00",
        workspace="demo",
        workflow="",
        state=CallState.SUCCEEDED,
        tier=2,
        request_id="",
        request_digest="sha256:00",
        created=moment,
        last_event=1,
    )
    tx.calls.insert(row)
    return call_id


async def test_a_page_of_calls_does_not_read_what_it_does_not_show(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_state(state)
    async with running(state, load_settings(state)) as broker:
        parts, calls = broker.parts, broker.pipeline.calls
        agent = await parts.store.read(lambda tx: tx.identities.by_name(IdentityKind.AGENT, AGENT))
        assert agent is not None
        certificates = await parts.store.read(lambda tx: tx.identities.certificates())
        caller = Caller(agent, next(item for item in certificates if item.identity == agent.id))
        for number in range(_CALLS):
            await parts.store.write(lambda tx, number=number: _put(tx, parts, agent, number))
        await calls.search(caller, CallQuery(limit=1), "")
        tracemalloc.start()
        views = await calls.search(caller, CallQuery(limit=_CALLS), "")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        whole = await calls.get(caller, views[0].id)
    assert len(views) == _CALLS
    assert peak < _PEAK
    assert all(view.request is not None and view.outcome is not None for view in views)
    assert whole.request is not None
    assert whole.outcome is not None
    assert (len(whole.request.arguments_json), len(whole.request.envelope)) == (_LONG, _LONG)
    assert len(whole.outcome.result_json) == _LONG
