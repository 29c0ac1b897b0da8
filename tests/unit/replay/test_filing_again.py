"""What is filed at a glance is what reading each entry as a whole makes of it, to the last row."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.decisions import asked, decisions
from benchmarks.entries import Entry, calls
from broker.ledger.source_kinds import how_to_open, open_source
from broker.replay import filing_again
from broker.replay.filing import Filer
from broker.replay.filing_again import QuickFiler
from broker.replay.schema import TABLES
from broker.replay.skimming import skim
from broker.tlog.merkle import leaf_hash
from tests.bundle_world import bundle_world, members
from tests.casebook_world import decision, tell
from tests.ledger_world import make_ledger

HISTORIES = sorted((Path(__file__).parent.parent.parent / "histories").glob("*.zip"))


def tables(kind: type[Filer], datas: Sequence[bytes], *, step: int) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of a casebook of these entries, written after every ``step`` of them."""
    with closing(sqlite3.connect("")) as connection:
        connection.executescript(TABLES)
        filer = kind(connection, bodies=True)
        for seq, data in enumerate(datas):
            filer.take(seq, leaf_hash(data), data)
            if not (seq + 1) % step:
                filer.flush()
        filer.flush()
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) for name in names}  # noqa: S608 - ours


def check(datas: Sequence[bytes], *, step: int = 7) -> None:
    """Both filers make the same of these entries."""
    assert tables(QuickFiler, datas, step=step) == tables(Filer, datas, step=step)


def written(entries: Iterable[Entry], count: int) -> Iterator[bytes]:
    """Entries as a ledger writes them, each with a number, a time and its agent."""
    for seq, entry in enumerate(islice(entries, count)):
        own = {"type": entry.type, "seq": seq, "boot_id": "boot_1", "ts": f"2026-01-31T12:00:00.{seq:06d}Z"}
        agent = {"id": entry.agent, "seq": seq, "prev": "00" * 32}
        yield orjson.dumps({**entry.body, **own, "agent": agent}, option=orjson.OPT_SORT_KEYS)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_recorded_histories(path: Path) -> None:
    datas = members(path)["entries.jsonl"].splitlines()
    # Twice, so that each has one like it before.
    check([*datas, *datas])


def test_a_ledger_with_votes_effects_and_hosts(tmp_path: Path) -> None:
    with bundle_world(tmp_path / "one") as world:
        tell(world)
    (tmp_path / "two").mkdir()
    make_ledger(tmp_path / "two", recovered=True)
    for folder in ("one", "two"):
        with open_source(how_to_open(str(tmp_path / folder / "broker.db"))) as source:
            datas = [row.data for row in source.rows() if isinstance(row.data, bytes)]
        check([*datas, *datas])


def test_the_entries_of_the_benchmarks_and_nearly_all_at_a_glance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.decisions.RULES", 50)
    of_calls, of_decisions = list(written(calls(0), 200)), list(written(decisions(*asked(20)), 200))
    check(of_calls)
    check(of_decisions, step=50)
    whole: list[int] = []
    take = Filer.take
    monkeypatch.setattr(
        Filer, "take", lambda self, seq, leaf, data: (whole.append(seq), take(self, seq, leaf, data))[1]
    )
    tables(QuickFiler, of_decisions, step=50)
    assert whole == list(range(20))


def test_what_is_remembered_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filing_again, "_MOST_FORMS", 2)
    check([orjson.dumps({**decision(f"call_{n}", f"tool_{n % 5}"), "type": "decision"}) for n in range(40)])


def test_the_same_with_a_call_and_without_one() -> None:
    body = {**decision("call_1", "files.read"), "type": "decision"}
    bare = {name: value for name, value in body.items() if name != "call_id"}
    for bodies in ((bare, body, bare), (body, bare, body)):
        check([orjson.dumps(item) for item in bodies])


ODD = st.sampled_from([None, True, 0, 1, -1, 2**62, 2**63, 1.0, "", "x", [], ["x"], {}, {"id": "x"}, {"id": 1}, [{}]])
MEMBERS: dict[str, tuple[object, ...]] = {
    "call_id": ("", "call_1", "call_2"),
    "ts": ("2026-01-31T12:00:00.000001Z", "2026-01-31T12:00:00.5Z", "yesterday"),
    "boot_id": ("boot_1", "boot_2"),
    "agent": ({"id": "agt_1"}, {"id": "agt_2", "seq": 1}),
    "workspace": ("shop", "ländle"),
    "model": ("model-1",),
    "tier": (1, 4, 2**62, 2**70),
    "tool": ({"name": "files.read"}, {"name": "a\\b", "version": "v", "image_digest": 3}),
    "workflow": ({"id": "support"}, {"version": "w"}),
    "lineage": ({"owner": "hum_o", "proofs": ["session:ses_1"]}, {"proofs": ["session:"]}, {"proofs": []}),
    "data_classes": (["b", "a"], ["a", 5]),
    "policy": (
        {"digest": "d", "rule": "r", "decision": "allow", "inputs": {"subject": "s", "tier": "1"}},
        {"decision": "deny", "inputs": {"obj": "o", "object": None}},
    ),
    "refused": ({"reason": "POLICY_DENIED", "rule": "no"}, {"other": 1}),
    "repeated": ({"count": 4}, {"count": -4}, {"count": "4"}),
    "outcome": ({"state": "SUCCEEDED", "cause": "tool", "exit_code": 0}, {"exit_code": 2**62}, {"exit_code": True}),
    "effect": ({"added": 1, "undoes": ["call_1"]},),
    "egress": ([{"host": "api.example", "port": 443}],),
    "approval": ("apv_1", {"id": "apv_1", "state": "USED"}),
    "approvals": ([{"id": "apv_1", "votes": [0, 1]}],),
}  # fmt: skip
KINDS = st.sampled_from(["decision", "decision", "intent", "plan.intent", "outcome", "unknown", "vote", "revoked"])
COMMON = ("call_id", "agent", "policy", "lineage", "tool", "outcome")
"""Members that most entries have, so that one is like another."""
BODIES = st.fixed_dictionaries(
    {"type": KINDS, **{name: st.sampled_from(MEMBERS[name]) for name in COMMON}},
    optional={name: st.sampled_from(values) | ODD for name, values in MEMBERS.items() if name not in COMMON},
)
ODD_BODIES = st.fixed_dictionaries({"type": KINDS}, optional=dict.fromkeys(MEMBERS, ODD))


def _dumped(body: dict[str, object]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # an integer beyond 64 bits
        return b'{"type":"decision","tier":1180591620717411303424}'


@given(st.lists(BODIES | ODD_BODIES, min_size=1, max_size=12), st.integers(1, 5))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_entries_hold(bodies: list[dict[str, object]], step: int) -> None:
    datas = [_dumped(body) for body in bodies]
    check([*datas, *datas], step=step)


PLAIN = orjson.dumps({**decision("call_1", "files.read"), "type": "decision", "agent": {"id": "agt_a"}})


@given(st.integers(0, len(PLAIN) - 1), st.binary(max_size=3))
@settings(max_examples=150, deadline=None)
def test_whatever_bytes_are_damaged(place: int, instead: bytes) -> None:
    damaged = PLAIN[:place] + instead + PLAIN[place + 1 :]
    check([PLAIN, damaged, PLAIN])


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b'{"type":1}', b'{"tier":1.0}', b'{"data":"\xff"}', b'{"type":"x","type":null}',
     b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", b'{"egress":[{}]}', b'{"effect":{}}'],
)  # fmt: skip
def test_what_is_not_as_usual_is_not_skimmed(data: bytes) -> None:
    assert skim(data) is None
    check([data])
