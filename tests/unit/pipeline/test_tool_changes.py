"""Tools that a start brings along: at which tier each runs, and what people are shown of one that waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.domain.tool_standing import Accepted, Hold, ToolStanding, held, least_tier, surface, tools_digest
from broker.pipeline.tool_changes import held_tool, registered, spec_text
from broker.specs.catalogue import Catalogue, Tool

SPEC = """
name: world.look
description: Looks at the world, as far as a test can tell.
owner: olivia
tier: 1
image: python
run:
  argv: [/bin/ls]
arguments: {type: object, additionalProperties: false}
"""
REACHES = f"{SPEC}\negress:\n  - {{kind: https, host: api.example.com}}\n"


def tool(folder: Path, text: str = SPEC, *changes: tuple[str, str]) -> Tool:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    folder.mkdir(exist_ok=True)
    (folder / "world.look.yaml").write_text(text, "utf-8")
    return Catalogue.load([folder]).all()[0]


def accepted(one: Tool, tier: int | None = None) -> ToolStanding:
    said = registered(one, None, founded=False)
    return ToolStanding(said, Accepted(said.tier if tier is None else tier, said.surface, said.version))


def which(one: Tool) -> str:
    return surface(one.spec.normalised(), one.files)


def test_before_the_founding_it_runs_as_it_asks(tmp_path: Path) -> None:
    assert registered(tool(tmp_path), None, founded=False).tier == 1


def test_a_new_one_runs_at_tier_4(tmp_path: Path) -> None:
    one = tool(tmp_path)
    said = registered(one, None, founded=True)
    assert (said.tier, said.declared) == (4, 1)
    change = held_tool(one, said, None, None)
    assert change is not None
    assert change.tool == "world.look"
    assert change.why == "registered after the founding, unapproved; broker tools approve world.look"
    assert change.difference[0].endswith("world.look would be of tier 1 instead of 4")
    assert 'image: nothing becomes "python"' in change.difference
    assert change.parameters["digest"] == one.digest


def test_one_that_two_people_agreed_to_runs_as_it_asks(tmp_path: Path) -> None:
    assert registered(tool(tmp_path), None, founded=True, agreed=True).tier == 1


def test_one_that_was_accepted_runs_on_and_a_higher_tier_asks_nobody(tmp_path: Path) -> None:
    one = tool(tmp_path)
    for text in (SPEC, SPEC.replace("tier: 1", "tier: 3"), SPEC.replace("tier: 1", "tier: 4")):
        other = tool(tmp_path, text)
        said = registered(other, accepted(one), founded=True)
        assert said.tier == said.declared
        assert held_tool(other, said, accepted(one).accepted, None) is None


def test_a_lower_tier_waits_at_the_one_that_was_accepted(tmp_path: Path) -> None:
    one = tool(tmp_path)
    said = registered(one, accepted(one, 3), founded=True)
    assert (said.tier, said.declared) == (3, 1)
    change = held_tool(one, said, accepted(one, 3).accepted, spec_text(one))
    assert change is not None
    assert change.why.startswith("given a lower tier")


def test_what_changed_is_shown_beside_what_was_accepted(tmp_path: Path) -> None:
    one, other = tool(tmp_path), tool(tmp_path, REACHES)
    said = registered(other, accepted(one), founded=True)
    assert said.tier == 4
    change = held_tool(other, said, accepted(one).accepted, spec_text(one))
    assert change is not None
    assert change.why.startswith("changed after the founding")
    assert len(change.difference) == 2, change.difference
    assert change.difference[1].startswith("egress: [] becomes [{")
    unseen = held_tool(other, said, accepted(one).accepted, None)
    assert unseen is not None
    assert "can't be shown" in unseen.difference[1]
    assert len(unseen.difference) > 10, "then all of it is"


WORDS = (("Looks at", "Looks closely at"), ("tier: 1", "tier: 2"))
CONFINED = (*WORDS, ("[/bin/ls]", "[/bin/cat]"), ("{type: object,", "{type: object, properties: {a: {type: string}},"))


@pytest.mark.parametrize("change", CONFINED)
def test_what_stays_in_the_sandbox_may_change(tmp_path: Path, change: tuple[str, str]) -> None:
    assert which(tool(tmp_path)) == which(tool(tmp_path, SPEC, change))


@pytest.mark.parametrize("change", WORDS)
def test_the_words_of_a_tool_that_reaches_hosts_may_change(tmp_path: Path, change: tuple[str, str]) -> None:
    assert which(tool(tmp_path, REACHES)) == which(tool(tmp_path, REACHES, change))


WIDER = (
    ("owner: olivia", "owner: ada"),
    ("image: python", "image: base"),
    ("tier: 1", "tier: 1\nruntime: runc"),
    ("tier: 1", "tier: 1\ndata_classes: [customer]"),
)


@pytest.mark.parametrize("change", WIDER)
def test_what_decides_what_any_tool_may_do(tmp_path: Path, change: tuple[str, str]) -> None:
    assert which(tool(tmp_path)) != which(tool(tmp_path, SPEC, change))
    assert which(tool(tmp_path, REACHES)) != which(tool(tmp_path, REACHES, change))


REACHING = (
    ("[/bin/ls]", "[/bin/cat]"),
    ("{type: object,", "{type: object, properties: {a: {type: string}},"),
    ("api.example.com", "api.example.org"),
    (
        "{kind: https, host: api.example.com}",
        "{kind: https, host: api.example.com, secret: {name: token, header: authorization}}",
    ),
    ("tier: 1", "tier: 1\nenv: {MODE: all}"),
    ("{kind: https, host: api.example.com}", "{kind: https, host: api.example.com, record: 1MiB}"),
)


@pytest.mark.parametrize("change", REACHING)
def test_what_decides_what_a_tool_that_reaches_hosts_may_do(tmp_path: Path, change: tuple[str, str]) -> None:
    assert which(tool(tmp_path, REACHES)) != which(tool(tmp_path, REACHES, change))


def test_a_file_of_a_tool_that_reaches_hosts_counts() -> None:
    spec = {"name": "a.b", "egress": [{"https": "api.example.com"}]}
    assert surface(spec, {"a.py": b"1"}) != surface(spec, {"a.py": b"2"})
    assert surface({"name": "a.b", "egress": []}, {"a.py": b"1"}) == surface({"name": "a.b", "egress": []}, {})


def test_nothing_accepted_or_another_surface_is_the_highest_tier() -> None:
    known = Accepted(2, "s", "v")
    assert [least_tier(None, "s"), least_tier(known, "t"), least_tier(known, "s")] == [4, 4, 2]
    assert [held(None, 4, "s"), held(None, 3, "s"), held(known, 2, "s")] == [None, Hold.NEW, None]
    assert [held(known, 1, "s"), held(known, 3, "t")] == [Hold.LOWERED, Hold.CHANGED]


def test_the_digest_of_all_tools_covers_tier_and_surface(tmp_path: Path) -> None:
    one = tool(tmp_path)
    found = {
        tools_digest({"world.look": accepted(other)})
        for other in (one, tool(tmp_path, SPEC, ("tier: 1", "tier: 2")), tool(tmp_path, REACHES))
    }
    assert len(found) == 3
