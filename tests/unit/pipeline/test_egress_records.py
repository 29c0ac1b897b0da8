"""What a call did with other hosts: in its outcome, and in the ledger without a word of the tool's own."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from broker.domain.call import CallState
from broker.domain.canonical import canonical
from broker.domain.events import (
    AppliedEffect,
    CallEvent,
    Finished,
    KeptRecording,
    Outcome,
    decode_event,
    encode_event,
)
from broker.domain.run import (
    EgressKind,
    EgressRecord,
    EgressRule,
    EgressVerdict,
    EndCause,
    Ended,
    EvidenceSource,
    StreamSummary,
)
from broker.pipeline import journal
from broker.pipeline.verdict import MAX_EGRESS_RECORDS, judge
from broker.specs.catalogue import Catalogue, Tool
from broker.specs.shipped import shipped_folder
from tests.unit.pipeline.test_entry_sizes import DIGEST, NOW, REQUEST, ROW, SEALED

API = EgressRecord("api.example.com", 443, EgressKind.HTTPS, EgressVerdict.ALLOWED, listed=True)
ALLOWED = replace(API, count=3, sent_bytes=120, received_bytes=4000)
ECHOED = replace(API, verdict=EgressVerdict.SECRET_ECHOED, sent_bytes=40, received_bytes=90, detail="cut")
REST = EgressRecord("", 0, EgressKind.HTTPS, EgressVerdict.UNRESOLVED, listed=True, count=2)
STREAM = StreamSummary(0, 0, truncated=False, digest="")


def unlisted(host: str, verdict: EgressVerdict = EgressVerdict.NOT_LISTED) -> EgressRecord:
    return EgressRecord(host, 443, EgressKind.CONNECT, verdict, listed=False, count=2, sent_bytes=10, received_bytes=5)


def ended(**fields: Any) -> Ended:  # noqa: ANN401 - fields of several types
    given = {"cause": EndCause.TOOL, "cause_source": EvidenceSource.ENGINE, "detail": "", **fields}
    return Ended(0, None, stdout=STREAM, stderr=STREAM, wall_s=1.0, **given)


def entry(*records: EgressRecord) -> list[dict[str, Any]]:
    outcome = Outcome(EndCause.TOOL, EvidenceSource.ENGINE, "", egress=records)
    body: Any = journal.outcome_body(ROW, outcome, NOW, SEALED)
    return list(body["egress"])


@pytest.fixture(scope="module")
def tool() -> Tool:
    return Catalogue.load([shipped_folder()]).tools["python.run"]


def test_listed_hosts_are_named() -> None:
    assert entry(ALLOWED, ECHOED) == [
        {
            "host": "api.example.com",
            "port": 443,
            "kind": "https",
            "verdict": verdict,
            "count": count,
            "sent": sent,
            "received": received,
        }
        for verdict, count, sent, received in (("ALLOWED", 3, 120, 4000), ("SECRET_ECHOED", 1, 40, 90))
    ]


def test_a_recording_is_named_by_its_address_beside_other_artifacts() -> None:
    kept = KeptRecording(DIGEST, 3, 1, 4096, whole=False)
    told = {"artifact": DIGEST, "exchanges": 3, "missed": 1, "bytes": 4096, "whole": False}
    alone = Outcome(EndCause.TOOL, EvidenceSource.ENGINE, "", recording=kept)
    body: Any = journal.outcome_body(ROW, alone, NOW, SEALED)
    assert (body["recording"], body["artifacts"]) == (told, [DIGEST])
    beside = replace(alone, effect=AppliedEffect("", "", DIGEST, "sha256:other"))
    assert journal.outcome_body(ROW, beside, NOW, SEALED)["artifacts"] == ["sha256:other", DIGEST]
    without: Any = journal.outcome_body(ROW, replace(alone, recording=None), NOW, SEALED)
    assert "recording" not in without
    assert without["artifacts"] == []


def test_a_sealed_outcome_names_its_recording_in_brief_too() -> None:
    kept = KeptRecording(DIGEST, 3, 0, 4096, whole=True)
    outcome = Outcome(EndCause.TOOL, EvidenceSource.ENGINE, "", recording=kept)
    event = decode_event(encode_event(CallEvent(4, NOW, Finished(CallState.SUCCEEDED, outcome))))
    assert isinstance(event.payload, Finished)
    assert event.payload.outcome.recording == kept


def test_hosts_that_no_rule_lists_are_one_commitment_per_verdict() -> None:
    words = ["alice@example.org", "her-diary.example"]
    found = entry(unlisted(words[0]), ALLOWED, unlisted(words[1]), unlisted("x", EgressVerdict.MALFORMED))
    assert [(item["host"], item["verdict"]) for item in found] == [
        ("api.example.com", "ALLOWED"),
        ("?", "NOT_LISTED"),
        ("?", "MALFORMED"),
    ]
    assert (found[1]["hosts"], found[1]["count"], found[1]["sent"], found[1]["received"]) == (2, 4, 20, 10)
    listed = canonical([[word, 443, "connect"] for word in words])
    assert found[1]["hosts_commit"] == SEALED.commit("egress", listed)
    assert not any(word in json.dumps(found) for word in words)


def test_what_has_no_row_of_its_own_names_no_host() -> None:
    assert [(item["host"], item["verdict"]) for item in entry(REST)] == [("?", "UNRESOLVED")]


def test_where_there_is_no_room_for_all_the_telling_ones_are_named() -> None:
    many = [
        EgressRecord(f"h{number}.example", 443, EgressKind.CONNECT, EgressVerdict.UNREACHABLE, listed=True)
        for number in range(journal.MAX_EGRESS_ITEMS + 8)
    ]
    found = entry(*many, ECHOED, ALLOWED)
    assert len([item for item in found if item["host"] != "?"]) == journal.MAX_EGRESS_ITEMS
    assert {item["verdict"] for item in found[:2]} == {"ALLOWED", "SECRET_ECHOED"}
    assert found[-1]["hosts"] == 10


def test_what_a_call_may_reach_is_in_its_entries() -> None:
    rules = [
        EgressRule(EgressKind.HTTPS, "api.example.com", 443, ("GET",)),
        EgressRule(EgressKind.HTTPS, "api.example.com", 443, ("POST",)),
        EgressRule(EgressKind.TCP, "2001:db8::1", 5432, listen=15432),
    ]
    body = journal.request_body(ROW, REQUEST, DIGEST, SEALED, egress=rules)
    assert body["egress_allowed"] == ["https api.example.com:443", "tcp [2001:db8::1]:5432"]


def test_an_outcome_has_the_records_and_all_warnings(tool: Tool) -> None:
    state, outcome = judge(tool, ended(warnings=("a",)), None, (), egress=(unlisted("x"), ALLOWED), warnings=("b",))
    assert state is CallState.SUCCEEDED
    assert outcome.egress == (ALLOWED, unlisted("x"))
    assert outcome.warnings == ("a", "b")


def test_an_outcome_keeps_a_bounded_number_of_records_and_says_so(tool: Tool) -> None:
    many = tuple(unlisted(str(number)) for number in range(MAX_EGRESS_RECORDS))
    _, outcome = judge(tool, ended(), None, (), egress=(*many, ALLOWED))
    assert len(outcome.egress) == MAX_EGRESS_RECORDS
    assert outcome.egress[0] == ALLOWED
    assert outcome.warnings == ("1 record(s) of what the tool asked other hosts for were left out",)
