"""One verifier, three ways: entry by entry, by runs, and shared among processes. All say the same, of sound ledgers and others."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.errors import InvalidArgumentError
from broker.ledger import segment, segment_workers, verifier
from broker.ledger.encoding import encode
from broker.ledger.held import read_folder, read_held
from broker.ledger.reader import open_ledger, verify_file
from broker.ledger.segment import Run
from broker.ledger.source import Row
from broker.ledger.verdict import Expectation, Report, Verdict
from broker.ledger.verifier import Known, verify
from broker.tlog.agent_map import AgentMap
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.merkle import CompactRange, leaf_hash
from tests.ledger_world import FIRST, SECOND, data_of, held, hold, make_ledger, rechained, row_of, rows_of
from tests.signing_support import ORIGIN, NumberedSigner, signed, text_of

_SMALL = 1024
"""Entries of a run in these tests, so that a small ledger has several."""
_LARGE = 5 * _SMALL + 300
_WORLD = 41
"""Entries of the small world."""


def _grow(count: int, heads_every: int = 700) -> list[Row]:
    """A ledger of ``count`` entries with agents, calls, commitments to heads and a rotation, all in order."""
    rows: list[Row] = []
    tree, agents, heads = CompactRange(), AgentMap(), {}
    for seq in range(count):
        entry: dict[str, Any] = {
            "v": 1, "origin": ORIGIN, "seq": seq, "type": "heartbeat", "boot_id": f"boot_{seq // 2000}",
            "prev": leaf_hash(data_of(rows[-1])).hex() if rows else "0" * 64,
            "ts": f"2026-01-01T00:{seq // 60 % 60:02d}:{seq % 60:02d}.000000Z",
        }  # fmt: skip
        if seq == 0:
            entry |= {"type": "genesis", "checkpoint_key": str(FIRST.key)}
        elif seq == 3000:
            note = signed(Checkpoint(ORIGIN, seq, tree.root(), (f"next-key {SECOND.key}",)), FIRST, SECOND)
            entry |= {
                "type": "signer.rotated",
                "old": str(FIRST.key),
                "new": str(SECOND.key),
                "checkpoint": text_of(note),
            }
        elif seq % heads_every == 0:
            entry |= {"type": "heads", "heads": {"agents": len(agents), "root": agents.root().hex()}}
        else:
            name = f"agt_{seq % 5 + seq // 150}"
            number, prev = heads.get(name, (-1, "0" * 64))
            entry |= {"agent": {"id": name, "seq": number + 1, "prev": prev}, "load": 0.25 if seq % 11 == 0 else 1}
            entry |= [{}, {"type": "intent"}, {"type": "outcome", "intent_seq": seq - 1 - (seq % 1025) // 3}][seq % 3]
        rows.append(row_of(seq, entry))
        leaf = leaf_hash(data_of(rows[-1]))
        tree.append(leaf)
        if "agent" in entry:
            heads[name] = number + 1, leaf.hex()
            agents.set(name, number + 1, leaf)
    return rows


def _write(path: Path, rows: list[Row]) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE ledger_entry (seq INTEGER PRIMARY KEY, prev TEXT, leaf BLOB, data BLOB)")
        connection.execute("CREATE TABLE store_meta (key TEXT PRIMARY KEY, value TEXT)")
        connection.execute("INSERT INTO store_meta VALUES ('in_use', '0')")
        connection.executemany("INSERT INTO ledger_entry VALUES (?, ?, ?, ?)", rows)
        connection.commit()
    return path


@pytest.fixture(scope="module")
def large() -> list[Row]:
    return _grow(_LARGE)


@pytest.fixture(scope="module")
def large_file(large: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("large") / "broker.db", large)


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Runs of ``_SMALL`` entries; lists the first number of each run that a worker's summary was taken of."""
    taken: list[int] = []
    receive = segment_workers._receive

    def counted(process: Any) -> Any:  # noqa: ANN401 - a process, and its answer
        summary = receive(process)
        if summary is not None:
            taken.append(summary.first)
        return summary

    monkeypatch.setattr(segment_workers, "SEGMENT", _SMALL)
    monkeypatch.setattr(verifier, "SEGMENT", _SMALL)
    monkeypatch.setattr(segment_workers, "_receive", counted)
    return taken


def _one_by_one(rows: list[Row], **known: Any) -> Report:  # noqa: ANN401 - as verify takes it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "add", lambda *_: False)
        return verify(rows, **known)


def test_all_ways_agree_on_a_sound_ledger(large: list[Row], large_file: Path, small_runs: list[int]) -> None:
    notes = tuple(
        hold(large[:size], FIRST if size <= 3000 else SECOND) for size in (1, 511, 1023, 1024, 1500, 3001, _LARGE)
    )
    expected = Expectation(2500, leaf_hash(data_of(large[2500])).hex())
    report = _one_by_one(large, held=notes, expected=expected)
    assert (report.verdict, report.checkpoints, report.checkpoint_size) == (Verdict.OK, 7, _LARGE)
    assert report.heads == 7
    assert report.open_intents
    assert report.unmatched_outcomes
    assert report.clock_steps_back
    assert report.root == hold(large).checkpoint.root.hex()
    assert verify(large, held=notes, expected=expected) == report
    for workers in (1, 2, 3):
        small_runs.clear()
        assert verify_file(large_file, known=Known(expected, notes), workers=workers) == report
        assert small_runs == ([] if workers == 1 else [0, 1024, 2048, 3072, 4096, 5120])


def test_the_common_run_needs_no_second_look(large: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier.Chain, "entry", lambda *_: pytest.fail("looked at one by one"))
    assert verify(large).verdict is Verdict.OK


def _forge(rows: list[Row], seq: int, what: str) -> list[Row]:
    result = list(rows)
    if what == "taken out":
        del result[seq]
    elif what == "twice":
        result.insert(seq, result[seq])
    elif what == "byte":
        data = bytearray(data_of(rows[seq]))
        data[len(data) // 2] ^= 1
        result[seq] = rows[seq]._replace(data=bytes(data))
    elif what == "rehashed":
        result[seq] = row_of(seq, json.loads(data_of(rows[seq])) | {"note": 1})
    elif what == "prev":
        result[seq] = rows[seq]._replace(prev="1" * 64)
    elif what == "leaf":
        result[seq] = rows[seq]._replace(leaf=bytes(32))
    elif what == "leaf type":
        result[seq] = rows[seq]._replace(leaf=bytearray(leaf_hash(data_of(rows[seq]))))
    elif what == "text":
        result[seq] = rows[seq]._replace(data=data_of(rows[seq]).decode())
    else:
        entry = json.loads(data_of(rows[seq]))
        if what == "own chain":
            entry["agent"] = {**entry.get("agent", {"id": "agt_0", "seq": 2}), "prev": "1" * 64}
        else:
            entry |= {"ts": "2026"} if what == "ts" else {"origin": "x"}
        result[seq:] = [row_of(seq, entry)]
    return result


_FORGERIES = (
    "taken out",
    "twice",
    "byte",
    "rehashed",
    "prev",
    "leaf",
    "leaf type",
    "text",
    "ts",
    "origin",
    "own chain",
)


@given(seq=st.integers(0, _LARGE - 1), what=st.sampled_from(_FORGERIES), known=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_runs_and_single_entries_agree_on_any_forgery(large: list[Row], seq: int, what: str, *, known: bool) -> None:
    forged = _forge(large, seq, what)
    notes = [hold(large)] if known else []
    report = verify(forged, held=notes)
    assert report == _one_by_one(forged, held=notes)
    last = seq == _LARGE - 1
    if not (last and what in ("taken out", "rehashed") and not known):
        assert report.verdict is not Verdict.OK


@pytest.mark.parametrize("what", _FORGERIES)
@pytest.mark.parametrize("seq", [0, 1, 510, 511, 512, 513, 1023, 1024])
def test_runs_and_single_entries_agree_where_runs_meet(large: list[Row], seq: int, what: str) -> None:
    for rows in (large[:1100], large[: seq + 1]):
        forged = _forge(rows, seq, what)
        report = verify(forged, held=[hold(rows, FIRST)])
        assert report == _one_by_one(forged, held=[hold(rows, FIRST)])
        assert report.verdict is not Verdict.OK


@pytest.mark.parametrize("seq", [50, 100, 450, 500, 550])
def test_a_false_commitment_to_heads_among_true_ones(seq: int) -> None:
    rows = _grow(560, heads_every=50)
    entry = json.loads(data_of(rows[seq]))
    entry["heads"]["root"] = "ab" * 32
    forged = rechained(rows, seq, entry)
    report = verify(forged)
    assert report == _one_by_one(forged)
    assert report.place is not None
    assert (report.verdict, report.place.seq, report.place.field) == (Verdict.TAMPERED, seq, "heads")
    assert report.heads == seq // 50 - 1


@pytest.mark.parametrize("what", ["byte", "rehashed", "own chain"])
@pytest.mark.parametrize("seq", [0, 511, 1023, 1024, _LARGE - 1])
def test_workers_find_the_same_place(
    large: list[Row], tmp_path: Path, small_runs: list[int], seq: int, what: str
) -> None:
    forged = _forge(large, seq, what)
    known = Known(held=(hold(large),))
    path = _write(tmp_path / "broker.db", forged)
    report = verify_file(path, known=known, workers=2)
    assert report == _one_by_one(forged, held=known.held)
    assert report.verdict is not Verdict.OK
    assert all(first + _SMALL <= seq + 2 * _SMALL * 2 for first in small_runs)


@pytest.mark.parametrize("seq", [510, 511, 512, 1023, 2047])
def test_a_broken_link_of_entries_without_agents(tmp_path: Path, small_runs: list[int], seq: int) -> None:
    rows: list[Row] = []
    for entry in map(json.loads, map(data_of, _grow(3 * _SMALL, heads_every=1))):
        entry |= {"type": "heartbeat" if entry["seq"] else "genesis"}
        rows.append(row_of(entry["seq"], entry | {"prev": leaf_hash(data_of(rows[-1])).hex() if rows else "0" * 64}))
    sound = _write(tmp_path / "sound.db", rows)
    assert verify_file(sound, workers=2).verdict is Verdict.OK
    assert len(small_runs) == 3
    path = _write(tmp_path / "broker.db", _forge(rows, seq, "rehashed"))
    for workers in (1, 2):
        report = verify_file(path, workers=workers)
        assert report.place is not None
        assert (report.verdict, report.place.seq, report.place.field) == (Verdict.TAMPERED, seq + 1, "prev")


def test_a_gap_of_a_whole_run(large: list[Row], tmp_path: Path, small_runs: list[int]) -> None:
    path = _write(tmp_path / "broker.db", large[:_SMALL] + large[2 * _SMALL :])
    report = verify_file(path, workers=2)
    assert report.place is not None
    assert (report.verdict, report.place.seq) == (Verdict.GAPPED, _SMALL)
    assert small_runs == [0]


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/python"])
def test_workers_that_die_or_never_start_are_done_without(
    large_file: Path, small_runs: list[int], monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(segment_workers.sys, "executable", program)
    report = verify_file(large_file, workers=2)
    assert (report.verdict, report.entries) == (Verdict.OK, _LARGE)
    assert small_runs == []


def test_from_an_entry_on(large_file: Path, small_runs: list[int]) -> None:
    whole = verify_file(large_file)
    for workers, first in ((1, 1), (1, 2500), (2, 700), (2, 1024), (1, _LARGE)):
        report = verify_file(large_file, first=first, workers=workers)
        assert (report.verdict, report.entries, report.first) == (Verdict.OK, _LARGE - first, first)
        assert (report.head_seq, report.head_leaf, report.root) == (whole.head_seq, whole.head_leaf, "")
        assert all(seq > first for seq in report.unmatched_outcomes)
    assert small_runs
    # Whose a checkpoint is can't be known there, unless the reader knows.
    note = held(signed(Checkpoint(ORIGIN, _LARGE + 9, b"\x07" * 32), SECOND))
    assert verify_file(large_file, first=700, known=Known(held=(note,))).verdict is Verdict.OK
    known = Known(held=(note,), keys=(SECOND.key,))
    assert verify_file(large_file, first=700, known=known).verdict is not Verdict.OK
    report = verify_file(large_file, first=_LARGE + 1)
    assert report.verdict is Verdict.TRUNCATED


@pytest.mark.parametrize("what", ["byte", "prev", "ts", "origin"])
def test_from_an_entry_on_sees_what_is_after_it_and_nothing_before(large: list[Row], tmp_path: Path, what: str) -> None:
    path = _write(tmp_path / "broker.db", _forge(large, 2000, what))
    report = verify_file(path, first=1000)
    assert report.place is not None
    assert report.place.seq == 2000
    if what in ("byte", "prev"):
        assert verify_file(path, first=2002).verdict is Verdict.OK


def test_an_agents_chain_from_an_entry_on(large: list[Row], tmp_path: Path) -> None:
    path = _write(tmp_path / "broker.db", rechained(large[:400], 200, json.loads(data_of(large[200])) | {"note": 1}))
    assert verify_file(path, first=300).verdict is Verdict.OK
    entry = json.loads(data_of(large[399]))
    entry["agent"] |= {"seq": 0, "prev": "1" * 64}
    path = _write(tmp_path / "other.db", [*large[:399], row_of(399, entry)])
    for first in (0, 396, 399):
        report = verify_file(path, first=first)
        assert report.verdict is Verdict.FORKED, first


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_ledger(tmp_path)


def _rewrite(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)


_CUT = (
    "DELETE FROM ledger_entry WHERE seq >= 20",
    "DELETE FROM ledger_index WHERE seq >= 20",
    "DELETE FROM ledger_agent WHERE entry_seq >= 20",
)


def test_an_old_backup_is_rolled_back(path: Path) -> None:
    known = Known(held=(hold(rows_of(path)[:25], FIRST), hold(rows_of(path)[:10], FIRST)))
    _rewrite(path, *_CUT)
    assert verify_file(path).verdict is Verdict.OK, "nothing inside can show it"
    report = verify_file(path, known=known)
    assert report.place is not None
    assert (report.verdict, report.place.seq, report.place.field) == (Verdict.ROLLED_BACK, 19, "checkpoint")


def test_an_end_cut_off_that_agents_still_name_is_truncated(path: Path) -> None:
    with open_ledger(path) as file:
        assert file.beyond(_WORLD) == ""
        assert f"entry {_WORLD - 1}" in file.beyond(_WORLD - 1)
    held_by_somebody = Known(held=(hold(rows_of(path)[:25], FIRST),))
    _rewrite(path, *_CUT[:2])
    for known in (held_by_somebody, Known()):
        report = verify_file(path, known=known)
        assert report.place is not None
        assert (report.verdict, report.place.seq, report.place.field) == (Verdict.TRUNCATED, 19, "file")


@pytest.mark.parametrize(
    "column", ["ledger_agent.entry_seq", "ledger_index.seq", "call.decision_seq", "call.intent_seq", "call.outcome_seq"]
)
def test_each_projection_that_names_an_entry_beyond_the_end(large: list[Row], tmp_path: Path, column: str) -> None:
    path = _write(tmp_path / "broker.db", large[:30])
    table, _, name = column.partition(".")
    _rewrite(path, f"CREATE TABLE {table} ({name})", f"INSERT INTO {table} VALUES (NULL), (29)")  # noqa: S608 - ours
    assert verify_file(path).verdict is Verdict.OK
    _rewrite(path, f"INSERT INTO {table} VALUES (30)")  # noqa: S608 - ours
    report = verify_file(path)
    assert report.place is not None
    assert (report.verdict, report.place.seq) == (Verdict.TRUNCATED, 29)
    assert table in report.place.why


def test_tiles_of_more_entries_than_there_are(path: Path) -> None:
    _rewrite(path, "INSERT INTO ledger_tile VALUES (1, 0, zeroblob(64))")
    report = verify_file(path)
    assert report.place is not None
    assert (report.verdict, report.place.seq) == (Verdict.TRUNCATED, _WORLD - 1)
    assert "512" in report.place.why


def test_checkpoints_signed_by_each_key_in_its_time(path: Path) -> None:
    rows = rows_of(path)
    rotation = next(seq for seq, row in enumerate(rows) if b'"type":"signer.rotated"' in data_of(row))
    # The first key was revoked in the end: what it alone has signed counts for nothing.
    old = hold(rows[:10], FIRST)
    assert verify(rows, held=[old]).verdict is Verdict.WRONG_KEY
    report = verify(rows, held=[hold(rows[:10], FIRST, required=False), hold(rows)])
    assert (report.verdict, report.checkpoints) == (Verdict.OK, 1)
    both = held(signed(old.checkpoint, FIRST, SECOND))
    assert verify(rows, held=[both]).verdict is Verdict.OK
    for wrong in (hold(rows, FIRST), hold(rows[: rotation + 1], FIRST), hold(rows, NumberedSigner(7))):
        report = verify(rows, held=[wrong])
        assert report.verdict is Verdict.WRONG_KEY
        assert report.place is not None
        assert report.place.field == "checkpoint"
    assert verify(rows[: rotation + 1], held=[hold(rows[: rotation + 1], SECOND)]).verdict is Verdict.OK
    assert verify(rows, keys=[SECOND.key]).verdict is Verdict.OK
    report = verify(rows, keys=[NumberedSigner(7).key])
    assert report.verdict is Verdict.WRONG_KEY


def test_recovered_is_never_ok(tmp_path: Path) -> None:
    rows = rows_of(make_ledger(tmp_path, recovered=True))
    seq = next(seq for seq, row in enumerate(rows) if b'"type":"recovered"' in data_of(row))
    lost = held(signed(Checkpoint(ORIGIN, seq + 5, b"\x07" * 32), SECOND))
    for notes in ([], [hold(rows)], [lost], [lost, hold(rows)]):
        report = verify(rows, held=notes)
        assert report.place is not None
        assert (report.verdict, report.place.seq, report.place.field) == (Verdict.RECOVERED, seq, "lost")
        assert report.recovered == ((seq, seq + 4),)
    # The recovery excuses what can be of the lost part, as the key has signed, and nothing else.
    for size, verdict in ((seq + 1, Verdict.RECOVERED), (seq + 5, Verdict.RECOVERED), (seq, Verdict.FORKED)):
        other = held(signed(Checkpoint(ORIGIN, size, b"\x08" * 32), SECOND))
        report = verify(rows, held=[other])
        assert report.verdict is verdict
        assert report.place is not None
        assert f"of these sizes: {size}" in report.place.why or verdict is Verdict.FORKED
    beyond = held(signed(Checkpoint(ORIGIN, seq + 6, b"\x08" * 32), SECOND))
    assert verify(rows, held=[beyond]).verdict is Verdict.TRUNCATED
    stranger = held(signed(Checkpoint(ORIGIN, seq + 2, b"\x08" * 32), NumberedSigner(7)))
    assert verify(rows, held=[stranger]).verdict is Verdict.WRONG_KEY


def test_a_given_key_that_was_revoked_vouches_for_nothing(path: Path) -> None:
    rows = rows_of(path)
    report = verify(rows, keys=[FIRST.key])
    assert report.place is not None
    assert (report.verdict, "was revoked" in report.place.why) == (Verdict.WRONG_KEY, True)
    assert verify(rows, keys=[FIRST.key, SECOND.key]).verdict is Verdict.OK


def test_a_folder_without_its_newest_checkpoint(path: Path, tmp_path: Path) -> None:
    rows, folder = rows_of(path), tmp_path / "checkpoints"
    folder.mkdir()
    stranger = hold(rows, NumberedSigner(7)).note.encode()
    (folder / f"{_WORLD:016d}.note").write_bytes(stranger)
    with pytest.raises(InvalidArgumentError, match=r"no latest\.note") as refused:
        read_folder(folder)
    assert (refused.value.reason, bool(refused.value.hint)) == ("CHECKPOINT_MISSING", True)
    # The first of all was cut off on its way.
    (folder / "next.note").write_bytes(hold(rows).note.encode())
    assert [item.required for item in read_folder(folder)] == [True, True]
    # The largest counts like the newest: an older one put in that one's place hides nothing.
    (folder / "latest.note").write_bytes(hold(rows[:10], FIRST).note.encode())
    assert verify(rows, held=read_folder(folder)).verdict is Verdict.WRONG_KEY


def test_notes_from_files(path: Path, tmp_path: Path) -> None:
    rows, folder = rows_of(path), tmp_path / "checkpoints"
    assert read_folder(folder) == ()
    folder.mkdir()
    assert read_folder(folder) == ()
    for name, note in (("latest", hold(rows)), (f"{10:016d}", hold(rows[:10], FIRST)), (f"{_WORLD:016d}", hold(rows))):
        (folder / f"{name}.note").write_bytes(note.note.encode())
    (folder / f"{12:016d}.lost-1.note").write_bytes(b"of another history")
    found = read_folder(folder)
    assert [(item.checkpoint.size, item.required) for item in found] == [(_WORLD, True), (10, False), (_WORLD, True)]
    assert verify(rows, held=found).checkpoints == 2
    for content, reason in ((b"no note", "CHECKPOINT_MALFORMED"), (None, "CHECKPOINT_MISSING")):
        name = tmp_path / "x.note"
        name.unlink(missing_ok=True)
        if content is not None:
            name.write_bytes(content)
        with pytest.raises(InvalidArgumentError) as refused:
            read_held(name)
        assert refused.value.reason == reason


def test_a_batch_with_one_odd_entry_is_still_fast(large: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    """Floats and text beyond ASCII take the slow reader, and only for themselves."""
    seen: list[bytes] = []
    slow = segment.decode
    monkeypatch.setattr(segment, "decode", lambda data: seen.append(data) or slow(data))
    monkeypatch.setattr(verifier.Chain, "entry", lambda *_: pytest.fail("looked at one by one"))
    assert verify(large[:512]).verdict is Verdict.OK
    assert all(b"0.25" in data for data in seen)
    assert 0 < len(seen) < 60
    assert encode(json.loads(seen[0])) == seen[0]
