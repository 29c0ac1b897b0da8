"""What a start would bring into force, compared with the record: what is less, and what goes on being in force."""

from __future__ import annotations

from typing import Any

import pytest

from broker.domain.tier import Tier
from broker.errors import InvalidArgumentError, NotFoundError
from broker.pipeline.standing import (
    SETTINGS,
    TOOLS,
    UNSAFE,
    held_change,
    hold,
    settings_text,
    strictest_tools,
    table_of,
    tool_tiers,
    tools_text,
)
from broker.specs.tiers import RoleEntry, Tiers, load_tiers

SAFE = dict.fromkeys(UNSAFE, False)


def changed(tier: int, **changes: Any) -> Tiers:  # noqa: ANN401 - values of any field
    table = load_tiers()
    rows = list(table.tiers)
    rows[tier] = rows[tier].model_copy(update=changes)
    return table.model_copy(update={"tiers": tuple(rows)})


def test_a_tool_that_is_gone_keeps_its_tier() -> None:
    before = tools_text({"a": Tier(4), "b": Tier(2)}, None)
    gone = tools_text({"b": Tier(2)}, before)
    assert gone == before
    back = tools_text({"a": Tier(1), "b": Tier(2)}, gone)
    assert hold(TOOLS, gone, back).weaker == ("a would be of tier 1 instead of 4",)


def test_a_new_tool_and_a_higher_tier_ask_for_nothing() -> None:
    before = tools_text({"a": Tier(1)}, None)
    after = tools_text({"a": Tier(3), "new": Tier(0)}, before)
    change = hold(TOOLS, before, after)
    assert change.weaker == ()
    assert change.difference == ("tools.a: 1 becomes 3", "tools.new: nothing becomes 0")


def test_of_two_tiers_the_higher_one_stays() -> None:
    before = tools_text({"a": Tier(4), "b": Tier(1)}, None)
    after = tools_text({"a": Tier(1), "b": Tier(2)}, before)
    assert tool_tiers(strictest_tools(before, after)) == {"a": Tier(4), "b": Tier(2)}


@pytest.mark.parametrize("name", UNSAFE)
def test_an_unsafe_setting_that_is_switched_on_asks_for_less(name: str) -> None:
    table = load_tiers()
    before, after = settings_text(table, SAFE), settings_text(table, {**SAFE, name: True})
    assert hold(SETTINGS, before, after).weaker == (f"the setting {name} would be on",)
    assert hold(SETTINGS, after, before).weaker == ()


def test_each_respect_of_the_table_is_seen() -> None:
    table = load_tiers()
    row = table.tiers[4]
    assert row.call_approval is not None
    anybody = (RoleEntry(role="passer-by", people=1),)
    others = {
        "call": changed(4, call_approval=row.call_approval.model_copy(update={"cool_down": 0.0})),
        "carry": changed(4, must_carry=()),
        "workflow": changed(4, workflow_approval=row.workflow_approval.model_copy(update={"roles": anybody})),
        "nobody": changed(3, call_approval=None),
    }
    asked = changed(3, call_approval=row.call_approval)
    before = settings_text(table, SAFE)
    for name, other in others.items():
        start = settings_text(asked, SAFE) if name == "nobody" else before
        change = hold(SETTINGS, start, settings_text(other, SAFE))
        assert change.weaker, name
        assert change.difference[0].startswith("WIDENS")
        assert len(change.difference) > 1, "the values are said as well"


def test_the_table_comes_back_as_it_was() -> None:
    table = load_tiers()
    assert table_of(settings_text(table, SAFE)) == table
    assert table_of(settings_text(table, SAFE)).digest == table.digest
    with pytest.raises(InvalidArgumentError) as broken:
        table_of({"table": {"tiers": []}})
    assert broken.value.reason == "TIERS_INVALID"


def test_only_what_is_held_back_is_asked_for() -> None:
    before = tools_text({"a": Tier(4)}, None)
    change = hold(TOOLS, before, tools_text({"a": Tier(1)}, before))
    which = str(change.parameters["digest"])
    assert held_change((change,), TOOLS, which) is change
    for action, other in ((SETTINGS, which), (TOOLS, "sha256:0")):
        with pytest.raises(NotFoundError):
            held_change((change,), action, other)
