"""Every table that follows from the ledger: what somebody changes in it is found, named and mended."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker.app.comparison import TableReport
from broker.app.place import only_broker
from broker.app.rebuild import RebuildReport, rebuild
from broker.domain.projection import KEYS
from broker.errors import BrokerError
from broker.settings import StatePaths, load_settings
from broker.store.schema import TRIGGERS
from tests.rebuild_world import ENTRIES, Rebuildable, make_rebuildable
from tests.served import command

Rows = dict[tuple[Any, ...], dict[str, Any]]

UNHELD = {"created", "started", "expires", "request_id", "last_event"}
"""Columns of a call that only its content holds."""
COLUMNS = {
    "ledger_tile": ("hashes",),
    "ledger_agent": ("seq", "leaf", "entry_seq"),
    "ledger_index": ("type", "ts", "agent", "call_id", "workspace", "tool"),
    "identity": ("kind", "name", "owner", "registrar", "created", "revoked"),
    "certificate": ("identity", "public_key_der", "not_before", "not_after", "revoked"),
    "session": ("agent", "workspace", "starter", "schedule", "created", "expires", "ended"),
    "schedule": (
        "agent",
        "workspace",
        "registrar",
        "weekdays",
        "from_minute",
        "until_minute",
        "session_ttl_s",
        "expires",
    ),
    "call": (
        "agent",
        "owner",
        "tool",
        "tool_version",
        "workspace",
        "workflow",
        "state",
        "tier",
        "request_id",
        "request_digest",
        "created",
        "started",
        "ended",
        "expires",
        "decision_seq",
        "intent_seq",
        "outcome_seq",
        "last_event",
        "envelope_digest",
    ),
    "vault_usage": ("stored",),
    "voter_key": ("holder", "kind", "public_key", "enrolled", "enrolled_seq", "revoked"),
    "acceptance": ("key", "seq"),
    "founding": ("digest",),
    "approval": (
        "kind",
        "subject",
        "workspace",
        "obj",
        "tier",
        "requester",
        "excluded",
        "state",
        "requirement",
        "envelope_digest",
        "rendering_digest",
        "created",
        "expires",
        "requested_seq",
        "closed",
        "closed_seq",
    ),
    "vote": ("person", "key", "decision", "channel", "cast", "seq"),
    "freeze": ("by", "since", "seq"),
    "chat_account": ("person", "seq"),
    "approved_workflow": ("tier", "approval", "approved", "seq"),
}
NUMBERS = {
    "tier",
    "decision_seq",
    "intent_seq",
    "outcome_seq",
    "closed_seq",
    "last_event",
    "from_minute",
    "until_minute",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Rebuildable:
    """The state as a killed broker left it; nobody changes it."""
    made = make_rebuildable(tmp_path_factory.mktemp("made"))
    # Of whoever was erased: such a row may be there or not, which a test of its own says.
    change(made.state, "DELETE FROM vault_usage WHERE stored = 0")
    return made


@pytest.fixture
def state(made: Rebuildable, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made.state, tmp_path / "state"))


def run(state: Path, *, write: bool = False, ledger_is_whole: bool = False) -> RebuildReport:
    return asyncio.run(rebuild(state, load_settings(state), write=write, ledger_is_whole=ledger_is_whole))


def refusal(state: Path, *, write: bool) -> str:
    with pytest.raises(BrokerError) as caught:
        run(state, write=write)
    return caught.value.reason


def change(state: Path, *statements: str | tuple[str, tuple[Any, ...]]) -> None:
    """Works on the database as somebody does who has the file."""
    with closing(sqlite3.connect(state / "broker.db")) as database, database:
        for statement in statements:
            text, values = (statement, ()) if isinstance(statement, str) else statement
            database.execute(text, values)


def dump(state: Path, table: str) -> Rows:
    with closing(sqlite3.connect(state / "broker.db")) as database:
        database.row_factory = sqlite3.Row
        rows = [dict(row) for row in database.execute(f'SELECT * FROM "{table}"')]  # noqa: S608 - a fixed name
    return {tuple(row[name] for name in KEYS[table]): row for row in rows}


def whole(state: Path) -> dict[str, Rows]:
    return {table: dump(state, table) for table in KEYS}


def report_on(report: RebuildReport, table: str) -> TableReport:
    """The report on a table; all others are as they must be."""
    assert [item.table for item in report.tables if item.wrong and item.table != table] == []
    return next(item for item in report.tables if item.table == table)


def counts(report: TableReport) -> tuple[int, int, int, int]:
    return report.equal, report.missing, report.extra, report.different


def spoiled(value: Any, column: str, key: tuple[Any, ...]) -> Any:  # noqa: ANN401 - of any column
    match value:
        case bytes():
            return bytes([value[0] ^ 1]) + value[1:] if value else b"x"
        case int() | float():
            return value - 1
        case None if column in NUMBERS:
            return 1
        case None:
            return "2020-01-01T00:00:00.000000Z"
        case _:
            return f"{value} {key[-1]}"


def test_a_state_that_nobody_changed_is_equal(state: Path, made: Rebuildable) -> None:
    report = run(state)
    assert (report.wrong, report.behind, report.entries, report.beyond) == (0, 0, ENTRIES, "")
    assert {item.table: item.equal for item in report.tables} == {
        table: len(rows) for table, rows in whole(made.state).items()
    }
    # Effects have a test of their own, where a real tool has them.
    assert all(item.equal > 1 for item in report.tables if item.table not in {"founding", "effect"})
    # What was erased is said, and nothing else is left out.
    unheld = {(item.table, column): count for item in report.tables for (column, _), count in item.unheld.items()}
    assert unheld == {("certificate", "public_key_der"): 1, **{("call", column): 1 for column in UNHELD}}
    assert not run(state, write=True).written
    assert whole(state) == whole(made.state)


@pytest.mark.parametrize(("table", "column"), [(table, column) for table in COLUMNS for column in COLUMNS[table]])
def test_each_changed_value_is_found_and_mended(state: Path, made: Rebuildable, table: str, column: str) -> None:
    before = dump(state, table)
    wanted = {key for key in before if column not in UNHELD or key != (made.erased,)}
    where = " AND ".join(f'"{name}" = ?' for name in KEYS[table])
    update = f'UPDATE "{table}" SET "{column}" = ? WHERE {where}'  # noqa: S608 - fixed names
    change(state, *((update, (spoiled(before[key][column], column, key), *key)) for key in wanted))
    report = report_on(run(state), table)
    assert counts(report) == (len(before) - len(wanted), 0, 0, len(wanted))
    assert {item.key: item.columns for item in report.differences} == dict.fromkeys(wanted, (column,))
    assert dump(state, table) != before  # looking changes nothing
    mended = run(state, write=True)
    assert (mended.written, mended.wrong) == (True, len(wanted))
    if column == "public_key_der":  # of somebody who was erased, nothing holds it any more
        for row in (item for item in before.values() if item["identity"] == made.gone):
            row["public_key_der"] = b""
    assert dump(state, table) == before


def _rows(made: Rebuildable, table: str) -> Iterator[tuple[Any, ...]]:
    rows = list(dump(made.state, table))
    yield from rows if len(rows) < 20 else [rows[0], rows[1], rows[min(300, len(rows) // 2)], rows[-2]]


@pytest.mark.parametrize("table", KEYS)
def test_each_deleted_row_is_found_and_mended(state: Path, made: Rebuildable, table: str) -> None:
    for key in _rows(made, table):
        before = dump(state, table)
        where = " AND ".join(f'"{name}" = ?' for name in KEYS[table])
        change(state, (f'DELETE FROM "{table}" WHERE {where}', key))  # noqa: S608 - fixed names
        report = report_on(run(state), table)
        assert counts(report) == (len(before) - 1, 1, 0, 0)
        assert [(item.kind, item.key) for item in report.differences] == [("missing", key)]
        assert run(state, write=True).written
        assert run(state).wrong == 0
        assert _held(dump(state, table), made) == _held(before, made)


def _held(rows: Rows, made: Rebuildable) -> Rows:
    """Without what nothing holds once its row is gone, and the numbers of certificates, whose order is what counts."""
    order = sorted(rows, key=lambda key: rows[key].get("number", 0))
    held = {key: dict(row) for key, row in rows.items()}
    for key, row in held.items():
        if "fingerprint" in row:
            row["number"] = order.index(key)
        lost = UNHELD if row.get("id") == made.erased else ()
        for column in ("public_key_der",) if row.get("identity") == made.gone else lost:
            del row[column]
    return held


@pytest.mark.parametrize("table", KEYS)
def test_a_table_that_is_gone_is_made_anew(state: Path, made: Rebuildable, table: str) -> None:
    before = dump(state, table)
    change(state, f'DELETE FROM "{table}"')  # noqa: S608 - a fixed name
    report = report_on(run(state), table)
    assert (report.missing + report.behind, report.equal) == (len(before), 0)
    assert run(state, write=True).written is bool(before)
    assert run(state).wrong == 0
    assert _held(dump(state, table), made) == _held(before, made)


EXTRA = {
    "ledger_tile": {"level": 3, "idx": 0, "hashes": b"\x00" * 32},
    "ledger_agent": {"agent": "agt_forged", "seq": 0, "leaf": b"\x00" * 32, "entry_seq": 3},
    "ledger_index": {"seq": -1, "type": "intent", "ts": "", "call_id": "call_forged"},
    "identity": {
        "id": "hum_forged",
        "kind": "human",
        "name": "mallory",
        "owner": "",
        "registrar": "hum_forged",
        "created": "2026-01-01T00:00:00.000000Z",
    },
    "certificate": {
        "fingerprint": "sha256:forged",
        "identity": "hum_forged",
        "public_key_der": b"key",
        "not_before": "2026-01-01T00:00:00.000000Z",
        "not_after": "2036-01-01T00:00:00.000000Z",
    },
    "session": {
        "id": "ses_forged",
        "agent": "a",
        "workspace": "w",
        "starter": "s",
        "schedule": "",
        "created": "2026-01-01T00:00:00.000000Z",
        "expires": "2036-01-01T00:00:00.000000Z",
    },
    "schedule": {
        "id": "sch_forged",
        "agent": "a",
        "workspace": "w",
        "registrar": "r",
        "weekdays": "[]",
        "from_minute": 0,
        "until_minute": 1440,
        "session_ttl_s": 1.0,
        "expires": "2036-01-01T00:00:00.000000Z",
    },
    "call": {
        "id": "call_forged",
        "agent": "a",
        "owner": "o",
        "tool": "t",
        "tool_version": "v",
        "workspace": "w",
        "workflow": "",
        "state": "SUCCEEDED",
        "tier": 0,
        "request_id": "req-1",
        "request_digest": "",
        "created": "2026-01-01T00:00:00.000000Z",
        "last_event": 0,
        "envelope_digest": "",
    },
    "vault_usage": {"owner": "agt_forged", "stored": -(10**12)},
    "voter_key": {
        "id": "sha256:forged",
        "holder": "hum_forged",
        "kind": "approver",
        "public_key": b"\x01" * 32,
        "enrolled": "2026-01-01T00:00:00.000000Z",
        "enrolled_seq": 3,
    },
    "acceptance": {"founding_digest": "sha256:forged", "person": "hum_forged", "key": "sha256:forged", "seq": 3},
    "founding": {"seq": 3, "digest": "sha256:forged"},
    "approval": {
        "id": "apv_forged",
        "kind": "CALL",
        "subject": "call_forged",
        "workspace": "demo",
        "obj": "world.change",
        "tier": 4,
        "requester": "agt_forged",
        "excluded": "[]",
        "state": "APPROVED",
        "requirement": "{}",
        "envelope_digest": "",
        "rendering_digest": "",
        "created": "2026-01-01T00:00:00.000000Z",
        "expires": "2036-01-01T00:00:00.000000Z",
        "requested_seq": 3,
    },
    "vote": {
        "approval": "apv_forged",
        "number": 1,
        "person": "hum_forged",
        "key": "sha256:forged",
        "decision": "approve",
        "channel": "cli",
        "cast": "2026-01-01T00:00:00.000000Z",
        "seq": 3,
    },
    "freeze": {"scope": "all", "target": "", "by": "hum_forged", "since": "2026-01-01T00:00:00.000000Z", "seq": 3},
    "chat_account": {"service": "slack", "team": "T0001", "user": "UFORGED", "person": "hum_forged", "seq": 3},
    "approved_workflow": {
        "name": "take-over",
        "digest": "sha256:forged",
        "tier": 4,
        "approval": "apv_forged",
        "approved": "2026-01-01T00:00:00.000000Z",
        "seq": 3,
    },
    "workspace_tree": {
        "workspace": "forged",
        "state": "sha256:forged",
        "seq": 3,
        "changed": "2026-01-01T00:00:00.000000Z",
    },
    "effect": {
        "call_id": "call_forged",
        "workspace": "demo",
        "base": "sha256:forged",
        "after": "sha256:forged",
        "digest": "sha256:forged",
        "artifact": "",
        "undoes": "",
        "undone_by": "",
        "seq": 3,
        "at": "2026-01-01T00:00:00.000000Z",
    },
}


def insert(state: Path, table: str) -> None:
    row = EXTRA[table]
    names, places = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
    change(state, (f'INSERT INTO "{table}" ({names}) VALUES ({places})', tuple(row.values())))  # noqa: S608 - fixed names


@pytest.mark.parametrize("table", KEYS)
def test_each_forged_row_is_found_and_removed(state: Path, made: Rebuildable, table: str) -> None:
    insert(state, table)
    report = run(state)
    on = report_on(report, table)
    assert [(item.kind, item.key) for item in on.differences] == [
        ("extra", tuple(EXTRA[table][name] for name in KEYS[table]))
    ]
    assert run(state, write=True, ledger_is_whole=bool(report.beyond)).written
    assert run(state).wrong == 0
    assert _same_but_numbers(whole(state), whole(made.state))


def _same_but_numbers(left: dict[str, Rows], right: dict[str, Rows]) -> bool:
    for tables in (left, right):
        rows = tables["certificate"]
        for place, key in enumerate(sorted(rows, key=lambda key: rows[key]["number"])):
            rows[key]["number"] = place
    return left == right


def test_everything_at_once(state: Path, made: Rebuildable) -> None:
    for table in KEYS:
        if not table.startswith(("ledger_index", "ledger_tile")):
            insert(state, table)
    change(
        state,
        "DELETE FROM session WHERE ended IS NOT NULL",
        "UPDATE call SET state = 'SUCCEEDED'",
        "UPDATE identity SET revoked = NULL",
        "UPDATE certificate SET revoked = NULL",
        "DELETE FROM ledger_tile",
        "UPDATE identity SET name = 'zoe' WHERE name = 'bob'",
    )
    report = run(state)
    assert {item.table for item in report.tables if not item.wrong} == {"ledger_index"}
    assert run(state, write=True).written
    assert run(state).wrong == 0
    assert _same_but_numbers(whole(state), whole(made.state))


def test_exchanged_names_are_given_back(state: Path, made: Rebuildable) -> None:
    change(
        state,
        "UPDATE identity SET name = 'between' WHERE name = 'ada'",
        "UPDATE identity SET name = 'ada' WHERE name = 'bob'",
        "UPDATE identity SET name = 'bob' WHERE name = 'between'",
    )
    assert report_on(run(state), "identity").different == 2
    assert run(state, write=True).written
    assert whole(state) == whole(made.state)


def test_the_order_of_certificates_is_found_and_mended(state: Path, made: Rebuildable) -> None:
    before = dump(state, "certificate")
    first, last = min(row["number"] for row in before.values()), max(row["number"] for row in before.values())
    change(state, ("UPDATE certificate SET number = ? WHERE number = ?", (last + 1, first)))
    report = report_on(run(state), "certificate")
    assert report.different == len(before)
    assert {item.columns for item in report.differences} == {("number",)}
    assert run(state, write=True).written
    assert _same_but_numbers(whole(state), whole(made.state))
    assert run(state).wrong == 0
    # A gap alone is none of anybody's doing.
    change(state, ("UPDATE certificate SET number = ? WHERE number = ?", (last + 7, last)))
    assert run(state).wrong == 0


def test_values_of_another_kind(state: Path, made: Rebuildable) -> None:
    change(
        state,
        "UPDATE call SET id = CAST(id AS BLOB), tier = 'high', decision_seq = x'00'",
        "UPDATE ledger_agent SET leaf = 'text', agent = agent || char(0)",
        "UPDATE session SET workspace = x'ff', created = ''",
        "UPDATE schedule SET weekdays = '[ 1,7]', session_ttl_s = 'long'",
        "UPDATE identity SET name = x'00ff' WHERE name = 'spy'",
        "UPDATE vault_usage SET stored = 'none', owner = CAST(owner AS BLOB)",
    )
    report = run(state)
    assert {item.table for item in report.tables if item.wrong} == {
        "call",
        "ledger_agent",
        "session",
        "schedule",
        "identity",
        "vault_usage",
    }
    assert run(state, write=True).written
    assert run(state).wrong == 0
    for table in KEYS:
        assert _held(dump(state, table), made) == _held(dump(made.state, table), made)


def test_whoever_keeps_nothing_may_have_a_row_that_says_so(state: Path) -> None:
    change(state, "INSERT INTO vault_usage VALUES ('agt_gone', 0)")
    report = run(state)
    assert report_on(report, "vault_usage").equal == len(dump(state, "vault_usage"))
    assert report.wrong == 0


def test_an_index_that_lags_is_no_difference(state: Path, made: Rebuildable) -> None:
    change(state, f"DELETE FROM ledger_index WHERE seq >= {ENTRIES - 5}")  # noqa: S608 - a number
    report = run(state)
    assert (report.wrong, report.behind) == (0, 5)
    assert run(state, write=True).written
    assert whole(state) == whole(made.state)


def test_content_that_is_lost_leaves_its_columns_alone(state: Path, made: Rebuildable) -> None:
    change(state, ("DELETE FROM vault_chunk WHERE object_id = ? AND idx < 1", (made.succeeded,)))
    report = run(state)
    assert counts(report_on(report, "vault_usage"))[1:] == (0, 0, 1)  # its owner keeps less now
    run(state, write=True)
    why = "the call's content can't be read: REQUEST_MISSING"
    assert {column for item in report.tables for column, text in item.unheld if text == why} == {
        *UNHELD,
        "request_digest",
    }
    change(state, ("UPDATE call SET state = 'FAILED' WHERE id = ?", (made.succeeded,)))
    assert report_on(run(state), "call").different == 1
    run(state, write=True)
    found, wanted = whole(state), whole(made.state)
    assert found.pop("vault_usage") != wanted.pop("vault_usage")
    assert found == wanted


def test_a_lost_last_event_shortens_no_call(state: Path, made: Rebuildable) -> None:
    change(state, ("DELETE FROM vault_chunk WHERE object_id = ? AND idx > 2", (made.succeeded,)))
    report = run(state)
    assert report_on(report, "vault_usage").different == 1  # the call's row is as it must be; its owner keeps less
    assert {"its last event is missing"} <= {why for item in report.tables for _, why in item.unheld}


def test_another_public_key_is_found_where_the_certificate_is_erased(state: Path, made: Rebuildable) -> None:
    change(state, ("UPDATE certificate SET public_key_der = x'01' WHERE identity = ?", (made.gone,)))
    report = report_on(run(state), "certificate")
    assert [item.columns for item in report.differences] == [("public_key_der",)]


def _cut(state: Path, left: int) -> None:
    """Cuts the end of the ledger off, as its file's owner can."""
    change(
        state,
        *(f"DROP TRIGGER {name}" for name in TRIGGERS),
        f"DELETE FROM ledger_entry WHERE seq >= {left}",  # noqa: S608 - a number
        *TRIGGERS.values(),
    )


def test_the_last_trace_of_a_ledger_cut_short_is_not_overwritten(state: Path) -> None:
    _cut(state, ENTRIES - 40)
    before = whole(state)
    report = run(state)
    assert f"names entry {ENTRIES - 40}" in report.beyond
    assert report_on(report, "ledger_index").extra == 40
    assert refusal(state, write=True) == "LEDGER_SHORTER"
    assert whole(state) == before
    assert run(state, write=True, ledger_is_whole=True).written
    after = run(state)
    assert (after.wrong, after.beyond) == (0, "")


def test_nothing_is_made_from_a_ledger_that_does_not_verify(state: Path) -> None:
    change(
        state,
        *(f"DROP TRIGGER {name}" for name in TRIGGERS),
        "UPDATE ledger_entry SET data = replace(data, 'heartbeat', 'heartbeet') WHERE seq = 500",
        *TRIGGERS.values(),
        "DELETE FROM session",
    )
    before = whole(state)
    assert refusal(state, write=False) == "LEDGER_NOT_VERIFIED"
    assert refusal(state, write=True) == "LEDGER_NOT_VERIFIED"
    assert whole(state) == before


def test_a_broker_that_serves_is_in_the_way(state: Path) -> None:
    with only_broker(StatePaths(state)):
        assert refusal(state, write=False) == "ALREADY_SERVING"
        assert refusal(state, write=True) == "ALREADY_SERVING"


def test_the_command(state: Path, made: Rebuildable) -> None:
    ended = command(state, "ledger", "rebuild", check=False)
    assert (ended.returncode, ended.stdout.split()[0]) == (0, "equal")
    assert "not compared: created of 1 rows" in ended.stdout
    change(state, ("UPDATE call SET state = 'SUCCEEDED', tier = 0 WHERE id = ?", (made.failed,)))
    ended = command(state, "ledger", "rebuild", check=False)
    assert (ended.returncode, ended.stdout.split()[0]) == (1, "different")
    assert f"different {made.failed}: state, tier" in ended.stdout
    ended = command(state, "ledger", "rebuild", "--check", "--json", check=False)
    answer = json.loads(ended.stdout)
    assert (ended.returncode, answer["equal"], answer["written"]) == (1, False, False)
    (calls,) = (item for item in answer["tables"] if item["table"] == "call")
    assert calls["rows"] == [{"kind": "different", "key": [made.failed], "columns": ["state", "tier"]}]
    ended = command(state, "ledger", "rebuild", "--write", check=False)
    assert (ended.returncode, ended.stdout.split()[0]) == (1, "replaced")
    assert command(state, "ledger", "rebuild", check=False).returncode == 0
    assert whole(state) == whole(made.state)
    assert command(state, "ledger", "verify").returncode == 0


def _said(state: Path, columns: str, table: str, where: str, *values: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(state / "broker.db")) as database:
        return database.execute(f"SELECT {columns} FROM {table} WHERE {where}", values).fetchall()  # noqa: S608 - fixed


def test_the_state_has_a_call_and_an_approval_in_every_state(made: Rebuildable) -> None:
    approvals = {state for (state,) in _said(made.state, "state", "approval", "1")}
    assert approvals == {"PENDING", "APPROVED", "USED", "DENIED", "EXPIRED", "CANCELLED"}
    assert {channel for (channel,) in _said(made.state, "channel", "vote", "1")} == {"cli", "slack"}
    assert {decision for (decision,) in _said(made.state, "decision", "vote", "1")} == {"approve", "deny", "withdraw"}
    calls = dict(_said(made.state, "id, state", "call", "1"))
    assert {word: calls[which] for word, which in made.decided.items()} == {
        "used": "SUCCEEDED",
        "cancelled": "CANCELLED",
        "agreed": "APPROVED",
        "half": "PENDING_APPROVAL",
        "untouched": "PENDING_APPROVAL",
        "denied": "DENIED",
    }


def test_a_waiting_call_without_its_content_may_stand_anywhere_but_elsewhere(state: Path, made: Rebuildable) -> None:
    which = made.decided["agreed"]
    change(state, ("DELETE FROM vault_chunk WHERE object_id = ?", (which,)))
    assert report_on(run(state), "vault_usage").different == 1
    run(state, write=True)
    assert _said(state, "state", "call", "id = ?", which) == [("APPROVED",)]
    change(state, ("UPDATE call SET state = 'SUCCEEDED' WHERE id = ?", (which,)))
    assert report_on(run(state), "call").different == 1


def test_an_account_whose_text_is_lost_is_nobodys(state: Path, made: Rebuildable) -> None:
    ((person,),) = _said(state, "person", "chat_account", "user = 'UCYN'")
    ((last,),) = _said(state, "max(idx)", "vault_chunk", "object_id = ?", person)
    change(state, ("DELETE FROM vault_chunk WHERE object_id = ? AND idx = ?", (person, last)))
    report = run(state)
    on = next(item for item in report.tables if item.table == "chat_account")
    assert [(item.kind, item.key) for item in on.differences] == [("extra", ("slack", "T0001", "UCYN"))]
    assert made.gone not in {row["person"] for row in dump(made.state, "chat_account").values()}


def test_erasing_a_call_erases_what_approvers_were_shown_and_no_vote(state: Path, made: Rebuildable) -> None:
    which = made.decided["used"]
    ((approval,),) = _said(state, "id", "approval", "subject = ?", which)
    content = "SELECT count(*) FROM vault_chunk WHERE object_id IN (?, ?)"
    with closing(sqlite3.connect(state / "broker.db")) as database:
        assert database.execute(content, (which, approval)).fetchone()[0] > 2
    votes = _said(state, "count(*)", "vote", "approval = ?", approval)
    command(state, "ledger", "erase", "--subject", which, "--yes")
    with closing(sqlite3.connect(state / "broker.db")) as database:
        assert database.execute(content, (which, approval)).fetchone()[0] == 0
    assert _said(state, "count(*)", "vote", "approval = ?", approval) == votes == [(2,)]
    answer = json.loads(command(state, "ledger", "verify", "--json").stdout)
    assert (answer["verdict"], answer["votes"]["found"]) == ("ok", 0)
    assert answer["votes"]["attested_count"] == 1
    assert run(state).wrong == 0
