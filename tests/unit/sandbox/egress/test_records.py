"""What a call did is counted per host, port, kind and verdict, and a flood loses nothing but its details."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from broker.domain.meter import NoMeter
from broker.domain.run import EgressKind, EgressRule, EgressVerdict
from broker.sandbox.egress.records import MAX_RECORDS, Records, visible
from broker.sandbox.egress.refusal import RefusedError

RULE = EgressRule(EgressKind.HTTPS, "a.example", 443)


@dataclass
class Counting(NoMeter):
    seen: list[tuple[EgressVerdict, int, int]] = field(default_factory=list)

    def egress(self, verdict: EgressVerdict, sent_bytes: int, received_bytes: int) -> None:
        self.seen.append((verdict, sent_bytes, received_bytes))


def test_what_goes_on_is_counted_with_what_ended() -> None:
    meter = Counting()
    records = Records(meter)
    for sent in (1, 2):
        tally = records.open(EgressKind.HTTP)
        tally.allowed(RULE)
        tally.sent, tally.received = sent, 10
        records.close(tally)
        records.close(tally)
    going = records.open(EgressKind.HTTP)
    going.allowed(RULE)
    going.sent = 4
    (row,) = records.rows()
    assert (row.host, row.port, row.kind, row.listed) == ("a.example", 443, EgressKind.HTTPS, True)
    assert (row.count, row.sent_bytes, row.received_bytes) == (3, 7, 20)
    assert meter.seen == [(EgressVerdict.ALLOWED, 1, 10), (EgressVerdict.ALLOWED, 2, 10)]


def test_each_verdict_has_its_row_with_the_first_detail() -> None:
    records = Records(NoMeter())
    for message in ("first", "second"):
        tally = records.open(EgressKind.HTTP)
        tally.wants("evil.example", 80)
        tally.refused(RefusedError(EgressVerdict.NOT_LISTED, message))
        records.close(tally)
    (row,) = records.rows()
    assert (row.count, row.detail, row.listed) == (2, "first", False)


@given(st.lists(st.tuples(st.integers(0, 120), st.booleans(), st.sampled_from(EgressVerdict)), max_size=300))
def test_nothing_is_lost_in_a_flood(asked: list[tuple[int, bool, EgressVerdict]]) -> None:
    records = Records(NoMeter())
    for number, listed, verdict in asked:
        tally = records.open(EgressKind.HTTP)
        tally.wants(f"h{number}", 80)
        if listed:
            tally.meant(EgressRule(EgressKind.HTTP, f"l{number % 6}", 80))
        tally.refused(RefusedError(verdict, "x"))
        tally.sent = 1
        records.close(tally)
    rows = records.rows()
    assert len(rows) <= MAX_RECORDS
    assert sum(row.count for row in rows) == sum(row.sent_bytes for row in rows) == len(asked)
    kept = {(row.host, row.verdict) for row in rows}
    assert {(f"l{number % 6}", verdict) for number, listed, verdict in asked if listed} <= kept


def test_a_listed_host_takes_the_row_of_an_unlisted_one() -> None:
    records = Records(NoMeter())
    for number in range(100):
        tally = records.open(EgressKind.HTTP)
        tally.wants(f"h{number}", 80)
        records.close(tally)
    tally = records.open(EgressKind.HTTP)
    tally.allowed(RULE)
    records.close(tally)
    rows = records.rows()
    assert len(rows) == MAX_RECORDS
    assert (rows[0].host, rows[0].listed) == (RULE.host, True)
    assert (rows[-1].host, rows[-1].count) == ("", 38)


def test_a_hostile_host_is_cut_and_made_visible() -> None:
    assert visible("a\x1b[2J\u202eb\n") == "a\\x1b[2J\\u202eb\\n"
    assert len(visible("\x00" * 300)) == 255
