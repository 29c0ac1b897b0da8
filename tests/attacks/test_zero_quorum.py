"""A zero, missing or mistyped quorum: whatever stands in data, nothing of Tier 4 needs fewer than two people."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.domain.requirement import Channel, Requirement, RoleCount, floor, parse
from broker.domain.tier import Tier
from broker.errors import InvalidArgumentError

SOUND = Requirement(
    people=2,
    roles=(RoleCount("approver", 2),),
    channels=frozenset({Channel.CLI}),
    min_signed=1,
    expiry_s=3600.0,
    cooldown_s=600.0,
    max_pending=5,
    exclude_tool_owner=True,
)
ODD = st.one_of(
    st.sampled_from(
        [0, -1, 1, 2, True, False, None, 1.0, 2.0, 0.0, -0.0, 1.9, 2**63, 1e308, math.nan, math.inf, -math.inf]
    ),
    st.sampled_from(["", "0", "2", "two", "all", "*", "any", "cli", "slack", "human"]),
    st.integers(),
    st.floats(),
    st.lists(st.sampled_from(["cli", "slack", "", 0, None]), max_size=3),
    st.lists(
        st.fixed_dictionaries(
            {
                "role": st.sampled_from(["approver", "legal", "*", "", "human", "role:x", None, 0]),
                "people": st.sampled_from([0, -5, 1, 2, True, None, "1", 1.0, math.nan]),
            }
        ),
        max_size=3,
    ),
    st.dictionaries(st.sampled_from(["people", "role", "x"]), st.integers(-1, 2), max_size=2),
)
MISSING = object()


def holds(requirement: Requirement) -> None:
    """The two-person rule as a reader would check it, apart from the code that enforces it."""
    assert type(requirement.people) is int
    assert requirement.people >= 2
    assert requirement.people >= sum(item.people for item in requirement.roles)
    assert requirement.roles
    assert all(type(item.people) is int and item.people >= 1 for item in requirement.roles)
    assert not {item.role for item in requirement.roles} & {"human", "agent", "*", ""}
    assert type(requirement.min_signed) is int
    assert 1 <= requirement.min_signed <= requirement.people
    assert requirement.channels == {Channel.CLI}
    assert 0 < requirement.expiry_s <= 7 * 86400
    assert requirement.cooldown_s >= 0
    assert type(requirement.max_pending) is int
    assert requirement.max_pending >= 1
    assert type(requirement.exclude_tool_owner) is bool


def refused_or_holds(make: Callable[[], Requirement]) -> None:
    """Any other error than the refusal, such as a TypeError, fails the test."""
    with contextlib.suppress(InvalidArgumentError):
        holds(make())


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(SOUND.json())), ODD | st.just(MISSING), max_size=4))
def test_nothing_that_is_read_lets_fewer_than_two_people_act(changes: dict[str, Any]) -> None:
    value = {key: item for key, item in {**SOUND.json(), **changes}.items() if item is not MISSING}
    refused_or_holds(lambda: floor(parse(value), Tier.AUTONOMOUS))


NOT_JSON = st.one_of(
    ODD,
    st.just(frozenset()),
    st.sets(st.sampled_from(["cli", "slack", Channel.CLI, Channel.SLACK])).map(frozenset),
    st.lists(
        st.builds(RoleCount, st.sampled_from(["approver", "human", "", 0]), st.sampled_from([0, 1, 2, -2, True, "2"]))
        | st.sampled_from([None, "approver", ("approver", 2)]),
        max_size=3,
    ).map(tuple),
)


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.sampled_from([item.name for item in fields(Requirement)]), NOT_JSON, max_size=3))
def test_nothing_that_code_makes_lets_fewer_than_two_people_act(changes: dict[str, Any]) -> None:
    refused_or_holds(lambda: floor(replace(SOUND, **changes), Tier.AUTONOMOUS))


@pytest.mark.parametrize("value", [None, [], "", 0, True, {}])
def test_nothing_at_all_is_no_requirement(value: Any) -> None:  # noqa: ANN401 - anything
    with pytest.raises(InvalidArgumentError):
        parse(value)


def test_the_sound_one_passes() -> None:
    holds(floor(parse(SOUND.json()), Tier.AUTONOMOUS))


def test_a_negative_count_cannot_take_from_the_sum() -> None:
    roles = [{"role": "approver", "people": 3}, {"role": "legal", "people": -2}]
    with pytest.raises(InvalidArgumentError):
        parse({**SOUND.json(), "people": 1, "roles": roles})
    with pytest.raises(InvalidArgumentError):
        floor(replace(SOUND, people=1, roles=(RoleCount("a", 3), RoleCount("b", -2))), Tier.AUTONOMOUS)
