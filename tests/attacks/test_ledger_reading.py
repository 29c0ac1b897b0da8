"""Callers that want to read of the ledger what isn't theirs, or more of it than anybody should get at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from broker.client import AsyncBroker, EntryFilter, LedgerEntry
from broker.client.connection import Endpoint
from broker.client.errors import from_rpc_error
from broker.errors import (
    BrokerError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from broker.v1 import ledger_pb2 as pb
from broker.v1.ledger_pb2_grpc import LedgerStub
from tests.log_world import publish, write
from tests.served import OPERATOR, Served, command_json, issue, make_state, serving

PUBLIC = {"genesis", "heads"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A broker with two owners of agents: scout is olivia's, spy is eve's."""
    state = tmp_path_factory.mktemp("broker") / "state"
    make_state(state, settings={"checkpoint_interval_s": 86400})
    issue(state, {"eve": "", "spy": "eve"})
    with serving(state) as broker:
        yield broker


@pytest.fixture(scope="module")
def scouts(served: Served) -> list[int]:
    """Entries of scout's own chain, two of them about a call."""

    async def work() -> list[int]:
        async with served.human() as olivia, served.client("scout") as refused:
            scout = await _id(olivia, "scout")
            with pytest.raises(PermissionDeniedError):
                await refused.status()  # on record under the workspace `-`, in which every agent may read something
        body = {"workspace": "demo", "tool": {"name": "made.up"}, "call_id": "call_" + "1" * 26}
        entries = ("intent", scout, body), ("outcome", scout, body), ("decision", scout, {})
        return list(await write(served.state, *entries))

    return asyncio.run(work())


async def _id(broker: AsyncBroker, name: str) -> str:
    found = [item.name async for item in broker.list_identities() if item.display_name == name]
    return found[0].removeprefix("identities/")


@pytest.fixture
async def spy(served: Served) -> AsyncIterator[AsyncBroker]:
    async with served.client("spy") as broker:
        yield broker


@pytest.fixture
async def wire(served: Served) -> AsyncIterator[LedgerStub]:
    """The bare service under the spy's certificate: requests that no client of ours would send."""
    endpoint = Endpoint.load(
        served.address,
        identity=served.identity("agent", "spy"),
        ca=served.state / "ca" / "ca.pem",
        unsafe_plaintext=False,
    )
    async with endpoint.channel() as channel:
        yield LedgerStub(channel)


async def ask(method: Any, request: object) -> Any:  # noqa: ANN401 - any method of the stub
    try:
        return await method(request, timeout=20)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, "broker") from error


async def listed(broker: AsyncBroker, chosen: EntryFilter | None = None, **options: object) -> list[LedgerEntry]:
    return [entry async for entry in broker.ledger.list(chosen, **options)]


async def test_an_agent_gets_no_entry_of_another(served: Served, scouts: list[int], spy: AsyncBroker) -> None:
    await publish(served.state)
    for seq in (*scouts, 1, 12, 10**9):
        with pytest.raises(NotFoundError) as caught:
            await spy.ledger.get(seq)
        assert caught.value.reason == "ENTRY_NOT_FOUND"
        assert caught.value.message == f"entries/{seq} doesn't exist, or is not yours to see", "both look the same"
    with pytest.raises(NotFoundError) as proof:
        await spy.ledger.prove(scouts[0])
    assert proof.value.reason == "ENTRY_NOT_FOUND"


@pytest.mark.parametrize("newest_first", [False, True])
async def test_no_filter_shows_an_agent_what_is_not_its_own(
    served: Served, scouts: list[int], spy: AsyncBroker, *, newest_first: bool
) -> None:
    with pytest.raises(PermissionDeniedError):
        await spy.status()  # a refusal on record: the spy's own
    async with served.human() as olivia:
        own, scout = await _id(olivia, "spy"), await _id(olivia, "scout")
    for chosen in (
        EntryFilter(),
        EntryFilter(agent="scout"),
        EntryFilter(agent=scout),
        EntryFilter(call="call_" + "1" * 26),
        EntryFilter(workspace="demo"),
        EntryFilter(workspace="-"),
        EntryFilter(tool="made.up"),
        EntryFilter(types=("intent", "outcome", "decision", "identity.issued", "policy.changed", "heartbeat")),
        EntryFilter(types=("genesis", "intent", "outcome", "decision", "identity.issued", "heartbeat")),
        EntryFilter(first_seq=scouts[0], before_seq=scouts[-1] + 1),
        EntryFilter(time_from=datetime(2020, 1, 1, tzinfo=UTC)),
    ):
        entries = await listed(spy, chosen, newest_first=newest_first, page_size=2)
        assert all(entry.agent == own or entry.type in PUBLIC for entry in entries), chosen
    refusals = await listed(spy, EntryFilter(types=("decision",)))
    assert [entry.agent for entry in refusals] == [own] * len(refusals)
    assert refusals


async def test_a_watch_shows_an_agent_nothing_else_either(served: Served, scouts: list[int], spy: AsyncBroker) -> None:
    async with served.human() as olivia:
        own, scout = await _id(olivia, "spy"), await _id(olivia, "scout")
    async with asyncio.timeout(30), aclosing(spy.ledger.watch(EntryFilter(first_seq=scouts[0]))) as entries:
        await write(served.state, ("intent", scout, {"workspace": "demo"}), ("vote", own, {"text": "mine"}))
        seen = [await anext(entries)]
        while seen[-1].type != "vote":
            seen.append(await anext(entries))
    assert {entry.agent for entry in seen} == {own}


async def test_the_head_of_anothers_chain_is_not_shown(served: Served, spy: AsyncBroker) -> None:
    await publish(served.state)
    for name in ("scout", "nobody"):
        with pytest.raises(NotFoundError) as caught:
            await spy.ledger.agent_head(name)
        assert caught.value.reason == "AGENT_NOT_FOUND"
    assert (await spy.ledger.agent_head()).agent


async def test_a_human_sees_what_is_of_their_own_agents_and_no_more(served: Served, scouts: list[int]) -> None:
    async with served.human() as olivia, served.human("eve") as eve:
        own = await _id(olivia, "spy")
        assert {entry.seq for entry in await listed(olivia)} > set(scouts)
        seen = await listed(eve)
        assert {entry.agent for entry in seen if entry.type not in PUBLIC} == {own}
        with pytest.raises(NotFoundError):
            await eve.ledger.get(scouts[0])
        with pytest.raises(NotFoundError):
            await eve.ledger.agent_head("scout")


async def test_a_page_token_of_another_request_is_refused(served: Served, wire: LedgerStub) -> None:
    await publish(served.state)
    first = pb.ListEntriesRequest(page_size=1)
    first.filter.types.extend(["genesis", "heads", "decision"])
    page = await ask(wire.ListEntries, first)
    token = page.next_page_token
    assert token
    other = pb.ListEntriesRequest(page_size=1, page_token=token)
    turned = pb.ListEntriesRequest(page_size=1, page_token=token, filter=first.filter, newest_first=True)
    made_up = [
        pb.ListEntriesRequest(page_token=text, filter=first.filter) for text in ("7", "x" * 5000, "0-" + "0" * 32)
    ]
    for request in (other, turned, *made_up):
        with pytest.raises(InvalidArgumentError) as caught:
            await ask(wire.ListEntries, request)
        assert caught.value.reason == "INVALID_PAGE_TOKEN"
    async with served.client() as scout:
        rpc, theirs = scout._rpc, pb.ListEntriesRequest(page_size=1, page_token=token, filter=first.filter)
        with pytest.raises(InvalidArgumentError):
            await rpc.ask(rpc.ledger.ListEntries, theirs)
    again = pb.ListEntriesRequest(page_size=2, page_token=token, filter=first.filter)
    assert (await ask(wire.ListEntries, again)).entries[0].seq > page.entries[0].seq


async def test_no_limit_makes_an_answer_boundless(served: Served) -> None:
    await write(served.state, *[("heartbeat", "", {"text": "x" * 60_000})] * 200)
    async with served.human() as olivia:
        rpc = olivia._rpc
        request = pb.ListEntriesRequest(page_size=2**31 - 1)
        sizes, token, count = [], "", 0
        while True:
            request.page_token = token
            page = await rpc.ask(rpc.ledger.ListEntries, request)
            sizes.append(page.ByteSize())
            count += len(page.entries)
            token = page.next_page_token
            if not token:
                break
        assert count == len(await listed(olivia)) > 200
        assert max(sizes) < 5 << 20
        assert len(sizes) >= 3


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("GetEntry", pb.GetEntryRequest(), "name"),
        ("GetEntry", pb.GetEntryRequest(name="entries/-1"), "name"),
        ("GetEntry", pb.GetEntryRequest(name="entries/01"), "name"),
        ("GetEntry", pb.GetEntryRequest(name="entries/\u0661"), "name"),
        ("GetEntry", pb.GetEntryRequest(name="entries/" + "9" * 19), "name"),
        ("GetEntry", pb.GetEntryRequest(name="calls/1"), "name"),
        ("GetCheckpoint", pb.GetCheckpointRequest(), "name"),
        ("GetCheckpoint", pb.GetCheckpointRequest(name="checkpoints/../../keys"), "name"),
        ("GetCheckpoint", pb.GetCheckpointRequest(name="checkpoints/next"), "name"),
        ("GetInclusionProof", pb.GetInclusionProofRequest(entry="x"), "entry"),
        ("GetInclusionProof", pb.GetInclusionProofRequest(entry="entries/0", checkpoint="x"), "checkpoint"),
        ("GetConsistencyProof", pb.GetConsistencyProofRequest(old_size=-1), "old_size"),
        ("GetConsistencyProof", pb.GetConsistencyProofRequest(old_size=2**62), "old_size"),
        ("ListEntries", pb.ListEntriesRequest(page_size=-1), "page_size"),
        (
            "ListEntries",
            pb.ListEntriesRequest(filter=pb.LedgerEntryFilter(types=["heads"] * 65)),
            "filter.types",
        ),
        (
            "ListEntries",
            pb.ListEntriesRequest(filter=pb.LedgerEntryFilter(types=["a' OR 1=1"])),
            "filter.types[0]",
        ),
        (
            "ListEntries",
            pb.ListEntriesRequest(filter=pb.LedgerEntryFilter(agent="x" * 300)),
            "filter.agent",
        ),
        (
            "ListEntries",
            pb.ListEntriesRequest(filter=pb.LedgerEntryFilter(first_seq=-1)),
            "filter.first_seq",
        ),
        ("ListEntries", pb.ListEntriesRequest(filter=pb.LedgerEntryFilter(call="x")), "filter.call"),
        (
            "ListEntries",
            pb.ListEntriesRequest(filter=pb.LedgerEntryFilter(time_from={"seconds": 2**60})),
            "filter.time_from",
        ),
    ],
)
async def test_what_makes_no_sense_is_refused_with_its_field(
    served: Served, wire: LedgerStub, method: str, request_: object, field: str
) -> None:
    await publish(served.state)
    with pytest.raises(InvalidArgumentError) as caught:
        await ask(getattr(wire, method), request_)
    assert [item.field for item in caught.value.violations] == [field]


async def test_a_watch_with_an_end_and_too_many_watches_are_refused(wire: LedgerStub) -> None:
    bounded = wire.Watch(pb.WatchRequest(filter=pb.LedgerEntryFilter(before_seq=3)), timeout=20)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bounded.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    async with AsyncExitStack() as stack:
        for _ in range(16):
            stream = wire.Watch(pb.WatchRequest(filter=pb.LedgerEntryFilter(types=["genesis"])), timeout=60)
            stack.callback(stream.cancel)
            assert (await stream.read()).entry.seq == 0
        with pytest.raises(grpc.aio.AioRpcError) as busy:
            await wire.Watch(pb.WatchRequest(), timeout=20).read()
    error = from_rpc_error(busy.value, "broker")
    assert isinstance(error, ResourceExhaustedError)
    assert error.reason == "WATCHES_BUSY"


async def test_a_policy_without_the_rule_denies_every_method_and_calls_go_on(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = served.state / "policy" / "policy.csv"
    before = policy.read_text("utf-8")
    policy.write_text("".join(line for line in before.splitlines(keepends=True) if "agent-ledger" not in line), "utf-8")
    command_json(served.state, "policy", "reload", "--identity", f"human/{OPERATOR}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # nothing is remembered there: then it isn't missed either
    try:
        async with served.client("spy") as spy:
            for work in (
                spy.ledger.get(0),
                listed(spy),
                anext(spy.ledger.watch()),
                spy.ledger.checkpoint(),
                spy.ledger.prove(0),
                spy.ledger.agent_head(),
            ):
                with pytest.raises(PermissionDeniedError) as caught:
                    await work
                assert caught.value.metadata["rule"] == "default-deny"
            assert [tool async for tool in spy.list_tools("demo")]
    finally:
        policy.write_text(before, "utf-8")
        command_json(served.state, "policy", "reload", "--identity", f"human/{OPERATOR}")


async def test_a_watch_ends_when_its_caller_loses_the_right(served: Served) -> None:
    command_json(served.state, "identity", "issue", "agent", "mole", "--owner", "eve")
    chosen = EntryFilter(types=("genesis",))
    async with served.client("mole") as mole, asyncio.timeout(30), aclosing(mole.ledger.watch(chosen)) as entries:
        assert (await anext(entries)).seq == 0
        command_json(served.state, "identity", "revoke", "agent", "mole", "--reason", "test")
        with pytest.raises(BrokerError) as caught:
            await anext(entries)
    assert caught.value.reason in {"CERTIFICATE_REVOKED", "IDENTITY_REVOKED"}
