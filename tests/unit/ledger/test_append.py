"""Appending: what an entry consists of, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from broker.domain.canonical import JsonObject
from broker.domain.ports import StoredEntry
from broker.errors import BrokerError, DataLossError, FailedPreconditionError, InternalError, InvalidArgumentError
from broker.ledger.entry import ENTRY_TYPES, OWN_KEYS
from broker.ledger.genesis import genesis_body, read_genesis, read_origin
from broker.ledger.ledger import Ledger
from broker.store.database import Database
from broker.tlog.merkle import leaf_hash

MOMENT = datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=timezone(timedelta(hours=1)))
LEDGER = Ledger("origin-1", "boot_1", lambda: MOMENT)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    Database.create(tmp_path / "broker.db")
    with Database.open_sync(tmp_path / "broker.db") as opened:
        yield opened


def _append(database: Database, entry_type: str, body: JsonObject | None = None, agent: str = "") -> int:
    return database.write_sync(lambda tx: LEDGER.append(tx, entry_type, body or {}, agent=agent))


def _entries(database: Database) -> list[dict[str, Any]]:
    return [json.loads(entry.data) for entry in database.read_sync(lambda tx: tx.ledger.entries(0, 100))]


def test_the_first_entries_are_what_the_design_says(database: Database) -> None:
    assert _append(database, "genesis", genesis_body(trust_domain="example.org", software="test 1")) == 0
    assert _append(database, "intent", {"call_id": "call_1", "tier": 3}, agent="agt_1") == 1
    assert _append(database, "heartbeat") == 2
    assert _append(database, "outcome", agent="agt_1") == 3
    rows = database.read_sync(lambda tx: tx.ledger.entries(0, 10))
    for row in rows:
        assert row.data == rfc8785.dumps(json.loads(row.data))
        assert row.leaf == leaf_hash(row.data)
    leaves = [row.leaf.hex() for row in rows]
    assert [row.prev for row in rows] == ["0" * 64, *leaves[:3]]
    entries = _entries(database)
    assert entries[1] == {
        "v": 1,
        "origin": "origin-1",
        "seq": 1,
        "prev": leaves[0],
        "type": "intent",
        "ts": "2026-02-03T03:05:06.000007Z",
        "boot_id": "boot_1",
        "agent": {"id": "agt_1", "seq": 0, "prev": "0" * 64},
        "call_id": "call_1",
        "tier": 3,
    }
    assert "agent" not in entries[2]
    assert entries[3]["agent"] == {"id": "agt_1", "seq": 1, "prev": leaves[1]}


def test_a_time_without_microseconds_has_the_same_form(database: Database) -> None:
    ledger = Ledger("o", "b", lambda: datetime(2026, 1, 1, tzinfo=UTC))
    database.write_sync(lambda tx: ledger.append(tx, "genesis", {}))
    assert _entries(database)[0]["ts"] == "2026-01-01T00:00:00.000000Z"


@pytest.mark.parametrize("key", sorted(OWN_KEYS))
def test_a_body_cant_hold_the_ledgers_own_members(database: Database, key: str) -> None:
    with pytest.raises(InternalError) as refused:
        _append(database, "genesis", {key: "x"})
    assert refused.value.reason == "LEDGER_BODY_INVALID"
    assert key in refused.value.message


@pytest.mark.parametrize("entry_type", ["", "GENESIS", "intents", "intent ", "made.up"])
def test_an_unknown_type_is_refused(database: Database, entry_type: str) -> None:
    _append(database, "genesis")
    with pytest.raises(InternalError) as refused:
        _append(database, entry_type)
    assert refused.value.reason == "UNKNOWN_ENTRY_TYPE"


@pytest.mark.parametrize("entry_type", sorted(ENTRY_TYPES - {"genesis"}))
def test_only_the_genesis_comes_first(database: Database, entry_type: str) -> None:
    with pytest.raises(FailedPreconditionError) as refused:
        _append(database, entry_type)
    assert refused.value.reason == "LEDGER_EMPTY"
    _append(database, "genesis")
    assert _append(database, entry_type) == 1


def test_there_is_one_genesis(database: Database) -> None:
    _append(database, "genesis")
    with pytest.raises(FailedPreconditionError) as refused:
        _append(database, "genesis")
    assert refused.value.reason == "LEDGER_NOT_EMPTY"


def test_an_entry_is_shorter_than_64_kib(database: Database) -> None:
    _append(database, "genesis")
    overhead = len(database.read_sync(lambda tx: tx.ledger.entries(0, 1))[0].data) + len(',"x":""') + 2
    assert _append(database, "heartbeat", {"x": "a" * (65535 - overhead)}) == 1
    assert len(database.read_sync(lambda tx: tx.ledger.entries(1, 1))[0].data) == 65535
    with pytest.raises(InvalidArgumentError) as refused:
        _append(database, "heartbeat", {"x": "a" * (65536 - overhead)})
    assert refused.value.reason == "ENTRY_TOO_LARGE"
    with pytest.raises(InvalidArgumentError):
        _append(database, "heartbeat", {"x": "a" * 2**24})
    assert len(_entries(database)) == 2


@pytest.mark.parametrize("value", [float("nan"), 0.5, 1.0, 2**53, 2.0**60, "\ud800", b"bytes", MOMENT, object()])
def test_what_is_no_json_is_refused_and_not_shown(database: Database, value: Any) -> None:  # noqa: ANN401 - any wrong one
    _append(database, "genesis")
    with pytest.raises(InternalError) as refused:
        _append(database, "heartbeat", {"x": [value]})
    assert refused.value.reason == "LEDGER_BODY_INVALID"
    assert repr(value) not in refused.value.message


def test_nothing_is_recorded_of_a_transaction_that_fails(database: Database) -> None:
    _append(database, "genesis")

    def fail(tx: Any) -> None:  # noqa: ANN401 - a transaction
        LEDGER.append(tx, "intent", {}, agent="agt_1")
        raise BrokerError("no")

    with pytest.raises(BrokerError):
        database.write_sync(fail)
    assert len(_entries(database)) == 1
    assert _append(database, "intent", agent="agt_1") == 1
    assert _entries(database)[1]["agent"]["seq"] == 0


def test_a_clock_without_a_zone_is_refused(database: Database) -> None:
    ledger = Ledger("o", "b", lambda: MOMENT.replace(tzinfo=None))
    with pytest.raises(InternalError) as refused:
        database.write_sync(lambda tx: ledger.append(tx, "genesis", {}))
    assert refused.value.reason == "NAIVE_TIME"


def test_the_origin_is_read_from_the_genesis(database: Database) -> None:
    with pytest.raises(FailedPreconditionError):
        database.read_sync(read_origin)
    _append(database, "genesis", genesis_body(trust_domain="example.org", software="test 1"))
    assert database.read_sync(read_origin) == "origin-1"
    assert database.read_sync(read_genesis)["trust_domain"] == "example.org"


def test_a_first_entry_that_is_no_genesis_is_told(database: Database) -> None:
    database.write_sync(lambda tx: tx.ledger.insert(StoredEntry(0, "0" * 64, leaf_hash(b"{}"), b"{}")))
    with pytest.raises(DataLossError) as refused:
        database.read_sync(read_origin)
    assert refused.value.reason == "LEDGER_DAMAGED"
