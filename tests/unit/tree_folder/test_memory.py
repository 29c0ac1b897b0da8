"""What is remembered of a folder: which files are read again, and when two looks agree."""

from __future__ import annotations

import pytest

from broker.domain.tree import Change, Entry, TreeFile, TreeLink
from broker.tree_folder.memory import TICK_NS, Memory, decode, encode
from broker.tree_folder.scanning import Facts, Scan

NOW = 1_700_000_000_000_000_000
OLD = NOW - 10 * TICK_NS
A, B = TreeFile("sha256:" + "a" * 64, 1), TreeFile("sha256:" + "b" * 64, 1)


def facts(inode: int, *, at: int = OLD, size: int = 1) -> Facts:
    return (inode, size, at, at, 0o100644)


def looked(
    memory: Memory, found: dict[str, Facts], lies: dict[str, Entry | None], now: int = NOW
) -> tuple[list[str], bool]:
    """One look: what was read, and whether all was as before."""
    scan = Scan(found=found, folders={"": facts(1)})
    read = memory.suspects(scan)
    return read, memory.take(scan, {path: lies[path] for path in read}, now)


def test_what_has_the_same_facts_is_not_read_again() -> None:
    memory = Memory((1, 1))
    found = {"a": facts(2), "b": facts(3)}
    assert looked(memory, found, {"a": A, "b": B}) == (["a", "b"], False)
    assert looked(memory, found, {}) == ([], True)
    assert memory.changes.changes == (Change("a", None, A), Change("b", None, B))
    memory.settled("sha256:1")
    assert looked(memory, {**found, "b": facts(4)}, {"b": A}) == (["b"], False)
    assert memory.changes.changes == (Change("b", B, A),)
    assert looked(memory, {"a": facts(2)}, {}) == ([], False)
    assert memory.changes.changes == (Change("b", B, None),)


@pytest.mark.parametrize("number", range(5))
def test_each_fact_counts(number: int) -> None:
    memory = Memory((1, 1))
    looked(memory, {"a": facts(2)}, {"a": A})
    other = list(facts(2))
    other[number] += 1
    assert looked(memory, {"a": tuple(other)}, {"a": A}) == (["a"], False)  # type: ignore[dict-item]


@pytest.mark.parametrize("which", [2, 3], ids=["content", "inode"])
def test_what_was_changed_just_now_is_read_until_its_times_are_old(which: int) -> None:
    memory = Memory((1, 1))
    lately = list(facts(2))
    lately[which] = NOW - TICK_NS // 2
    found: dict[str, Facts] = {"a": tuple(lately)}  # type: ignore[dict-item]
    assert looked(memory, found, {"a": A}) == (["a"], False)
    assert looked(memory, found, {"a": A}) == (["a"], True)
    # Changed once more within the clock's tick: nothing but its bytes tell.
    assert looked(memory, found, {"a": B}) == (["a"], False)
    assert memory.changes.changes == (Change("a", None, B),)
    assert looked(memory, found, {"a": B}, NOW + 2 * TICK_NS) == (["a"], True)
    assert looked(memory, found, {}, NOW + 3 * TICK_NS) == ([], True)


def test_a_time_that_is_still_to_come_proves_nothing() -> None:
    memory = Memory((1, 1))
    found = {"a": facts(2, at=NOW + 5 * TICK_NS)}
    for _ in range(3):
        assert looked(memory, found, {"a": A})[0] == ["a"]


def test_what_changed_while_it_was_read_is_read_again() -> None:
    memory = Memory((1, 1))
    assert looked(memory, {"a": facts(2)}, {"a": None}) == (["a"], False)
    assert looked(memory, {"a": facts(2)}, {"a": A}) == (["a"], False)
    assert looked(memory, {"a": facts(2)}, {}) == ([], True)


def test_a_folder_that_changed_calls_for_another_look() -> None:
    memory = Memory((1, 1))
    assert not memory.take(Scan(folders={"": facts(1)}), {}, NOW)
    assert memory.take(Scan(folders={"": facts(1)}), {}, NOW)
    assert not memory.take(Scan(folders={"": facts(1, at=OLD + 1)}), {}, NOW)


def test_what_the_broker_put_there_is_read_again_and_is_no_change() -> None:
    memory = Memory((1, 1))
    looked(memory, {"a": facts(2)}, {"a": A})
    memory.settled("sha256:1")
    effect = memory.changes.of([Change("a", A, B), Change("b", None, A)])
    memory.applied("sha256:2", effect)
    assert memory.state == "sha256:2"
    found = {"a": facts(3), "b": facts(4)}
    assert looked(memory, found, {"a": B, "b": A}) == (["a", "b"], False)
    assert looked(memory, found, {}) == ([], True)
    assert memory.changes.changes == ()


def test_another_state_is_compared_whole() -> None:
    memory = Memory((1, 1))
    looked(memory, {"a": facts(2), "b": facts(3)}, {"a": A, "b": TreeLink("a")})
    memory.rebase("sha256:9", {"a": B, "c": A})
    assert memory.changes.changes == (Change("a", B, A), Change("b", None, TreeLink("a")), Change("c", A, None))


def test_it_comes_back_from_its_file_but_for_what_is_racy() -> None:
    memory = Memory((7, 8))
    found = {"a": facts(2), "b": facts(3, at=NOW), "c": facts(4)}
    looked(memory, found, {"a": A, "b": B, "c": TreeLink("a")})
    memory.settled("sha256:1")
    memory.pending["d"] = A
    again = decode(encode(memory))
    assert again is not None
    assert (again.root, again.state, again.entries, again.pending) == ((7, 8), "sha256:1", memory.entries, {"d": A})
    assert again.seen == {"a": facts(2), "c": facts(4)}
    assert looked(again, found, {"b": B})[0] == ["b"]


@pytest.mark.parametrize("change", [b"", b"x", b"\xff\n{}"], ids=["nothing", "no line", "no digest"])
def test_a_file_that_is_none_is_no_memory(change: bytes) -> None:
    assert decode(change) is None


def test_a_file_that_was_cut_or_changed_is_no_memory() -> None:
    memory = Memory((1, 1))
    looked(memory, {"a": facts(2)}, {"a": A})
    data = encode(memory)
    assert decode(data) is not None
    for cut in range(len(data)):
        assert decode(data[:cut]) is None
    assert decode(data.replace(b"a" * 64, b"b" * 64)) is None
