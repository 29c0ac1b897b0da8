"""Which policies touch the two-person rule, and what people are shown of them."""

from __future__ import annotations

import pytest

from broker.errors import InvalidArgumentError
from broker.pipeline.policy_changes import MOST_BYTES, PolicyChange, check_length, counted_roles, examine, parameters_of
from broker.policy.snapshot import Snapshot
from broker.specs.tiers import load_tiers

COUNTED = counted_roles(load_tiers())
BASE = """
p, p1, role:human, *, *, approve, 4, allow, everybody votes
p, p2, role:caller, demo, x.y, call, 2, allow, callers call
g, human:ada, role:approver, *
g, role:lead, role:approver, *
"""


def change(*more: str, without: str = "") -> PolicyChange:
    old = Snapshot.load(BASE)
    new = Snapshot.load(BASE.replace(without, "", 1) + "".join(f"{item}\n" for item in more))
    return examine(old, new, tools={}, counted=COUNTED)


def test_administration_and_every_tier_say_which_roles_count() -> None:
    assert {"approver", "exec-sponsor"} <= COUNTED


@pytest.mark.parametrize(
    "row",
    [
        "g, human:eve, role:approver, *",
        "g, human:eve, role:approver, demo",
        "g, human:eve, role:lead, *",
        "g, role:caller, role:lead, *",
        "g, human:eve, role:exec-sponsor, demo",
        "p, p3, role:caller, demo, x.y, call, 4, allow, callers do anything",
        "p, p3, role:caller, *, broker.admin, approve, 4, allow, callers administrate",
    ],
)
def test_who_gets_a_vote_that_counts_touches_the_rule(row: str) -> None:
    found = change(row)
    assert found.sensitive
    assert found.sentences[: len(found.sensitive)] == found.sensitive
    assert all(item.startswith("WIDENS, and touches the two-person rule: ") for item in found.sensitive)
    added = "Grant added: " if row.startswith("g") else "Rule added: "
    assert any(item.startswith(added) for item in found.sentences)


@pytest.mark.parametrize("row", ["g, human:eve, role:caller, *", "p, p3, role:caller, *, x.y, call, 3, allow, more"])
def test_what_is_no_vote_and_no_tier_4_needs_nobody(row: str) -> None:
    found = change(row)
    assert found.sensitive == ()
    assert found.sentences


def test_what_is_taken_away_needs_nobody() -> None:
    assert change(without="g, human:ada, role:approver, *\n").sensitive == ()


def test_a_human_who_gets_something_by_name_is_concerned() -> None:
    found = change(
        "g, human:eve, role:approver, *",
        "p, p3, human:bob, demo, x.y, approve, 4, allow, bob",
        "g, role:a, role:lead, *",
    )
    assert found.concerned == {"eve", "bob"}


def test_both_policies_are_what_is_agreed_to() -> None:
    old, new = Snapshot.load(BASE), Snapshot.load(BASE + "# a comment\n")
    assert parameters_of(old, new) == {"digest": new.digest, "before": old.digest, "rules": 2}
    assert parameters_of(new, old) != parameters_of(old, new)


def test_what_is_too_long_to_be_shown_is_not_asked_about() -> None:
    found = change("g, human:eve, role:approver, *")
    assert check_length(found) is found
    with pytest.raises(InvalidArgumentError) as refused:
        check_length(PolicyChange(found.parameters, ("x" * (MOST_BYTES + 1),), (), frozenset(), found.found))
    assert refused.value.reason == "DIFFERENCE_TOO_LONG"
