"""The difference between two policies: words, and what it says of everything that flips from deny to allow."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.domain.call import PolicyRequest
from broker.domain.tier import Tier
from broker.policy.default import default_policy
from broker.policy.difference import PolicyDifference, compare
from broker.policy.snapshot import Snapshot
from broker.policy.widening import Cause, Kind, Search

BASE = """\
p, approve-data, role:approver, *, data.*, approve, 4, allow, approvers decide
p, work, role:worker, *, data.*, call, 2, allow, workers work
p, no-drop, *, *, data.drop, call, 4, deny, nobody drops
p, boss, role:boss, *, data.drop, call, 4, allow, bosses drop
p, all-see, role:human, *, broker.v1.Sessions/*, rpc, 0, allow, all see
g, human:ann, role:approver, *
g, human:bob, role:boss, demo
"""
TOOLS = {"data.query": Tier.INTERNAL, "data.drop": Tier.AUTONOMOUS, "data.wipe": Tier.AUTONOMOUS}


def difference(old: str, new: str) -> PolicyDifference:
    return compare(
        Snapshot.load(old),
        Snapshot.load(new),
        people=["human:ann", "human:cleo"],
        tools=TOOLS,
        workspaces=["demo", "finance"],
    )


def widened(old: str, new: str) -> list[tuple[str, str, str]]:
    return [(item.kind.value, item.sentence, item.row) for item in difference(old, new).widens]


def test_the_same_policy_is_no_difference() -> None:
    found = difference(BASE, "# A comment.\n" + "".join(sorted(BASE.splitlines(keepends=True))))
    assert found.empty
    assert found.widens == ()


def test_what_says_the_same_under_another_name_widens_nothing() -> None:
    found = difference(BASE, BASE.replace("p, work,", "p, labour,").replace("workers work", "to work"))
    assert not found.empty
    assert found.widens == ()
    assert found.rules_added == (
        'labour is new: role:worker may call any data.* in every workspace up to tier 2 ("to work")',
    )
    assert found.rules_removed == (
        'work is gone: role:worker may call any data.* in every workspace up to tier 2 ("workers work")',
    )


def test_granting_an_approvers_role_is_said() -> None:
    new = BASE + "g, human:cleo, role:approver, finance\n"
    assert difference(BASE, new).grants_added == ("human:cleo now holds role:approver in finance",)
    assert widened(BASE, new) == [
        (
            "approver",
            (
                "human:cleo may now approve any data.* (data.drop of tier 4, data.wipe of tier 4, data.query) "
                "in finance up to tier 4: human:cleo now holds role:approver in finance"
            ),
            "g, human:cleo, role:approver, finance",
        )
    ]


def test_granting_it_through_another_role_is_said() -> None:
    new = BASE + "g, role:boss, role:approver, demo\n"
    assert [(kind, row) for kind, _, row in widened(BASE, new)] == [("approver", "g, role:boss, role:approver, demo")]
    assert "whoever holds role:boss (human:bob) may now approve" in widened(BASE, new)[0][1]


def test_granting_what_is_held_already_widens_nothing() -> None:
    assert widened(BASE, BASE + "g, human:ann, role:approver, finance\n") == []
    assert widened(BASE, BASE + "g, role:agent, role:approver, *\n") == []


def test_raising_a_rules_tier_is_said() -> None:
    new = BASE.replace("call, 2,", "call, 4,")
    assert difference(BASE, new).rules_changed == ('work changed: its tier "2" becomes "4"',)
    assert widened(BASE, new) == [
        (
            "tier4-call",
            (
                "whoever holds role:worker may now call any data.* (data.wipe of tier 4, data.query) "
                "in any workspace (finance) up to tier 4: the rule work changed"
            ),
            "work",
        )
    ]
    assert [kind for kind, *_ in widened(BASE, BASE.replace("call, 2,", "call, 3,"))] == ["other"]
    assert widened(new, BASE) == []


def test_a_deny_that_goes_is_said_with_whom_it_kept_out() -> None:
    without = BASE.replace("p, no-drop, *, *, data.drop, call, 4, deny, nobody drops\n", "")
    assert [(kind, row) for kind, _, row in widened(BASE, without)] == [("tier4-call", "no-drop"), ("other", "no-drop")]
    assert "whoever holds role:boss may now call data.drop in any workspace" in widened(BASE, without)[0][1]
    narrowed = BASE.replace("no-drop, *, *", "no-drop, *, finance")
    assert "the deny no-drop changed" in widened(BASE, narrowed)[0][1]
    # A deny that kept nobody from anything opens nothing.
    idle = BASE + "p, no-text, *, *, text.search, call, 4, deny, nobody searches\n"
    assert widened(idle, BASE) == []


def test_a_role_that_goes_may_open_what_a_deny_on_it_kept_shut() -> None:
    shut = BASE + "p, shut, role:new, *, *, approve, 4, deny, not yet\ng, human:ann, role:new, demo\n"
    found = difference(shut, shut.replace("g, human:ann, role:new, demo\n", ""))
    assert found.grants_removed == ("human:ann no longer holds role:new in demo",)
    assert [(item.kind, item.row) for item in found.sensitive] == [(Kind.APPROVER, "g, human:ann, role:new, demo")]


def test_a_rule_for_all_humans_names_examples() -> None:
    new = BASE + "p, everybody, role:human, demo, broker.runbook, approve, 1, allow, all decide\n"
    assert widened(BASE, new)[0][1] == (
        "any human (human:cleo) may now approve broker.runbook in demo up to tier 1: the rule everybody is new"
    )


def test_a_star_for_tools_makes_nobody_an_approver_of_the_broker() -> None:
    old = BASE + "p, admin, role:approver, *, broker.admin, approve, 4, allow, approvers decide\n"
    shut = old + "p, not-ann, human:ann, *, *, approve, 4, deny, not her\n"
    sentences = [sentence for _, sentence, _ in widened(shut, old)]
    assert len(sentences) == 1
    lone = "p, x, role:x, *, data.a, call, 0, allow, x\n"
    star = lone + "p, star, human:ann, *, *, approve, 4, allow, all tools\n"
    assert "may now approve any tool" in widened(lone, star)[0][1]
    named = star + "p, admin, human:ann, -, broker.admin, approve, 4, allow, and the broker\n"
    assert widened(star, named) == [
        ("approver", "human:ann may now approve broker.admin up to tier 4: the rule admin is new", "admin")
    ]


def test_rpcs_are_said_and_not_sensitive() -> None:
    found = difference(BASE, BASE + "p, ledger, role:auditor, *, broker.v1.Ledger/*, rpc, 0, allow, auditors read\n")
    assert [item.kind for item in found.widens] == [Kind.OTHER]
    assert found.sensitive == ()


def test_the_shipped_policy_against_nothing_names_its_approvers_and_who_takes_back() -> None:
    nothing = "p, nothing, *, *, *, call, 4, deny, nothing goes\n"
    found = difference(nothing, default_policy("olivia"))
    assert {item.row for item in found.sensitive} == {
        "approver-any-tool",
        "approver-workflows",
        "approver-runbooks",
        "approver-administration",
        # The one call at Tier 4: taking back, which is of the tier of what it takes back.
        "nothing",
        "responder-undo",
        "g, role:operator, role:responder, *",
        "g, human:olivia, role:operator, *",
    }


def large(agents: int) -> str:
    rows = [f"p, r{n}, role:r{n % 50}, w{n % 100}, ns{n % 7}.t{n % 300}, call, 2, allow, why\n" for n in range(agents)]
    return "".join([*rows, *(f"g, agent:a{n}, role:r{n % 50}, w{n % 100}\n" for n in range(agents))])


def test_a_small_change_of_a_large_policy_is_worked_out() -> None:
    old = large(5_000)
    assert widened(old, old + "g, agent:a1, role:r7, *\n")[0][0] == "other"
    new = old + "p, new, role:agent, *, *, call, 4, allow, why not\n"
    assert "any agent may now call any tool" in widened(old, new)[0][1]


def test_what_is_too_much_to_work_out_counts_as_sensitive() -> None:
    old = Snapshot.load(BASE + "p, all, *, *, *, approve, 4, deny, nobody approves\n")
    rule = old.table[-1]
    cause = Cause(rule.id, "the deny all is gone", rule, gained=False)
    new = Snapshot.load(BASE)
    for limits in ({"questions": 0}, {"looks": 0}):
        found = list(Search(old, new, **limits).run([cause]))
        assert [(item.kind, item.flip) for item in found] == [(Kind.APPROVER, None)]
    grant = Cause("g", "a grant is new", new.grants[0], gained=True)
    assert [item.kind for item in Search(old, new, looks=0).run([grant])] == [Kind.APPROVER]
    call = Cause("boss", "the rule boss is new", new.table[3], gained=True)
    assert [item.kind for item in Search(old, new, looks=0).run([call])] == [Kind.TIER4_CALL]


# Random policies, of few names, so that rows meet.

PEOPLE = {"agent": ["agent:a0"], "human": ["human:h0"]}
ROLES = ["role:r0", "role:r1"]
WORKSPACES = ["w0"]
OBJECTS = {
    "call": ["data.query", "data.*", "*"],
    "approve": ["data.*", "*", "broker.admin"],
    "rpc": ["broker.v1.A/Get", "broker.v1.A/*", "*"],
}
ASKED = {
    "call": ["data.query", "data.other", "new.tool"],
    "approve": ["data.query", "new.tool", "broker.admin", "broker.runbook"],
    "rpc": ["broker.v1.A/Get", "broker.v1.A/List", "broker.v1.B/Get"],
}


@st.composite
def rows(draw: st.DrawFn) -> str:
    if draw(st.booleans()):
        order = [*PEOPLE["agent"], *PEOPLE["human"], "role:agent", "role:human", *ROLES]
        member = draw(st.integers(0, len(order) - 2))
        role = draw(st.integers(max(member + 1, 2), len(order) - 1))
        return f"g, {order[member]}, {order[role]}, {draw(st.sampled_from([*WORKSPACES, '*', '-']))}"
    action = draw(st.sampled_from(["call", "call", "approve", "approve", "approve", "rpc"]))
    effect = draw(st.sampled_from(["allow", "deny"]))
    subjects = [*PEOPLE["human"], "role:human", *ROLES, *(["*"] if effect == "deny" else [])]
    if action != "approve":
        subjects += [*PEOPLE["agent"], "role:agent"]
    obj = draw(st.sampled_from(OBJECTS[action]))
    places = ["*", *WORKSPACES]
    if obj == "broker.admin":
        places = ["*", "-"]
    elif action == "rpc" or (action == "approve" and effect == "deny" and obj == "*"):
        places.append("-")
    subject, place = draw(st.sampled_from(subjects)), draw(st.sampled_from(places))
    tier = draw(st.sampled_from([0, 2, 4]))
    return f"{subject}, {place}, {obj}, {action}, {tier}, {effect}, why"


@st.composite
def policies(draw: st.DrawFn) -> tuple[str, str]:
    """Two policies that have some rows in common."""
    drawn = draw(st.lists(st.tuples(rows(), st.sampled_from(["old", "new", "both", "both"])), max_size=8))
    keep = ["p, keep, *, w0, keep.v1.It/Is, rpc, 4, deny, so that there is a rule"]
    sides: dict[str, list[str]] = {"old": list(keep), "new": list(keep)}
    for number, (row, where) in enumerate(drawn):
        for side in ("old", "new") if where == "both" else (where,):
            sides[side].append(row if row.startswith("g,") else f"p, rule-{number}, {row}")
    return "\n".join(sides["old"]) + "\n", "\n".join(sides["new"]) + "\n"


def questions(action: str, holders: list[str]) -> Iterator[tuple[str, str, str]]:
    humans = [*PEOPLE["human"], "human:stranger", *(f"human:{name}" for name in holders)]
    agents = [*PEOPLE["agent"], "agent:stranger", *(f"agent:{name}" for name in holders)]
    for subject, obj in itertools.product(humans if action == "approve" else [*agents, *humans], ASKED[action]):
        if obj == "broker.admin":
            yield subject, "-", obj
        else:
            for workspace in [*WORKSPACES, "w9", *(["-"] if action == "rpc" else [])]:
                yield subject, workspace, obj


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies())
def test_whatever_flips_for_somebody_is_found(pair: tuple[str, str]) -> None:
    old, new = Snapshot.load(pair[0]), Snapshot.load(pair[1])
    found = compare(old, new, people=[], tools={}, workspaces=[])
    kinds = {item.kind for item in found.sensitive}
    for action, kind in (("approve", Kind.APPROVER), ("call", Kind.TIER4_CALL)):
        for subject, workspace, obj in questions(action, []):
            for tier in (Tier.INTERNAL, Tier.AUTONOMOUS) if action == "approve" else (Tier.AUTONOMOUS,):
                request = PolicyRequest(subject, workspace, obj, action, tier)
                if new.decide(request).allowed and not old.decide(request).allowed:
                    assert kind in kinds, request


@settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies())
def test_exactly_what_flips_for_somebody_or_for_the_holder_of_one_role_is_found(pair: tuple[str, str]) -> None:
    found = {item.kind for item in compare(*map(Snapshot.load, pair), people=[], tools={}, workspaces=[]).widens}
    names = [role.removeprefix("role:") for role in ROLES]
    held = "".join(f"g, {kind}:{name}, role:{name}, *\n" for kind in ("agent", "human") for name in names)
    old, new = (Snapshot.load(text + held) for text in pair)
    flipped: dict[str, set[int]] = {}
    for action in ASKED:
        for subject, workspace, obj in questions(action, names):
            before, after = (
                side.highest_tier(side.holds(subject, workspace), workspace, obj, action) for side in (old, new)
            )
            tiers = range(before + 1, after + 1) if action != "rpc" else range(before < 0 <= after)
            flipped.setdefault(action, set()).update(tiers)
    assert (Kind.APPROVER in found) == bool(flipped["approve"])
    assert (Kind.TIER4_CALL in found) == (4 in flipped["call"])
    assert bool(found) == any(flipped.values())


@pytest.mark.parametrize("text", [BASE, large(200), default_policy("olivia")])
def test_a_policy_against_itself_widens_nothing(text: str) -> None:
    assert widened(text, text) == []
