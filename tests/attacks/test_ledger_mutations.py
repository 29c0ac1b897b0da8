"""Every field and every class of byte of every type of entry is changed, and each change is found."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from broker.ledger.encoding import encode
from broker.ledger.entry import ENTRY_TYPES, OWN_KEYS
from broker.ledger.ledger import Ledger
from broker.ledger.source import Row
from broker.ledger.verdict import Expectation, Report, Verdict
from broker.ledger.verifier import verify
from broker.store.database import Database
from broker.tlog.merkle import leaf_hash
from tests.ledger_world import BODIES, FIRST, SECOND, data_of, hold, make_ledger, rechained, row_of, rows_of
from tests.signing_support import NumberedSigner


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    found = rows_of(make_ledger(tmp_path_factory.mktemp("ledger")))
    assert verify(found, held=[hold(found)], keys=[FIRST.key, SECOND.key]).verdict is Verdict.OK
    return found


@pytest.fixture(scope="module")
def recovered(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    found = rows_of(make_ledger(tmp_path_factory.mktemp("ledger"), recovered=True))
    assert verify(found, held=[hold(found)], keys=[FIRST.key, SECOND.key]).verdict is Verdict.RECOVERED
    assert {json.loads(data_of(row))["type"] for row in found} == ENTRY_TYPES
    return found


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
        return [*value, "added"]
    if isinstance(value, dict):
        return {**value, "added": 1}
    return 0 if value is None else value + 1


def _retyped(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return {str(index): item for index, item in enumerate(value)}
    if isinstance(value, dict):
        return list(value.values())
    return "" if value is None else str(value)


def _added(value: Any) -> Any:  # noqa: ANN401 - any JSON
    return {"": value}


def _mutate(entry: dict[str, Any], path: tuple[Any, ...], change: str) -> dict[str, Any]:
    result = copy.deepcopy(entry)
    parent: Any = result
    for step in path[:-1]:
        parent = parent[step]
    if change == "removed":
        del parent[path[-1]]
    else:
        parent[path[-1]] = CHANGES[change](parent[path[-1]])
    return result


CHANGES: dict[str, Callable[[Any], Any]] = {"changed": _changed, "retyped": _retyped, "wrapped": _added}
KINDS = (*CHANGES, "removed")

_GONE = ("retyped", "wrapped", "removed")
OWN: dict[tuple[str, str], tuple[Verdict, str]] = {
    # A member of the ledger's own, and what was done to it -> verdict and place, where the hash was made right.
    **{(name, kind): (Verdict.MALFORMED, name) for name in ("seq", "type", "boot_id", "origin") for kind in _GONE},
    **{(name, kind): (Verdict.MALFORMED, name) for name in ("v", "ts") for kind in KINDS},
    **{("prev", kind): (Verdict.TAMPERED, "prev") for kind in KINDS},
    ("seq", "changed"): (Verdict.TAMPERED, "seq"),
    ("origin", "changed"): (Verdict.TAMPERED, "origin"),
}


class Try(NamedTuple):
    """What was done to which entry."""

    seq: int
    entry: dict[str, Any]
    path: tuple[Any, ...]
    change: str


def _place(report: Report) -> int | None:
    return None if report.place is None else report.place.seq


def _found(report: Report) -> tuple[Verdict, int | None, str]:
    return report.verdict, _place(report), "" if report.place is None else report.place.field


@pytest.mark.parametrize("change", KINDS)
def test_each_field_of_each_type(recovered: list[Row], change: str) -> None:
    """The bytes alone, and the bytes with their hash."""
    rows, witness, tried = recovered, hold(recovered), set()
    for seq, row in enumerate(rows):
        entry = json.loads(data_of(row))
        tried.add(entry["type"])
        for path in _mutations(entry):
            data = encode(_mutate(entry, path, change))
            # The bytes alone: the place is the entry itself, and nothing after it is needed.
            report = verify([*rows[:seq], row._replace(data=data)])
            assert _found(report) == (Verdict.TAMPERED, seq, "leaf"), path
            # The bytes and their hash: the entry itself, the next one, or the checkpoint from outside disagrees.
            forged = [*rows[:seq], row._replace(data=data, leaf=leaf_hash(data)), *rows[seq + 1 : seq + 2]]
            whole = len(forged) == len(rows)
            report = verify(
                forged,
                held=[witness] if whole else [],
                keys=[FIRST.key, SECOND.key],
                expected=_expected(rows) if whole else None,
            )
            _check(report, Try(seq, entry, path, change), last=seq == len(rows) - 1)
    assert tried == ENTRY_TYPES


def _check(report: Report, done: Try, *, last: bool) -> None:
    verdict, place, field = _found(report)
    told = (done.entry["type"], done.path, done.change, report.place)
    if place == done.seq + 1:
        assert (verdict, field) == (Verdict.TAMPERED, "prev"), told
    elif last and field in ("checkpoint", "leaf"):
        # The checkpoint, or the noted head: a signed recovery excuses checkpoints of its sizes.
        assert (verdict, place) == (Verdict.FORKED, done.seq), told
    else:
        assert place == done.seq, told
        assert verdict in (Verdict.MALFORMED, Verdict.TAMPERED, Verdict.FORKED, Verdict.GAPPED), told
        assert field.partition(".")[0] in {str(done.path[0]), "checkpoint", "checkpoint_key"}, told
    wanted = OWN.get((str(done.path[0]), done.change))
    if len(done.path) == 1 and wanted and done.seq:  # the first entry has no origin to differ from
        assert (verdict, field) == wanted, told


@pytest.mark.parametrize("change", ["changed", "removed"])
def test_each_field_of_each_type_with_all_hashes_made_right(rows: list[Row], change: str) -> None:
    """Everything after the entry is made right again as well, by somebody who has no key."""
    witness = hold(rows)
    rotation = next(seq for seq, row in enumerate(rows) if b'"type":"signer.rotated"' in data_of(row))
    for seq, row in enumerate(rows):
        entry = json.loads(data_of(row))
        for path in _mutations(entry):
            forged = rechained(rows, seq, _mutate(entry, path, change))
            if forged == rows:
                continue  # what was changed is what makes it right again
            report = verify(forged, held=[witness], keys=[FIRST.key, SECOND.key])
            verdict, place, field = _found(report)
            told = (entry["type"], path, change, report.place)
            assert verdict not in (Verdict.OK, Verdict.RECOVERED), told
            if entry["type"] in BODIES and path[0] not in OWN_KEYS:
                # The rotation is signed over all that is before it; what is after it, only the held checkpoint shows.
                where = rotation if seq < rotation else len(rows) - 1
                assert (verdict, place, field) == (Verdict.FORKED, where, "checkpoint"), told


def test_each_class_of_byte_of_each_type(recovered: list[Row]) -> None:
    rows, witness = recovered, hold(recovered)
    for seq, row in enumerate(rows):
        data = data_of(row)
        positions = {bytes([byte]): index for index, byte in enumerate(data)}  # the last place of each value of byte
        for index in {0, len(data) - 1, *positions.values()}:
            changed = bytearray(data)
            changed[index] ^= (1, 0x20, 0x80)[index % 3]
            report = verify([*rows[:seq], row._replace(data=bytes(changed))])
            assert _found(report) == (Verdict.TAMPERED, seq, "leaf")
            forged = [*rows[:seq], row._replace(data=bytes(changed), leaf=leaf_hash(bytes(changed))), *rows[seq + 1 :]]
            # The noted head beside the checkpoint: a signed recovery excuses checkpoints of its sizes.
            report = verify(forged, held=[witness], keys=[FIRST.key, SECOND.key], expected=_expected(rows))
            assert report.verdict not in (Verdict.OK, Verdict.RECOVERED), (seq, index)
            assert _place(report) in (seq, seq + 1), (seq, index)
        for other in (data + b" ", data + b"\n", b" " + data, data[:-1], b"", data + data):
            report = verify([*rows[:seq], row._replace(data=other)])
            assert _found(report) == (Verdict.TAMPERED, seq, "leaf")


def test_another_form_of_the_same_json_is_malformed(rows: list[Row]) -> None:
    for seq, row in enumerate(rows):
        entry = json.loads(data_of(row))
        for data in (
            json.dumps(entry).encode(),
            json.dumps(entry, separators=(",", ":"), sort_keys=True).encode(),  # escapes what is not ASCII
            json.dumps(dict(reversed(entry.items())), separators=(",", ":"), ensure_ascii=False).encode(),
            b"[]",
            b"\xff",
        ):
            if data == data_of(row):
                continue  # all ASCII: it is the one form
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


def test_a_history_rewritten_in_full_is_found_by_who_holds_something(rows: list[Row]) -> None:
    after = next(seq for seq, row in enumerate(rows) if b'"type":"signer.rotated"' in data_of(row)) + 1
    for first in (after, len(rows) - 1):
        rewritten = rechained(rows, first, json.loads(data_of(rows[first])) | {"note": "rewritten"})
        assert verify(rewritten).verdict is Verdict.OK, "nothing inside can show it"
        report = verify(rewritten, expected=_expected(rows))
        assert _found(report) == (Verdict.FORKED, len(rows) - 1, "leaf")
        report = verify(rewritten, held=[hold(rows), hold(rows[:first])])
        assert _found(report) == (Verdict.FORKED, len(rows) - 1, "checkpoint")
        assert report.place is not None
        assert f"entries from {first} on" in report.place.why
    # Before a rotation, the two signatures of the rotation itself hold the tree.
    rewritten = rechained(rows, 5, json.loads(data_of(rows[5])) | {"note": "rewritten"})
    assert _found(verify(rewritten)) == (Verdict.FORKED, after - 1, "checkpoint")


def test_a_history_rewritten_under_another_key(rows: list[Row]) -> None:
    thief = NumberedSigner(9)
    genesis = json.loads(data_of(rows[0])) | {"checkpoint_key": str(thief.key)}
    rewritten = rechained(rows[:20], 0, genesis)
    assert verify(rewritten, held=[hold(rewritten, thief)]).verdict is Verdict.OK, "nothing inside can show it"
    report = verify(rewritten, held=[hold(rewritten, thief)], keys=[FIRST.key, SECOND.key])
    assert report.verdict is Verdict.WRONG_KEY
    report = verify(rewritten, keys=[FIRST.key, SECOND.key])
    assert _found(report) == (Verdict.WRONG_KEY, 0, "checkpoint_key")
    report = verify(rewritten, held=[hold(rows[:20], FIRST)])
    assert _found(report) == (Verdict.WRONG_KEY, 19, "checkpoint")


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
    first = 7
    assert "agent" not in json.loads(data_of(rows[first]))
    result = rechained(rows[: first + 1], first, json.loads(data_of(rows[first])) | change)
    report = verify(result)
    assert report.place is not None
    assert (report.verdict, report.place.seq, report.place.field) == (verdict, first, field)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"root": "0" * 64}, Verdict.TAMPERED),
        ({"agents": 3}, Verdict.TAMPERED),
        ({"agents": True}, Verdict.MALFORMED),
        ({"agents": -1}, Verdict.MALFORMED),
        ({"root": "0" * 63}, Verdict.MALFORMED),
        ({"more": 1}, Verdict.MALFORMED),
    ],
)
def test_a_commitment_to_other_heads_of_agents(rows: list[Row], change: dict[str, Any], verdict: Verdict) -> None:
    first = next(seq for seq, row in enumerate(rows) if b'"type":"heads"' in data_of(row))
    entry = json.loads(data_of(rows[first]))
    entry["heads"] |= change
    report = verify(rechained(rows[: first + 1], first, entry))
    assert _found(report) == (verdict, first, "heads")


@pytest.mark.parametrize("which", [0, 3, -1], ids=["first", "middle", "last"])
def test_an_entry_of_an_agent_taken_out_and_the_rest_renumbered(rows: list[Row], which: int) -> None:
    """Hashes, links and the agent's chain made right; the commitment to all agents' heads left alone."""
    heads = next(seq for seq, row in enumerate(rows) if b'"type":"heads"' in data_of(row))
    entries = [json.loads(data_of(row)) for row in rows[: heads + 1]]
    own = [seq for seq, entry in enumerate(entries) if entry.get("agent", {}).get("id") == "agt_1"]
    del entries[own[which]]
    last: dict[str, tuple[int, str]] = {}
    result: list[Row] = []
    for seq, entry in enumerate(entries):
        entry["seq"], entry["prev"] = seq, leaf_hash(data_of(result[-1])).hex() if result else "0" * 64
        name = entry.get("agent", {}).get("id")
        if name:
            number, leaf = last.get(name, (-1, "0" * 64))
            entry["agent"] |= {"seq": number + 1, "prev": leaf}
        result.append(row_of(seq, entry))
        if name:
            last[name] = entry["agent"]["seq"], leaf_hash(data_of(result[-1])).hex()
    assert _found(verify(result)) == (Verdict.TAMPERED, heads - 1, "heads")


def test_a_second_entry_after_the_same_predecessor(rows: list[Row]) -> None:
    entry = json.loads(data_of(rows[6])) | {"seq": 7}
    report = verify([*rows[:7], row_of(7, entry)])
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
    found = rows_of(tmp_path / "broker.db")
    entry = json.loads(data_of(found[4])) | {"seq": 5, "type": "from.the.future"}
    report = verify([*found, row_of(5, entry | {"prev": leaf_hash(data_of(found[4])).hex()})])
    assert report.verdict is Verdict.OK
    assert report.open_intents == (2,)
    assert report.unmatched_outcomes == (4,)
    assert report.clock_steps_back == (1,)
    assert report.unknown_types == ("from.the.future",)
    assert report.types == {"from.the.future": 1, "genesis": 1, "intent": 2, "outcome": 1, "unknown": 1}
    assert verify(rows).agents == 2
