"""Which entries somebody may see, over a real store and the shipped policy."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.domain.call import CallState
from broker.domain.identity import Caller, Certificate, Identity, IdentityKind
from broker.domain.ports import CallRow, EntryKeys, EntryQuery, Transaction
from broker.policy.default import default_policy
from broker.policy.snapshot import Snapshot
from broker.rpc.ledger_sight import Sight
from broker.store.database import Database

NOW = datetime(2026, 1, 1, tzinfo=UTC)
METHOD = "broker.v1.Ledger/ListLedgerEntries"
AUDITOR_AGENT = "g, agent:watcher, role:auditor, finance\n"


def identity(kind: IdentityKind, name: str, owner: str = "") -> Identity:
    return Identity(f"{kind}_{name}", kind, name, owner, "human_olivia", NOW)


PEOPLE = {
    item.name: item
    for item in (
        identity(IdentityKind.HUMAN, "olivia"),
        identity(IdentityKind.HUMAN, "eve"),
        identity(IdentityKind.AGENT, "scout", "human_olivia"),
        identity(IdentityKind.AGENT, "spy", "human_eve"),
        identity(IdentityKind.AGENT, "watcher", "human_eve"),
    )
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    path: Path = tmp_path_factory.mktemp("store") / "broker.db"
    Database.create(path)

    def fill(tx: Transaction) -> None:
        for item in PEOPLE.values():
            tx.identities.insert(item)
        row = CallRow(
            id="call_scout",
            agent=PEOPLE["scout"].id,
            owner="human_olivia",
            tool="python.run",
            tool_version="sha256:1",
            workspace="finance",
            workflow="",
            state=CallState.RUNNING,
            tier=1,
            request_id="",
            request_digest="",
            created=NOW,
        )
        tx.calls.insert(row)

    with Database.open_sync(path) as opened:
        opened.write_sync(fill)
        yield opened


def sees(store: Database, name: str, keys: EntryKeys, grants: str = "") -> bool:
    policy = Snapshot.load(default_policy("olivia") + grants)
    caller = Caller(PEOPLE[name], Certificate("f", PEOPLE[name].id, b"", NOW, NOW))
    return store.read_sync(lambda tx: Sight(policy, tx, caller, METHOD).sees(keys))


CHAIN = EntryKeys("intent", "", agent="agent_scout", workspace="demo")
CALL = EntryKeys("vote", "", call_id="call_scout")
OTHER_CALL = EntryKeys("vote", "", call_id="call_unknown")
NOBODYS = EntryKeys("policy.changed", "")
PUBLIC = EntryKeys("genesis", "")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scout", {CHAIN, CALL, PUBLIC}),
        ("spy", {PUBLIC}),
        ("eve", {PUBLIC}),
        ("olivia", {CHAIN, CALL, OTHER_CALL, NOBODYS, PUBLIC}),
    ],
)
def test_what_is_of_ones_own_and_what_the_policy_adds(store: Database, name: str, expected: set[EntryKeys]) -> None:
    assert {keys for keys in (CHAIN, CALL, OTHER_CALL, NOBODYS, PUBLIC) if sees(store, name, keys)} == expected


def test_a_role_in_one_workspace_shows_what_lies_there_and_no_more(store: Database) -> None:
    in_finance = EntryKeys("intent", "", agent="agent_scout", workspace="finance")
    seen = {keys for keys in (in_finance, CALL, CHAIN, NOBODYS) if sees(store, "watcher", keys, AUDITOR_AGENT)}
    assert seen == {in_finance, CALL}, "a call's entries lie where the call does"
    assert not sees(store, "watcher", in_finance)


@pytest.mark.parametrize("workspace", ["other", "-", "*", "\x00", "x" * 400])
def test_an_entry_in_an_odd_workspace_is_shown_to_no_stranger(store: Database, workspace: str) -> None:
    odd = EntryKeys("intent", "", agent="agent_scout", workspace=workspace)
    assert not sees(store, "spy", odd)
    assert not sees(store, "watcher", odd, AUDITOR_AGENT)


def test_an_agents_listing_is_narrowed_only_where_that_loses_nothing(store: Database) -> None:
    def narrowed(name: str, query: EntryQuery, grants: str = "") -> EntryQuery:
        policy = Snapshot.load(default_policy("olivia") + grants)
        caller = Caller(PEOPLE[name], Certificate("f", PEOPLE[name].id, b"", NOW, NOW))
        return store.read_sync(lambda tx: Sight(policy, tx, caller, METHOD).narrowed(query))

    assert narrowed("spy", EntryQuery()).agent == "agent_spy"
    assert narrowed("spy", EntryQuery(types=frozenset({"intent"}))).agent == "agent_spy"
    for query in (
        EntryQuery(agent="agent_scout"),
        EntryQuery(call_id="call_scout"),
        EntryQuery(types=frozenset({"genesis", "intent"})),
    ):
        assert narrowed("spy", query) == query
    assert narrowed("watcher", EntryQuery(), AUDITOR_AGENT) == EntryQuery()
    assert narrowed("eve", EntryQuery()) == EntryQuery()
