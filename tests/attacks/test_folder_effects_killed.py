"""The broker is killed at each step of an effect on a directory of the host: the next start leaves all of it or nothing,
and the record agrees. Where somebody else got in its way, or at its journal, nothing of theirs is overwritten.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from pathlib import Path

import pytest

from broker.client import RetryPolicy
from broker.client.models import CompletedCall
from broker.domain.call import CallState
from broker.errors import BrokerError
from tests.approval_scene import end_of
from tests.folder_effects import dump, write_tree
from tests.killed_broker import BEGUN, POINTS, doomed
from tests.served import DEADLINE_S, Served, command, command_json, ledger, make_state, serving
from tests.tree_world import CHANGE, add_tools, state_of, which

pytestmark = pytest.mark.docker

FILES = {"a.txt": (b"a\n", 0o644), "b.txt": (b"b\n", 0o644), "old/c.txt": (b"c\n", 0o644)}
CODE = """
import os
open("a.txt", "a").write("more\\n"); os.unlink("old/c.txt"); os.rmdir("old")
os.mkdir("new"); open("new/d.txt", "w").write("d\\n")
"""
BEFORE = {**FILES, "empty": None}
AFTER = {
    "a.txt": (b"a\nmore\n", 0o644),
    "b.txt": (b"b\n", 0o644),
    "new/d.txt": (b"d\n", 0o644),
    "empty": None,
}


class Place:
    """A state directory, and the directory that is bound to its workspace."""

    def __init__(self, root: Path) -> None:
        self.state = root / "state"
        self.folder = root / "shop"
        write_tree(self.folder, FILES)
        make_state(self.state, settings={"workspace_folders": {"demo": str(self.folder)}})
        add_tools(self.state)

    @property
    def journal(self) -> Path:
        """Where it lies while an effect is on its way."""
        return self.state / "workspace_folders" / "demo.journal"

    @property
    def staged(self) -> list[Path]:
        """The broker's folders in the directory."""
        return list(self.folder.glob(".broker-staged-*"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def cut(place: Place, point: str, code: str = CODE) -> str:
    """Makes a call, and sees the broker die of it; the call's id."""
    with doomed(place.state, point) as (served, process):
        async with served.client(retry=RetryPolicy(attempts=1)) as agent:
            call = await agent.create_call(CHANGE, {"code": code})
            with suppress(BrokerError):
                async for _ in agent.watch(call):
                    pass
        assert await asyncio.to_thread(process.wait, DEADLINE_S) == -9
    return which(call.name)


async def followed(place: Place, call: str) -> CallState:
    """Serves again, until the call has ended."""
    with serving(place.state) as served:
        async with served.client() as agent:
            return (await end_of(agent, await agent.get_call(f"calls/{call}")))[0].state


async def made(served: Served, code: str) -> CompletedCall:
    async with served.client() as agent:
        return await agent.run(CHANGE, {"code": code})


def settled(place: Place, call: str, *, done: bool) -> None:
    """The directory, the tables and the ledger say the same."""
    assert dump(place.folder) == (AFTER if done else BEFORE)
    assert not place.journal.exists()
    assert command_json(place.state, "ledger", "verify")["verdict"] == "ok"
    rebuilt = command(place.state, "ledger", "rebuild", check=False)
    assert rebuilt.returncode == 0, rebuilt.stdout
    entries = ledger(place.state, "--call", call)
    types = [entry["type"] for entry in entries]
    assert (types.count("intent"), types.count("outcome")) == (int(done), 1), types
    [outcome] = [entry for entry in entries if entry["type"] == "outcome"]
    assert ("effect" in outcome) is done
    if done:
        assert outcome["effect"]["after"] == state_of(place.state).state
    # Nobody else changed anything, and nothing says so.
    assert len([entry for entry in ledger(place.state) if entry["type"] == "workspace.imported"]) == 1


@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_each_step_all_or_nothing_is_there(place: Place, point: str) -> None:
    call = await cut(place, point)
    done = list(POINTS).index(point) >= list(POINTS).index("after the intent")
    assert await followed(place, call) is (CallState.SUCCEEDED if done else CallState.CANCELLED)
    await asyncio.to_thread(settled, place, call, done=done)
    if point == "in the middle":
        with serving(place.state) as served:
            async with served.client() as agent:
                undone = await agent.run("workspace.undo", {"call": call})
                assert undone.state is CallState.SUCCEEDED, undone.outcome
        assert dump(place.folder) == BEFORE


@pytest.mark.parametrize("again", ["after the first step", "after the last step", "after the outcome"])
async def test_killed_again_while_the_start_goes_on(place: Place, again: str) -> None:
    call = await cut(place, "after the first step")
    with doomed(place.state, again) as (_, process):
        assert await asyncio.to_thread(process.wait, DEADLINE_S) == -9
    assert await followed(place, call) is CallState.SUCCEEDED
    await asyncio.to_thread(settled, place, call, done=True)


@pytest.mark.parametrize("point", ["after the intent", "in the middle"])
async def test_a_file_that_somebody_changes_during_the_apply_is_kept(place: Place, point: str) -> None:
    theirs = place.folder / ("a.txt" if point == "after the intent" else "new.txt")
    code = CODE if point == "after the intent" else CODE.replace("new/d.txt", "new.txt")
    with doomed(place.state, point, str(theirs)) as (served, _):
        call = await made(served, code)
        assert call.state is CallState.UNKNOWN
        assert call.outcome is not None
        assert f"stopped half-way at '{theirs.name}'" in call.outcome.detail
        assert "not done: " in call.outcome.detail
        assert theirs.read_bytes() == b"somebody else's\n"
        again = await made(served, "open('b.txt', 'a').write('still')")
        assert again.state is CallState.SUCCEEDED, again.outcome
    assert theirs.read_bytes() == b"somebody else's\n"
    assert place.staged == []
    types = [entry["type"] for entry in ledger(place.state) if entry["type"] in {"unknown", "workspace.imported"}]
    assert types == ["workspace.imported", "unknown", "workspace.imported"]
    assert command(place.state, "ledger", "rebuild", check=False).returncode == 0


@pytest.mark.parametrize("point", BEGUN[1:4])
async def test_what_somebody_changed_while_the_broker_was_dead_is_kept(place: Place, point: str) -> None:
    call = await cut(place, point)
    (place.folder / "a.txt").write_bytes(b"somebody else's\n")
    assert await followed(place, call) is CallState.UNKNOWN
    assert (place.folder / "a.txt").read_bytes() == b"somebody else's\n"
    assert place.staged == []
    assert not place.journal.exists()
    with serving(place.state) as served:
        async with served.client() as agent:
            detail = (await agent.get_call(f"calls/{call}")).outcome
            assert detail is not None
            assert "'a.txt'" in detail.detail
    assert command(place.state, "ledger", "rebuild", check=False).returncode == 0


@pytest.mark.parametrize("damage", ["cut", "emptied", "other paths", "not ready", "of another call", "gone"])
async def test_a_journal_that_was_cut_or_changed_does_nothing(place: Place, damage: str) -> None:
    call = await cut(place, "after the first step")
    half = {path: item for path, item in dump(place.folder).items() if not path.startswith(".broker")}
    head, seal, body = place.journal.read_bytes().split(b"\n")
    if damage in {"cut", "emptied"}:
        place.journal.write_bytes(b"" if damage == "emptied" else place.journal.read_bytes()[:-20])
    elif damage == "gone":
        place.journal.unlink()
    else:
        changes = {
            "other paths": (b'"b.txt"' if b'"b.txt"' in body else b'"a.txt"', b'"b.txt"'),
            "not ready": (b'"ready":true', b'"ready":false'),
            "of another call": (call.encode(), b"call_01jxr6m4a2c3e4g5h6j7k8m9na"),
        }
        body = body.replace(*changes[damage])
        rest = seal + b"\n" + body
        head = hashlib.sha256(rest).hexdigest().encode()
        place.journal.write_bytes(head + b"\n" + rest)
    with serving(place.state) as served:
        async with served.client() as agent:
            assert (await agent.get_call(f"calls/{call}")).state is CallState.UNKNOWN
            with pytest.raises(BrokerError) as refused:
                await agent.run(CHANGE, {"code": "1"})
            assert refused.value.reason == "FOLDER_UNFIT"
            assert refused.value.violations[0].field == place.staged[0].name
    assert {path: item for path, item in dump(place.folder).items() if not path.startswith(".broker")} == half
    told = command(place.state, "doctor", check=False).stdout
    assert ("could not be gone on with" in told) is (damage != "gone")
    assert command(place.state, "ledger", "rebuild", check=False).returncode == 0


async def test_a_directory_that_isnt_there_at_the_start_is_waited_for(place: Place) -> None:
    call = await cut(place, "after the first step")
    place.folder.rename(place.folder.with_name("away"))
    with serving(place.state) as served:
        async with served.client() as agent:
            assert (await agent.get_call(f"calls/{call}")).state is CallState.APPLYING
            with pytest.raises(BrokerError) as refused:
                await agent.run(CHANGE, {"code": "1"})
            assert refused.value.reason == "FOLDER_UNSETTLED"
    place.folder.with_name("away").rename(place.folder)
    assert await followed(place, call) is CallState.SUCCEEDED
    await asyncio.to_thread(settled, place, call, done=True)


async def test_what_is_refused_at_the_intent_leaves_nothing(place: Place) -> None:
    with doomed(place.state, "before the intent", "refuse") as (served, _):
        call = await made(served, CODE)
        assert call.state is CallState.DENIED
        assert call.outcome is not None
        assert "REFUSED_NOW" in call.outcome.detail
        assert dump(place.folder) == BEFORE
        assert not place.journal.exists()
        assert (await made(served, CODE)).state is CallState.SUCCEEDED
    assert dump(place.folder) == AFTER


async def test_an_outcome_that_cannot_be_written_is_written_by_the_next_start(place: Place) -> None:
    with doomed(place.state, "before the outcome is durable", "fail") as (served, _):
        async with served.client(retry=RetryPolicy(attempts=1)) as agent:
            call = await agent.create_call(CHANGE, {"code": CODE})
            with pytest.raises(BrokerError):
                async for _ in agent.watch(call):
                    pass
            assert (await agent.get_call(call)).state is CallState.APPLYING
            with pytest.raises(BrokerError) as refused:
                await agent.run(CHANGE, {"code": "1"})
            assert refused.value.reason == "FOLDER_UNSETTLED"
    assert await followed(place, which(call.name)) is CallState.SUCCEEDED
    await asyncio.to_thread(settled, place, which(call.name), done=True)


async def test_calls_at_once_change_one_directory_one_after_the_other(place: Place) -> None:
    with serving(place.state) as served:
        async with served.client() as agent:
            code = "open('log', 'a').write('x')"
            calls = await asyncio.gather(*(agent.run(CHANGE, {"code": code}) for _ in range(6)))
    done = [call for call in calls if call.state is CallState.SUCCEEDED]
    assert done
    for call in calls:
        if call not in done:
            assert call.outcome is not None
            assert (call.state, call.outcome.detail[:10]) == (CallState.DENIED, "BASE_MOVED")
    assert (place.folder / "log").read_bytes() == b"x" * len(done)
    assert command(place.state, "ledger", "rebuild", check=False).returncode == 0
