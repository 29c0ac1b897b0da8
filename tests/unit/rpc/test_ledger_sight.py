"""Which entries somebody may see, over a real store and the shipped policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from broker.domain.call import CallState
from broker.domain.identity import Caller, Certificate, Identity, IdentityKind
from broker.domain.ports import CallRow, EntryKeys, EntryQuery, Transaction
from broker.ledger.index import catch_up
from broker.ledger.ledger import Ledger
from broker.ledger.reading import PUBLIC_TYPES
from broker.policy.default import default_policy
from broker.policy.snapshot import Snapshot
from broker.rpc.ledger import LedgerService
from broker.rpc.ledger_sight import Sight
from broker.store.database import Database
from broker.v1 import ledger_pb2 as pb

NOW = datetime(2026, 1, 1, tzinfo=UTC)
METHOD = "broker.v1.Ledger/ListEntries"
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

    with Database.open_sync(path) as opened:
        opened.write_sync(people)
        yield opened


def people(tx: Transaction) -> None:
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
    tx.calls.insert(replace(row, id="call_spy", agent=PEOPLE["spy"].id, owner="human_eve"))


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


def narrowed(store: Database, name: str, query: EntryQuery, grants: str = "") -> tuple[EntryQuery, ...]:
    policy = Snapshot.load(default_policy("olivia") + grants)
    caller = Caller(PEOPLE[name], Certificate("f", PEOPLE[name].id, b"", NOW, NOW))
    return store.read_sync(lambda tx: Sight(policy, tx, caller, METHOD).narrowed(query))


def test_an_agents_listing_finds_nothing_that_is_not_its_own_or_public(store: Database) -> None:
    own, intent = EntryQuery(agent="agent_spy"), frozenset({"intent"})
    public, mixed = frozenset({"genesis"}), frozenset({"genesis", "intent"})
    for asked, expected in (
        (EntryQuery(), [own]),
        (own, [own]),
        (EntryQuery(types=intent), [EntryQuery(types=intent, agent="agent_spy")]),
        (EntryQuery(types=mixed), [EntryQuery(types=mixed, agent="agent_spy"), EntryQuery(types=public)]),
        (EntryQuery(workspace="finance"), [EntryQuery(workspace="finance", agent="agent_spy")]),
        (EntryQuery(agent="agent_scout"), []),
        (EntryQuery(agent="agent_scout", types=mixed), []),
        (EntryQuery(agent="agent_scout", call_id="call_scout"), []),
        (EntryQuery(call_id="call_scout"), [EntryQuery(call_id="call_scout", agent="agent_spy")]),
        (EntryQuery(call_id="call_unknown"), [EntryQuery(call_id="call_unknown", agent="agent_spy")]),
        # Whatever is about its own call is its to see, in whichever chain.
        (EntryQuery(call_id="call_spy"), [EntryQuery(call_id="call_spy")]),
    ):
        assert list(narrowed(store, "spy", asked)) == expected, asked


def test_a_humans_listing_finds_what_is_of_their_agents_and_public(store: Database) -> None:
    theirs = [EntryQuery(agent="agent_spy"), EntryQuery(agent="agent_watcher")]
    found = sorted(narrowed(store, "eve", EntryQuery()), key=lambda query: (not query.agent, query.agent))
    assert found == [*theirs, EntryQuery(types=PUBLIC_TYPES)]
    assert narrowed(store, "eve", theirs[0]) == (theirs[0],)
    assert narrowed(store, "eve", EntryQuery(agent="agent_scout")) == ()
    assert EntryQuery(call_id="call_scout") not in narrowed(store, "eve", EntryQuery(call_id="call_scout"))
    assert narrowed(store, "olivia", EntryQuery()) == (EntryQuery(),)


def test_what_somebody_oversees_is_not_narrowed(store: Database) -> None:
    for query in (
        EntryQuery(),
        EntryQuery(agent="agent_scout"),
        EntryQuery(workspace="finance", agent="agent_scout"),
        EntryQuery(call_id="call_scout"),
        EntryQuery(call_id="call_unknown"),
    ):
        assert narrowed(store, "watcher", query, AUDITOR_AGENT) == (query,), query
    other = EntryQuery(workspace="demo", agent="agent_scout")
    assert narrowed(store, "watcher", other, AUDITOR_AGENT) == ()
    own = EntryQuery(workspace="demo")
    assert narrowed(store, "watcher", own, AUDITOR_AGENT) == (replace(own, agent="agent_watcher"),)


def logged(path: Path, *, busy: bool, indexed: bool) -> Iterator[Database]:
    """A log in which scout did a lot, or nothing; all else is the same."""
    Database.create(path)
    ledger = Ledger("o", "boot_1", lambda: NOW)

    def fill(tx: Transaction) -> None:
        people(tx)
        ledger.append(tx, "genesis", {})
        for number in range(2300):
            if number % 500 == 0:
                ledger.append(tx, "intent", {"workspace": "demo", "call_id": "call_spy"}, agent="agent_spy")
            if number % 2 and busy:
                body = {"workspace": "finance", "call_id": "call_scout", "tool": {"name": "python.run"}}
                ledger.append(tx, "intent", body, agent="agent_scout")
            else:
                ledger.append(tx, "heartbeat", {})
        while indexed and catch_up(tx):
            pass

    with Database.open_sync(path) as opened:
        opened.write_sync(fill)
        yield opened


@pytest.fixture(scope="module", params=[True, False], ids=["indexed", "not indexed"])
def logs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Database, Database]]:
    folder = tmp_path_factory.mktemp("logs")
    makers = [logged(folder / f"{busy}.db", busy=busy, indexed=request.param) for busy in (True, False)]
    busy, quiet = map(next, makers)
    yield busy, quiet
    for maker in makers:
        next(maker, None)


FILTERS = {
    "none": {},
    "agent by id": {"agent": "agent_scout"},
    "agent by name": {"agent": "scout"},
    "agent and type": {"agent": "scout", "types": ["intent"]},
    "agent and public type": {"agent": "scout", "types": ["genesis", "intent"]},
    "call": {"call": "calls/call_scout"},
    "agent and call": {"agent": "scout", "call": "calls/call_scout"},
    "type": {"types": ["intent"]},
    "public type too": {"types": ["genesis", "intent"]},
    "workspace": {"workspace": "finance"},
    "tool": {"tool": "tools/python.run"},
    "own call": {"call": "calls/call_spy"},
}


@pytest.mark.parametrize("chosen", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("name", ["spy", "eve"])
async def test_pages_and_their_tokens_tell_nothing_of_what_others_did(
    logs: tuple[Database, Database], name: str, *, newest_first: bool, chosen: dict[str, Any]
) -> None:
    pages = [await all_pages(log, name, newest_first=newest_first, chosen=chosen) for log in logs]
    assert pages[0] == pages[1]
    entries = [seq for page, _ in pages[0] for seq in page]
    assert len(entries) == len(set(entries))
    assert bool(entries) == (
        not {"agent", "workspace", "tool"} & chosen.keys() and chosen.get("call") != FILTERS["call"]["call"]
    )
    assert entries == sorted(entries, reverse=newest_first)


async def test_whom_the_policy_shows_all_sees_the_difference(logs: tuple[Database, Database]) -> None:
    chosen = FILTERS["agent by name"]
    busy, quiet = [await all_pages(log, "olivia", newest_first=False, chosen=chosen) for log in logs]
    assert sum(len(page) for page, _ in busy) == 1150
    assert sum(len(page) for page, _ in quiet) == 0


async def all_pages(
    store: Database, name: str, *, newest_first: bool, chosen: dict[str, Any]
) -> list[tuple[list[int], str]]:
    policy = Snapshot.load(default_policy("olivia"))
    parts: Any = SimpleNamespace(store=store, policy=SimpleNamespace(snapshot=policy))
    unused: Any = None
    service = LedgerService(parts, unused)
    caller = Caller(PEOPLE[name], Certificate("f", PEOPLE[name].id, b"", NOW, NOW))
    pages, token = [], ""
    while True:
        request = pb.ListEntriesRequest(
            filter=pb.LedgerEntryFilter(**chosen), newest_first=newest_first, page_size=3, page_token=token
        )
        answer = await service.ListEntries(caller, request, unused)
        token = answer.next_page_token
        pages.append(([entry.seq for entry in answer.entries], token))
        if not token:
            return pages
