"""The known traps of casbin, each tried on the broker's policy: none of them opens anything."""

from __future__ import annotations

import ast
import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from broker.domain.call import PolicyRequest
from broker.domain.tier import Tier
from broker.errors import InvalidArgumentError
from broker.policy.engine import Engine, tier_at_most
from broker.policy.live import LivePolicy
from broker.policy.roles import RoleGraph
from broker.policy.snapshot import Snapshot

OPEN = """\
p, open, role:worker, *, data.*, call, 3, allow, workers use data
p, closed, *, *, data.drop, call, 4, deny, nobody drops
g, agent:ann, role:worker, demo
"""
ALLOWED = PolicyRequest("agent:ann", "demo", "data.query", "call", Tier.CUSTOMER_FACING)
DENIED = PolicyRequest("agent:ann", "demo", "data.drop", "call", Tier.CUSTOMER_FACING)
STRANGER = PolicyRequest("agent:bob", "demo", "data.query", "call", Tier.CUSTOMER_FACING)


# 1. load_policy() on a live enforcer opens a window.


async def test_no_reload_ever_lets_through_what_both_policies_deny(tmp_path: Path) -> None:
    path = tmp_path / "policy.csv"
    path.write_text(OPEN, "utf-8")
    policy = LivePolicy(path, known_tools=None)
    await policy.start()
    stop = threading.Event()
    wrong: list[object] = []
    asked = 0

    def keep_asking() -> None:
        nonlocal asked
        while not stop.is_set():
            for request, expected in ((DENIED, False), (STRANGER, False), (ALLOWED, True)):
                decision = policy.snapshot.decide(request)
                asked += 1
                if decision.allowed is not expected:
                    wrong.append(decision)

    thread = threading.Thread(target=keep_asking)
    thread.start()
    try:
        for number in range(100):
            await asyncio.to_thread(path.write_text, OPEN.replace("use data", f"use data {number}"), "utf-8")
            assert await policy.reload()
    finally:
        stop.set()
        await asyncio.to_thread(thread.join)
    assert not wrong
    assert asked > 100


@pytest.mark.parametrize(
    "name",
    ["load_policy", "load_filtered_policy", "add_policy", "add_policies", "FastEnforcer", "enable_enforce", "eval"],
)
def test_the_dangerous_parts_of_casbin_are_used_nowhere(repository: Path, name: str) -> None:
    names = set()
    for file in (repository / "broker" / "policy").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Name):
                names.add(node.id)
            elif isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.ImportFrom):
                names.update(item.name for item in node.names)
    assert "enforce_ex" in names
    assert name not in names


def test_casbin_is_imported_by_the_policy_room_only(repository: Path) -> None:
    users = {
        file.relative_to(repository).parent.as_posix()
        for file in (repository / "broker").rglob("*.py")
        if re.search(r"^\s*(?:import|from) casbin\b", file.read_text("utf-8"), re.MULTILINE)
    }
    assert users == {"broker/policy"}


# 2. FastEnforcer ignores a deny with wildcards.


@pytest.mark.parametrize("obj", ["*", "data.*", "data.drop"])
@pytest.mark.parametrize("workspace", ["*", "demo"])
@pytest.mark.parametrize("subject", ["*", "role:agent", "role:worker", "agent:ann"])
def test_a_deny_with_wildcards_denies(subject: str, workspace: str, obj: str) -> None:
    deny = f"p, shut, {subject}, {workspace}, {obj}, call, 4, deny, shut\n"
    for text in (deny + OPEN, OPEN + deny):
        decision = Snapshot.load(text.replace("p, closed", "# p, closed")).decide(DENIED)
        assert (decision.allowed, decision.rule, decision.reason) == (False, "shut", "shut")


# 3. Effects that are no effect, tiers as text, an empty policy, an enforcer switched off.


@pytest.mark.parametrize("effect", ["Deny", "DENY", "deny!", "den", "d\u0435ny", "", "block", "allow "])
def test_an_effect_that_casbin_would_take_for_no_deny_is_refused(effect: str) -> None:
    quoted = f'"{effect}"' if effect.endswith(" ") else effect
    with pytest.raises(InvalidArgumentError):
        Snapshot.load(OPEN.replace("deny", quoted))


def test_tiers_are_compared_as_numbers() -> None:
    assert "10" <= "4"  # noqa: PLR0133 - the trap itself
    for asked in range(5):
        for limit in range(5):
            assert tier_at_most(asked, str(limit)) is (asked <= limit)


@pytest.mark.parametrize(
    ("asked", "limit"),
    [
        ("1", "4"),
        (10, "4"),
        (-1, "4"),
        (5, "5"),
        (True, "4"),
        (1, 4),
        (1, "10"),
        (1, ""),
        (1, " 4"),
        (None, "4"),
        (1.0, "4"),
    ],
)
def test_anything_but_a_tier_raises(asked: object, limit: object) -> None:
    with pytest.raises(Exception, match="tier"):
        tier_at_most(asked, limit)


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# p, a, role:agent, *, *, call, 4, allow, all\n", "g, agent:ann, role:worker, *\n"]
)
def test_an_empty_policy_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="empty"):
        Snapshot.load(text)


def test_nothing_is_allowed_where_no_row_is_about_the_question() -> None:
    assert Engine(RoleGraph(())).evaluate(
        (), subject="agent:ann", workspace="demo", obj="data.query", action="call", tier=0
    ) == (False, None)


def test_an_enforcer_that_was_switched_off_denies() -> None:
    policy = Snapshot.load(OPEN)
    policy._engine._enforcer.enable_enforce(False)  # noqa: FBT003 - casbin's own signature
    decision = policy.decide(ALLOWED)
    assert (decision.allowed, decision.rule) == (False, "evaluation-error")


# 4. What raises inside the matcher is a deny.


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("tier", None),
        ("tier", "1"),
        ("tier", 1),
        ("tier", 1.5),
        ("tier", True),
        ("subject", None),
        ("subject", 7),
        ("subject", ""),
        ("workspace", None),
        ("workspace", b"demo"),
        ("obj", None),
        ("obj", ["data.query"]),
        ("action", None),
        ("action", "Call"),
        ("action", {}),
    ],
)
def test_a_missing_or_mistyped_attribute_is_a_deny(attribute: str, value: Any) -> None:  # noqa: ANN401 - hostile on purpose
    request = PolicyRequest("agent:ann", "demo", "data.query", "call", Tier.INTERNAL)
    policy = Snapshot.load(OPEN)
    assert policy.decide(request).allowed
    object.__setattr__(request, attribute, value)
    decision = policy.decide(request)
    assert (decision.allowed, decision.rule) == (False, "evaluation-error")
    assert decision.reason


def test_no_request_at_all_is_a_deny() -> None:
    assert Snapshot.load(OPEN).decide(None).rule == "evaluation-error"  # type: ignore[arg-type]


def test_an_exception_inside_casbin_is_a_deny() -> None:
    policy = Snapshot.load(OPEN)

    def explode(*_: object) -> bool:
        raise MemoryError

    policy._engine._enforcer.add_function("keyMatch", explode)
    decision = policy.decide(ALLOWED)
    assert (decision.allowed, decision.rule) == (False, "evaluation-error")
    assert "MemoryError" in decision.reason


# 5. add_policies is quadratic.


@pytest.mark.timeout(30)
def test_loading_is_not_quadratic() -> None:
    # The quadratic way takes over a minute for as many.
    rows = [f"p, r{n}, role:worker, w{n // 50}, data.t{n % 50}, call, 2, allow, yes\n" for n in range(50_000)]
    grants = [f"g, agent:a{n}, role:worker, *\n" for n in range(5_000)]
    policy = Snapshot.load("".join([*rows, *grants]))
    assert policy.rules == 50_000
    assert policy.decide(PolicyRequest("agent:a4999", "w999", "data.t1", "call", Tier.INTERNAL)).rule == "r49951"


# 6. eval() in a row is code in data.


@pytest.mark.parametrize(
    "row",
    [
        "p, x, eval(True), *, data.query, call, 4, allow, why",
        "p, x, role:agent, *, eval(1==1), call, 4, allow, why",
        "p, x, role:agent, *, data.query, call, 4, allow, eval(r.sub)",
        "p, x, role:agent, *, data.query, call, 4, eval(p.reason), allow",
        "p, x, role:agent, *, data.query, call, 4, allow, and eval(r.sub) too",
        "p, x, role:agent || True, *, data.query, call, 4, allow, why",
        "p, x, r.sub.name, *, data.query, call, 4, allow, why",
        "p, x, role:agent, regexMatch, ^.*$, call, 4, allow, why",
        "g, agent:ann, eval(True), *",
    ],
)
def test_expressions_in_rows_are_refused(row: str) -> None:
    with pytest.raises(InvalidArgumentError):
        Snapshot.load(f"{OPEN}{row}\n")


# 7. Cost is linear in the rules of a plain enforcer.


def test_casbin_evaluates_no_more_rows_in_a_larger_policy() -> None:
    def rows(workspaces: int) -> str:
        return OPEN + "".join(
            f"p, r-{w}-{n}, role:worker, w{w}, data.t{n}, call, 2, allow, yes\np, d-{w}-{n}, *, w{w}, text.t{n}, call, 4, deny, no\n"
            for w in range(workspaces)
            for n in range(20)
        )

    small, large = Snapshot.load(rows(2)), Snapshot.load(rows(200))
    for request in (ALLOWED, DENIED, STRANGER):
        assert small.candidates(request) == large.candidates(request) <= 2
        assert small.decide(request).rule == large.decide(request).rule


# 8. casbin is not thread-safe.


def test_many_threads_get_the_answers_that_one_gets() -> None:
    policies = [Snapshot.load(OPEN), Snapshot.load(OPEN.replace("open", "other"))]

    def ask(number: int) -> int:
        policy = policies[number % 2]
        wrong = 0
        for _ in range(500):
            wrong += policy.decide(ALLOWED).rule != ("other" if number % 2 else "open")
            wrong += policy.decide(DENIED).rule != "closed"
            wrong += policy.decide(STRANGER).rule != "default-deny"
        return wrong

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(ask, range(8))) == 0
