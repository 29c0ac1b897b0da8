"""What a snapshot decides, for which reason and by which rule."""

from __future__ import annotations

import dataclasses

import pytest

from broker.domain.call import PolicyRequest
from broker.domain.canonical import digest
from broker.domain.tier import Tier
from broker.policy.explain import explain
from broker.policy.snapshot import Snapshot

TEXT = """\
p, query, role:analyst, *, data.query, call, 2, allow, analysts query
p, all-data, role:lead, demo, data.*, call, 3, allow, leads do all with data
p, no-drop, *, *, data.drop, call, 0, deny, nobody drops
p, list, role:agent, *, broker.v1.ToolBroker/ListTools, rpc, 0, allow, agents list tools
g, agent:ann, role:analyst, demo
g, agent:lea, role:lead, demo
g, role:lead, role:analyst, *
g, agent:all, role:analyst, *
"""


def ask(
    subject: str, obj: str = "data.query", workspace: str = "demo", tier: int = 1, action: str = "call"
) -> PolicyRequest:
    return PolicyRequest(subject, workspace, obj, action, Tier(tier))


@pytest.fixture(scope="module")
def policy() -> Snapshot:
    return Snapshot.load(TEXT)


@pytest.mark.parametrize(
    ("request_", "allowed", "rule"),
    [
        (ask("agent:ann"), True, "query"),
        (ask("agent:ann", workspace="other"), False, "default-deny"),
        (ask("agent:ann", tier=3), False, "default-deny"),
        (ask("agent:ann", tier=2), True, "query"),
        (ask("agent:bob"), False, "default-deny"),
        (ask("agent:all", workspace="anywhere"), True, "query"),
        (ask("agent:lea"), True, "all-data"),
        (ask("agent:lea", obj="data.export", tier=3), True, "all-data"),
        (ask("agent:lea", obj="data.export", workspace="other"), False, "default-deny"),
        # A deny holds at every tier, although the row says 0.
        (ask("agent:lea", obj="data.drop", tier=0), False, "no-drop"),
        (ask("agent:lea", obj="data.drop", tier=3), False, "no-drop"),
        (ask("agent:bob", "broker.v1.ToolBroker/ListTools", "-", 0, "rpc"), True, "list"),
        (ask("human:bob", "broker.v1.ToolBroker/ListTools", "-", 0, "rpc"), False, "default-deny"),
        (ask("agent:bob", "broker.v1.ToolBroker/GetTool", "-", 0, "rpc"), False, "default-deny"),
    ],
)
def test_decisions(policy: Snapshot, request_: PolicyRequest, allowed: bool, rule: str) -> None:  # noqa: FBT001 - a table's column
    decision = policy.decide(request_)
    assert (decision.allowed, decision.rule) == (allowed, rule)
    assert decision.reason
    assert decision.policy_digest == digest(TEXT.encode()) == policy.digest


def test_a_decision_carries_all_that_it_read(policy: Snapshot) -> None:
    assert dict(policy.decide(ask("agent:lea", tier=2)).inputs) == {
        "subject": "agent:lea",
        "workspace": "demo",
        "object": "data.query",
        "action": "call",
        "tier": "2",
        "roles": "role:agent role:analyst role:lead",
    }


def test_a_default_deny_says_what_would_have_allowed_it_and_no_name(policy: Snapshot) -> None:
    reason = policy.decide(ask("agent:ann", tier=3)).reason
    assert "rule query allows it up to tier 2" in reason
    assert "ann" not in reason


def test_roles(policy: Snapshot) -> None:
    assert policy.roles_of("agent:lea", "demo") == ("role:agent", "role:analyst", "role:lead")
    assert policy.roles_of("agent:lea", "other") == ("role:agent",)
    assert policy.roles_of("human:lea", "demo") == ("role:human",)
    assert policy.rules == 4


def test_a_snapshot_is_immutable(policy: Snapshot) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.digest = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        policy.decide(ask("agent:ann")).inputs["tier"] = "0"  # type: ignore[index]


def test_explanations_name_the_condition_that_fails(policy: Snapshot) -> None:
    found = explain(policy, ask("agent:ann", workspace="other", tier=3))
    conditions = {item.rule.id: [failure.condition for failure in item.failures] for item in found.considered}
    assert conditions == {"query": ["tier", "subject"], "all-data": ["workspace", "subject"]}
    assert found.elsewhere == 2
    assert not found.decision.allowed
    assert "query, fails on: tier, subject" in found.summary


def test_an_explanation_says_that_a_deny_wins(policy: Snapshot) -> None:
    found = explain(policy, ask("agent:lea", obj="data.drop"))
    assert [(item.rule.id, item.matches, item.decided) for item in found.considered] == [
        ("all-data", True, False),
        ("no-drop", True, True),
    ]
    assert "a deny always wins" in found.summary
