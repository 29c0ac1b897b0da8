"""The sharded snapshot against casbin as its manual says: same answer and same rule, over random policies.

The plain side shares nothing with the snapshot but the model's text: casbin's own file adapter reads the rows, its own
role manager holds the roles, and its ``Enforcer`` walks through the whole policy.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import casbin
import pytest

from broker.domain.call import PolicyRequest
from broker.domain.tier import Tier
from broker.policy.engine import ALLOW_FUNCTION, MODEL, allow_reaches
from broker.policy.explain import failures
from broker.policy.many import Many
from broker.policy.rows import ANY, DEFAULT_DENY, EVALUATION_ERROR, objects_covering
from broker.policy.snapshot import Snapshot

POLICIES = 1000
REQUESTS = 100
MAX_RULES = 60
PARTS = 4

AGENTS = [f"agent:a{number}" for number in range(4)]
HUMANS = [f"human:h{number}" for number in range(2)]
ROLES = [f"role:r{number}" for number in range(6)]
WORKSPACES = ["w0", "w1", "w2"]
TOOLS = ["data.query", "data.drop", "text.search", "shell.run", "a.b.c"]
OWN = ["broker.admin", "broker.workflow", "broker.runbook"]
METHODS = ["broker.v1.ToolBroker/ListTools", "broker.v1.ToolBroker/GetTool", "broker.v1.Sessions/EndSession"]


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - the same policies each time, no secret


def random_policy(dice: random.Random) -> str:
    """Up to 60 rules with roles, wildcards and denies, and grants that chain roles, some of them in every workspace."""
    wild = dice.choice([0.1, 0.3, 0.5])
    denies = dice.choice([0.05, 0.2, 0.5])
    lines = []
    for number in range(dice.randint(1, MAX_RULES)):
        effect = "deny" if dice.random() < denies else "allow"
        action = random_action(dice)
        agents = [] if action == "approve" else [*AGENTS, "role:agent"]
        subject = dice.choice([*agents, *HUMANS, *ROLES, "role:human"])
        if effect == "deny" and dice.random() < wild:
            subject = ANY
        obj = random_object(dice, action)
        if dice.random() < wild:
            obj = dice.choice(objects_covering(obj, action))
        workspace = ANY if dice.random() < wild else dice.choice(workspaces(action, obj))
        tier = dice.randint(0, 4)
        lines.append(f"p, rule-{number}, {subject}, {workspace}, {obj}, {action}, {tier}, {effect}, because {number}")
    # A role is granted only to what comes before it, so no chain goes round in a circle.
    order = [*AGENTS, *HUMANS, "role:agent", "role:human", *ROLES]
    for _ in range(dice.randint(0, 20)):
        member = dice.randrange(len(order) - 1)
        role = dice.randrange(max(member + 1, len(AGENTS) + len(HUMANS)), len(order))
        lines.append(f"g, {order[member]}, {order[role]}, {dice.choice([*WORKSPACES, ANY, ANY, '-'])}")
    dice.shuffle(lines)
    return "\n".join(lines) + "\n"


def random_action(dice: random.Random) -> str:
    return dice.choices(["call", "rpc", "approve"], [5, 3, 2])[0]


def random_object(dice: random.Random, action: str) -> str:
    names = {"call": TOOLS, "rpc": METHODS, "approve": [*TOOLS, *OWN]}
    return dice.choice(names[action])


def workspaces(action: str, obj: str) -> list[str]:
    if action == "approve" and obj == "broker.admin":
        return ["-"]
    return [*WORKSPACES, *(["-"] if action == "rpc" else [])]


def random_request(dice: random.Random) -> PolicyRequest:
    action = random_action(dice)
    # Strangers, unknown tools and unknown workspaces are asked about too.
    unknown = {"call": ["data.other", "new.tool"], "rpc": ["broker.v1.Other/Do"], "approve": ["data.other", *OWN]}
    agents = [] if action == "approve" else [*AGENTS, "agent:stranger"]
    obj = dice.choice([random_object(dice, action), random_object(dice, action), dice.choice(unknown[action])])
    where = workspaces(action, obj)
    return PolicyRequest(
        subject=dice.choice([*agents, *HUMANS, "human:stranger"]),
        workspace=dice.choice(where if where == ["-"] else [*where, "w9", *(["-"] if action == "rpc" else [])]),
        obj=obj,
        action=action,
        tier=Tier(dice.randint(0, 4)),
    )


def plain_enforcer(text: str, folder: Path) -> casbin.Enforcer:
    """Casbin as its manual says: model file, policy file, the matcher's function, ``*`` as a domain pattern."""
    model, policy = folder / "model.conf", folder / "policy.csv"
    model.write_text(MODEL, "utf-8")
    # What the snapshot takes for granted, plain casbin is told: kinds are roles in every workspace.
    kinds = [f"g, {agent}, role:agent, *" for agent in [*AGENTS, "agent:stranger"]]
    kinds += [f"g, {human}, role:human, *" for human in [*HUMANS, "human:stranger"]]
    policy.write_text(text + "\n".join(kinds) + "\n", "utf-8")
    enforcer = casbin.Enforcer(str(model), str(policy))
    enforcer.add_function(ALLOW_FUNCTION, allow_reaches)
    enforcer.add_named_domain_matching_func("g", lambda _asked, pattern: pattern == ANY)
    return enforcer


def plain_answer(enforcer: casbin.Enforcer, request: PolicyRequest) -> tuple[bool, str]:
    allowed, row = enforcer.enforce_ex(
        request.subject, request.workspace, request.obj, request.action, int(request.tier)
    )
    return allowed, row[0] if row else DEFAULT_DENY


@pytest.mark.parametrize("part", range(PARTS))
def test_sharded_equals_plain_casbin_in_answer_and_rule(part: int, tmp_path: Path) -> None:
    allowed = denied_by_rule = denied_by_default = 0
    for seed in range(part * POLICIES // PARTS, (part + 1) * POLICIES // PARTS):
        dice = seeded(seed)
        text = random_policy(dice)
        snapshot, plain = Snapshot.load(text), plain_enforcer(text, tmp_path)
        for _ in range(REQUESTS):
            request = random_request(dice)
            decision = snapshot.decide(request)
            assert (decision.allowed, decision.rule) == plain_answer(plain, request), (seed, request, text)
            allowed += decision.allowed
            denied_by_default += decision.rule == DEFAULT_DENY
            denied_by_rule += not decision.allowed and decision.rule != DEFAULT_DENY
    # The random policies are no use where one answer crowds out the others.
    assert min(allowed, denied_by_rule, denied_by_default) > POLICIES * REQUESTS // PARTS // 20


def test_the_conditions_that_explain_names_are_those_that_casbin_checks() -> None:
    for seed in range(50):
        dice = seeded(seed)
        snapshot = Snapshot.load(random_policy(dice))
        for _ in range(50):
            request = random_request(dice)
            decision = snapshot.decide(request)
            holds = frozenset({request.subject, ANY, *snapshot.roles_of(request.subject, request.workspace)})
            objects = frozenset(objects_covering(request.obj, request.action))
            matching = [rule for rule in snapshot.table if not failures(rule, request, holds, objects)]
            denies = [rule.id for rule in matching if rule.effect == "deny"]
            allows = [rule.id for rule in matching if rule.effect == "allow"]
            expected = denies[:1] or allows[-1:] or [DEFAULT_DENY]
            assert [decision.rule] == expected
            assert decision.allowed == (bool(allows) and not denies)


def test_the_highest_tier_is_where_casbin_stops_allowing() -> None:
    allowed = 0
    for seed in range(50):
        dice = seeded(seed)
        snapshot = Snapshot.load(random_policy(dice))
        for _ in range(50):
            request = random_request(dice)
            holds = snapshot.holds(request.subject, request.workspace)
            highest = snapshot.highest_tier(holds, request.workspace, request.obj, request.action)
            assert snapshot.decide(request).allowed == (request.tier <= highest)
            allowed += request.tier <= highest
    assert allowed > 100


def test_the_longest_chain_of_roles_that_is_accepted_is_followed_by_plain_casbin_too(tmp_path: Path) -> None:
    names = [f"role:c{number}" for number in range(9)]
    chain = "".join(f"g, {low}, {high}, *\n" for low, high in itertools.pairwise(names))
    text = (
        f"g, agent:a0, role:c0, w0\n{chain}p, top, role:c8, w0, data.query, call, 0, allow, at the end of the chain\n"
    )
    request = PolicyRequest("agent:a0", "w0", "data.query", "call", Tier.INTERNAL)
    decision = Snapshot.load(text).decide(request)
    assert (decision.allowed, decision.rule) == plain_answer(plain_enforcer(text, tmp_path), request) == (True, "top")


def test_many_questions_are_answered_as_each_by_itself() -> None:
    asked = classes = 0
    for seed in range(200):
        dice = seeded(seed)
        snapshot = Snapshot.load(random_policy(dice))
        many, kinds = Many(snapshot), set()
        for _ in range(60):
            request = random_request(dice)
            decision = snapshot.evaluate(request)
            assert many.decide(request) == (decision.allowed, decision.rule), (seed, request, snapshot.text)
            kinds.add(snapshot.alike(request))
            asked += 1
        classes += len(kinds)
    # It is worth nothing where no two questions are alike.
    assert classes < asked // 3


@pytest.mark.parametrize("subject", ["role:agent", "agent:*", "", "agent:A"])
def test_what_is_no_question_is_denied_among_many_too(subject: str) -> None:
    many = Many(Snapshot.load("p, all, role:agent, *, *, call, 4, allow, all\n"))
    assert many.decide(PolicyRequest(subject, "w0", "data.query", "call", Tier.INTERNAL)) == (False, EVALUATION_ERROR)
