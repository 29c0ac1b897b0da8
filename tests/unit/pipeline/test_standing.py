"""What a start would bring into force, compared with the record: what is less, and what goes on being in force."""

from __future__ import annotations

from typing import Any

import pytest

from broker.domain.administration import SETTINGS, TOOL
from broker.errors import InvalidArgumentError, NotFoundError
from broker.pipeline.standing import (
    UNSAFE,
    folders_of,
    held_change,
    hold,
    settings_text,
    table_of,
)
from broker.specs.tiers import RoleEntry, Tiers, load_tiers

SAFE = dict.fromkeys(UNSAFE, False)


def changed(tier: int, **changes: Any) -> Tiers:  # noqa: ANN401 - values of any field
    table = load_tiers()
    rows = list(table.tiers)
    rows[tier] = rows[tier].model_copy(update=changes)
    return table.model_copy(update={"tiers": tuple(rows)})


@pytest.mark.parametrize("name", UNSAFE)
def test_an_unsafe_setting_that_is_switched_on_asks_for_less(name: str) -> None:
    table = load_tiers()
    before, after = settings_text(table, SAFE), settings_text(table, {**SAFE, name: True})
    assert hold(before, after).weaker == (f"the setting {name} would be on",)
    assert hold(after, before).weaker == ()


@pytest.mark.parametrize(
    ("before", "after", "less"),
    [
        ({}, {"shop": "/srv/shop"}, "the files of workspace shop would be /srv/shop, and not the broker's own tree"),
        ({"shop": "/a"}, {"shop": "/b"}, "the files of workspace shop would be /b, and not /a"),
        ({"shop": "/a"}, {}, "the files of workspace shop would be the broker's own tree, and not /a"),
    ],
)
def test_another_directory_for_a_workspace_asks_for_less(
    before: dict[str, str], after: dict[str, str], less: str
) -> None:
    table = load_tiers()
    first, second = settings_text(table, SAFE, before), settings_text(table, SAFE, after)
    assert hold(first, second).weaker == (less,)
    assert (folders_of(first), folders_of(second)) == (before, after)
    assert hold(first, first).weaker == ()
    assert settings_text(table, SAFE, {}) == settings_text(table, SAFE), "a record from before stays the same"


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
        change = hold(start, settings_text(other, SAFE))
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
    table = load_tiers()
    before, after = settings_text(table, SAFE), settings_text(table, {**SAFE, UNSAFE[0]: True})
    change = hold(before, after)
    which = str(change.parameters["digest"])
    assert held_change((change,), SETTINGS, which) is change
    for action, other in ((TOOL, which), (SETTINGS, "sha256:0")):
        with pytest.raises(NotFoundError):
            held_change((change,), action, other)
