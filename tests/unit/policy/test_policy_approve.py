"""Who may approve: the action ``approve``, the broker's own subjects, and the electorate."""

from __future__ import annotations

import pytest

from broker.domain.call import PolicyRequest
from broker.domain.tier import Tier
from broker.policy.default import default_policy
from broker.policy.electorate import electorate, roles_held
from broker.policy.explain import explain
from broker.policy.rows import DEFAULT_DENY, EVALUATION_ERROR
from broker.policy.snapshot import Snapshot

POLICY = """\
p, any-tool, role:approver, *, *, approve, 4, allow, approvers decide
p, workflows, role:approver, *, broker.workflow, approve, 4, allow, approvers decide
p, admin, role:admin, *, broker.admin, approve, 4, allow, admins decide
p, low, role:junior, *, data.*, approve, 2, allow, juniors decide on little
p, not-mallory, human:mallory, *, *, approve, 4, deny, mallory decides on nothing
p, no-sql, *, demo, sql.execute, approve, 4, deny, nobody agrees to this here
g, human:ann, role:approver, *
g, human:ben, role:approver, demo
g, human:mallory, role:approver, *
g, human:mallory, role:admin, *
g, human:cleo, role:admin, *
g, human:dora, role:junior, demo
g, human:ed, role:admin, demo
g, agent:scout, role:approver, *
"""
PEOPLE = {f"hum_{name}": name for name in ("ann", "ben", "cleo", "dora", "ed", "mallory", "nobody")}


@pytest.fixture(scope="module")
def policy() -> Snapshot:
    return Snapshot.load(POLICY)


def ask(policy: Snapshot, subject: str, obj: str, workspace: str, tier: int = 4) -> str:
    return policy.decide(PolicyRequest(subject, workspace, obj, "approve", Tier(tier))).rule


@pytest.mark.parametrize(
    ("workspace", "obj", "tier", "names"),
    [
        ("demo", "data.query", 4, {"ann", "ben"}),
        ("demo", "data.query", 2, {"ann", "ben", "dora"}),
        ("other", "data.query", 2, {"ann"}),
        ("demo", "sql.execute", 0, set()),
        ("other", "sql.execute", 4, {"ann"}),
        ("demo", "broker.workflow", 4, {"ann", "ben"}),
        ("demo", "broker.runbook", 4, set()),
        ("-", "broker.admin", 4, {"cleo"}),
        # Whoever holds a role in one workspace only doesn't approve what concerns all, by asking there.
        ("demo", "broker.admin", 4, set()),
        ("-", "data.query", 4, set()),
        ("demo", "broker.other", 4, set()),
        ("*", "data.query", 4, set()),
        ("demo", "*", 4, set()),
    ],
)
def test_the_electorate(policy: Snapshot, workspace: str, obj: str, tier: int, names: set[str]) -> None:
    found = electorate(policy, PEOPLE, workspace=workspace, obj=obj, tier=Tier(tier))
    assert found == {f"hum_{name}" for name in names}


def test_an_agent_never_approves_whatever_roles_it_holds(policy: Snapshot) -> None:
    decision = policy.decide(PolicyRequest("agent:scout", "demo", "data.query", "approve", Tier.AUTONOMOUS))
    assert (decision.allowed, decision.rule) == (False, EVALUATION_ERROR)
    assert "only a human approves" in decision.reason


def test_a_star_reaches_the_brokers_own_subjects_in_a_deny_only(policy: Snapshot) -> None:
    assert ask(policy, "human:ann", "broker.runbook", "demo") == DEFAULT_DENY
    assert ask(policy, "human:mallory", "broker.admin", "-") == "not-mallory"
    assert ask(policy, "human:mallory", "broker.runbook", "demo") == "not-mallory"


def test_a_rule_about_calls_says_nothing_of_approving_and_none_of_approving_lets_call() -> None:
    policy = Snapshot.load("p, call, role:boss, *, *, call, 4, allow, bosses call\ng, human:ann, role:boss, *\n")
    assert ask(policy, "human:ann", "data.query", "demo") == DEFAULT_DENY
    policy = Snapshot.load(POLICY)
    assert not policy.decide(PolicyRequest("human:ann", "demo", "data.query", "call", Tier.INTERNAL)).allowed


def test_the_brokers_own_subjects_are_no_tools() -> None:
    policy = Snapshot.load("p, calls, role:agent, *, *, call, 4, allow, all calls\n")
    for name in ("broker.admin", "broker.workflow", "broker.anything"):
        decision = policy.decide(PolicyRequest("agent:ann", "demo", name, "call", Tier.INTERNAL))
        assert (decision.allowed, decision.rule) == (False, EVALUATION_ERROR)


def test_the_reason_of_a_refusal_doesnt_name_a_rule_that_wouldnt_help(policy: Snapshot) -> None:
    decision = policy.decide(PolicyRequest("human:ann", "demo", "broker.runbook", "approve", Tier.INTERNAL))
    assert decision.reason == "no rule allows this caller to approve broker.runbook in workspace demo"
    decision = policy.decide(PolicyRequest("human:dora", "demo", "data.query", "approve", Tier.AUTONOMOUS))
    assert decision.reason.endswith("rule low allows it up to tier 2")


def test_explain_says_that_a_star_isnt_enough(policy: Snapshot) -> None:
    found = explain(policy, PolicyRequest("human:ann", "demo", "broker.runbook", "approve", Tier.INTERNAL))
    whys = {item.rule.id: [failure.why for failure in item.failures] for item in found.considered}
    assert whys["any-tool"] == ["an allow has to name broker.runbook; * covers tools only"]


def test_roles_held(policy: Snapshot) -> None:
    assert roles_held(policy, "ben", "demo") == {"human", "approver"}
    assert roles_held(policy, "ben", "other") == {"human"}
    assert roles_held(policy, "cleo", "-") == {"human", "admin"}


def test_the_shipped_policy_has_approvers_once_they_are_named() -> None:
    granted = "g, human:hugo, role:approver, *\ng, human:ida, role:approver, demo\n"
    policy = Snapshot.load(default_policy("olivia") + granted)
    everybody = {"1": "olivia", "2": "hugo", "3": "ida"}
    tools = electorate(policy, everybody, workspace="demo", obj="shell.run", tier=Tier.AUTONOMOUS)
    assert tools == {"2", "3"}
    assert electorate(policy, everybody, workspace="demo", obj="broker.runbook", tier=Tier.AUTONOMOUS) == {"2", "3"}
    assert electorate(policy, everybody, workspace="-", obj="broker.admin", tier=Tier.AUTONOMOUS) == {"2"}
