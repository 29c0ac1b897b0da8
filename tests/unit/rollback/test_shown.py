"""What people see of an effect: all of each text that is changed, found in bounded time, or said not to be shown."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.tree import Change, Effect, TreeFile, TreeLink
from broker.rollback import shown
from broker.rollback.differing import Steps, unified
from broker.rollback.shown import MAX_SHOWN, MAX_TEXT, shown_changes, summary
from tests.tree_values import BY_DIGEST, address, effects

lines = st.lists(st.sampled_from(("a\n", "b\n", "\n", "c\r\n", "- a\n", "@@ -1 +1 @@\n")), max_size=40)


def patched(before: Sequence[str], difference: Sequence[str]) -> list[str]:
    """What a unified difference makes of lines; fails where it doesn't fit them."""
    made: list[str] = []
    at = 0
    for line in difference[2:]:
        if line.startswith("@@"):
            old = line.split()[1][1:].split(",")
            start = int(old[0]) - (0 if old[1:] == ["0"] else 1)
            made += before[at:start]
            at = start
        elif line[0] == "+":
            made.append(line[1:])
        else:
            assert before[at] == line[1:]
            at += 1
            if line[0] == " ":
                made.append(line[1:])
    return [*made, *before[at:]]


@given(lines, lines, st.sampled_from((0, 20, 100, 10**9)))
def test_a_difference_makes_the_one_of_the_other_whatever_steps_there_were(
    before: list[str], after: list[str], budget: int
) -> None:
    found = list(unified(before, after, Steps(budget)))
    assert patched(before, found) == after if found else before == after


def test_texts_that_are_made_to_take_hours_take_seconds() -> None:
    half = [f"{(i * 7919) % 110}\n" for i in range(10_000)]
    before = [*half, *half]
    after = [line for i, piece in enumerate(half) for line in (piece, f"only here {i}\n")]
    steps = Steps()
    began = time.process_time()
    for _ in range(3):
        assert patched(before, list(unified(before, after, steps))) == after
    assert steps.left < 0, "it is no such text"
    assert time.process_time() - began < 20


def changed(path: str, before: bytes | None, after: bytes | None) -> tuple[Change, dict[str, bytes]]:
    sides = [None if data is None else TreeFile(address(data), len(data)) for data in (before, after)]
    return Change(path, *sides), {address(data): data for data in (before, after) if data is not None}


def see(*parts: tuple[Change, dict[str, bytes]]) -> tuple[list[dict[str, str]], list[str]]:
    contents = {digest: data for _, found in parts for digest, data in found.items()}
    changes, missing = shown_changes(Effect.of(change for change, _ in parts), contents.__getitem__)
    return changes, [item.path for item in missing]  # type: ignore[return-value]  # objects of texts


def test_the_end_of_a_text_without_line_feed_is_seen() -> None:
    (found,), _ = see(changed("a", b"one\ntwo", b"one\ntwo\n"))
    assert found["text"] == ("--- before\n+++ after\n@@ -1,2 +1,2 @@\n one\n-two\n\\ no line feed at the end\n+two\n")


@pytest.mark.parametrize(
    ("before", "after"), [(b"a\rb\n", b"a\nb\n"), (b"a\x0cb\n", b"a\nb\n"), (b"a\xc2\x85b", b"a\nb")]
)
def test_other_ends_of_lines_are_content(before: bytes, after: bytes) -> None:
    (found,), _ = see(changed("a", before, after))
    assert f"-{before.decode()}" in found["text"]


def test_a_file_in_whose_place_a_link_comes_is_shown_as_it_goes() -> None:
    file = TreeFile(address(b"precious\n"), 9)
    for before, after, line in ((file, TreeLink("x"), "-precious"), (TreeLink("x"), file, "+precious")):
        (found,), _ = see((Change("a", before, after), {file.digest: b"precious\n"}))
        assert (found["kind"], found["shown"]) == ("type", "diff")
        assert line in found["text"]


def test_what_is_too_long_is_named_and_never_shown_in_part() -> None:
    long, line = b"x" * (MAX_TEXT + 1), b"y" * (MAX_TEXT - 1000) + b"\n"
    many = b"\n" * (shown.MAX_LINES + 1)
    found, missing = see(changed("a", None, long), changed("b", None, b"fine\n"), changed("c", many, None))
    assert missing == ["a", "c"]
    assert [item["shown"] for item in found] == ["long", "diff", "long"]
    assert not found[0]["text"]
    parts = [changed(f"f{i}", None, line.replace(b"y", b"%d" % i, 1)) for i in range(4)]
    found, missing = see(*parts)
    assert missing == ["f2", "f3"]
    assert sum(len(item["text"]) for item in found) <= MAX_SHOWN


def test_no_more_is_read_once_it_is_too_much() -> None:
    read: list[str] = []
    parts = [changed(f"f{i}", None, bytes([i + 65]) * MAX_TEXT) for i in range(8)]
    contents = {digest: data for _, found in parts for digest, data in found.items()}

    def content(digest: str) -> bytes:
        read.append(digest)
        return contents[digest]

    _, missing = shown_changes(Effect.of(change for change, _ in parts), content)
    assert len(missing) == 7
    assert len(read) == 2


@given(effects)
def test_every_change_is_there_with_both_its_sides(effect: Effect) -> None:
    found, missing = shown_changes(effect, BY_DIGEST.__getitem__)
    assert missing == []
    body = [{name: item[name] for name in ("path", "before", "after")} for item in found]  # type: ignore[index,call-overload]  # objects
    assert body == effect.body()
    counts = summary(effect)
    assert sum(int(str(counts[kind])) for kind in ("added", "changed", "removed", "mode", "type")) == len(found)
