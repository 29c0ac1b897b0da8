"""Who must agree: what is read, the floor under it, and when one requirement is weaker than another."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.domain.canonical import canonical, parse_object
from broker.domain.requirement import (
    Channel,
    Requirement,
    RoleCount,
    floor,
    parse,
    weaker,
    workflow_floor,
)
from broker.domain.tier import Tier
from broker.errors import InvalidArgumentError

TIER_4 = Requirement(
    people=2,
    roles=(RoleCount("legal", 1),),
    channels=frozenset({Channel.CLI}),
    min_signed=1,
    expiry_s=3600.0,
    cooldown_s=600.0,
    max_pending=5,
    exclude_tool_owner=True,
)
ROLES = ("legal", "ops", "pm")


@st.composite
def requirements(draw: st.DrawFn) -> Requirement:
    """Sound requirements of a few people and roles."""
    roles = draw(st.dictionaries(st.sampled_from(ROLES), st.integers(1, 2), min_size=1))
    people = draw(st.integers(1, 4))
    channels = draw(st.sets(st.sampled_from(Channel), min_size=1))
    signed = draw(st.integers(0, max(people, sum(roles.values())) if Channel.CLI in channels else 0))
    return Requirement(
        people=people,
        roles=tuple(RoleCount(role, count) for role, count in sorted(roles.items())),
        channels=frozenset(channels),
        min_signed=signed,
        expiry_s=draw(st.floats(0.001, 7 * 86400)),
        cooldown_s=draw(st.floats(0, 7 * 86400)),
        max_pending=draw(st.integers(1, 100)),
        exclude_tool_owner=draw(st.booleans()),
    )


@settings(deadline=None)
@given(requirements())
def test_what_is_written_is_read_again(requirement: Requirement) -> None:
    data = canonical(requirement.json())
    assert parse(parse_object(data, field="requirement", max_bytes=10_000)) == requirement
    assert canonical(parse(requirement.json()).json()) == data


def test_equal_requirements_have_equal_json() -> None:
    one = replace(TIER_4, roles=(RoleCount("legal", 1), RoleCount("ops", 2)), expiry_s=3600)
    two = replace(TIER_4, roles=(RoleCount("ops", 2), RoleCount("legal", 1)), expiry_s=3600.0)
    assert canonical(one.json()) == canonical(two.json())
    assert parse(one.json()) == parse(two.json())


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("people", 0, "people"),
        ("people", -1, "people"),
        ("people", True, "people"),
        ("people", 2.0, "people"),
        ("people", "2", "people"),
        ("people", None, "people"),
        ("people", 65, "people"),
        ("roles", [], "roles"),
        ("roles", {}, "roles"),
        ("roles", "legal", "roles"),
        ("roles", ["legal"], "roles"),
        ("roles", [{"role": "legal"}], "roles"),
        ("roles", [{"role": "legal", "people": 1, "x": 1}], "roles"),
        ("roles", [{"role": 5, "people": 1}], "roles"),
        ("roles", [{"role": "legal", "people": 0}], "roles/0/people"),
        ("roles", [{"role": "legal", "people": True}], "roles/0/people"),
        ("roles", [{"role": "role:legal", "people": 1}], "roles/0/role"),
        ("roles", [{"role": "Legal", "people": 1}], "roles/0/role"),
        ("roles", [{"role": "legal\n", "people": 1}], "roles/0/role"),
        ("roles", [{"role": "*", "people": 1}], "roles/0/role"),
        ("roles", [{"role": "human", "people": 2}], "roles/0/role"),
        ("roles", [{"role": "agent", "people": 2}], "roles/0/role"),
        ("roles", [{"role": "legal", "people": 1}, {"role": "legal", "people": 1}], "roles/1/role"),
        ("roles", [{"role": "legal", "people": 60}, {"role": "ops", "people": 5}], "roles"),
        ("channels", [], "channels"),
        ("channels", "cli", "channels"),
        ("channels", ["CLI"], "channels"),
        ("channels", ["cli", "cli"], "channels"),
        ("channels", ["cli", "email"], "channels"),
        ("channels", [["cli"]], "channels"),
        ("channels", ["slack"], "channels"),
        ("min_signed", -1, "min_signed"),
        ("min_signed", True, "min_signed"),
        ("min_signed", 3, "min_signed"),
        ("expiry_s", 0, "expiry_s"),
        ("expiry_s", -1, "expiry_s"),
        ("expiry_s", True, "expiry_s"),
        ("expiry_s", "1h", "expiry_s"),
        ("expiry_s", math.nan, "expiry_s"),
        ("expiry_s", math.inf, "expiry_s"),
        ("expiry_s", 7 * 86400 + 1, "expiry_s"),
        ("cooldown_s", -0.1, "cooldown_s"),
        ("cooldown_s", math.nan, "cooldown_s"),
        ("cooldown_s", False, "cooldown_s"),
        ("max_pending", 0, "max_pending"),
        ("max_pending", 101, "max_pending"),
        ("exclude_tool_owner", 1, "exclude_tool_owner"),
        ("exclude_tool_owner", None, "exclude_tool_owner"),
        ("more", 1, "more"),
    ],
)
def test_what_is_not_exactly_right_is_refused_with_its_field(key: str, value: Any, field: str) -> None:  # noqa: ANN401 - JSON
    with pytest.raises(InvalidArgumentError) as caught:
        parse({**TIER_4.json(), key: value})
    assert caught.value.reason == "REQUIREMENT_INVALID"
    assert [item.field for item in caught.value.violations] == [field]


@pytest.mark.parametrize("key", sorted(TIER_4.json()))
def test_no_key_has_a_default(key: str) -> None:
    value = TIER_4.json()
    del value[key]
    with pytest.raises(InvalidArgumentError) as caught:
        parse(value)
    assert [(item.field, item.description) for item in caught.value.violations] == [(key, "is missing")]


def test_people_are_at_least_the_sum_of_the_roles() -> None:
    asked = replace(TIER_4, people=1, roles=(RoleCount("legal", 1), RoleCount("ops", 2)))
    assert floor(asked, Tier.AUTONOMOUS).people == 3
    assert workflow_floor(replace(asked, min_signed=3)).people == 3
    assert floor(replace(asked, people=5), Tier.AUTONOMOUS).people == 5


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"people": 1}, "people"),
        ({"min_signed": 0}, "min_signed"),
        ({"channels": frozenset(Channel)}, "channels"),
        ({"channels": frozenset({Channel.SLACK}), "min_signed": 0}, "min_signed"),
    ],
)
def test_the_floor_of_tier_4(change: dict[str, Any], field: str) -> None:
    asked = replace(TIER_4, **change)
    assert floor(asked, Tier.REGULATED) == asked
    with pytest.raises(InvalidArgumentError) as caught:
        floor(asked, Tier.AUTONOMOUS)
    assert caught.value.reason == "REQUIREMENT_TOO_WEAK"
    assert caught.value.violations[0].field == field


def test_each_risk_is_taken_by_its_own_name() -> None:
    slack = replace(TIER_4, channels=frozenset(Channel))
    assert floor(slack, Tier.AUTONOMOUS, chat_allowed=True) == slack
    nobody_signs = replace(TIER_4, min_signed=0)
    assert floor(nobody_signs, Tier.AUTONOMOUS, chat_only_allowed=True) == nobody_signs
    chat_only = replace(TIER_4, channels=frozenset({Channel.SLACK}), min_signed=0)
    assert floor(chat_only, Tier.AUTONOMOUS, chat_only_allowed=True, chat_allowed=True) == chat_only
    for one in ({"chat_only_allowed": True}, {"chat_allowed": True}):
        with pytest.raises(InvalidArgumentError):
            floor(chat_only, Tier.AUTONOMOUS, **one)
    with pytest.raises(InvalidArgumentError, match="at least 2"):
        floor(replace(TIER_4, people=1), Tier.AUTONOMOUS, chat_only_allowed=True, chat_allowed=True)


def test_votes_on_a_workflow_are_all_signed() -> None:
    asked = replace(TIER_4, min_signed=2)
    assert workflow_floor(asked) == asked
    for change in ({"min_signed": 1}, {"channels": frozenset(Channel)}):
        with pytest.raises(InvalidArgumentError) as caught:
            workflow_floor(replace(asked, **change))
        assert caught.value.reason == "REQUIREMENT_TOO_WEAK"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"people": 1}, "people"),
        ({"roles": (RoleCount("ops", 1),)}, "roles"),
        ({"roles": (RoleCount("legal", 1), RoleCount("ops", 1))}, "roles"),
        ({"channels": frozenset(Channel)}, "channels"),
        ({"min_signed": 0}, "min_signed"),
        ({"expiry_s": 3601.0}, "expiry_s"),
        ({"cooldown_s": 599.0}, "cooldown_s"),
        ({"max_pending": 6}, "max_pending"),
        ({"exclude_tool_owner": False}, "exclude_tool_owner"),
    ],
)
def test_each_weakening_is_said(change: dict[str, Any], said: str) -> None:
    changed = replace(TIER_4, **change)
    assert {sentence.partition(":")[0] for sentence in weaker(TIER_4, changed)} == {said}
    assert weaker(TIER_4, TIER_4) == ()


def test_a_role_counted_lower_is_said() -> None:
    old = replace(TIER_4, roles=(RoleCount("legal", 2),))
    assert weaker(old, TIER_4) == ("roles: 1 of the role legal instead of 2",)


def test_stricter_is_not_weaker() -> None:
    stricter = replace(
        TIER_4,
        people=3,
        roles=(RoleCount("legal", 2), RoleCount("ops", 1)),
        min_signed=2,
        expiry_s=60.0,
        cooldown_s=3600.0,
        max_pending=1,
    )
    assert weaker(TIER_4, stricter) == ()
    assert weaker(replace(TIER_4, exclude_tool_owner=False, channels=frozenset(Channel)), TIER_4) == ()


def agreed(requirement: Requirement, votes: tuple[str, ...]) -> bool:
    """Do the people who voted suffice? Each holds one role."""
    held = Counter(votes)
    roles = {item.role: item.people for item in requirement.roles}
    enough = all(held[role] >= count for role, count in roles.items())
    return enough and sum(held[role] for role in roles) >= max(requirement.people, sum(roles.values()))


ELECTORATES = [votes for size in range(7) for votes in itertools.combinations_with_replacement(ROLES, size)]


@settings(deadline=None)
@given(requirements(), requirements())
def test_no_case_in_which_fewer_or_other_people_suffice_goes_unsaid(old: Requirement, new: Requirement) -> None:
    suffices = any(agreed(new, votes) and not agreed(old, votes) for votes in ELECTORATES)
    said = any(sentence.startswith(("people:", "roles:")) for sentence in weaker(old, new))
    counted_lower = {item.role: item.people for item in new.roles}
    assert said == (suffices or any(counted_lower.get(item.role, 0) < item.people for item in old.roles))
