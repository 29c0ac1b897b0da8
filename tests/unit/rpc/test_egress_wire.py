"""Rules and records go over the wire and come out as they were; words that a client doesn't know are refused."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from broker.client.convert import call
from broker.client.convert_egress import record, rule
from broker.domain.call import CallState
from broker.domain.events import CallView, KeptRecording, Outcome
from broker.domain.run import (
    EgressKind,
    EgressRecord,
    EgressRule,
    EgressVerdict,
    EndCause,
    EvidenceSource,
    SecretUse,
)
from broker.domain.tier import Tier
from broker.errors import InternalError
from broker.rpc.egress_wire import record_messages, rule_messages
from broker.rpc.wire import view_message
from broker.v1 import call_pb2, tool_pb2

NOW = datetime(2026, 3, 1, tzinfo=UTC)
RECORDS = tuple(
    EgressRecord("h.example", 443, kind, verdict, kind is EgressKind.TCP, 2, 2**40, 2**41, "why")
    for kind in EgressKind
    for verdict in EgressVerdict
)
KEPT = KeptRecording("sha256:3", 7, 2, 2**33, whole=False)
VIEW = CallView(
    id="call_1",
    request=None,
    state=CallState.SUCCEEDED,
    agent="agt_1",
    tool="demo.fetch",
    tool_version="sha256:1",
    tier=Tier.INTERNAL,
    created=NOW,
    started=NOW,
    ended=NOW,
    expires=NOW,
    last_event=3,
    envelope_digest="sha256:2",
    decision_seq=1,
    request_id="",
    outcome=Outcome(EndCause.TOOL, EvidenceSource.ENGINE, "", egress=RECORDS, recording=KEPT),
)


def test_records() -> None:
    messages = record_messages(RECORDS)
    assert tuple(record(item) for item in messages) == RECORDS


def test_rules() -> None:
    rules = [
        *(EgressRule(kind, "h.example", 8443) for kind in EgressKind),
        EgressRule(EgressKind.TCP, "2001:db8::1", 5432, listen=15432),
        EgressRule(
            EgressKind.HTTPS, "h.example", 443, ("GET", "PUT"), ("/a", "/b/"), secret=SecretUse("token", "x-key", "K ")
        ),
        EgressRule(EgressKind.HTTP, "h.example", 80, record_bytes=2**24),
        EgressRule(
            EgressKind.POSTGRES, "h.example", 5432, listen=5432, secret=SecretUse("db"), database="shop", user="boss"
        ),
    ]
    assert [rule(item) for item in rule_messages(rules)] == rules


def test_a_call_has_its_hosts_and_a_list_of_calls_does_not() -> None:
    outcome = call(view_message(VIEW)).outcome
    assert outcome is not None
    assert outcome.egress == RECORDS
    assert outcome.recording == KEPT
    assert not view_message(VIEW, full=False).outcome.egress


@pytest.mark.parametrize(
    "message",
    [
        call_pb2.EgressRecord(host="x"),
        call_pb2.EgressRecord(host="x", kind=tool_pb2.EGRESS_KIND_HTTP),
        call_pb2.EgressRecord(host="x", kind=99, verdict=call_pb2.EGRESS_VERDICT_ALLOWED),
        call_pb2.EgressRecord(host="x", kind=tool_pb2.EGRESS_KIND_HTTP, verdict=99),
    ],
)
def test_words_that_nobody_knows_are_refused(message: call_pb2.EgressRecord) -> None:
    with pytest.raises(InternalError):
        record(message)
