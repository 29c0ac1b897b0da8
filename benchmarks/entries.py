"""Ledger entries as calls leave them, in the mix that a ledger has: 40 % decisions, 25 % intents, 25 % outcomes.

The bodies come from the pipeline's own functions, once; each entry then gets its own call, commitments and intent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from broker.domain.call import CallContext, CallState, Decision, Lineage
from broker.domain.canonical import JsonObject, JsonValue
from broker.domain.events import Outcome, StoredRequest
from broker.domain.ids import new_id
from broker.domain.ports import CallRow
from broker.domain.run import EndCause, EvidenceSource, StreamSummary
from broker.domain.tier import Tier
from broker.pipeline import journal

AGENTS = 200
"""Different agents in a ledger."""

_NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
_DIGEST = "sha256:" + hashlib.sha256(b"benchmark").hexdigest()
_COMMITS = ("args_commit", "purpose_commit")


class Entry(NamedTuple):
    """What ``Ledger.append`` takes."""

    type: str
    body: JsonObject
    agent: str


class _Sealed:
    """Commits by a plain hash: the vault is not what is measured."""

    def commit(self, kind: str, plaintext: bytes) -> str:
        return hashlib.sha256(kind.encode() + b"\x00" + plaintext).hexdigest()


def calls(number: int) -> Generator[Entry, int, None]:
    """The endless entries of one caller; send back the number that each entry got in the ledger.

    Args:
        number: which caller; its agents are its own as long as there are fewer than ``AGENTS`` callers.
    """
    decision, refusal, intent, outcome, vote = _bodies()
    turn = number
    while True:
        agent = f"agent_{turn % AGENTS:026d}"
        # Of twenty entries eight are decisions (five of them of calls that run), five intents, five outcomes, two votes.
        for step in range(5):
            own: JsonObject = {"call_id": f"call_{turn:018d}{step:08d}", **_commits(turn, step)}
            decided = yield Entry("decision", {**decision, **own}, agent)
            begun = yield Entry("intent", {**intent, **own, "decision_seq": decided}, agent)
            yield Entry("outcome", {**outcome, "call_id": own["call_id"], "intent_seq": begun}, agent)
        for step in range(3):
            yield Entry("decision", {**refusal, "tool": {"name": f"tool{step}.unknown"}}, agent)
        for step in range(2):
            yield Entry("vote", {**vote, "call_id": f"call_{turn:018d}{step:08d}", **_commits(turn, step)}, agent)
        turn += AGENTS + 1


def _commits(turn: int, step: int) -> dict[str, JsonValue]:
    digest = hashlib.sha256(b"%d %d" % (turn, step)).hexdigest()
    return dict.fromkeys(_COMMITS, digest)


def _bodies() -> tuple[JsonObject, JsonObject, JsonObject, JsonObject, JsonObject]:
    row, request, sealed = _row(), _request(), _Sealed()
    common = journal.request_body(row, request, _DIGEST, sealed, egress=())  # type: ignore[arg-type]  # it only commits
    decided = journal.decision_body(request.decision, row.agent)
    refusal: JsonObject = {
        **journal.refusal_body(
            reason="TOOL_UNKNOWN", rule="", obj="tool", workspace="demo", tier=Tier(1), owner=new_id("human")
        ),
        **decided,
        "data_classes": ["internal"],
    }
    ended = journal.outcome_body(row, _outcome(), _NOW + timedelta(seconds=1), sealed)  # type: ignore[arg-type]  # it only commits
    return {**common, **decided}, refusal, {**common, **decided, "decision_seq": 0}, ended, _vote()


def _row() -> CallRow:
    return CallRow(
        id=new_id("call"),
        agent=new_id("agent"),
        owner=new_id("human"),
        tool="python.run",
        tool_version=_DIGEST,
        workspace="demo",
        workflow="nightly-report",
        state=CallState.SUCCEEDED,
        tier=1,
        request_id="",
        request_digest=_DIGEST,
        created=_NOW,
        intent_seq=1,
        envelope_digest=_DIGEST,
    )


def _request() -> StoredRequest:
    inputs = {
        "subject": "agent:reporter", "roles": "role:agent", "workspace": "demo", "obj": "python.run", "action": "call",
        "tier": "1",
    }  # fmt: skip
    return StoredRequest(
        tool="python.run",
        tool_version=_DIGEST,
        arguments_json='{"code":"print(1)"}',
        files=(),
        file_digests={},
        context=CallContext(workspace="demo", workflow="nightly-report", model="model-1", prompt_version="7"),
        request_id="",
        fingerprint=_DIGEST,
        agent_name="reporter",
        lineage=Lineage(new_id("agent"), new_id("human"), new_id("human"), new_id("human"), proofs=("session:s",)),
        decision=Decision(allowed=True, rule="agents-call-tier-1", reason="", policy_digest=_DIGEST, inputs=inputs),
        data_classes=("internal",),
        expires=_NOW,
        envelope="{}",
    )


def _outcome() -> Outcome:
    stream = StreamSummary(total_bytes=2, kept_bytes=2, truncated=False, digest=_DIGEST)
    return Outcome(
        cause=EndCause.TOOL,
        cause_source=EvidenceSource.ENGINE,
        detail="",
        exit_code=0,
        stdout=stream,
        stderr=stream,
        wall_s=0.0101,
        cpu_s=0.0071,
        memory_peak_bytes=9_123_456,
        oom_kills=0,
    )


def _vote() -> JsonObject:
    return {
        "approval": {"id": new_id("apr"), "envelope_digest": _DIGEST, "rendering_digest": _DIGEST},
        "decision": "approve",
        "approver": new_id("human"),
        "key": "ed25519:" + "a" * 43,
        "signature": "b" * 86,
        "checkpoint": {"size": 1, "root": "c" * 64},
        "workspace": "demo",
    }
