"""The shipped policy: complete for every RPC, equal to its copy in examples, and what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.domain.call import PolicyRequest
from broker.domain.tier import Tier
from broker.policy.default import default_policy
from broker.policy.snapshot import Snapshot
from broker.rpc.methods import served_methods
from broker.v1 import administration_pb2, approvals_pb2, sessions_pb2, tool_broker_pb2, workspaces_pb2

METHODS = sorted(
    f"{service.full_name}/{method.name}"
    for file in (tool_broker_pb2, sessions_pb2, administration_pb2, approvals_pb2, workspaces_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
TOOLS = ("data.query", "text.search", "python.run", "shell.run")
UNDO = "workspace.undo"


@pytest.fixture(scope="module")
def policy() -> Snapshot:
    return Snapshot.load(default_policy("olivia"), known_tools=frozenset((*TOOLS, UNDO)), known_rpcs=served_methods())


def may(policy: Snapshot, subject: str, method: str, workspace: str = "-") -> bool:
    return policy.decide(PolicyRequest(subject, workspace, method, "rpc", Tier.INTERNAL)).allowed


def test_the_linter_finds_nothing_in_it(policy: Snapshot) -> None:
    assert policy.warnings == ()


@pytest.mark.parametrize("method", METHODS)
def test_every_rpc_has_somebody_who_may_use_it(policy: Snapshot, method: str) -> None:
    assert any(may(policy, subject, method) for subject in ("agent:scout", "human:hugo", "human:olivia"))


def test_there_are_rpcs_to_try() -> None:
    assert len(METHODS) >= 19


@pytest.mark.parametrize("method", [name for name in METHODS if ".Administration/" in name])
def test_administration_is_the_operators_alone(policy: Snapshot, method: str) -> None:
    assert may(policy, "human:olivia", method)
    assert not may(policy, "human:hugo", method)
    assert not may(policy, "agent:olivia", method)


@pytest.mark.parametrize("method", [name for name in METHODS if ".Workspaces/" in name])
def test_a_tree_is_open_to_its_keepers_and_operators_alone(method: str) -> None:
    text = default_policy("olivia") + "g, human:ada, role:keeper, sales\n"
    policy = Snapshot.load(text, known_tools=frozenset((*TOOLS, UNDO)), known_rpcs=served_methods())
    for subject, sales, others in (
        ("human:olivia", True, True),
        ("human:ada", True, False),
        ("human:hugo", False, False),
        ("agent:scout", False, False),
    ):
        assert may(policy, subject, method, "sales") is sales
        assert may(policy, subject, method, "demo") is others
    assert not may(policy, "agent:scout", method)


@pytest.mark.parametrize("name", ["GetToolCall", "ListToolCalls", "WatchToolCall", "CancelToolCall"])
def test_only_operators_reach_what_belongs_to_others(policy: Snapshot, name: str) -> None:
    method = f"broker.v1.ToolBroker/{name}"
    for subject in ("agent:scout", "human:hugo"):
        assert may(policy, subject, method)
        assert not may(policy, subject, method, "demo")
    assert may(policy, "human:olivia", method, "demo")


@pytest.mark.parametrize("name", ["GetApproval", "ListApprovals", "WatchApprovals"])
def test_only_operators_look_at_everybodys_approvals(policy: Snapshot, name: str) -> None:
    method = f"broker.v1.Approvals/{name}"
    for subject in ("agent:scout", "human:hugo"):
        assert may(policy, subject, method)
        assert not may(policy, subject, method, "demo")
    assert may(policy, "human:olivia", method, "demo")


@pytest.mark.parametrize("name", ["CreateToolCall", "RunToolCall", "UploadBlob"])
def test_humans_do_not_call_tools(policy: Snapshot, name: str) -> None:
    assert may(policy, "agent:scout", f"broker.v1.ToolBroker/{name}")
    assert not may(policy, "human:hugo", f"broker.v1.ToolBroker/{name}")


def test_responders_call_one_tool(policy: Snapshot) -> None:
    def calls(tool: str) -> bool:
        return policy.decide(PolicyRequest("human:olivia", "demo", tool, "call", Tier(4))).allowed

    assert may(policy, "human:olivia", "broker.v1.ToolBroker/CreateToolCall", "demo")
    assert calls("workspace.undo")
    assert not calls("python.run")


@pytest.mark.parametrize("method", [name for name in METHODS if ".Approvals/" in name])
def test_who_uses_approvals(policy: Snapshot, method: str) -> None:
    granted = Snapshot.load(default_policy("olivia") + "g, agent:bot, role:slack-bot, *\n")
    name = method.partition("/")[2]
    assert may(policy, "human:hugo", method)
    assert may(policy, "human:hugo", method, "demo") == (name == "CreateRunbook")
    own = {"GetApproval", "ListApprovals", "WatchApprovals", "CancelApproval"}
    assert may(policy, "agent:scout", method) == (name in own)
    assert not may(policy, "agent:scout", method, "demo")
    looks = {"GetApproval", "ListApprovals", "WatchApprovals", "GetFounding", "ListVoterKeys", "GetChatAccount"}
    assert may(granted, "agent:bot", method, "demo") == (name in looks | {"CastAttestedVote"})


@pytest.mark.parametrize("tool", TOOLS)
def test_tools(policy: Snapshot, tool: str) -> None:
    def decide(subject: str, workspace: str, tier: int) -> str:
        return policy.decide(PolicyRequest(subject, workspace, tool, "call", Tier(tier))).rule

    expected = "demo-no-shell" if tool == "shell.run" else f"analyst-{tool.replace('.', '-')}"
    assert decide("agent:scout", "demo", 2) == expected
    assert decide("agent:scout", "demo", 3) == ("demo-no-shell" if tool == "shell.run" else "default-deny")
    assert decide("agent:scout", "finance", 0) == "default-deny"
    assert decide("human:olivia", "demo", 0) == ("demo-no-shell" if tool == "shell.run" else "default-deny")
    granted = Snapshot.load(default_policy("olivia") + "g, agent:scout, role:analyst, finance\n")
    assert granted.decide(PolicyRequest("agent:scout", "finance", tool, "call", Tier(2))).allowed


def test_the_refusal_in_the_demo_names_its_rule(policy: Snapshot) -> None:
    decision = policy.decide(PolicyRequest("agent:scout", "demo", "shell.run", "call", Tier.CUSTOMER_ASSIST))
    assert (decision.rule, decision.reason) == ("demo-no-shell", "no shell in the demo workspace")


def test_the_copy_in_examples_is_the_shipped_policy(repository: Path) -> None:
    copy = (repository / "examples" / "policy" / "policy.csv").read_text("utf-8")
    assert copy == default_policy("olivia"), "write default_policy('olivia') to examples/policy/policy.csv again"
