"""The watched file: what goes live, what doesn't, and what is told about it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from broker.errors import FailedPreconditionError, InvalidArgumentError
from broker.policy.live import LivePolicy
from broker.policy.snapshot import Snapshot

ROW = "p, {}, role:agent, demo, data.query, call, 2, allow, agents may query\n"
OLD, NEW, BAD = ROW.format("old"), ROW.format("new"), ROW.format("bad").replace("allow", "Allow")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "policy.csv"
    file.write_text(OLD, "utf-8")
    return file


def replace(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(text, "utf-8")
    beside.rename(path)


def write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


def rewrite_keeping_size_and_time(path: Path, text: str) -> None:
    before = path.stat()
    path.write_text(text, "utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def put(path: Path, what: str) -> None:
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "not UTF-8":
        path.write_bytes(OLD.encode() + b"# \xff\n")
    elif what == "huge":
        with path.open("wb") as file:
            file.truncate(65 * 2**20)


def rule(policy: LivePolicy) -> str:
    return policy.snapshot.table[0].id


async def test_a_reload_swaps_the_snapshot_and_says_whether_it_changed(path: Path) -> None:
    policy = LivePolicy(path, known_tools=None)
    await policy.start()
    assert not await policy.reload()
    replace(path, NEW)
    assert await policy.reload()
    assert rule(policy) == "new"


async def test_a_bad_file_changes_nothing_and_is_reported_once(path: Path) -> None:
    policy = LivePolicy(path, known_tools=None)
    await policy.start()
    before = policy.snapshot
    replace(path, BAD)
    with capture_logs() as logs:
        for _ in range(5):
            assert not await policy.look()
        with pytest.raises(InvalidArgumentError) as caught:
            await policy.reload()
    assert caught.value.reason == "POLICY_INVALID"
    assert policy.snapshot is before
    assert policy.last_error is not None
    assert policy.last_error.violations[0].field == "line 1, column 48"
    assert [entry["event"] for entry in logs] == ["policy.refused"]
    replace(path, NEW)
    assert [await policy.look() for _ in range(2)] == [False, True]
    assert policy.last_error is None
    assert rule(policy) == "new"


async def test_a_refused_file_is_not_checked_again_until_it_changes(path: Path) -> None:
    policy = LivePolicy(path, known_tools=None)
    await policy.start()
    for text, checks in ((BAD, 2), (BAD + "#\n", 3)):
        replace(path, text)
        for _ in range(5):
            assert not await policy.look()
        assert policy.checks == checks


async def test_the_old_file_put_back_clears_the_error(path: Path) -> None:
    policy = LivePolicy(path, known_tools=None)
    await policy.start()
    replace(path, BAD)
    for _ in range(2):
        await policy.look()
    assert policy.last_error is not None
    replace(path, OLD)
    for _ in range(2):
        assert not await policy.look()
    assert policy.last_error is None


async def test_an_unknown_tool_keeps_a_policy_from_going_live(path: Path) -> None:
    policy = LivePolicy(path, known_tools=frozenset({"text.search"}))
    with pytest.raises(InvalidArgumentError, match=r"no tool data\.query"):
        await policy.start()


async def test_a_change_is_recorded_before_it_is_in_force(path: Path) -> None:
    seen: list[tuple[str, str, str]] = []

    async def record(old: Snapshot, new: Snapshot) -> None:
        seen.append((old.table[0].id, new.table[0].id, rule(policy)))

    policy = LivePolicy(path, known_tools=None, on_change=record)
    await policy.start()
    assert not seen
    replace(path, NEW)
    await policy.reload()
    assert seen == [("old", "new", "old")]


async def test_a_change_that_cannot_be_recorded_does_not_go_live_and_is_tried_again(path: Path) -> None:
    broken = True

    async def record(_old: Snapshot, _new: Snapshot) -> None:
        if broken:
            raise OSError("disk full")

    policy = LivePolicy(path, known_tools=None, on_change=record)
    await policy.start()
    replace(path, NEW)
    with pytest.raises(OSError, match="disk full"):
        await policy.reload()
    assert [await policy.look() for _ in range(3)] == [False, False, False]
    assert rule(policy) == "old"
    assert policy.last_error is not None
    assert policy.last_error.reason == "POLICY_NOT_SWAPPED"
    broken = False
    assert await policy.look()
    assert rule(policy) == "new"
    assert policy.last_error is None


async def test_the_watcher_takes_a_change_up_by_itself(path: Path) -> None:
    changed = asyncio.Event()

    async def record(_old: Snapshot, _new: Snapshot) -> None:
        changed.set()

    async with LivePolicy(path, known_tools=None, on_change=record, poll_s=0.01) as policy:
        replace(path, NEW)
        await asyncio.wait_for(changed.wait(), 30)
        await policy.reload()  # waits for the swap that the hook precedes
        assert rule(policy) == "new"
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "policy-watcher"]


async def test_a_change_that_hides_behind_the_old_size_and_time_is_seen(path: Path) -> None:
    policy = LivePolicy(path, known_tools=None)
    await policy.start()
    rewrite_keeping_size_and_time(path, NEW)
    assert [await policy.look() for _ in range(2)] == [False, True]


async def test_a_file_that_is_still_being_written_is_not_read(path: Path) -> None:
    policy = LivePolicy(path, known_tools=None)
    await policy.start()
    # Each look finds the file grown: nothing of it goes live, though each state by itself is a valid policy.
    for count in range(1, 5):
        write(path, "".join(ROW.format(f"part-{number}") for number in range(count)))
        assert not await policy.look()
    assert rule(policy) == "old"
    assert await policy.look()
    assert policy.snapshot.rules == 4


@pytest.mark.parametrize("what", ["nothing", "folder", "pipe", "not UTF-8", "huge"])
async def test_what_is_no_policy_file_is_refused_without_hanging(path: Path, what: str) -> None:
    put(path, what)
    with pytest.raises(InvalidArgumentError) as caught:
        await LivePolicy(path, known_tools=None).start()
    assert caught.value.reason in ("POLICY_UNREADABLE", "POLICY_INVALID")


async def test_a_file_that_vanishes_leaves_the_policy_in_force(path: Path) -> None:
    policy = LivePolicy(path, known_tools=None)
    await policy.start()
    put(path, "nothing")
    with capture_logs() as logs:
        for _ in range(3):
            assert not await policy.look()
    assert rule(policy) == "old"
    assert policy.last_error is not None
    assert policy.last_error.reason == "POLICY_UNREADABLE"
    assert len(logs) == 1


async def refuse(_old: Snapshot, _new: Snapshot) -> None:
    raise FailedPreconditionError("two people have to agree first", reason="APPROVAL_NEEDED")


async def test_a_policy_that_may_not_swap_changes_nothing_and_is_offered_again_when_asked_to(path: Path) -> None:
    seen: list[str] = []
    agreed = False

    async def may_swap(old: Snapshot, new: Snapshot) -> None:
        seen.append(f"{old.table[0].id} to {new.table[0].id}")
        if not agreed:
            await refuse(old, new)

    async def record(_old: Snapshot, new: Snapshot) -> None:
        seen.append(f"recorded {new.table[0].id}")

    policy = LivePolicy(path, known_tools=None, may_swap=may_swap, on_change=record)
    await policy.start()
    replace(path, NEW)
    with capture_logs() as logs:
        assert [await policy.look() for _ in range(4)] == [False] * 4
    assert rule(policy) == "old"
    assert seen == ["old to new"]
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("policy.refused", "APPROVAL_NEEDED")]
    assert policy.last_error is not None
    with pytest.raises(FailedPreconditionError, match="two people"):
        await policy.reload()
    agreed = True
    assert await policy.reload()
    assert rule(policy) == "new"
    assert policy.last_error is None
    assert seen == ["old to new", "old to new", "old to new", "recorded new"]


async def test_a_start_is_no_way_round_what_may_not_swap(path: Path) -> None:
    replace(path, NEW)
    policy = LivePolicy(path, known_tools=None, may_swap=refuse, in_force=OLD)
    with capture_logs() as logs:
        await policy.start()
        assert [await policy.look() for _ in range(3)] == [False] * 3
    assert rule(policy) == "old"
    assert policy.last_error is not None
    assert policy.last_error.reason == "APPROVAL_NEEDED"
    assert [entry["event"] for entry in logs] == ["policy.refused", "policy.live"]
    replace(path, OLD)
    assert [await policy.look() for _ in range(2)] == [False, False]
    assert policy.last_error is None


async def test_what_changed_while_the_broker_was_stopped_goes_through_both_hooks(path: Path) -> None:
    seen: list[str] = []

    async def hook(old: Snapshot, new: Snapshot) -> None:
        seen.append(f"{old.table[0].id} to {new.table[0].id}")

    replace(path, NEW)
    # The old one names a tool that is no more: it was in force all the same.
    policy = LivePolicy(
        path,
        known_tools=frozenset({"data.query"}),
        may_swap=hook,
        on_change=hook,
        in_force=OLD.replace("data.query", "data.gone"),
    )
    await policy.start()
    assert rule(policy) == "new"
    assert seen == ["old to new", "old to new"]
    assert not await policy.look()
    unchanged = LivePolicy(path, known_tools=None, may_swap=refuse, in_force=NEW)
    await unchanged.start()
    assert rule(unchanged) == "new"
    assert unchanged.last_error is None


async def test_nothing_replaces_a_last_policy_that_cannot_be_read(path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="nothing may replace it") as caught:
        await LivePolicy(path, known_tools=None, in_force=BAD).start()
    assert caught.value.reason == "POLICY_IN_FORCE"


async def test_a_bad_file_stops_a_start_whatever_was_in_force(path: Path) -> None:
    replace(path, BAD)
    with pytest.raises(InvalidArgumentError, match="refused"):
        await LivePolicy(path, known_tools=None, in_force=OLD).start()
