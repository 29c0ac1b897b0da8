"""The table of tiers: what is shipped, an operator's own, its floor, and where in the file a fault is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.domain.call import CallContext, Source
from broker.domain.requirement import Channel, Requirement, RoleCount, parse
from broker.domain.tier import Tier
from broker.errors import InvalidArgumentError
from broker.specs.catalogue import Catalogue
from broker.specs.lint import lint_file
from broker.specs.shipped import shipped_folder
from broker.specs.tiers import TIERS_FILE, Tiers, load_tiers

SHIPPED = (shipped_folder() / TIERS_FILE).read_text("utf-8")


def own(folder: Path, text: str) -> Path:
    (folder / TIERS_FILE).write_text(text, "utf-8")
    return folder


def changed(old: str, new: str) -> str:
    assert SHIPPED.count(old) == 1, old
    return SHIPPED.replace(old, new)


def test_a_call_of_tier_4_needs_two_people_and_no_other_tier_anybody() -> None:
    tiers = load_tiers()
    assert [tiers.row(tier).call_requirement() for tier in Tier][:4] == [None] * 4
    assert tiers.row(Tier.AUTONOMOUS).call_requirement() == Requirement(
        people=2,
        roles=(RoleCount("approver", 2),),
        channels=frozenset({Channel.CLI}),
        min_signed=1,
        expiry_s=4 * 3600.0,
        cooldown_s=900.0,
        max_pending=5,
        exclude_tool_owner=True,
    )


def test_a_workflow_is_approved_by_the_named_roles_of_its_tier() -> None:
    tiers = load_tiers()
    named = {int(tier): tiers.row(tier).workflow_requirement() for tier in Tier}
    assert {tier: tuple((item.role, item.people) for item in asked.roles) for tier, asked in named.items()} == {
        0: (("team-lead", 1),),
        1: (("pm", 1), ("support-ops", 1)),
        2: (("engineering", 1), ("security", 1)),
        3: (("compliance", 1), ("legal", 1)),
        4: (("exec-sponsor", 1),),
    }
    for asked in named.values():
        assert asked.people == asked.min_signed == len(asked.roles)
        assert asked.channels == {Channel.CLI}
        assert parse(asked.json()) == asked


def test_what_a_call_must_carry() -> None:
    tiers = load_tiers()
    bare = CallContext(workspace="demo")
    assert [tiers.row(tier).missing(bare) for tier in Tier] == [
        [],
        [],
        [],
        ["session"],
        ["workflow", "session", "purpose"],
    ]
    blank = CallContext(workspace="demo", workflow="close", session="ses_1", purpose=" \n")
    assert tiers.row(Tier.AUTONOMOUS).missing(blank) == ["purpose"]


@pytest.mark.parametrize("carried", ["[]", "[session]", "[purpose, session]"])
def test_at_tier_4_a_workflow_is_demanded_whatever_the_table_says(tmp_path: Path, carried: str) -> None:
    table = load_tiers(own(tmp_path, changed("[workflow, session, purpose]", carried)))
    assert "workflow" in table.row(Tier.AUTONOMOUS).missing(CallContext(workspace="demo", session="s", purpose="p"))
    named = CallContext(workspace="demo", workflow="close", session="s", purpose="p")
    assert table.row(Tier.AUTONOMOUS).missing(named) == []
    assert "workflow" not in table.row(Tier.REGULATED).missing(CallContext(workspace="demo"))


def test_each_field_can_be_demanded(tmp_path: Path) -> None:
    names = ["workflow", "session", "purpose", "model", "prompt_version", "sources", "delegation"]
    row = load_tiers(own(tmp_path, changed("[session]", str(names).replace("'", "")))).row(Tier.REGULATED)
    assert row.missing(CallContext(workspace="demo")) == names
    said: dict[str, Any] = {name: "x" for name in names if name != "sources"}
    assert row.missing(CallContext(workspace="demo", **said, sources=(Source("file:a"),))) == []
    assert row.missing(CallContext(workspace="demo", **said, sources=(Source(""),))) == ["sources"]


def test_an_operators_table_takes_the_shipped_ones_place(tmp_path: Path) -> None:
    assert load_tiers(tmp_path) == load_tiers()
    assert load_tiers(tmp_path / "gone") == load_tiers()
    mine = load_tiers(own(tmp_path, changed("expires: 4h", "expires: 30m")))
    asked = mine.row(Tier.AUTONOMOUS).call_requirement()
    assert asked is not None
    assert asked.expiry_s == 1800
    # The tools of the same folder load beside it.
    assert Catalogue.load([tmp_path]).names == ()


def test_a_table_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / TIERS_FILE).symlink_to("nowhere.yaml")
    with pytest.raises(InvalidArgumentError) as caught:
        load_tiers(tmp_path)
    assert caught.value.reason == "TIERS_INVALID"
    (tmp_path / TIERS_FILE).unlink()
    (tmp_path / TIERS_FILE).mkdir()
    with pytest.raises(InvalidArgumentError, match="not a plain file"):
        load_tiers(tmp_path)


def test_the_digest_is_of_what_it_says_and_not_of_how(tmp_path: Path) -> None:
    shipped = load_tiers().digest
    assert load_tiers(own(tmp_path, "# note\n" + changed("expires: 4h", "expires: 240m"))).digest == shipped
    assert load_tiers(own(tmp_path, changed("expires: 4h", "expires: 241m"))).digest != shipped
    assert load_tiers(own(tmp_path, changed("[session]", "[session, model]"))).digest != shipped


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        ("people: 2}]", "people: 0}]", (51, 40), "greater than or equal to 1"),
        ("      people: 2\n      roles: [{role: approver, people: 2}]", "      people: 1\n      roles: [{role: approver, people: 1}]", (50, 15), "must be at least 2 at Tier 4"),
        ("      people: 2\n      roles: [{role: approver", "      people: yes\n      roles: [{role: approver", (50, 15), "valid integer"),
        ("      people: 2\n      roles: [{role: approver", "      people: true\n      roles: [{role: approver", (50, 15), "valid integer"),
        ("      people: 2\n      roles: [{role: approver", "      peple: 2\n      roles: [{role: approver", (50, 7), "did you mean 'people'?"),
        ("[{role: approver, people: 2}]", "[]", (51, 14), "at least 1 item"),
        ("role: approver", "role: human", (51, 22), "which everybody of that kind holds"),
        ("role: approver", "role: role:approver", (51, 22), "match pattern"),
        ("{role: pm, people: 1}, {role: support-ops", "{role: pm, people: 1}, {role: pm", (22, 45), "names pm a second time"),
        ("channels: [cli]", "channels: []", (52, 17), "at least 1 item"),
        ("channels: [cli]", "channels: [cli, email]", (52, 23), "'cli' or 'slack'"),
        ("channels: [cli]", "channels: [slack]", (52, 17), "must hold cli"),
        ("signed: 1", "signed: 3", (53, 15), "more than the people"),
        ("expires: 4h", "expires: 0s", (54, 16), "greater than 0"),
        ("expires: 4h", "expires: 8d", (54, 16), "less than or equal to 604800"),
        ("expires: 4h", "expires: 4", (54, 16), "with a unit"),
        ("cool_down: 15m", "cool_down: 15", (55, 18), "with a unit"),
        ("expires: 4h", "expires: never", (54, 16), "is not a duration"),
        ("pending_per_agent: 5", "pending_per_agent: 0", (56, 26), "greater than or equal to 1"),
        ("exclude_tool_owner: true", "exclude_tool_owner: 1", (57, 27), "valid boolean"),
        ("      signed: 1\n", "", (50, 7), "the key 'signed' is missing"),
        ("must_carry: [session]", "must_carry: [sesion]", (38, 18), "'session'"),
        ("must_carry: [session]", "must_carry: [session, session]", (38, 17), "names a field twice"),
    ],
)  # fmt: skip
def test_faults_have_line_and_column(tmp_path: Path, old: str, new: str, place: tuple[int, int], message: str) -> None:
    path = own(tmp_path, changed(old, new)) / TIERS_FILE
    found = [item for item in lint_file(path) if message in item.message]
    assert found, [str(item) for item in lint_file(path)]
    assert (found[0].line, found[0].column, found[0].warning) == (*place, False)
    with pytest.raises(InvalidArgumentError) as caught:
        load_tiers(tmp_path, chat_only_allowed=True, slack_allowed=True)
    assert caught.value.reason == "TIERS_INVALID"
    assert f"{path}:{place[0]}:{place[1]}" in {item.field for item in caught.value.violations}
    with pytest.raises(InvalidArgumentError):
        Catalogue.load([tmp_path])


def test_tier_4_without_a_word_about_calls_is_refused(tmp_path: Path) -> None:
    rows = yaml.safe_load(SHIPPED)
    del rows["tiers"][4]["call_approval"]
    path = own(tmp_path, yaml.safe_dump(rows)) / TIERS_FILE
    assert "two people agree to each call of Tier 4" in lint_file(path)[0].message
    with pytest.raises(InvalidArgumentError, match="call_approval"):
        load_tiers(tmp_path, chat_only_allowed=True, slack_allowed=True)


@pytest.mark.parametrize(
    ("old", "new", "risk", "setting"),
    [
        ("signed: 1", "signed: 0", "chat_only_allowed", "unsafe_chat_only_quorum"),
        ("[cli]", "[cli, slack]", "slack_allowed", "unsafe_slack_approves_tier4"),
    ],
)
def test_a_risk_is_taken_by_its_setting_alone(tmp_path: Path, old: str, new: str, risk: str, setting: str) -> None:
    folder = own(tmp_path, changed(old, new))
    found = lint_file(folder / TIERS_FILE)
    assert [item.warning for item in found] == [True]
    assert setting in found[0].message
    both = {"chat_only_allowed", "slack_allowed"}
    assert isinstance(load_tiers(folder, **{risk: True}), Tiers)
    for other in ({}, dict.fromkeys(both - {risk}, True)):
        with pytest.raises(InvalidArgumentError) as caught:
            load_tiers(folder, **other)
        assert caught.value.reason == "TIERS_INVALID"


def test_a_lower_tier_may_ask_too_and_by_chat_alone(tmp_path: Path) -> None:
    rows = yaml.safe_load(SHIPPED)
    rows["tiers"][2]["call_approval"] = {
        **rows["tiers"][4]["call_approval"],
        "people": 1,
        "roles": [{"role": "support-ops", "people": 1}],
        "channels": ["slack"],
        "signed": 0,
    }
    asked = load_tiers(own(tmp_path, yaml.safe_dump(rows))).row(Tier.CUSTOMER_FACING).call_requirement()
    assert asked is not None
    assert (asked.people, asked.min_signed, asked.channels) == (1, 0, {Channel.SLACK})


def test_people_are_at_least_the_sum_of_the_roles(tmp_path: Path) -> None:
    asked = load_tiers(own(tmp_path, changed("{role: approver, people: 2}", "{role: approver, people: 3}")))
    requirement = asked.row(Tier.AUTONOMOUS).call_requirement()
    assert requirement is not None
    assert requirement.people == 3


def test_a_row_that_skipped_its_checks_still_gives_nothing_below_the_floor() -> None:
    row = load_tiers().row(Tier.AUTONOMOUS)
    assert row.call_approval is not None
    one = row.call_approval.model_copy(update={"people": 1, "roles": row.workflow_approval.roles})
    for weak in (row.model_copy(update={"call_approval": None}), row.model_copy(update={"call_approval": one})):
        with pytest.raises(InvalidArgumentError) as caught:
            weak.call_requirement()
        assert caught.value.reason == "REQUIREMENT_TOO_WEAK"
