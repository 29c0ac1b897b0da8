"""Every field and every class of byte of every type of entry is changed, and each change is found."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.domain.canonical import JsonObject
from broker.ledger.encoding import encode
from broker.ledger.entry import ENTRY_TYPES
from broker.ledger.ledger import Ledger
from broker.ledger.merkle import leaf_hash
from broker.ledger.reader import open_ledger
from broker.ledger.verdict import Expectation, Report, Verdict
from broker.ledger.verifier import Row, verify
from broker.store.database import Database

TYPES = ["genesis", *sorted(ENTRY_TYPES - {"genesis"}), "intent", "outcome"]
BODY: JsonObject = {
    "call_id": "call_1",
    "tier": 4,
    "proven": True,
    "started": None,
    "cpu_s": 0.25,
    "name": 'ünï\u2028code \U0001f600 "quoted" \\ \n',
    "lineage": {"owner": "hum_1", "proofs": ["session:ses_1", "delegation:sha256:00"], "starter": ""},
    "approvals": [{"approver": "hum_2", "seq": 3}, {"approver": "hum_3", "seq": 4}],
    "output": {"bytes": "9007199254740993", "truncated": False},
}
RICH: JsonObject = {**BODY, "cpu_s": 0.25, "text": "ünï\u2028code \U0001f600"}
"""Takes the slow way through the encoder, so only two entries hold it."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    path = tmp_path_factory.mktemp("ledger") / "broker.db"
    Database.create(path)
    clock = iter(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=n) for n in range(1000))
    ledger = Ledger("origin", "boot_1", lambda: next(clock))
    with Database.open_sync(path) as database:
        for number, name in enumerate(TYPES):
            agent = f"agt_{number % 2}" if number % 3 else ""
            body = RICH if name in ("intent", "vote") else BODY
            database.write_sync(
                lambda tx, name=name, body=body, agent=agent: ledger.append(tx, name, body, agent=agent)
            )
    with open_ledger(path) as file:
        found = list(file.rows())
    assert verify(found).verdict is Verdict.OK
    return found


def _data(row: Row) -> bytes:
    assert isinstance(row.data, bytes)
    return row.data


def _expected(rows: list[Row]) -> Expectation:
    leaf = rows[-1].leaf
    assert isinstance(leaf, bytes)
    return Expectation(len(rows) - 1, leaf.hex())


def _with(rows: list[Row], place: int, **changes: object) -> list[Row]:
    return [*rows[:place], rows[place]._replace(**changes), *rows[place + 1 :]]


def _mutations(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 - any JSON
    """Paths of all values in a JSON document, containers included."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _mutations(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _mutations(item, (*path, index))


def _changed(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value[:-1] + ("0" if value.endswith("1") else "1") if value else "x"
    if isinstance(value, list):
        return value[:-1]
    if isinstance(value, dict):
        return {**value, "added": 1}
    return 0 if value is None else value + 1


def _mutate(entry: dict[str, Any], path: tuple[Any, ...], *, drop: bool) -> dict[str, Any]:
    result = copy.deepcopy(entry)
    parent: Any = result
    for step in path[:-1]:
        parent = parent[step]
    if drop:
        del parent[path[-1]]
    else:
        parent[path[-1]] = _changed(parent[path[-1]])
    return result


def _place(report: Report) -> int | None:
    return None if report.place is None else report.place.seq


@pytest.mark.parametrize("drop", [False, True], ids=["changed", "dropped"])
def test_each_field_of_each_entry(rows: list[Row], *, drop: bool) -> None:
    expected = _expected(rows)
    tried = 0
    for seq, row in enumerate(rows):
        entry = json.loads(_data(row))
        for path in _mutations(entry):
            data = encode(_mutate(entry, path, drop=drop))
            tried += 1
            # The bytes alone: the place is the entry itself.
            report = verify(_with(rows, seq, data=data))
            assert (report.verdict, _place(report)) == (Verdict.TAMPERED, seq), path
            # The bytes and their hash: the next entry, or the head known from elsewhere, doesn't agree.
            report = verify(_with(rows, seq, data=data, leaf=leaf_hash(data)), expected=expected)
            assert report.verdict is not Verdict.OK, path
            assert _place(report) in (seq, seq + 1), path
    assert tried > 15 * len(TYPES)


def test_each_class_of_byte_of_each_entry(rows: list[Row]) -> None:
    for seq, row in enumerate(rows):
        data = _data(row)
        positions = {bytes([byte]): index for index, byte in enumerate(data)}  # the last place of each value of byte
        for index in {0, len(data) - 1, *positions.values()}:
            changed = bytearray(data)
            changed[index] ^= (1, 0x20, 0x80)[index % 3]
            report = verify(_with(rows, seq, data=bytes(changed)))
            assert (report.verdict, _place(report)) == (Verdict.TAMPERED, seq)
        for other in (data + b" ", data + b"\n", b" " + data, data[:-1], b"", data + data):
            report = verify(_with(rows, seq, data=other))
            assert (report.verdict, _place(report)) == (Verdict.TAMPERED, seq)


def test_another_form_of_the_same_json_is_malformed(rows: list[Row]) -> None:
    for seq, row in enumerate(rows):
        entry = json.loads(_data(row))
        for data in (
            json.dumps(entry).encode(),
            json.dumps(entry, separators=(",", ":"), sort_keys=True).encode(),  # escapes what is not ASCII
            json.dumps(dict(reversed(entry.items())), separators=(",", ":"), ensure_ascii=False).encode(),
            b"[]",
            b"\xff",
        ):
            report = verify(_with(rows, seq, data=data, leaf=leaf_hash(data)))
            assert (report.verdict, _place(report)) == (Verdict.MALFORMED, seq)


@pytest.mark.parametrize("column", ["seq", "prev", "leaf", "data"])
@pytest.mark.parametrize("value", [None, 0.5, "text", b"", 10**30])
def test_columns_of_any_type(rows: list[Row], column: str, value: object) -> None:
    for seq in (0, 1, len(rows) - 1):
        assert verify(_with(rows, seq, **{column: value})).verdict is not Verdict.OK


def test_an_entry_left_out(rows: list[Row]) -> None:
    for seq in range(len(rows) - 1):
        report = verify(rows[:seq] + rows[seq + 1 :])
        assert (report.verdict, _place(report)) == (Verdict.GAPPED, seq)
    report = verify(rows[:-1], expected=_expected(rows))
    assert (report.verdict, _place(report)) == (Verdict.TRUNCATED, len(rows) - 2)
    assert verify([], expected=_expected(rows)).verdict is Verdict.TRUNCATED
    assert verify([]).verdict is Verdict.TRUNCATED


def test_an_entry_twice(rows: list[Row]) -> None:
    for seq in range(len(rows)):
        report = verify([*rows[: seq + 1], *rows[seq:]])
        assert (report.verdict, _place(report)) == (Verdict.FORKED, seq)


def test_two_entries_that_changed_places(rows: list[Row]) -> None:
    for seq in range(len(rows) - 1):
        first, second = rows[seq], rows[seq + 1]
        assert verify([*rows[:seq], second, first, *rows[seq + 2 :]]).verdict is Verdict.GAPPED
        renumbered = [*rows[:seq], second._replace(seq=seq), first._replace(seq=seq + 1), *rows[seq + 2 :]]
        report = verify(renumbered)
        assert (report.verdict, _place(report)) == (Verdict.TAMPERED, seq)


def _rechained(rows: list[Row], first: int, change: dict[str, Any]) -> list[Row]:
    """What somebody with the file and our code can do: rewrite history from an entry on, all hashes made right."""
    result = list(rows[:first])
    heads: dict[str, str] = {}
    for row in result:
        agent = json.loads(_data(row)).get("agent")
        if agent:
            heads[agent["id"]] = leaf_hash(_data(row)).hex()
    for row in rows[first:]:
        entry = json.loads(_data(row))
        if row.seq == first:
            entry |= change
        entry["prev"] = leaf_hash(_data(result[-1])).hex() if result else "0" * 64
        if "agent" in entry and entry["agent"]["seq"]:
            entry["agent"]["prev"] = heads[entry["agent"]["id"]]
        data = encode(entry)
        if "agent" in entry:
            heads[entry["agent"]["id"]] = leaf_hash(data).hex()
        result.append(Row(row.seq, entry["prev"], leaf_hash(data), data))
    return result


def test_a_history_rewritten_in_full_is_found_by_who_knows_the_head(rows: list[Row]) -> None:
    for first in (0, 5, len(rows) - 1):
        rewritten = _rechained(rows, first, {"call_id": "call_other"})
        assert verify(rewritten).verdict is Verdict.OK, "nothing inside can show it"
        report = verify(rewritten, expected=_expected(rows))
        assert (report.verdict, _place(report)) == (Verdict.FORKED, len(rows) - 1)


@pytest.mark.parametrize(
    ("change", "verdict", "field"),
    [
        ({"v": 2}, Verdict.MALFORMED, "v"),
        ({"v": True}, Verdict.MALFORMED, "v"),
        ({"origin": "another"}, Verdict.TAMPERED, "origin"),
        ({"origin": ""}, Verdict.MALFORMED, "origin"),
        ({"type": "genesis"}, Verdict.MALFORMED, "type"),
        ({"type": 5}, Verdict.MALFORMED, "type"),
        ({"ts": "2026-01-01T00:00:00Z"}, Verdict.MALFORMED, "ts"),
        ({"boot_id": None}, Verdict.MALFORMED, "boot_id"),
        ({"agent": "agt_1"}, Verdict.MALFORMED, "agent"),
        ({"agent": {"id": "agt_new", "seq": 1, "prev": "0" * 64}}, Verdict.GAPPED, "agent.seq"),
        ({"agent": {"id": "agt_1", "seq": 0, "prev": "0" * 64}}, Verdict.FORKED, "agent.seq"),
        ({"agent": {"id": "agt_new", "seq": 0, "prev": "1" * 64}}, Verdict.FORKED, "agent.prev"),
        ({"agent": {"id": "agt_new", "seq": False, "prev": "0" * 64}}, Verdict.MALFORMED, "agent"),
        ({"agent": {"id": "", "seq": 0, "prev": "0" * 64}}, Verdict.MALFORMED, "agent"),
    ],
)
def test_an_entry_that_says_what_it_may_not(
    rows: list[Row], change: dict[str, Any], verdict: Verdict, field: str
) -> None:
    first = 6  # belongs to no agent
    assert "agent" not in json.loads(_data(rows[first]))
    result = _rechained(rows[:first], first, {})
    entry = json.loads(_data(rows[first])) | change
    data = encode(entry)
    result.append(Row(first, entry["prev"], leaf_hash(data), data))
    report = verify(result)
    assert report.place is not None
    assert (report.verdict, report.place.seq, report.place.field) == (verdict, first, field)


def test_a_second_entry_after_the_same_predecessor(rows: list[Row]) -> None:
    entry = json.loads(_data(rows[6])) | {"seq": 7}
    data = encode(entry)
    report = verify([*rows[:7], Row(7, entry["prev"], leaf_hash(data), data)])
    assert (report.verdict, _place(report)) == (Verdict.FORKED, 7)


def test_facts_that_are_no_fault(rows: list[Row], tmp_path: Path) -> None:
    Database.create(tmp_path / "broker.db")
    times = iter([5, 4, 6, 7, 8, 9])
    ledger = Ledger("o", "boot_1", lambda: datetime(2026, 1, 1, 0, 0, next(times), tzinfo=UTC))
    with Database.open_sync(tmp_path / "broker.db") as database:
        for name, body in (
            ("genesis", {}),
            ("intent", {}),
            ("intent", {}),
            ("outcome", {"intent_seq": 1}),
            ("unknown", {"intent_seq": 1}),
        ):
            database.write_sync(lambda tx, name=name, body=body: ledger.append(tx, name, body))
        with open_ledger(tmp_path / "broker.db") as file:
            found = list(file.rows())
    entry = json.loads(_data(found[4])) | {
        "seq": 5,
        "type": "from.the.future",
        "prev": leaf_hash(_data(found[4])).hex(),
    }
    data = encode(entry)
    report = verify([*found, Row(5, entry["prev"], leaf_hash(data), data)])
    assert report.verdict is Verdict.OK
    assert report.open_intents == (2,)
    assert report.unmatched_outcomes == (4,)
    assert report.clock_steps_back == (1,)
    assert report.unknown_types == ("from.the.future",)
    assert report.types == {"from.the.future": 1, "genesis": 1, "intent": 2, "outcome": 1, "unknown": 1}
    assert verify(rows).agents == 2
