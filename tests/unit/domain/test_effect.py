"""Effects: read as they were written or refused, taken back by their inverse, and never two with one digest or one text."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.domain.canonical import JsonObject, canonical
from broker.domain.events import Outcome
from broker.domain.outside import Step, item_path
from broker.domain.planned import OutsidePlan, Planned, decode_planned, encode_planned
from broker.domain.rendering import render
from broker.domain.run import EndCause, EvidenceSource
from broker.domain.tree import (
    RESERVED,
    Change,
    Effect,
    Entry,
    TreeFile,
    TreeLink,
    check_change,
    read_effect,
    read_entry,
)
from broker.errors import BrokerError, DataLossError, InvalidArgumentError
from broker.rollback.shown import shown_changes, summary
from tests.approval_envelopes import approval_envelope
from tests.tree_values import BY_DIGEST, address, applied, effects, trees

SALT = "5a" * 32
BASE = address(b"base")
OUTCOME = Outcome(EndCause.TOOL, EvidenceSource.ENGINE, "exit 0", exit_code=0, warnings=("\u202e",))


@given(trees, trees)
def test_an_effect_makes_the_one_of_the_other_and_its_inverse_the_other_way(
    before: dict[str, Entry], after: dict[str, Entry]
) -> None:
    effect = Effect.between(before, after)
    assert applied(before, effect) == after
    assert applied(after, effect.inverse()) == before
    assert effect.inverse().inverse() == effect
    assert bool(effect.changes) == (before != after)
    assert [change.path.encode() for change in effect.changes] == sorted(path.encode() for path in effect.paths)


@given(effects, effects)
def test_it_is_read_as_it_was_written_and_two_have_two_digests(one: Effect, other: Effect) -> None:
    assert read_effect(json.loads(canonical(list(one.body())))) == one
    assert (one.digest(SALT) == other.digest(SALT)) == (one == other)
    assert one.digest(SALT) != one.digest("00" * 32)


@given(effects)
def test_renames_pair_each_path_once_and_only_equal_bytes(effect: Effect) -> None:
    by_path = {change.path: change for change in effect.changes}
    found = effect.renames()
    assert len(set(found.values())) == len(found)
    for new, old in found.items():
        came, went = by_path[new].after, by_path[old].before
        assert by_path[new].before is None
        assert by_path[old].after is None
        assert isinstance(came, TreeFile)
        assert isinstance(went, TreeFile)
        assert came.digest == went.digest


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [1],
        [{"path": "a", "before": None}],
        [{"path": "a", "before": None, "after": None}],
        [{"path": 1, "before": None, "after": {"link": "x"}}],
        [{"path": "a", "before": None, "after": {"link": "x"}, "more": 1}],
        [{"path": "a", "before": None, "after": {"link": "x", "more": 1}}],
        [{"path": "b", "before": None, "after": {"link": "x"}}, {"path": "a", "before": None, "after": {"link": "x"}}],
        [{"path": "a", "before": None, "after": {"link": "x"}}] * 2,
        [{"path": "a", "before": None, "after": {"file": "sha256:x", "size": 1, "mode": 0}}],
        [{"path": "a", "before": None, "after": {"file": BASE, "size": -1, "mode": 0}}],
        [{"path": "a", "before": None, "after": {"file": BASE, "size": 1, "mode": 0o1000}}],
        [{"path": "a", "before": None, "after": {"file": BASE, "size": True, "mode": 0}}],
        [{"path": "a", "before": None, "after": {"file": BASE, "size": 1, "mode": False}}],
        [{"path": "a", "before": None, "after": {"file": BASE + "\n", "size": 1, "mode": 0}}],
    ],
)
def test_what_is_no_effect_is_refused(value: object) -> None:
    with pytest.raises(DataLossError):
        read_effect(value)  # type: ignore[arg-type]  # anything may lie there


@pytest.mark.parametrize("value", [1, "", [], {}, {"file": BASE}, {"link": 1}])
def test_what_is_no_entry_is_refused(value: object) -> None:
    with pytest.raises(DataLossError):
        read_entry(value)  # type: ignore[arg-type]  # anything may lie there


@pytest.mark.parametrize(
    ("path", "after", "reason"),
    [
        ("/a", TreeLink("x"), "PATH_INVALID"),
        ("a/../b", TreeLink("x"), "PATH_INVALID"),
        ("a\nb", TreeLink("x"), "PATH_INVALID"),
        (RESERVED, TreeLink("x"), "PATH_INVALID"),
        (f"{RESERVED}/a", None, "PATH_INVALID"),
        ("a", TreeLink(""), "ENTRY_INVALID"),
        ("a", TreeLink("\0"), "ENTRY_INVALID"),
        ("a", TreeLink("\ud800"), "ENTRY_INVALID"),
        ("a", TreeLink("x" * 4096), "ENTRY_INVALID"),
        ("a", TreeFile("sha256:", 0), "ENTRY_INVALID"),
        ("a", TreeFile(BASE, 2**53), "ENTRY_INVALID"),
        ("a", TreeFile(BASE, 0, 0o4755), "ENTRY_INVALID"),
        ("a", None, "ENTRY_INVALID"),
    ],
)
def test_what_no_tree_can_hold_is_refused(path: str, after: Entry | None, reason: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_change(Change(path, None, after), "effect")
    assert caught.value.reason == reason
    check_change(Change(f"a{RESERVED}/{RESERVED}", None, TreeLink("x")), "effect")


planned = st.builds(
    Planned,
    st.just(BASE),
    st.just(address(b"selection")),
    effects,
    st.sampled_from(("", address(b"artifact"))),
    st.just(OUTCOME),
    st.sampled_from(((), ("call_1",), ("call_1", "call_2"))),
)


@given(planned)
def test_a_plan_is_read_as_it_was_kept(plan: Planned) -> None:
    assert decode_planned(encode_planned(plan)) == plan


@given(planned, st.data())
@settings(max_examples=50)
def test_a_plan_that_is_cut_or_changed_is_never_taken_for_the_same(plan: Planned, data: st.DataObject) -> None:
    kept = encode_planned(plan)
    at = data.draw(st.integers(0, len(kept) - 1))
    with pytest.raises(BrokerError):
        decode_planned(kept[:at])
    changed = bytearray(kept)
    changed[at] ^= data.draw(st.integers(1, 127))
    try:
        found = decode_planned(bytes(changed))
    except BrokerError:
        return
    # Members of the outcome that this version doesn't know are another version's, and no part of what is applied.
    inside = kept.index(b'"outcome"') <= at < kept.index(b'"selection"')
    assert inside or found != plan


@pytest.mark.parametrize("member", ["base", "selection", "changes", "artifact", "undoes", "outcome"])
def test_a_plan_without_a_member_or_with_another_kind_of_it_is_refused(member: str) -> None:
    kept = json.loads(encode_planned(Planned(BASE, BASE, Effect(()), "", OUTCOME)))
    for value in (None, 1, {"a": 1}):
        with pytest.raises(DataLossError):
            decode_planned(canonical({**kept, member: value}))
    del kept[member]
    with pytest.raises(DataLossError):
        decode_planned(canonical(kept))


def shown(effect: Effect) -> JsonObject:
    """An approval's envelope with an effect."""
    envelope = copy.deepcopy(approval_envelope())
    changes, missing = shown_changes(effect, BY_DIGEST.__getitem__)
    assert not missing
    plan = Planned(BASE, address(b"selection"), effect, address(b"artifact"), OUTCOME)
    envelope["effect"] = {"bound": plan.bound(SALT), "summary": summary(effect), "changes": list(changes)}
    return envelope


@given(effects, effects)
@settings(max_examples=40)
def test_two_effects_never_have_the_same_text(one: Effect, other: Effect) -> None:
    assert (render(shown(one)) == render(shown(other))) == (one == other)


ITEMS = Effect.of(
    [
        Change(item_path("shelf.set", "apple"), TreeFile(address(b"red\n"), 4), TreeFile(address(b"a\n"), 2)),
        Change(item_path("shelf.set", "deep/pear"), TreeFile(address(b"a\n"), 2), None),
    ]
)
PLAN = OutsidePlan(
    "shelf.set", Step.APPLY, "exact", "undo", address(b"version"), address(b"frames"), address(b"undo frames")
)


PLANNED_OUTSIDE = Planned("", address(b"selection"), ITEMS, address(b"artifact"), OUTCOME, outside=PLAN)


def shown_outside() -> JsonObject:
    """An approval's envelope with an effect outside."""
    contents = {address(b"red\n"): b"red\n", address(b"a\n"): b"a\n"}
    changes, missing = shown_changes(ITEMS, contents.__getitem__)
    assert not missing
    plan = PLANNED_OUTSIDE
    assert decode_planned(encode_planned(plan)) == plan
    envelope = copy.deepcopy(approval_envelope())
    envelope["effect"] = {"bound": plan.bound(SALT), "summary": summary(ITEMS), "changes": list(changes)}
    envelope["on_failure"] = "undo"
    return envelope


def test_items_outside_are_shown_by_their_names_with_what_happens_if_it_fails() -> None:
    text = render(shown_outside())
    for said in ("OUTSIDE", "deep/pear", "-red", "+a", "TAKEN BACK BY ITSELF", "shelf.set", address(b"version")):
        assert said in text, text
    assert ".broker-outside" not in text
    # What is given to the program can be guessed: its digests go nowhere without the call's salt.
    bound = str(PLANNED_OUTSIDE.bound(SALT))
    for plain in (address(b"frames"), address(b"undo frames"), address(b"selection")):
        assert plain not in bound
        assert plain not in text


@pytest.mark.parametrize(
    "change",
    [
        lambda envelope: envelope.update(on_failure="none"),
        lambda envelope: envelope["effect"]["bound"]["outside"].update(on_failure="none"),
        lambda envelope: envelope["effect"]["bound"]["outside"].update(tool="other.tool"),
        lambda envelope: envelope["effect"]["bound"].pop("outside"),
        lambda envelope: envelope["effect"]["changes"][0].update(path="apple"),
        lambda envelope: envelope["effect"]["changes"][0]["after"].update(mode=0o755),
        lambda envelope: envelope["effect"]["changes"][0].update(after={"link": "x"}),
        lambda envelope: envelope["effect"]["changes"].pop(),
    ],
    ids=["on-failure", "on-failure-of-the-effect", "tool", "inside", "path", "mode", "link", "left-out"],
)
def test_an_effect_outside_that_contradicts_itself_has_no_text(change: Callable[[Any], object]) -> None:
    envelope = shown_outside()
    change(envelope)
    with pytest.raises(InvalidArgumentError) as caught:
        render(envelope)
    assert caught.value.reason == "ENVELOPE_MALFORMED"


def test_changes_that_are_not_those_of_the_digest_have_no_text() -> None:
    file = TreeFile(address(b"a\n"), 2)
    envelope = shown(Effect((Change("a", file, None), Change("b", None, TreeLink("x")))))
    render(envelope)
    paths = (("path", "c"), ("before", None), ("after", {"link": "y"}))
    for member, value in paths:
        other = copy.deepcopy(envelope)
        other["effect"]["changes"][0][member] = value  # type: ignore[index,call-overload]  # it is there
        with pytest.raises(InvalidArgumentError) as caught:
            render(other)
        assert caught.value.reason == "ENVELOPE_MALFORMED"
    for change in (
        lambda effect: effect["changes"].pop(),
        lambda effect: effect["changes"].reverse(),
        lambda effect: effect["changes"].append(effect["changes"][0]),
        lambda effect: effect["bound"].update(digest=BASE),
        lambda effect: effect["changes"][0].update(shown="long", text=""),
        lambda effect: effect["changes"][0].update(kind="other"),
        lambda effect: effect["changes"][1].update(text="hidden"),
        lambda effect: effect.pop("summary"),
    ):
        other = copy.deepcopy(envelope)
        change(other["effect"])
        with pytest.raises(InvalidArgumentError):
            render(other)


def test_what_a_reader_doesnt_know_of_an_effect_is_shown_all_the_same() -> None:
    file = TreeFile(address(b"a\n"), 2)
    envelope = shown(Effect((Change("a", file, None),)))
    plain = render(envelope)
    for change in (
        lambda effect: effect["bound"].update(more="not known"),
        lambda effect: effect["changes"][0].update(more="not known"),
        lambda effect: effect["summary"].update(more="not known"),
        lambda effect: effect.update(more="not known"),
    ):
        other = copy.deepcopy(envelope)
        change(other["effect"])
        assert "not known" in render(other)
        assert "not known" not in plain
