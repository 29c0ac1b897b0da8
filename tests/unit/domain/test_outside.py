"""Effects outside: what a plan's folders say, and what a step is given, are the same thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.outside import (
    AFTER,
    BEFORE,
    NOW,
    item_path,
    of_outside,
    planned_effect,
    present_items,
    sides,
    step_entries,
    tool_of,
)
from broker.domain.tree import Change, Effect, TreeFile, TreeLink
from broker.errors import DataLossError, InvalidArgumentError

TOOL = "shelf.set"
ITEMS = st.from_regex(r"[a-z0-9=,%.-]{1,8}(/[a-z0-9=,%-]{1,8}){0,2}", fullmatch=True).filter(
    lambda item: not {".", ".."} & set(item.split("/"))
)
TEXTS = st.sampled_from(
    [TreeFile(f"sha256:{digit * 64}", size, 0o644) for digit, size in (("a", 1), ("b", 2), ("c", 3))]
)
WORLDS = st.dictionaries(ITEMS, TEXTS, max_size=6)


def _told(**folders: dict[str, TreeFile]) -> Effect:
    """What a program wrote in its folder."""
    return Effect.of(
        Change(f"{folder}/{item}", None, entry) for folder, items in folders.items() for item, entry in items.items()
    )


@given(WORLDS, WORLDS)
def test_a_plan_says_what_differs_and_its_steps_are_given_that_again(
    before: dict[str, TreeFile], after: dict[str, TreeFile]
) -> None:
    effect = planned_effect(TOOL, _told(before=before, after=after))
    differ = {item for item in {*before, *after} if before.get(item) != after.get(item)}
    assert effect.paths == {item_path(TOOL, item) for item in differ}
    left, right = sides(TOOL, effect)
    assert left == {item: entry for item, entry in before.items() if item in differ}
    assert right == {item: entry for item, entry in after.items() if item in differ}
    assert planned_effect(TOOL, Effect.between({}, step_entries(TOOL, effect))) == effect
    assert sides(TOOL, effect.inverse()) == (right, left)
    assert of_outside(effect) == bool(differ)
    assert tool_of(effect) == (TOOL if differ else "")


@given(WORLDS)
def test_a_look_tells_what_is_there(now: dict[str, TreeFile]) -> None:
    assert present_items(_told(now=now)) == now


@pytest.mark.parametrize(
    "change",
    [
        Change("elsewhere/x", None, TreeFile("sha256:" + "a" * 64, 1)),
        Change("before", None, TreeFile("sha256:" + "a" * 64, 1)),
        Change(f"{BEFORE}/x", None, TreeLink("/etc/passwd")),
        Change(f"{AFTER}/\u202ex", None, TreeFile("sha256:" + "a" * 64, 1)),
        Change(f"{AFTER}/" + "x" * 201, None, TreeFile("sha256:" + "a" * 64, 1)),
        Change(f"{BEFORE}/x", TreeFile("sha256:" + "a" * 64, 1), None),
    ],
    ids=["another-folder", "no-folder", "link", "bidi", "long", "removed"],
)
def test_what_is_no_item_is_refused(change: Change) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        planned_effect(TOOL, Effect.of([change]))
    assert caught.value.reason in {"PLAN_INVALID", "PATH_INVALID"}


def test_items_of_another_tool_or_of_a_tree_are_foreign() -> None:
    entry = TreeFile("sha256:" + "a" * 64, 1)
    other = Change(item_path("other.tool", "x"), None, entry)
    with pytest.raises(DataLossError) as caught:
        sides(TOOL, Effect.of([other]))
    assert caught.value.reason == "EFFECT_FOREIGN"
    with pytest.raises(DataLossError) as caught:
        tool_of(Effect.of([other, Change("README.md", None, entry)]))
    assert caught.value.reason == "EFFECT_FOREIGN"
    assert tool_of(Effect.of([Change("README.md", None, entry)])) == ""
    assert NOW != BEFORE
