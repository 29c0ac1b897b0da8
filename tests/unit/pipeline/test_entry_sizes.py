"""No entry about a call can come near the ledger's limit, whatever a caller, a tool or a policy fills in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from broker.domain.call import CallContext, CallState, Decision, InputFile, Lineage, Source
from broker.domain.canonical import JsonObject
from broker.domain.events import (
    CallEvent,
    Finished,
    Outcome,
    OutputFile,
    StoredRequest,
    decode_event,
    decode_outcome_texts,
    decode_request,
    encode_event,
    encode_outcome_texts,
    encode_request,
)
from broker.domain.ports import CallRow
from broker.domain.run import (
    EgressKind,
    EgressRecord,
    EgressRule,
    EgressVerdict,
    EndCause,
    EvidenceSource,
    StreamSummary,
)
from broker.domain.spec_egress import MAX_RULES
from broker.ledger.encoding import encode
from broker.pipeline import journal
from broker.vault.vault import SealedItem

FAR_BELOW = 24 * 1024
WIDE = "\U0001f512" * 256
LONG_ID = "x" * 128
DIGEST = f"sha256:{'f' * 64}"
NOW = datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC)
SEALED = SealedItem("call_1", "call", bytes(64))
CLASSES = tuple(f"c{number:02d}{'x' * 60}" for number in range(journal.MAX_DATA_CLASSES))
ROW = CallRow(
    id=LONG_ID,
    agent=LONG_ID,
    owner=LONG_ID,
    tool=".".join(["t" * 63] * 4),
    tool_version=DIGEST,
    workspace="w" * 63,
    workflow=WIDE,
    state=CallState.UNKNOWN,
    tier=4,
    request_id=LONG_ID,
    request_digest=DIGEST,
    created=NOW,
    decision_seq=2**53 - 1,
    intent_seq=2**53 - 1,
    envelope_digest=DIGEST,
)
FILES = tuple(InputFile("p" * 1000 + str(number), LONG_ID) for number in range(1024))
REQUEST = StoredRequest(
    tool=ROW.tool,
    tool_version=DIGEST,
    arguments_json="a" * 2**20,
    files=FILES,
    file_digests={file.path: DIGEST for file in FILES},
    context=CallContext(
        workspace=ROW.workspace,
        workflow=WIDE,
        purpose=WIDE * 16,
        session=LONG_ID,
        delegation="d" * 8192,
        model=WIDE,
        prompt_version=WIDE,
        sources=tuple(Source("\U0001f512" * 2048, WIDE) for _ in range(64)),
        feature=WIDE,
        team=WIDE,
        data_classes=CLASSES[:32],
    ),
    request_id=LONG_ID,
    fingerprint="f" * 64,
    agent_name="n" * 63,
    lineage=Lineage(LONG_ID, LONG_ID, LONG_ID, LONG_ID, LONG_ID, (f"session:{LONG_ID}", f"delegation:{DIGEST}")),
    decision=Decision(
        allowed=True,
        rule="r" * 64,
        reason="\U0001f512" * 200,
        policy_digest=DIGEST,
        inputs={
            "subject": f"agent:{'n' * 63}",
            "workspace": ROW.workspace,
            "object": ROW.tool,
            "action": "call",
            "tier": "4",
            "roles": " ".join(f"role:{'r' * 58}{number:04d}" for number in range(1000)),
        },
    ),
    data_classes=CLASSES,
    expires=NOW + timedelta(days=3660),
    envelope="e" * 2**20,
)
SUMMARY = StreamSummary(2**53 - 1, 2**53 - 1, truncated=True, digest=DIGEST)
HOSTS = tuple(f"{'h' * 60}.{'h' * 60}.{'h' * 60}.{'h' * 60}.{number:03d}x" for number in range(MAX_RULES))
RULES = tuple(EgressRule(EgressKind.POSTGRES, host, 65535) for host in HOSTS)
EGRESS = tuple(
    EgressRecord(host, 65535, kind, verdict, listed, 2**40, 2**53 - 1, 2**53 - 1, WIDE)
    for host in (*HOSTS[:16], *("\U0001f512" * 250 + str(number) for number in range(16)))
    for kind in (EgressKind.POSTGRES, EgressKind.CONNECT)
    for verdict in EgressVerdict
    for listed in (True, False)
)
OUTCOME = Outcome(
    cause=EndCause.PROCESSES,
    cause_source=EvidenceSource.SANDBOX,
    detail=WIDE * 64,
    exit_code=2**31,
    signal=64,
    stdout=SUMMARY,
    stderr=SUMMARY,
    result_json="r" * 2**20,
    files=tuple(OutputFile("\U0001f512" * 250 + str(number), LONG_ID, 2**40, DIGEST) for number in range(1024)),
    wall_s=1e9,
    cpu_s=1e9,
    memory_peak_bytes=2**52,
    oom_kills=2**31,
    warnings=(WIDE,) * 1000,
    egress=EGRESS,
)


def _decision() -> JsonObject:
    body = journal.request_body(ROW, REQUEST, DIGEST, SEALED, egress=RULES)
    return {**body, **journal.decision_body(REQUEST.decision, ROW.agent)}


@pytest.mark.parametrize(
    "body",
    [_decision(), {**_decision(), "decision_seq": 2**53 - 1}, journal.outcome_body(ROW, OUTCOME, NOW, SEALED)],
    ids=["decision", "intent", "outcome"],
)
def test_an_entry_with_every_field_at_its_longest_stays_far_below_the_limit(body: JsonObject) -> None:
    assert len(encode(body)) < FAR_BELOW


def test_what_an_entry_only_commits_to_is_kept_whole_beside_it() -> None:
    brief, texts = encode_request(REQUEST)
    assert decode_request(brief, texts) == REQUEST
    event = CallEvent(7, NOW, Finished(CallState.FAILED, OUTCOME))
    read = decode_event(encode_event(event)).payload
    assert isinstance(read, Finished)
    assert decode_outcome_texts(read.outcome, encode_outcome_texts(OUTCOME)) == OUTCOME


def test_a_request_and_an_outcome_in_brief_are_short() -> None:
    assert len(encode_request(REQUEST)[0]) < 128 * 1024
    short = Outcome(cause=EndCause.TOOL, cause_source=EvidenceSource.ENGINE, detail="", result_json="r" * 2**20)
    assert len(encode_event(CallEvent(7, NOW, Finished(CallState.SUCCEEDED, short)))) < 1024
