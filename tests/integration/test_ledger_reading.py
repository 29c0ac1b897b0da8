"""Reading the ledger of a real broker over mutual TLS: entries, the watch, checkpoints and proofs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from broker.client import AsyncBroker, Broker, EntryFilter, LedgerEntry
from broker.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.merkle import EMPTY_ROOT, leaf_hash
from broker.tlog.note import VerifierKey
from broker.tlog.proof import TlogProof
from broker.v1 import ledger_pb2 as pb
from tests.log_world import publish, write
from tests.served import OPERATOR, Served, command_json, ledger, make_state, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A broker whose own checkpoints come too seldom to disturb."""
    state = tmp_path_factory.mktemp("broker") / "state"
    make_state(state, agents={"scout": OPERATOR, "rover": OPERATOR}, settings={"checkpoint_interval_s": 86400})
    with serving(state) as broker:
        yield broker


@pytest.fixture
async def olivia(served: Served) -> Iterator[AsyncBroker]:
    """The operator, who sees all."""
    async with served.human() as broker:
        yield broker


async def agent_id(broker: AsyncBroker, name: str) -> str:
    found = [item async for item in broker.list_identities() if item.display_name == name]
    return found[0].name.removeprefix("identities/")


async def listed(broker: AsyncBroker, chosen: EntryFilter | None = None, **options: object) -> list[LedgerEntry]:
    return [entry async for entry in broker.ledger.list(chosen, **options)]


async def test_entries_are_listed_as_they_lie_in_the_file(served: Served, olivia: AsyncBroker) -> None:
    entries = await listed(olivia, page_size=3)
    on_record = ledger(served.state)
    assert [entry.body for entry in entries][: len(on_record)] == on_record
    assert [entry.seq for entry in entries] == list(range(len(entries)))
    assert all(entry.leaf == leaf_hash(entry.data) for entry in entries)
    assert [entry.seq for entry in await listed(olivia, newest_first=True, page_size=4)] == list(
        reversed(range(len(entries)))
    )
    first = await olivia.ledger.get(0)
    assert (first, first.type, first.time.tzinfo) == (entries[0], "genesis", UTC)


async def test_filters_and_paging_agree_in_both_orders(served: Served, olivia: AsyncBroker) -> None:
    scout = await agent_id(olivia, "scout")
    begin = datetime.now(UTC)
    call = "call_" + "0" * 26
    body = {"call_id": call, "workspace": "demo", "tool": {"name": "made.up"}}
    written = [
        (await write(served.state, *[("intent", scout, body), ("outcome", scout, {**body, "workspace": "other"})]))
        for _ in range(5)
    ]
    intents, outcomes = zip(*written, strict=True)
    both = sorted((*intents, *outcomes))
    for chosen, expected in (
        (EntryFilter(types=("intent",), call=call), intents),
        (EntryFilter(types=("intent", "outcome"), agent="scout", call=f"calls/{call}"), both),
        (EntryFilter(workspace="other"), outcomes),
        (EntryFilter(tool="tools/made.up", first_seq=intents[2]), both[4:]),
        (EntryFilter(tool="made.up", before_seq=intents[2]), both[:4]),
        (EntryFilter(time_from=begin, agent=scout), both),
        (EntryFilter(time_from=begin + timedelta(days=1)), ()),
        (EntryFilter(time_before=begin, call=call), ()),
        (EntryFilter(agent="nobody"), ()),
    ):
        for size in (1, 3, 0):
            assert [item.seq for item in await listed(olivia, chosen, page_size=size)] == list(expected), chosen
            turned = await listed(olivia, chosen, page_size=size, newest_first=True)
            assert [item.seq for item in turned] == list(reversed(expected)), chosen


async def test_a_watch_gives_what_is_past_and_then_what_comes(served: Served, olivia: AsyncBroker) -> None:
    (first,) = await write(served.state, ("heartbeat", "", {"text": "0"}))
    chosen = EntryFilter(types=("heartbeat",), first_seq=first)
    async with asyncio.timeout(30), aclosing(olivia.ledger.watch(chosen)) as entries:
        assert (await anext(entries)).body["text"] == "0"
        for number in range(1, 20):
            await write(served.state, ("policy.changed", "", {}), ("heartbeat", "", {"text": str(number)}))
            assert (await anext(entries)).body["text"] == str(number)


async def test_a_reader_who_is_slow_holds_nobody_up_and_misses_nothing(served: Served, olivia: AsyncBroker) -> None:
    (first,) = await write(served.state, ("heartbeat", "", {"text": "begin"}))
    async with asyncio.timeout(60), aclosing(olivia.ledger.watch(EntryFilter(first_seq=first))) as entries:
        await anext(entries)
        written = []
        for _ in range(8):
            bulk = [("heartbeat", "", {"text": "x" * 50_000})] * 40  # 16 MB in all: more than any buffer on the way
            written += await write(served.state, *bulk)
        await olivia.status()
        got = [await anext(entries) for _ in written]
    assert [entry.seq for entry in got] == list(written)


async def test_a_checkpoint_and_its_proofs(served: Served, olivia: AsyncBroker) -> None:
    await write(served.state, *[("heartbeat", "", {})] * 5)
    old = Checkpoint.parse((await publish(served.state)).text)
    await write(served.state, *[("heartbeat", "", {})] * 300)
    note = await publish(served.state)
    found = await olivia.ledger.checkpoint()
    assert found.note == note
    assert (await olivia.ledger.checkpoint(old.size)).checkpoint == old
    key = VerifierKey.parse(ledger(served.state, "--type", "genesis")[0]["checkpoint_key"])
    for seq in (0, 1, old.size - 1, old.size, found.size - 1):
        proven = await olivia.ledger.prove(seq)
        assert TlogProof.parse(proven.file).verify(leaf_hash(proven.entry.data), [key]) == found.checkpoint
    assert (await olivia.ledger.prove(1, old.size)).checkpoint == old
    grown = await olivia.ledger.consistency(old)
    assert (grown.checkpoint.size, bool(grown.hashes)) == (found.size, True)
    assert (await olivia.ledger.consistency(found.checkpoint)).hashes == ()


async def test_the_end_of_an_agents_chain_is_proved_as_of_a_checkpoint(served: Served, olivia: AsyncBroker) -> None:
    rover = await agent_id(olivia, "rover")
    (number,) = await write(served.state, ("intent", rover, {"workspace": "demo"}))
    size = Checkpoint.parse((await publish(served.state)).text).size
    last = await olivia.ledger.get(number)
    await write(served.state, ("outcome", rover, {"workspace": "demo"}))  # after the heads entry: not in it
    head = await olivia.ledger.agent_head("rover", size)
    assert (head.agent, head.seq, head.leaf) == (rover, last.body["agent"]["seq"], last.leaf)
    async with served.client("rover") as agent:
        assert (await agent.ledger.agent_head(size=size)).leaf == last.leaf
    await publish(served.state)
    assert (await olivia.ledger.agent_head(rover)).seq == head.seq + 1


async def test_what_cannot_be_proved_is_refused_with_a_hint(served: Served, olivia: AsyncBroker) -> None:
    size = Checkpoint.parse((await publish(served.state)).text).size
    (late,) = await write(served.state, ("heartbeat", "", {}))
    with pytest.raises(FailedPreconditionError) as uncovered:
        await olivia.ledger.prove(late)
    assert uncovered.value.reason == "ENTRY_NOT_COVERED"
    for ask in (
        olivia.ledger.prove(1, size - 1),
        olivia.ledger.checkpoint(size + 1),
        olivia.ledger.agent_head("rover", 1),
    ):
        with pytest.raises(NotFoundError) as missing:
            await ask
        assert missing.value.reason == "CHECKPOINT_NOT_FOUND"
        assert f"checkpoints/{size}" in missing.value.hint
    for wrong in (0, size + 1):
        with pytest.raises(InvalidArgumentError) as caught:
            await olivia.ledger.consistency(Checkpoint("x", wrong, EMPTY_ROOT))
        assert caught.value.violations[0].field == "old_size"


async def test_an_auditor_reads_all_and_does_nothing_else(served: Served) -> None:
    policy = served.state / "policy" / "policy.csv"
    state = served.state
    command_json(state, "identity", "issue", "human", "audrey")
    policy.write_text(policy.read_text("utf-8") + "g, human:audrey, role:auditor, *\n", "utf-8")
    command_json(state, "policy", "reload", "--identity", "human/olivia")
    async with served.human("audrey") as audrey, served.human() as olivia:
        assert await listed(audrey, EntryFilter(before_seq=12)) == await listed(olivia, EntryFilter(before_seq=12))
        assert (await audrey.ledger.agent_head("rover")).seq is not None
        for ask in (audrey.status(), audrey.run("python.run", {}), audrey.reload_policy()):
            with pytest.raises(PermissionDeniedError):
                await ask


def test_the_synchronous_client_reads_the_same(served: Served) -> None:
    asyncio.run(publish(served.state))
    with Broker.connect(
        served.address, identity=served.identity("human", OPERATOR), ca=served.state / "ca" / "ca.pem"
    ) as broker:
        found = broker.ledger.checkpoint()
        assert broker.ledger.prove(0).entry == broker.ledger.get(0) == next(broker.ledger.list())
        assert broker.ledger.consistency(found.checkpoint).hashes == ()
        assert broker.ledger.agent_head("rover").seq is not None
        assert next(broker.ledger.watch(EntryFilter(first_seq=3))).seq == 3


async def test_a_watch_ends_cleanly_when_the_broker_shuts_down(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_state(state, settings={"checkpoint_interval_s": 86400})
    with serving(state) as broker:
        async with broker.human() as olivia, aclosing(olivia.ledger.watch()) as entries:
            bare = olivia._rpc.ledger.Watch(pb.WatchRequest(), timeout=60)
            seen = [await anext(entries)]
            replies = aiter(bare)
            first = [(await anext(replies)).entry.data]
            ended = asyncio.create_task(_rest(entries, seen))
            assert await asyncio.to_thread(broker.stop) == 0
            with pytest.raises(UnavailableError):
                await asyncio.wait_for(ended, 60)
            first += [reply.entry.data async for reply in replies]
            assert await bare.code() is grpc.StatusCode.OK
    on_record = ledger(state)
    assert [entry.body for entry in seen] == on_record, "all that was written while it ended, and nothing twice"
    assert first == [entry.data for entry in seen]


async def _rest(entries: object, seen: list[LedgerEntry]) -> None:
    async for entry in entries:
        seen.append(entry)  # noqa: PERF401 - what came before the end counts too
